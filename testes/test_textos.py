"""Os números escritos à mão nos textos são os do código, e o que eles afirmam foi medido."""

import inspect
import json
import re
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
from conftest import AMOSTRA, COMPARTILHADO, NOTEBOOK, RAIZ
from sklearn.metrics import log_loss
from tensorflow_datasets.image_classification import cats_vs_dogs

import detector
from detector.ambiente import MINIMOS
from detector.metricas import intervalo

sys.path.insert(0, str(RAIZ / "docs"))
import comparacoes
import desempenho
import gera
import textos

CELULAS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODIGO = ["".join(c["source"]) for c in CELULAS if c["cell_type"] == "code"]
TEXTOS = {
    nome: " ".join((RAIZ / nome).read_text(encoding="utf-8").split())
    for nome in ("README.md", "docs/como_funciona.md", "docs/desempenho.md")
}
TEXTOS["notebook"] = " ".join(" ".join("".join(c["source"]) for c in CELULAS).split())
POR_EXTENSO = {1: "uma", 2: "duas", 3: "três", 4: "quatro", 5: "cinco", 6: "seis"}
SUSPEITAS = pd.read_csv(RAIZ / "docs/suspeitas_20000.csv")


def no_codigo(expressao):
    """O número que está no código das células do notebook, onde `expressao` o procura."""
    [achado] = re.findall(expressao, "\n".join(CODIGO))
    return float(achado) if "." in achado else int(achado)


def em_portugues(numero):
    return f"{numero:,}".replace(",", ".")


# Cada frase, com o número que o código usa


def frases():
    """(texto, frase) com os valores que estão no código agora."""
    url = cats_vs_dogs.CatsVsDogs.url_infos[cats_vs_dogs._URL]
    # O arquivo publicado tem 12.500 fotos de cada classe; as que o TFDS pula estão no código dele.
    no_dataset = em_portugues(2 * 12_500 - cats_vs_dogs._NUM_CORRUPT_IMAGES)
    prazo = inspect.signature(detector.rede.responde).parameters["prazo"].default
    por_parte = detector.caracteristicas.FOTOS_POR_PARTE
    por_classe = detector.copia.MINIMO_POR_CLASSE
    grupos = inspect.signature(detector.treino.validacao_cruzada).parameters["grupos"].default
    na_licao = no_codigo(r"builder, fotos\[:(\d+)\], preparo")
    recusa = no_codigo(r"np\.quantile\(np\.concatenate.*, (0\.\d+)\)")
    paciencia = no_codigo(r"paciencia=(\d+)")
    do_arquivo = no_codigo(r"validacao\.take\((\d+)\)")
    return [
        ("README.md", f"baixa {round(url.size / 1e6)} MB e usa {no_dataset} fotos"),
        ("docs/como_funciona.md", f"com as {no_dataset} do dataset inteiro"),
        ("README.md", f"se o servidor responder em {prazo:.0f} segundos"),
        ("README.md", f"com pelo menos {por_classe} em cada uma"),
        ("README.md", f"(no mínimo {MINIMOS['MAX_IMAGENS']})"),
        ("README.md", f"uma parte de {por_parte} fotos ou uma época"),
        ("README.md", f"As mesmas {na_licao} fotos, o mesmo código"),
        ("docs/como_funciona.md", f"em partes de {por_parte} |"),
        ("notebook", f"as mesmas {na_licao} fotos, o mesmo motor"),
        ("notebook", f"passa {paciencia} épocas sem melhorar"),
        ("notebook", f"divididas em {grupos} grupos"),
        ("notebook", f"uma cabeça que treinou nos outros {grupos - 1}"),
        ("notebook", f"com as {detector.semelhanca.VIZINHOS} fotos mais parecidas"),
        ("notebook", f"para recusar {100 * recusa:.0f} % dos gatos e cachorros do treino e da"),
        ("notebook", f"em até {do_arquivo} fotos de validação"),
        ("notebook", "Ponha `MAX_IMAGENS = 200`."),
        ("notebook", f"Sobram {200 - 200 * 9 // 10} fotos de teste."),
        ("notebook", f"vai de {textos.num(intervalo(20, 20)[0], 2)} a 1"),
    ]


def test_os_numeros_escritos_a_mao_sao_os_que_o_codigo_usa():
    for texto, frase in frases():
        assert frase in TEXTOS[texto], f"{texto} não diz «{frase}»"


@pytest.mark.parametrize(
    ("texto", "frase", "trecho"),
    [
        ("README.md", r"A seção (\d+) do notebook tem um", "classificador.botao("),
        ("notebook", r"\(veja a seção (\d+)\)", "suspeitas.to_csv("),
        ("notebook", r"Na seção (\d+), o Keras passou", "preve_do_arquivo("),
        ("docs/desempenho.md", r"que a seção (\d+) mostra", "backbone(normalizada)"),
        ("docs/desempenho.md", r"que a seção (\d+) classifica", "figuras.outras_coisas()"),
        ("docs/como_funciona.md", r"o backbone na seção (\d+) e", "backbones.cria(BACKBONE)"),
    ],
)
def test_a_secao_de_que_se_fala_e_a_que_faz_isso(texto, frase, trecho):
    secao = None
    for celula in CELULAS:
        fonte = "".join(celula["source"])
        if titulo := re.match(r"## (\d+)\.", fonte):
            secao = titulo[1]
        if celula["cell_type"] == "code" and trecho in fonte:
            break
    assert re.findall(frase, TEXTOS[texto]) == [secao]


