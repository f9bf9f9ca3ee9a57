"""O notebook como quem o roda o encontra: curto, à vista, e o que se muda nele é o que vale."""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import (
    NOTEBOOK,
    POUCAS,
    RAIZ,
    SO_MOSTRAM,
    frase,
    gravacoes,
    metricas,
    resultados,
    termina,
)
from PIL import Image
from roda_notebook import celulas

import detector

FONTES = celulas()
CELULAS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
DE_CODIGO = [celula for celula in CELULAS if celula["cell_type"] == "code"]
CONTRATO = {
    *("dataset", "n_treino", "n_validacao", "n_teste", "acuracia", "precisao", "recall"),
    *("log_loss", "motor", "ajuste_fino", "imagens_extraidas", "segundos_extracao"),
    *("segundos_ate_metrica", "segundos_total", "codigo", "modelo", "backbone", "classes"),
}
MODELO = "detector_dogs_cats.keras"
# Quem só quer o modelo pula o que vem depois dele, e as lições.
ATE_O_MODELO = [*FONTES][[*FONTES].index("modelo") + 1 :]
ATE_O_MODELO += SO_MOSTRAM
# Com a mistura aceita, o que se entrega depende dos dois treinos; e o que se entrega é copiado.
ENTREGA = {
    "trocas": {"decisao": ['aceito = diferenca["log_loss_ic95"][1] < 0', "aceito = True"]},
    "depois": {"modelo": "__import__('shutil').copytree(rascunho, modelos / 'entregue')"},
}
OUTRO_LE = """
def le(builder, fatia, prepara=lambda f, r: (tf.image.resize(f, (224, 224)) / 255, r)):
    return detector.dados.le(builder, fatia, prepara)
"""
OUTRO_LEITOR = "lambda builder, fatia: le(builder, fatia).map(lambda f, r: (f * 2 - 1, r))"
DAS_CABECAS = {"cabeca": 1, "ajuste": 2}  # quantas épocas novas, pelo menos, de cada treino
EDICOES = {  # o que a pessoa mudou: a célula, de, para, e o que tem de ser treinado de novo
    "class_weight": ("fit_cabeca", "shuffle", "class_weight={0: 1, 1: 5}, shuffle", DAS_CABECAS),
    "sample_weight": (
        *("fit_cabeca", "shuffle", "sample_weight=np.linspace(0, 1, len(i_treino)), shuffle"),
        DAS_CABECAS,
    ),
    "a ordem": ("fit_cabeca", "shuffle=False", "shuffle=True", DAS_CABECAS),
    "os vetores": ("fit_cabeca", "X[i_treino],", "X[i_treino] * 10,", DAS_CABECAS),
    "os mapas": (
        *("fit_ajuste", "mapas_treino = extracao.mapas(i_treino)"),
        "mapas_treino = extracao.mapas(i_treino).map(lambda mapa, rotulo: (mapa * 2, rotulo))",
        {"ajuste": 2},
    ),
}


def test_o_notebook_e_curto_e_mostra_cedo():
    """Poucas células, curtas, sem nada escondido; a figura e a métrica não demoram."""
    tamanhos = sorted(
        len([li for li in fonte.splitlines() if li.strip()]) for fonte in FONTES.values()
    )
    assert len(tamanhos) <= 40 and sum(tamanhos) <= 250
    assert statistics.median(tamanhos) <= 6 and tamanhos[int(len(tamanhos) * 0.9)] <= 12
    assert len(re.findall(r"^\s*def ", "\n".join(FONTES.values()), re.MULTILINE)) <= 2
    escondem = {"collapsed", "jupyter", "cellView", "hide_input"}
    assert not any(escondem & celula["metadata"].keys() for celula in CELULAS)


def test_cada_celula_tem_uma_etiqueta_so_sua():
    assert [len(celula["metadata"]["tags"]) for celula in DE_CODIGO] == [1] * len(DE_CODIGO)
    assert len(FONTES) == len(DE_CODIGO) and next(iter(FONTES)) == "parameters"


def test_as_saidas_gravadas_sao_de_uma_execucao_inteira_e_nada_dizem_da_maquina():
    """Dado o notebook do repositório, quem não o roda vê cedo uma figura e uma métrica."""
    assert [celula["execution_count"] for celula in DE_CODIGO] == [*range(1, len(DE_CODIGO) + 1)]
    saidas = [celula["outputs"] for celula in DE_CODIGO]
    tipos = {saida.get("name", saida["output_type"]) for celula in saidas for saida in celula}
    assert tipos <= {"stdout", "display_data", "execute_result"}
    figuras = ["image/png" in json.dumps(saida) for saida in saidas]
    medidas = ["acurácia " in json.dumps(saida, ensure_ascii=False) for saida in saidas]
    assert any(figuras[:6]) and any(medidas[:16])
    _, *fontes = FONTES.values()  # nos parâmetros há um caminho do Windows, de exemplo
    assert not re.search(r"/(home|root|tmp|work|Users)/|[A-Z]:\\\\", json.dumps([fontes, saidas]))


