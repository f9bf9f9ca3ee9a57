"""O notebook como quem o roda o encontra: curto, à vista, e o que se muda nele é o que vale."""

import ast
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import pytest
from conftest import NOTEBOOK, RAIZ, SEM_REDE, frase, metricas, resultados, termina
from PIL import Image
from sklearn.dummy import DummyClassifier

import detector

CELULAS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
FONTES = ["".join(celula["source"]) for celula in CELULAS if celula["cell_type"] == "code"]
MEDIDAS = {
    *("dataset", "n_treino", "n_validacao", "n_teste", "acuracia", "precisao", "recall"),
    *("log_loss", "motor", "ajuste_fino", "imagens_extraidas", "segundos_extracao"),
    *("segundos_ate_metrica", "segundos_total"),
}
OUTRO_RESIZE = """
def outro_resize(img, label):
    return tf.image.resize(img, (224, 224)) / 255, tf.cast(label, tf.float32)

"""
MUDANCAS = {
    "a taxa de aprendizado": ("Adam(3e-3)", "Adam(1e-3)"),
    "os rótulos": (
        'rotulos = fotos["rotulo"].to_numpy()',
        'rotulos = 1 - fotos["rotulo"].to_numpy()',
    ),
    "a regularização": ("L2(1e-3)", "L2(1e-1)"),
    "o que descongela": (
        "not isinstance(camada, layers.BatchNormalization)",
        'camada.name == "conv_head"',
    ),
}


[DOS_VETORES] = [i for i, fonte in enumerate(FONTES) if "caracteristicas.extrai(" in fonte][:1]
[DO_TESTE] = [i for i, fonte in enumerate(FONTES) if "p_teste, do_teste = " in fonte]


def medidas_de(execucao):
    """As métricas de uma execução, que tem de ter chegado ao fim do notebook."""
    return metricas(pathlib.Path(termina(execucao).args[0]["MODELOS"]))


def test_o_notebook_e_curto_e_mostra_cedo():
    """Poucas células, curtas, sem nada escondido; a figura e a métrica não demoram."""
    linhas = [[li for li in fonte.splitlines() if li.strip()] for fonte in FONTES]
    tamanhos = sorted(map(len, linhas))
    assert len(FONTES) <= 45 and sum(tamanhos) <= 280
    assert statistics.median(tamanhos) <= 6 and np.quantile(tamanhos, 0.9) <= 13
    assert max(len(linha) for celula in linhas for linha in celula) <= 100
    assert len(re.findall(r"^\s*def ", "\n".join(FONTES), re.MULTILINE)) <= 2
    assert any("detector.figuras." in fonte for fonte in FONTES[:6])
    assert any("metricas.mostra" in fonte for fonte in FONTES[:18])
    [parametros] = [c for c in CELULAS if "parameters" in c["metadata"].get("tags", [])]
    assert "".join(parametros["source"]) == FONTES[0]
    escondem = {"collapsed", "jupyter", "cellView", "hide_input"}
    assert not any(escondem & celula["metadata"].keys() for celula in CELULAS)


@pytest.mark.parametrize(
    "trecho",
    [
        *(".fit(", "Dense(", "/ 255", "compile(", "trainable", ".batch(", "as_dataset("),
        "read_config=detector.dados.EM_ORDEM",  # ou um rótulo poderia não ser o da sua foto
    ],
)
def test_a_receita_esta_a_vista(trecho):
    """Quem procura este passo no notebook o encontra numa célula."""
    assert any(trecho in fonte for fonte in FONTES)


def nomes_usados(fonte):
    """Os nomes que a célula lê, menos as linhas de treino e de validação do que é de todas."""
    arvore, das_partes = ast.parse(fonte), ("i_treino", "i_validacao", "i_referencia")
    permitidos = set()
    for no in ast.walk(arvore):
        if isinstance(no, ast.Subscript) and ast.unparse(no.slice) in das_partes:
            permitidos.add(no.value)  # X[i_treino]
        if isinstance(no, ast.Call) and no.args and ast.unparse(no.args[0]) in das_partes:
            permitidos.update(no.args)  # extracao.mapas(i_treino, y)
        if isinstance(no, ast.Attribute) and no.attr == "shape":
            permitidos.add(no.value)
    lidos = {no for no in ast.walk(arvore) if isinstance(no, ast.Name | ast.Attribute)} - permitidos
    return {no.id if isinstance(no, ast.Name) else no.attr for no in lidos}


