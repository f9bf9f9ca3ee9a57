"""O que o dataset tem de estranho aparece na lista de suspeitas, e o resto não."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from detector import auditoria

CLASSES = ["gato", "cachorro"]


def previsoes(n, semente=0):
    """Rótulos (n,) e as probabilidades de um bom modelo, que erra uma foto ou outra por pouco."""
    acaso = np.random.default_rng(semente)
    y = np.arange(n) % 2
    p = np.where(y == 1, acaso.uniform(0.9, 1, n), acaso.uniform(0, 0.1, n))
    p[::50] = 0.5 + np.where(y[::50] == 1, -0.05, 0.05)
    return y, p


def tabela(y):
    return pd.DataFrame({"arquivo": [f"{i}.jpg" for i in range(len(y))], "rotulo": y})


def foto(semente):
    acaso = np.random.default_rng(semente).integers(0, 256, (8, 8, 3), dtype="uint8")
    return Image.fromarray(acaso).resize((240, 180), Image.Resampling.BICUBIC)


def miniatura(imagem):
    return np.asarray(imagem.convert("L").resize((16, 16), Image.Resampling.BOX))


def regrava(imagem):
    arquivo = io.BytesIO()
    imagem.save(arquivo, "JPEG", quality=30)
    return Image.open(arquivo)


def reduz(imagem):
    return imagem.resize((imagem.width // 2, imagem.height // 2))


DISFARCES = {
    "regravada": regrava,
    "reduzida": reduz,
    "espelhada": ImageOps.mirror,
    "nas três coisas": lambda imagem: regrava(reduz(ImageOps.mirror(imagem))),
}


def test_rotulos_trocados_encabecam_a_lista():
    y, p = previsoes(400)
    trocados = [13, 77, 140, 231, 306]
    p[trocados] = np.where(y[trocados] == 1, 0.99, 0.01)
    y[trocados] = 1 - y[trocados]
    lista = auditoria.suspeitas(tabela(y), CLASSES, p, [], [])
    assert set(lista.index[:5]) == set(trocados)
    assert set(lista.index) == set(trocados) | set(range(0, 400, 50))  # e só quem discorda
    conviccao = np.abs(p - y)[auditoria.discordancias(y, p)]
    assert (np.diff(conviccao) <= 0).all()


@pytest.mark.parametrize("disfarce", DISFARCES.values(), ids=DISFARCES.keys())
def test_copias_disfarcadas_sao_achadas_e_fotos_diferentes_nao(disfarce):
    fotos = [foto(i) for i in range(300)]
    copiadas = range(0, 300, 10)
    fotos += [disfarce(fotos[i]) for i in copiadas]
    miniaturas = np.stack([miniatura(f) for f in fotos])
    pares = auditoria.copias(miniaturas, np.ones((len(fotos), 4)))
    assert pares == [(i, 300 + k) for k, i in enumerate(copiadas)]


def test_pixels_iguais_com_vetores_opostos_nao_sao_copia():
    miniaturas = np.stack([miniatura(foto(0))] * 2)
    assert auditoria.copias(miniaturas, np.array([[1.0, 0], [-1, 0]])) == []
    assert auditoria.copias(miniaturas, np.array([[1.0, 0], [1, 0.1]])) == [(0, 1)]


def test_fundos_lisos_nao_sao_copias_uns_dos_outros():
    lisas = np.repeat(np.arange(0, 250, 5, dtype="uint8"), 256).reshape(-1, 16, 16)
    assert auditoria.copias(lisas, np.ones((len(lisas), 4))) == []


def test_so_fica_distante_quem_esta_muito_longe():
    similaridades = np.append(np.linspace(0.6, 0.8, 100), [0.1, 0.02, 0.45])
    assert auditoria.distantes(similaridades).tolist() == [101, 100]


def test_a_tabela_junta_os_motivos_de_cada_foto_na_ordem_combinada():
    y, p = previsoes(40)
    y[7], p[7] = 0, 0.98765
    p[0] = 0.01
    lista = auditoria.suspeitas(tabela(y), CLASSES, p, [(7, 9)], np.array([20, 9]))
    assert list(lista.columns) == ["arquivo", "rotulo", "probabilidade_cachorro", "motivo"]
    assert lista.index.tolist() == [7, 9, 20]
    assert lista.loc[7].tolist() == [
        "7.jpg",
        "gato",
        0.9877,
        "rótulo e modelo discordam; cópia de 9.jpg",
    ]
    assert lista.loc[9, "motivo"] == "cópia de 7.jpg; não se parece com as outras"


def test_sem_suspeitas_a_tabela_tem_so_o_cabecalho():
    y = np.arange(40) % 2
    lista = auditoria.suspeitas(tabela(y), CLASSES, y.astype(float), [], [])
    assert lista.to_csv(index=False).strip() == "arquivo,rotulo,probabilidade_cachorro,motivo"
