"""O que se clica no notebook: as fotos em dúvida, e o botão da sua foto."""

import base64
import io
import json
import multiprocessing
import sys
import types

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from detector import auditoria, widgets
from detector.ambiente import ErroClaro

CLASSES = ["gato", "cachorro"]
FOTOS = pd.DataFrame({"arquivo": [f"gatos/vovó {i}.jpg" for i in range(25)], "rotulo": 0})
FOTOS["conjunto"] = ["treino"] * 20 + ["teste"] * 5


def abre(modelos, quantas=25):
    """O painel de gatos que o modelo chama de cachorro; o primeiro e o último são cópias."""
    suspeitas = auditoria.suspeitas(FOTOS, CLASSES, np.full(25, 0.98), [(0, 24)], [])
    suspeitas = suspeitas[:quantas].join(FOTOS["conjunto"])

    def pega(linhas):
        return [np.full((40, 60, 3), 10 * i, "uint8") for i in linhas]

    return widgets.Painel(suspeitas, CLASSES, pega, modelos)


def clica(painel, i, texto):
    """Escolhe o botão da i-ésima foto da página, como a pessoa."""
    *_, botoes = painel.grade.children[i].children
    botoes.value = dict(botoes.options)[texto]


def marcadas(painel):
    return [cartao.children[-1].label for cartao in painel.grade.children]


def test_cada_clique_esta_no_disco_e_a_proxima_execucao_o_le(tmp_path, capsys):
    """Dadas fotos marcadas, só as de "tirar do treino" saem, e o painel reaberto as mostra."""
    assert widgets.marcadas(tmp_path) is None
    painel = abre(tmp_path)
    for i, texto in ((0, "tirar do treino"), (1, "o rótulo está certo"), (2, "tirar do treino")):
        clica(painel, i, texto)
    clica(painel, 2, "não sei")
    fora = auditoria.fora_do_treino(FOTOS, widgets.marcadas(tmp_path))
    assert fora.nonzero()[0].tolist() == [0] and "1 foto de" in capsys.readouterr().out
    de_novo = abre(tmp_path)
    assert marcadas(de_novo)[:3] == ["tirar do treino", "o rótulo está certo", "não sei"]
    assert "com o rótulo certo, 1; para tirar do treino, 1 (" in de_novo.conta.value


def test_o_painel_abre_onde_se_parou_e_diz_o_que_nao_muda(tmp_path):
    """Dada a primeira página toda marcada, abre na segunda; as do teste não saem, e isto é dito."""
    painel = abre(tmp_path)
    assert painel.volta.disabled
    for i in range(12):
        clica(painel, i, "o rótulo está certo")
    painel = abre(tmp_path)
    assert "Página 2" in painel.conta.value and "rótulo certo, 12;" in painel.conta.value
    painel.segue.click()
    assert painel.segue.disabled and len(painel.grade.children) == 1
    [[_, legenda, _]] = [cartao.children for cartao in painel.grade.children]
    assert "modelo: cachorro (98%)" in legenda.value and "cópia de gatos/vovó 0" in legenda.value
    clica(painel, 0, "tirar do treino")
    assert "para tirar do treino, 1 (da validação ou do teste, que ficam: 1)" in painel.conta.value
    painel.volta.click()
    assert len(painel.grade.children) == 12


def marca_dez(modelos, quem):
    for i in range(10):
        widgets.marca(modelos / "fotos_fora.csv", f"{quem}-{i}.jpg", widgets.FORA)


def test_dois_kernels_que_marcam_ao_mesmo_tempo_nao_perdem_nada(tmp_path):
    processos = multiprocessing.get_context("fork")
    quem = [processos.Process(target=marca_dez, args=(tmp_path, nome)) for nome in "ab"]
    for processo in quem:
        processo.start()
    for processo in quem:
        processo.join()
    marcas = widgets.le_marcas(widgets.marcadas(tmp_path))
    assert len(marcas) == marcas["arquivo"].nunique() == 20
    assert {item.name for item in tmp_path.iterdir()} <= {"fotos_fora.csv", ".trava-marcas"}


