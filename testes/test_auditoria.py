"""O que o dataset tem de estranho aparece na lista de suspeitas, e o que a pessoa tirou sai."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from detector import auditoria
from detector.ambiente import ErroClaro

CLASSES = ["gato", "cachorro"]


def previsoes(n):
    """Rótulos (n,) e as probabilidades de um bom modelo, que erra uma foto ou outra por pouco."""
    y, acaso = np.arange(n) % 2, np.random.default_rng(0)
    p = np.abs(1 - y - acaso.uniform(0.9, 1, n))
    p[::50] = 0.55 - 0.1 * y[::50]
    return y, p


def tabela(y):
    return pd.DataFrame({"arquivo": [f"{i}.jpg" for i in range(len(y))], "rotulo": y})


def foto(semente):
    acaso = np.random.default_rng(semente).integers(0, 256, (8, 8, 3), dtype="uint8")
    return Image.fromarray(acaso).resize((240, 180), Image.Resampling.BICUBIC)


def miniaturas(fotos):
    """Como as da extração: float16, em [0, 1]."""
    cinzas = [f.convert("L").resize((16, 16), Image.Resampling.BOX) for f in fotos]
    return (np.stack(cinzas) / 255).astype("float16")


def regrava(imagem):
    arquivo = io.BytesIO()
    imagem.save(arquivo, "JPEG", quality=30)
    return Image.open(arquivo)


def disfarca(imagem):
    return regrava(ImageOps.mirror(imagem).resize((imagem.width // 2, imagem.height // 2)))


@pytest.mark.parametrize("disfarce", [regrava, ImageOps.mirror, disfarca])
def test_copias_disfarcadas_sao_achadas_e_fotos_diferentes_nao(disfarce):
    fotos, copiadas = [foto(i) for i in range(300)], range(0, 300, 10)
    fotos += [disfarce(fotos[i]) for i in copiadas]
    pares = auditoria.copias(miniaturas(fotos), np.ones((len(fotos), 4)))
    assert pares == [(i, 300 + k) for k, i in enumerate(copiadas)]
    conjuntos = ["treino"] * 300 + ["teste"] * 15 + ["treino"] * 15
    assert auditoria.com_copia(pares, conjuntos, "teste", "treino") == 15
    assert (
        auditoria.com_copia([(0, 1), (0, 2), (3, 4)], ["teste"] + ["treino"] * 4, "teste", "treino")
        == 1
    )


def test_pixels_iguais_com_vetores_opostos_ou_fundos_lisos_nao_sao_copia():
    iguais = miniaturas([foto(0)] * 2)
    assert auditoria.copias(iguais, np.array([[1.0, 0], [-1, 0]])) == []
    assert auditoria.copias(iguais, np.array([[1.0, 0], [1, 0.1]])) == [(0, 1)]
    lisas = np.linspace(0, 1, 50, dtype="float16").repeat(256).reshape(-1, 16, 16)
    assert auditoria.copias(lisas, np.ones((len(lisas), 4))) == []


def test_rotulos_trocados_encabecam_a_lista():
    y, p = previsoes(400)
    trocados = [13, 77, 140, 231, 306]
    p[trocados] = np.where(y[trocados] == 1, 0.99, 0.01)
    y[trocados] = 1 - y[trocados]
    lista = auditoria.suspeitas(tabela(y), CLASSES, p, [], [])
    assert set(lista.index[:5]) == set(trocados)
    assert set(lista.index) == set(trocados) | set(range(0, 400, 50)), "e só quem discorda"
    assert (np.diff(np.abs(p - y)[lista.index]) <= 0).all(), "o mais convicto primeiro"


def test_a_tabela_junta_os_motivos_de_cada_foto_e_tem_o_nome_das_classes():
    y, p = previsoes(40)
    y[7], p[7], p[0] = 0, 0.98765, 0.01
    lista = auditoria.suspeitas(tabela(y), ["uva", "pera"], p, [(7, 9)], np.array([20, 9]))
    assert list(lista.columns) == ["arquivo", "rotulo", "probabilidade_pera", "motivo"]
    assert lista.index.tolist() == [7, 9, 20]
    duvida = "rótulo e modelo discordam; cópia de 9.jpg"
    assert lista.loc[7].tolist() == ["7.jpg", "uva", 0.9877, duvida]
    assert lista.loc[9, "motivo"] == "cópia de 7.jpg; das que menos parecem uva ou pera"
    y = np.arange(40) % 2
    vazia = auditoria.suspeitas(tabela(y), CLASSES, y.astype(float), [], [])
    assert vazia.to_csv(index=False).strip() == "arquivo,rotulo,probabilidade_cachorro,motivo"


@pytest.mark.parametrize("inicio", ["arquivo", "sep={}\r\nArquivo", '"arquivo"'])
@pytest.mark.parametrize("separador", [",", ";", "\t"])
def test_as_fotos_de_um_csv_saem_mesmo_que_o_excel_o_tenha_salvado(
    tmp_path, capsys, separador, inicio
):
    nomes = ["gatos\\vovó 1.jpg", "Cat/2.jpg", "cat/2.jpg", "Cat/sumiu.jpg"]
    linhas = [[inicio.format(separador), "motivo"], *([nome, "não é gato"] for nome in nomes)]
    texto = "\r\n".join(separador.join(linha) for linha in linhas)
    fotos = pd.DataFrame({"arquivo": ["Cat/1.jpg", "Cat/2.jpg", "gatos/vovo\u0301 1.jpg"]})
    fotos = fotos.assign(rotulo=0, conjunto="teste")
    for codificacao in ("utf-8", "utf-8-sig", "cp1252", "utf-16"):
        (tmp_path / "f.csv").write_bytes(texto.encode(codificacao))
        fora = auditoria.fora_do_treino(fotos, tmp_path / "f.csv")
        assert fora.tolist() == [False, True, True]
        achadas, perdidas = capsys.readouterr().out.splitlines()
        assert "2 fotos de" in achadas
        assert "f.csv: 0 saem do treino; 2 ficam, por serem da validação ou do teste" in achadas
        assert "1 linha não é foto deste" in perdidas
        assert perdidas.endswith("como Cat/sumiu.jpg; nele, os nomes são como Cat/1.jpg")


@pytest.mark.parametrize(
    "texto",
    [
        "arquivo;rotulo\nCat/1.jpg;Cat;;\nCat/2.jpg\n",
        "arquivo,rotulo\nCat/1.jpg,Cat\nCat/2.jpg,Cat,,de novo\n",
        "\tArquivo\t\n0\tCat/1.jpg\t\n1\tCat/2.jpg\t\tmais\n",
        "\n\narquivo\rCat/1.jpg\r\rCat/2.jpg\r",  # como o Excel do Mac antigo
    ],
)
def test_uma_linha_com_campos_a_mais_ou_a_menos_ainda_nomeia_a_foto(texto, tmp_path, capsys):
    (tmp_path / "f.csv").write_bytes(texto.encode())
    fotos = pd.DataFrame({"arquivo": [f"Cat/{i}.jpg" for i in range(5)], "rotulo": 0})
    fora = auditoria.fora_do_treino(fotos.assign(conjunto="treino"), tmp_path / "f.csv")
    assert fora.tolist() == [False, True, True, False, False]
    assert capsys.readouterr().out.count("\n") == 1, "nenhuma linha perdida"


def test_de_duas_fotos_que_so_diferem_na_caixa_sai_a_que_o_csv_nomeia(tmp_path):
    (tmp_path / "f.csv").write_text("arquivo\nCat/1.JPG\n")
    fotos = pd.DataFrame({"arquivo": ["Cat/1.JPG", "Cat/1.jpg", "Cat/2.jpg"], "rotulo": 0})
    fora = auditoria.fora_do_treino(fotos.assign(conjunto="treino"), tmp_path / "f.csv")
    assert fora.tolist() == [True, False, False]


def test_csv_que_nao_serve_e_recusado_numa_frase_e_sem_csv_fica_tudo(tmp_path, capsys):
    fotos = tabela(np.arange(4) % 2)
    assert not auditoria.fora_do_treino(fotos, None).any() and capsys.readouterr().out == ""
    (tmp_path / "f.csv").write_text("foto\n1.jpg\n")
    (tmp_path / "vazio.csv").write_text("")
    (tmp_path / "excel.csv").write_bytes(b"PK\3\4\x81\x9d uma planilha")
    frases = {"f": "coluna `arquivo` .foto", "vazio": "está vazio", "nada": "não consegui ler"}
    (tmp_path / "velho.csv").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 um .xls")
    (tmp_path / "foto.csv").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF\0\x8d\x90" + bytes(2**18))
    frases |= dict.fromkeys(["excel", "velho"], "é uma planilha: salve-a como CSV")
    frases["foto"] = "não é um texto"
    for nome, dito in frases.items():
        with pytest.raises(ErroClaro, match=dito):
            auditoria.fora_do_treino(fotos, tmp_path / f"{nome}.csv")


def test_um_csv_que_deixaria_o_treino_quase_sem_uma_classe_para_tudo(tmp_path):
    """Dadas 4 fotos de treino de cada classe, 2 podem sair de cada uma; 3, não."""
    fotos = tabela(np.arange(10) % 2).assign(conjunto=["treino"] * 8 + ["teste"] * 2)
    da_classe_1 = fotos["arquivo"][fotos["rotulo"] == 1]
    for quantas in (2, 3):
        da_classe_1.head(quantas).to_csv(tmp_path / "f.csv", index=False)
        if quantas == 2:
            assert auditoria.fora_do_treino(fotos, tmp_path / "f.csv").sum() == 2
    with pytest.raises(ErroClaro, match="só 1 das 4 fotos da classe 1"):
        auditoria.fora_do_treino(fotos, tmp_path / "f.csv")