def test_o_comando_do_makefile_deixa_o_que_promete(pronto):
    """Dada uma execução inteira, o modelo abre no Keras puro, e as medidas estão todas lá."""
    assert "Teste (6 fotos): acurácia" in (pronto.parent / "dito.txt").read_text()
    assert json.loads((pronto.parent / "mudou.json").read_text()) == [], "o projeto fica limpo"
    medidas = metricas(pronto)
    assert medidas.keys() >= CONTRATO
    assert [medidas[f"n_{parte}"] for parte in ("treino", "validacao", "teste")] == [48, 6, 6]
    assert 0 < medidas["segundos_ate_metrica"] < medidas["segundos_total"]
    assert medidas["imagens_extraidas"] == 60 and medidas["segundos_extracao"] > 0
    assert medidas["ajuste_fino"] in ("aceito", "recusado")
    modelo = keras.models.load_model(pronto / MODELO)
    assert (modelo.input_shape, modelo.output_shape) == ((None, 224, 224, 3), (None, 1))
    assert medidas["modelo"] == detector.arquivos.digesto(modelo.get_weights())
    p = modelo(np.random.default_rng(0).random((3, 224, 224, 3), "float32")).numpy()
    assert p.shape == (3, 1) and p.min() >= 0 and p.max() <= 1
    with zipfile.ZipFile(pronto / MODELO) as aberto:
        modulos = re.findall(r'"module": "(\w+)', aberto.read("config.json").decode())
    assert {*modulos} == {"keras"}, "ele tem de abrir também onde o pacote detector não está"
    colunas = ["arquivo", "rotulo", "probabilidade_cachorro", "motivo"]
    assert pd.read_csv(pronto / "suspeitas.csv").columns.tolist() == colunas
    guardado = {a.name.partition("-")[0] for a in pronto.glob("*.npz")}
    assert guardado >= {"vetores", "cabeca", "ajuste", "classificador.npz"}
    assert len([*pronto.glob("motor-*")]) == medidas["motor"].startswith("openvino")


def test_a_segunda_vez_nao_refaz_nada_e_o_que_se_entrega_estava_pronto_antes_do_teste(
    sessao, pronto, tmp_path
):
    """Dado o que a primeira vez deixou, só o modelo é gravado de novo, com os mesmos pesos."""
    shutil.copytree(pronto, tmp_path, dirs_exist_ok=True)
    antes = gravacoes(tmp_path)
    termina(sessao(tmp_path, depois=ENTREGA["depois"], **POUCAS))
    assert gravacoes(tmp_path) == antes and metricas(tmp_path)["imagens_extraidas"] == 0
    assert resultados(tmp_path) == resultados(pronto)
    entregue = {a.name: a.read_bytes() for a in (tmp_path / "entregue").iterdir()}
    assert entregue.keys() == {MODELO, "classificador.npz"}
    assert all((tmp_path / nome).read_bytes() == conteudo for nome, conteudo in entregue.items())
    assert entregue[MODELO] == (pronto / MODELO).read_bytes(), "os mesmos bytes"


@pytest.fixture(scope="module")
def edita(sessao, pronto, tmp_path_factory):
    """Função: roda, até o modelo, o notebook editado, numa MODELOS em que já está tudo feito.

    Devolve quantas épocas e partes novas há, {tipo: quantas}, e o que se entregaria.
    """
    modelos = tmp_path_factory.mktemp("edicoes") / "modelos"
    shutil.copytree(pronto, modelos)

    def roda(trocas=(), depois=(), **resto):
        antes = gravacoes(modelos)
        shutil.rmtree(modelos / "entregue", ignore_errors=True)
        trocas, depois = ENTREGA["trocas"] | dict(trocas), dict(depois) | ENTREGA["depois"]
        edicao = {"trocas": trocas, "depois": depois, "pula": ATE_O_MODELO}
        termina(sessao(modelos, **POUCAS | edicao | resto))
        agora = gravacoes(modelos)
        assert antes.items() <= agora.items(), "nada do que estava guardado foi gravado de novo"
        novos = [nome.partition("-")[0] for nome in agora.keys() - antes.keys()]
        entregue = (modelos / "entregue" / nome for nome in (MODELO, "classificador.npz"))
        pesos = keras.models.load_model(next(entregue)).get_weights()
        with np.load(next(entregue)) as extras:
            return {tipo: novos.count(tipo) for tipo in novos}, [*pesos, *extras.values()]

    return roda