def test_os_padroes_da_tabela_do_readme_sao_os_do_notebook():
    valores = {}
    exec(CODIGO[0], {}, valores)
    readme = (RAIZ / "README.md").read_text(encoding="utf-8")
    tabela = readme.partition("## Parâmetros")[2].partition("\n## ")[0]
    ditos = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", tabela, re.MULTILINE))
    for nome, valor in valores.items():
        em_palavras = {"vazio", "nenhum", "todas", "pasta do TFDS"}
        escrito = ditos[nome].strip("`")
        assert escrito in em_palavras if valor in (None, "") else escrito == str(valor), nome


# De que fotos se fala


@pytest.mark.skipif(not COMPARTILHADO.is_dir(), reason="as fotos não acompanham o repositório")
@pytest.mark.parametrize(
    ("zip_", "numeros"),
    [
        ("kagglecatsanddogs_2000.zip", {*range(1, 1001)}),
        ("kagglecatsanddogs_20000_200px.zip", {*range(11_000)} - {*range(4001, 5001)}),
    ],
)
def test_as_fotos_sao_as_que_o_readme_diz(zip_, numeros):
    with zipfile.ZipFile(COMPARTILHADO / "data" / zip_) as aberto:
        nomes = aberto.namelist()
    for classe in ("Cat", "Dog"):
        achados = (re.match(rf"PetImages/{classe}/(\d+)\.jpg$", nome) for nome in nomes)
        assert {int(achado[1]) for achado in achados if achado} == numeros
    ditas = ["as de número 1 a 1.000 de cada classe", "de 0 a 10.999, menos de 4.001 a 5.000"]
    assert all(frase in TEXTOS["README.md"] for frase in ditas)


def test_as_tres_execucoes_sao_do_mesmo_notebook_e_das_fotos_que_a_tabela_diz():
    medidas = textos.medidas()
    reais, pequenas, amostra = (medidas[nome] for nome in textos.EXECUCOES)
    partes = ("n_treino", "n_validacao", "n_teste")
    assert [reais[parte] for parte in partes] == [1600, 200, 200]
    assert [pequenas[parte] for parte in partes] == [16_000, 2000, 2000]
    assert [amostra[parte] for parte in partes] == [1600, 200, 200]
    assert reais["dataset"] == pequenas["dataset"] == f"cats_vs_dogs/{versao_do_tfds()}"
    assert amostra["dataset"].startswith("cats_vs_dogs_amostra/")
    assert reais.keys() == pequenas.keys() == amostra.keys(), "um json é de outro notebook"
    assert medidas["desempenho"]["maquina"]["nucleos"] == 2, "em dois núcleos de CPU"
    for execucao in (reais, pequenas, amostra):  # nenhuma medida deixa fotos de fora
        assert execucao["n"] == execucao["n_teste"]
        assert {linha["n"] for linha in execucao["licao_2"].values()} == {500}
        assert execucao["validacao_cruzada"]["n"] == sum(execucao[parte] for parte in partes)


def versao_do_tfds():
    return cats_vs_dogs.CatsVsDogs.VERSION


def test_com_outras_fotos_nada_do_repositorio_e_refeito(monkeypatch):
    antes = NOTEBOOK.read_bytes(), gera.METRICAS.read_bytes()
    for dataset, fotos in (("cats_vs_dogs_amostra/1.0.0", 2000), ("cats_vs_dogs/4.0.1", 20_000)):
        medidas = {"dataset": dataset, "fotos": fotos}
        monkeypatch.setattr(gera, "executa", lambda *a, medidas=medidas: medidas)
        with pytest.raises(SystemExit, match="nada é gravado"):
            gera.roda_notebook()
    assert (NOTEBOOK.read_bytes(), gera.METRICAS.read_bytes()) == antes


# O que se afirma foi medido


def test_as_quarenta_suspeitas_olhadas_sao_as_que_o_readme_conta():
    """O que se viu em cada uma está numa tabela; as contas do README saem dela."""
    assert len(SUSPEITAS) == 40 and SUSPEITAS["arquivo"].is_unique
    convictas = (SUSPEITAS["probabilidade_cachorro"] - (SUSPEITAS["rotulo"] == "cachorro")).abs()
    assert (convictas > 0.5).all() and (convictas.diff().dropna() <= 1e-9).all()
    vistas = SUSPEITAS["o_que_se_ve"].value_counts().to_dict()
    sem_bicho, os_dois, nao_da = (
        vistas.pop(como) for como in ("nenhum bicho", "os dois bichos", "não dá para ver")
    )
    assert vistas == {"o rótulo está certo": 40 - sem_bicho - os_dois - nao_da}
    assert (
        f"{POR_EXTENSO[sem_bicho]} é um logotipo com o rótulo de gato, {POR_EXTENSO[os_dois]} têm "
        f"os dois bichos, em {POR_EXTENSO[nao_da]} não dá para ver, e nas outras "
        f"{vistas['o rótulo está certo']} o rótulo está certo"
    ) in TEXTOS["README.md"]