def test_antes_do_resultado_nenhuma_celula_olha_as_fotos_de_teste():
    """Dados o treino e as escolhas, só entram neles fotos de treino e de validação."""
    das_de_teste = {"teste", "i_teste", "X", "y", "rotulos", "fotos", "vetores", "builder"}
    for fonte in FONTES[DOS_VETORES + 1 : DO_TESTE]:
        assert not nomes_usados(fonte) & das_de_teste, fonte
    assert "i_teste" in nomes_usados(FONTES[DO_TESTE]), "ou este teste não testa nada"


def test_depois_do_resultado_nada_do_que_se_entrega_muda():
    """O modelo e o limiar já estão gravados quando o teste é previsto, e ninguém os refaz."""
    antes, depois = FONTES[:DO_TESTE], FONTES[DO_TESTE:]
    for passo in ("modelo.save(", "classificador.guarda("):
        assert sum(passo in fonte for fonte in antes) == 1
    for passo in (".fit(", ".compile(", ".save(", ".guarda(", "mistura(", "set_weights("):
        assert not any(passo in fonte for fonte in depois), passo
    entregues = {"modelo", "base", "topo", "cabeca_nova", "ajustado", "parte", "ajuste_fino"}
    entregues |= {"limiar", "referencia", "corte", "extracao"}
    for fonte in depois:
        atribuicoes = [no for no in ast.walk(ast.parse(fonte)) if isinstance(no, ast.Assign)]
        alvos = {ast.unparse(alvo) for atribuicao in atribuicoes for alvo in atribuicao.targets}
        assert not entregues & set(re.findall(r"\w+", " ".join(alvos))), fonte


def test_a_calibracao_e_do_modelo_entregue_e_a_validacao_cruzada_diz_que_e_do_congelado():
    [fonte] = [fonte for fonte in FONTES if "confusao_e_calibracao(" in fonte]
    assert {"rotulos_teste", "p_teste"} <= nomes_usados(fonte)
    textos = ["".join(c["source"]) for c in CELULAS if c["cell_type"] == "markdown"]
    assert [
        t for t in textos if "validação cruzada" in t and "Ela descreve" in t and "congelado" in t
    ]
    assert [t for t in textos if "discorda do rótulo" in t and "congelado" in t]


def test_onde_olhou_mostra_o_modelo_entregue_em_fotos_de_teste():
    [fonte] = [fonte for fonte in FONTES if "figuras.onde_olhou(" in fonte]
    assert "onde_olhou(topo, cabeca_nova, extracao.mapas_de(i_teste[vistas]))" in fonte
    assert "p_teste" in nomes_usados(fonte) and not {"p_cruzada", "cabeca"} & nomes_usados(fonte)


@pytest.mark.parametrize("semente", range(4))
def test_a_linha_de_base_e_a_de_quem_so_viu_os_rotulos_do_treino(semente, capsys):
    """Dada a célula do teste, a linha de base é a do DummyClassifier, mesmo abaixo de 0,5."""
    acaso = np.random.default_rng(semente)
    rotulos, (i_treino, i_teste) = acaso.integers(0, 2, 41), np.split(np.arange(41), [31])
    nomes = {"rotulos": rotulos, "i_treino": i_treino, "i_teste": i_teste, "detector": detector}
    nomes |= {"extracao": MagicMock(), "duas_saidas": None, "pasta": None, "CLASSES": ["a", "b"]}
    nomes["extracao"].pelo_topo.return_value = acaso.random((10, 1)), None
    exec(FONTES[DO_TESTE], nomes)
    mudo = DummyClassifier().fit(i_treino[:, np.newaxis], rotulos[i_treino])
    certa = mudo.score(i_teste[:, np.newaxis], rotulos[i_teste])
    assert nomes["metricas"]["linha_de_base"] == certa
    [classe] = mudo.predict([[0]])
    assert f"quem diz sempre «{nomes['CLASSES'][classe]}»" in capsys.readouterr().out