def iguais(um, outro):
    return all(map(np.array_equal, um, outro))


@pytest.fixture(scope="module")
def de_fabrica(edita):
    """O que se entrega sem mudar nada no notebook."""
    novos, entregue = edita()
    assert not novos, "nada foi treinado nem extraído de novo"
    return entregue


@pytest.mark.parametrize("edicao", EDICOES)
def test_o_que_se_muda_no_notebook_e_treinado_de_novo_e_muda_o_modelo(edita, de_fabrica, edicao):
    """Dada uma receita mudada numa célula, o modelo que ela deixa é outro."""
    tag, de, para, treinam = EDICOES[edicao]
    novos, entregue = edita(trocas={tag: [de, para]})
    assert novos.keys() == treinam.keys() and all(novos[t] >= n for t, n in treinam.items())
    assert not iguais(entregue, de_fabrica)


def test_mais_epocas_continuam_o_treino(edita):
    """Dadas 8 épocas já treinadas, pedir 12 treina só as 4 que faltam."""
    novos, _ = edita(EPOCAS=12)
    assert novos["cabeca"] == 4


def test_as_fotos_de_teste_nao_mudam_nada_do_que_se_entrega(edita, de_fabrica):
    """Dados os rótulos de teste trocados e os vetores apagados, o modelo e o limiar são iguais."""
    novos, entregue = edita(depois={"extracao": "y[i_teste] = 1 - y[i_teste]; X[i_teste] = 0"})
    assert not novos and iguais(entregue, de_fabrica)


def test_outro_leitor_so_na_extracao_para_na_celula_do_teste(sessao, pronto, tmp_path):
    """Dados pixels de −1 a 1 só na extração, tudo é extraído de novo, e a frase diz por quê."""
    shutil.copytree(pronto, tmp_path, dirs_exist_ok=True)
    trocas = {"extracao": ["tabela, le,", f"tabela, {OUTRO_LEITOR},"]}
    pula = [*SO_MOSTRAM, "outras_coisas"]
    parou = sessao(tmp_path, trocas=trocas, pula=pula, EPOCAS_AJUSTE_FINO=0, **POUCAS)
    assert "imagens extraídas 60" in parou.stdout and "s: modelo>" in parou.stdout
    assert frase(parou).startswith("o modelo gravado não dá as respostas que os mapas dão")
    assert "s: teste>" not in parou.stdout and resultados(tmp_path) == resultados(pronto)


def test_um_peso_mudado_no_arquivo_gravado_para_na_celula_do_teste(sessao, pronto, tmp_path):
    """Dado um arquivo que não é mais o que se mediu, nada é publicado, e a frase diz por quê."""
    shutil.copytree(pronto, tmp_path, dirs_exist_ok=True)
    muda = f"um = keras.models.load_model(arquivo := rascunho / {MODELO!r})\n"
    muda += "um.get_layer('cabeca').layers[-1].bias.assign_add([1.0])\num.save(arquivo)"
    parou = sessao(tmp_path, depois={"outras_coisas": muda}, pula=SO_MOSTRAM, **POUCAS)
    assert frase(parou).startswith("o modelo gravado não dá as respostas que os mapas dão")
    assert "s: teste>" not in parou.stdout and resultados(tmp_path) == resultados(pronto)