def test_o_readme_so_diz_que_o_fine_tuning_ajuda_onde_se_mediu_que_ajuda():
    medidas = textos.medidas()["comparacoes"]
    reais, pequenas = medidas["2000"]["ganho"], medidas["20000"]["ganho"]
    amostra, fundo = medidas["amostra"]["padrao"]["ganho"], medidas["amostra"]["padrao_para_fundo"]
    minimo, maximo = reais["log_loss_ic95"]
    assert minimo < 0 < maximo, "com 2.000 fotos reais não se viu ganho"
    assert pequenas["log_loss_ic95"][1] < 0 and amostra["log_loss_ic95"][1] < 0
    assert fundo["log_loss_ic95"][1] < 0, "o exercício 4"
    assert "Com as 2.000 reais não se viu ganho" in TEXTOS["README.md"]


def test_a_figura_diz_que_todas_foram_recusadas_se_todas_foram():
    medidas = textos.medidas()["metricas"]
    ditas = "Seis imagens sem gato nem cachorro" in TEXTOS["README.md"]
    assert ditas and ("todas recusadas" in TEXTOS["README.md"]) == (
        medidas["outras_coisas_recusadas"] == 6
    )


def test_o_que_se_espera_da_amostra_e_das_fotos_reais_e_o_que_se_mediu():
    """«Perto de 90 %, e não de 99 %», diz o aviso da amostra, e o LEIAME dela também."""
    medidas = textos.medidas()
    amostra, reais = medidas["metricas_amostra"], medidas["metricas"]
    assert abs(amostra["validacao_cruzada"]["acuracia"] - 0.90) < 0.02
    assert abs(reais["validacao_cruzada"]["acuracia"] - 0.99) < 0.01
    leiame = " ".join((AMOSTRA.parents[1] / "LEIAME.md").read_text(encoding="utf-8").split())
    assert "perto de 90 %, não dos 99 % das fotos reais" in leiame
    assert "perto de 90 %, não de 99 %" in inspect.getsource(detector.dados)


# As contas de quem mede


def test_a_comparacao_pareada_faz_a_conta_que_diz():
    acaso = np.random.default_rng(0)
    y = acaso.integers(0, 2, 500)
    antes = np.clip(np.where(y == 1, 0.8, 0.2) + acaso.normal(0, 0.1, 500), 0.01, 0.99)
    depois = antes.copy()
    depois[:4] = 1 - y[:4]  # quatro passam a errar feio
    antes[10], depois[10] = 1 - y[10], y[10]  # e uma, a acertar
    medida = comparacoes.pareada(y, antes, depois)
    assert (medida["passou_a_acertar"], medida["passou_a_errar"]) == (1, 4)
    assert medida["mcnemar_p"] == pytest.approx(2 * (1 + 5) / 2**5)  # binomial exata, 1 em 5
    diferenca = log_loss(y, np.clip(depois, 1e-7, 1 - 1e-7)) - log_loss(
        y, np.clip(antes, 1e-7, 1 - 1e-7)
    )
    assert medida["log_loss"] == pytest.approx(diferenca, abs=1e-4)
    minimo, maximo = medida["log_loss_ic95"]
    assert minimo < diferenca < maximo
    nada = comparacoes.pareada(y, antes, antes)
    assert nada["mcnemar_p"] == 1 and nada["log_loss_ic95"] == [0, 0]


def test_as_comparacoes_rodam_as_celulas_do_notebook_ate_o_teste_e_nenhuma_a_mais():
    celulas = comparacoes.celulas()
    assert comparacoes.ULTIMA in celulas[-1] and celulas[0] == CODIGO[0]
    assert sum(".fit(" in fonte for fonte in celulas) == 2
    assert sum(comparacoes.DIVIDE in fonte for fonte in celulas) == 1
    assert sum("detector.backbones.acha_corte(backbone)" in fonte for fonte in celulas) == 1


def test_cada_tempo_e_a_mediana_de_medidas_alternadas(capsys):
    ordem, demoras = [], {"a": [3.0, 1.0, 2.0], "b": [9.0, 9.0, 4.0]}

    def mede(nome):
        ordem.append(nome)
        return demoras[nome].pop(0)

    medianas = desempenho.medianas({nome: lambda nome=nome: mede(nome) for nome in "ab"})
    assert medianas == {"a": 2.0, "b": 9.0} and ordem == list("ababab")
    assert desempenho._mediana([{"x": {"y": v}, "z": "não"} for v in (5, 1, 2)]) == {"x": {"y": 2}}