def test_uma_execucao_deixa_o_que_promete(pronto):
    """Dada uma execução inteira, o modelo abre no Keras puro, e as medidas estão todas lá."""
    medidas = metricas(pronto)
    assert medidas.keys() >= MEDIDAS
    assert [medidas[f"n_{parte}"] for parte in ("treino", "validacao", "teste")] == [240, 30, 30]
    assert 0 < medidas["segundos_ate_metrica"] < medidas["segundos_total"]
    assert medidas["arquivo_decisoes_diferentes"] <= 1  # dos mapas e desde a foto
    convertidas = len(list(pronto.glob("motor-*.dados")))
    assert convertidas == medidas["motor"].startswith("openvino"), "um motor só, também na lição 2"
    abre = (
        "import keras, numpy, sys; m = keras.models.load_model(sys.argv[1]); "
        "lote = numpy.random.default_rng(0).random((3, 224, 224, 3), 'float32'); "
        "p = m.predict(lote, verbose=0); assert 'detector' not in sys.modules; "
        "print(m.input_shape, m.output_shape, p.shape, 0 <= p.min() <= p.max() <= 1)"
    )
    programa = [sys.executable, "-c", abre, pronto / "detector_dogs_cats.keras"]
    puro = subprocess.run(programa, capture_output=True, text=True, check=True, cwd=pronto)
    assert puro.stdout.strip() == "(None, 224, 224, 3) (None, 1) (3, 1) True"
    colunas = ["arquivo", "rotulo", "probabilidade_cachorro", "motivo"]
    assert pd.read_csv(pronto / "suspeitas.csv").columns.tolist() == colunas
    nomes = re.findall(r"figuras/(\w+\.png)", "".join(FONTES))
    assert sorted(a.name for a in (pronto / "figuras").iterdir()) == sorted(nomes)


def test_a_segunda_execucao_nao_extrai_nada_e_da_o_mesmo(sessao, pronto, tmp_path):
    """Dado o que a primeira deixou, a segunda termina igual até o último algarismo."""
    shutil.copytree(pronto, tmp_path, dirs_exist_ok=True)
    antes = guardados(tmp_path)
    assert medidas_de(sessao(tmp_path, MAX_IMAGENS=300))["imagens_extraidas"] == 0
    assert resultados(tmp_path) == resultados(pronto)
    assert guardados(tmp_path) == antes, "nada foi gravado de novo: nem vetores, nem treinos"


def guardados(modelos):
    """{arquivo: número dele no disco}: quem grava de novo, mesmo que o mesmo, muda o número."""
    arquivos = (a for a in modelos.glob("*.dados") if a.name != "classificador.dados")
    return {a.name: a.stat().st_ino for a in arquivos}


def test_na_amostra_inteira_acerta_o_que_a_amostra_permite(sessao, tmp_path):
    """Dadas as 2.000 miniaturas, o teste e a validação cruzada passam de 86 %."""
    medidas = medidas_de(sessao(tmp_path))
    assert medidas["n_treino"] == 1600 and medidas["acuracia"] >= 0.86
    assert medidas["validacao_cruzada"]["acuracia"] >= 0.86


def test_nas_fotos_reais_acerta_98_por_cento_e_a_segunda_vez_e_igual(sessao, dados_reais, tmp_path):
    """Dadas as 2.000 fotos reais, o teste passa de 98 % e a validação cruzada de 98,5 %."""
    parametros = {"DATASET": "cats_vs_dogs", "DATA_DIR": str(dados_reais)}
    primeira = medidas_de(sessao(tmp_path, **parametros))
    antes = resultados(tmp_path)
    assert primeira["dataset"].startswith("cats_vs_dogs/") and primeira["n_teste"] == 200
    assert primeira["acuracia"] >= 0.98 and primeira["validacao_cruzada"]["acuracia"] >= 0.985
    assert medidas_de(sessao(tmp_path, **parametros))["imagens_extraidas"] == 0
    assert resultados(tmp_path) == antes