def test_o_modelo_abre_no_keras_mais_antigo_que_se_aceita(pronto, tmp_path):
    """Dado o .keras gravado por este Keras, o da menor versão de requirements.txt diz o mesmo."""
    antigo = re.search(r"^keras>=([\d.]+)", (RAIZ / "requirements.txt").read_text(), re.MULTILINE)[
        1
    ]
    instala = ["-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path, f"keras=={antigo}"]
    subprocess.run([sys.executable, *instala], check=True, capture_output=True)
    diz = "import keras, numpy; print(keras.__version__, *keras.models.load_model("
    diz += f"{str(pronto / MODELO)!r}).predict(numpy.full((1, 224, 224, 3), 0.5), verbose=0)[0])"
    dito = [
        subprocess.run(
            [sys.executable, "-c", diz],
            env={**os.environ, **ambiente},
            capture_output=True,
            text=True,
        ).stdout.split()
        for ambiente in ({}, {"PYTHONPATH": str(tmp_path)})
    ]
    assert [versao for versao, _ in dito] == [keras.__version__, antigo]
    assert float(dito[0][1]) == pytest.approx(float(dito[1][1]), abs=1e-5)


def test_outro_resize_em_tudo_e_classifica_o_recusa(sessao, pronto, tmp_path):
    """Dado um `le` que reduz de outro jeito, tudo é extraído de novo, e nada é publicado."""
    shutil.copytree(pronto, tmp_path, dirs_exist_ok=True)
    trocas = {"exemplos": ["le = detector.dados.le", OUTRO_LE]}
    parou = sessao(tmp_path, trocas=trocas, pula=SO_MOSTRAM, EPOCAS_AJUSTE_FINO=0, **POUCAS)
    assert "imagens extraídas 60" in parou.stdout
    assert "foi treinado com um leitor diferente" in frase(parou)
    assert resultados(tmp_path) == resultados(pronto)


def test_na_amostra_acerta_o_que_a_amostra_permite(sessao, tmp_path):
    """Dadas 400 miniaturas, a validação cruzada passa de 82 %, e o teste não fica longe."""
    termina(sessao(tmp_path, pula=SO_MOSTRAM, MAX_IMAGENS=400, EPOCAS_AJUSTE_FINO=0))
    medidas = metricas(tmp_path)
    assert medidas["n_treino"] == 320 and medidas["acuracia"] >= 0.75
    assert medidas["validacao_cruzada"]["acuracia"] >= 0.82
    assert medidas["ajuste_fino"] == "não pedido"


def test_nas_fotos_reais_acerta_98_por_cento_e_a_segunda_vez_e_igual(sessao, dados_reais, tmp_path):
    """Dadas as 2.000 fotos reais, o teste passa de 98 % e a validação cruzada de 98,5 %."""
    reais = {"DATASET": "cats_vs_dogs", "DATA_DIR": str(dados_reais), "pula": SO_MOSTRAM}
    termina(sessao(tmp_path, **reais))
    primeira, antes, guardado = metricas(tmp_path), resultados(tmp_path), gravacoes(tmp_path)
    assert primeira["dataset"].startswith("cats_vs_dogs/") and primeira["n_teste"] == 200
    assert primeira["acuracia"] >= 0.98 and primeira["validacao_cruzada"]["acuracia"] >= 0.985
    termina(sessao(tmp_path, **reais))
    assert resultados(tmp_path) == antes and gravacoes(tmp_path) == guardado


def test_a_sua_pasta_sem_ajuste_fino_e_sem_as_fotos_que_voce_tirou(sessao, amostra, tmp_path):
    """Dadas duas subpastas e um CSV do Excel, as fotos tiradas saem do treino, e só dele."""
    rotulos = detector.dados.lista(amostra, 100)["rotulo"]
    fotos = [
        foto for foto, _ in detector.dados.le(amostra, "train[:100]", None).as_numpy_iterator()
    ]
    for classe, rotulo in (("lobo", 1), ("onça", 0)):
        (tmp_path / "fotos" / classe).mkdir(parents=True)
        for i in rotulos.index[rotulos == rotulo][:40]:
            Image.fromarray(fotos[i]).save(tmp_path / "fotos" / classe / f"{i}.png")
    pasta = {"DATASET": str(tmp_path / "fotos"), "DATA_DIR": str(tmp_path / "tfds")}
    nomes = detector.dados.lista(detector.origem.abre(*pasta.values()))["arquivo"]
    fora = "\n".join(["arquivo;motivo", *(f"{nomes[i]};borrada" for i in (0, 5, 63, 64, 79))])
    (tmp_path / "fora.csv").write_text(fora, encoding="cp1252")
    pasta |= {"FOTOS_FORA": str(tmp_path / "fora.csv"), "EPOCAS_AJUSTE_FINO": 0}
    termina(sessao(tmp_path / "modelos", pula=SO_MOSTRAM, **pasta))
    medidas = metricas(tmp_path / "modelos")
    assert medidas["classes"] == ["lobo", "onça"] and medidas["ajuste_fino"] == "não pedido"
    assert [medidas[f"n_{parte}"] for parte in ("treino", "validacao", "teste")] == [61, 8, 8]


def test_duas_redes_unidas_vao_ate_o_fim(sessao, tmp_path):
    """Dados dois backbones, que não têm um corte, o fine-tuning não se aplica e o resto vai."""
    unidas = {"BACKBONE": "EfficientNetLite0+EfficientNetLite1", "MOTOR": "keras"}
    mostra = [tag for tag in SO_MOSTRAM if tag not in ("onde_olhou", "botao")]
    termina(sessao(tmp_path, MAX_IMAGENS=20, pula=mostra, **unidas))
    medidas = metricas(tmp_path)
    assert medidas["backbone"] == unidas["BACKBONE"] and medidas["corte"] is None
    assert medidas["ajuste_fino"] == "não se aplica" and medidas["motor"].startswith("keras")
    assert detector.carrega_classificador(tmp_path)(np.zeros((99, 99, 3), "uint8"))["classe"]