def test_o_que_o_excel_salvou_por_cima_continua_valendo(tmp_path):
    """Dadas uma coluna a mais e o ponto e vírgula, um clique guarda tudo o que havia."""
    linhas = "arquivo;rotulo_certo;motivo\ngatos/vovó 3.jpg;;borrada\n"
    (tmp_path / "fotos_fora.csv").write_text(linhas, encoding="utf-8-sig")
    clica(abre(tmp_path), 0, "tirar do treino")
    marcas = pd.read_csv(widgets.marcadas(tmp_path))
    assert marcas["arquivo"].tolist() == ["gatos/vovó 3.jpg", "gatos/vovó 0.jpg"]
    assert marcas["motivo"][0] == "borrada"


def test_um_arquivo_que_nao_se_le_e_dito_e_nao_e_trocado(tmp_path):
    painel, arquivo = abre(tmp_path), tmp_path / "fotos_fora.csv"
    arquivo.write_text("foto\n1.jpg\n")
    clica(painel, 0, "tirar do treino")
    assert painel.conta.value.startswith("ERRO: ") and str(arquivo) in painel.conta.value
    assert arquivo.read_text() == "foto\n1.jpg\n"
    with pytest.raises(ErroClaro, match="não é um CSV"):
        abre(tmp_path)


@pytest.mark.parametrize("quantas", [25, 0])
def test_sem_navegador_aparece_a_figura(tmp_path, quantas):
    """A saída leva o widget e, para o papermill e o GitHub, um PNG pequeno e uma frase."""
    InteractiveShell.instance()
    painel = abre(tmp_path, quantas)
    with capture_output() as visto:
        painel._ipython_display_()
    [saida] = visto.outputs
    figura = PIL.Image.open(io.BytesIO(base64.b64decode(saida.data["image/png"])))
    assert figura.width > 600 and (np.asarray(figura).std() > 10 or not quantas)
    assert "botões" in saida.data["text/plain"] and len(json.dumps(saida.data)) < 300_000
    assert "model_id" in str(saida.data)


def do_ipywidgets_7(seletor, fotos):
    novas = {nome: {"metadata": {"name": nome}, "content": dados} for nome, dados in fotos.items()}
    seletor.notify_change({"name": "value", "new": novas, "owner": seletor, "type": "change"})


def do_ipywidgets_8(seletor, fotos):
    comum = {"type": "", "size": 0, "last_modified": 0}
    novas = [{"name": n, "content": memoryview(d)} | comum for n, d in fotos.items()]
    seletor.set_state({"value": novas})


def do_colab(seletor, fotos):
    seletor.click()


@pytest.mark.parametrize("escolhe", [do_ipywidgets_7, do_ipywidgets_8, do_colab])
def test_o_botao_responde_a_cada_foto_escolhida(escolhe, capsys, monkeypatch):
    """No Colab, o envio é o dele, e só abre com o clique; no Jupyter, diz-se antes quanto cabe."""
    fotos = {"rex.png": b"foto de um gato", "leia-me.txt": b"texto"}

    def classifica(conteudo, nome):
        if not conteudo.startswith(b"foto"):
            raise ErroClaro(f"{nome} não é uma foto")
        return conteudo.decode()

    if escolhe is do_colab:
        for modulo in ("google.colab", "google.colab.files"):
            monkeypatch.setitem(sys.modules, modulo, types.SimpleNamespace(upload=lambda: fotos))
    seletor, *outros = widgets.botao(classifica).children
    assert capsys.readouterr().out == ""
    assert escolhe is do_colab or "cabem 10 MB" in outros[0].value
    escolhe(seletor, fotos)
    dito = capsys.readouterr().out
    assert "rex.png:" in dito and "foto de um gato" in dito and "leia-me.txt não é uma foto" in dito