@pytest.fixture(scope="module")
def treina_com(sessao, tmp_path_factory):
    """Função: roda, até ter um classificador, uma cópia do notebook com um trecho trocado.

    Todas as cópias usam a mesma pasta MODELOS: o que uma guardou, a outra não deve aproveitar.
    """
    pasta = tmp_path_factory.mktemp("mudancas")
    fim = 'print("pesos", detector.gravacao.digesto(modelo.get_weights()))\n'
    fim += 'print("limiar", limiar, parte)\n'
    fim += "classifica = detector.carrega_classificador(rascunho)"

    def treina(trecho="", troca="", modelos=pasta / "modelos"):
        ate = next(i for i, fonte in enumerate(FONTES) if "detector.classificador.guarda" in fonte)
        fontes = [FONTES[0], *FONTES[1 : ate + 1], fim]
        assert not trecho or sum(fonte.count(trecho) for fonte in fontes) == 1
        fontes = [fonte.replace(trecho, troca) if trecho else fonte for fonte in fontes]
        celulas = [{"cell_type": "code", "metadata": {}, "source": fonte} for fonte in fontes]
        celulas[0]["metadata"] = {"tags": ["parameters"]}
        (pasta / "copia.ipynb").write_text(json.dumps({"cells": celulas}), encoding="utf-8")
        ambiente = {"NOTEBOOK": str(pasta / "copia.ipynb")}
        return sessao(modelos, ambiente=ambiente, MAX_IMAGENS=100)

    return treina


@pytest.fixture(scope="module")
def de_fabrica(treina_com):
    """A execução sem mudar nada no notebook."""
    return treina_com()


@pytest.fixture(scope="module")
def pesos_de_fabrica(de_fabrica):
    """O resumo dos pesos do modelo, sem mudar nada no notebook."""
    return pesos(de_fabrica)


def pesos(execucao):
    return re.search(r"^pesos (\w+)$", execucao.stdout, re.MULTILINE)[1]


@pytest.mark.parametrize("mudanca", MUDANCAS)
def test_o_que_se_muda_no_notebook_muda_o_modelo(treina_com, pesos_de_fabrica, mudanca):
    """Dada uma receita mudada numa célula, o modelo que ela deixa é outro."""
    mudado = treina_com(*MUDANCAS[mudanca])
    assert mudado.returncode == 0 and pesos(mudado) != pesos_de_fabrica


def test_os_rotulos_do_teste_nao_mudam_nada_do_que_se_entrega(treina_com, de_fabrica, tmp_path):
    """Dados todos os rótulos de teste trocados, os pesos, a mistura e o limiar são os mesmos."""
    trecho = 'rotulos = fotos["rotulo"].to_numpy()'
    troca = 'rotulos = np.where(fotos["parte"] == "teste", 1 - fotos["rotulo"], fotos["rotulo"])'
    mudado = treina_com(trecho, troca, tmp_path)
    entregue = re.compile(r"^(?:pesos|limiar) .*", re.MULTILINE)
    assert entregue.findall(mudado.stdout) == entregue.findall(de_fabrica.stdout)
    assert len(entregue.findall(mudado.stdout)) == 2


def test_outro_resize_muda_o_modelo_e_o_classificador_o_recusa(treina_com, pesos_de_fabrica):
    """Dada outra função de resize, tudo é extraído de novo, e `classifica` não a confunde."""
    trecho = "extracao = detector.caracteristicas.extrai(\n    builder, fotos, "
    troca = OUTRO_RESIZE + trecho + "outro_resize"
    mudado = treina_com(trecho + "redimensiona_img", troca)
    assert "extraídas agora: 100 fotos" in mudado.stdout and pesos(mudado) != pesos_de_fabrica
    assert "foi treinado com uma preparação diferente" in frase(mudado)


def test_a_sua_pasta_sem_ajuste_fino_e_sem_as_fotos_que_voce_tirou(sessao, amostra, tmp_path):
    """Dadas duas subpastas e um CSV do Excel, as fotos tiradas saem do treino, e só dele."""
    imagens = detector.dados.pega(amostra, range(100))
    rotulos = detector.dados.lista(amostra, 100)["rotulo"]
    for classe, rotulo in (("lobo", 1), ("onça", 0)):
        (tmp_path / "fotos" / classe).mkdir(parents=True)
        for i in rotulos.index[rotulos == rotulo][:40]:
            Image.fromarray(imagens[i]).save(tmp_path / "fotos" / classe / f"{i}.png")
    pasta = {"DATASET": str(tmp_path / "fotos"), "DATA_DIR": str(tmp_path / "tfds")}
    nomes = detector.dados.lista(detector.dados.abre(*pasta.values()))["arquivo"]
    fora = "\n".join(["arquivo;motivo", *(f"{nomes[i]};borrada" for i in (0, 5, 63, 64, 79))])
    (tmp_path / "fora.csv").write_text(fora, encoding="cp1252")
    pasta |= {"FOTOS_FORA": str(tmp_path / "fora.csv"), "EPOCAS_AJUSTE_FINO": 0}
    medidas = medidas_de(sessao(tmp_path / "modelos", **pasta))
    assert medidas["classes"] == ["lobo", "onça"] and medidas["ajuste_fino"] == "não pedido"
    assert [medidas[f"n_{parte}"] for parte in ("treino", "validacao", "teste")] == [61, 8, 8]


def test_duas_redes_unidas_vao_ate_o_fim(sessao, tmp_path):
    """Dados dois backbones, que não têm um corte, o fine-tuning é pulado e o resto funciona."""
    unidas = "EfficientNetLite0+EfficientNetLite1"
    medidas = medidas_de(sessao(tmp_path, BACKBONE=unidas, MAX_IMAGENS=60))
    assert medidas["backbone"] == unidas and medidas["corte"] is None
    assert medidas["ajuste_fino"] == "não pedido"
    assert detector.carrega_classificador(tmp_path)(np.zeros((99, 99, 3), "uint8"))["classe"]


def test_um_parametro_errado_e_uma_frase(sessao, tmp_path):
    """Dado um parâmetro que não serve, a célula mostra uma frase, e não uma pilha."""
    dita = frase(sessao(tmp_path, EPOCAS="vinte"))
    assert dita == "EPOCAS = 'vinte': precisa ser um número inteiro, de 1 para cima."


def arquivos_do_projeto():
    """{caminho: data} do que não é oculto."""
    caminhos = (p for p in RAIZ.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    visiveis = (p for p in caminhos if not any(n[0] == "." for n in p.relative_to(RAIZ).parts))
    return {caminho: caminho.stat().st_mtime_ns for caminho in visiveis}


def test_o_papermill_roda_como_no_make_e_o_projeto_fica_limpo(tmp_path):
    """Dado o comando do Makefile, tudo o que ele deixa está em MODELOS, e o projeto não muda."""
    antes = arquivos_do_projeto()
    comando = [sys.executable, "-m", "papermill", "--log-level", "ERROR", "--no-progress-bar"]
    comando += ["--stdout-file", "/dev/stdout", "-k", "python3", "-p", "DATASET", "amostra"]
    comando += ["-p", "BACKBONE", "EfficientNetLite0"]
    comando += ["-p", "MODELOS", tmp_path, "-p", "MAX_IMAGENS", "100"]
    comando += [NOTEBOOK, tmp_path / "detector_dogs_cats.executado.ipynb"]
    ambiente = {**os.environ, **SEM_REDE}
    make = subprocess.run(comando, cwd=RAIZ, env=ambiente, capture_output=True, text=True)
    assert make.returncode == 0, make.stderr[-3000:]
    assert "Teste (10 fotos): acurácia" in make.stdout and metricas(tmp_path)["n_treino"] == 80
    assert arquivos_do_projeto() == antes
