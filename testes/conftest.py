"""O que os testes compartilham: os dados, o notebook rodado inteiro e a comparação de resultados."""

import json
import os
import pathlib
import subprocess
import sys

import filelock
import pytest
import tensorflow_datasets as tfds

import detector

RAIZ = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOK = RAIZ / "detector_dogs_cats.ipynb"
COMPARTILHADO = RAIZ.parent / "shared"
AMOSTRA = RAIZ / "amostra/cats_vs_dogs_amostra/1.0.0"
# Um proxy que recusa tudo: para o programa, o mesmo que estar sem rede.
SEM_REDE = {nome: "http://127.0.0.1:9" for nome in ("http_proxy", "https_proxy", "HTTPS_PROXY")}
# O que muda de uma execução para outra, e só isto: o que foi preciso refazer, e em quanto tempo.
VARIAM = {
    *("imagens_extraidas", "segundos_extracao", "segundos_ate_metrica", "segundos_epoca_comum"),
    *("segundos_total", "inicio"),
}


@pytest.fixture(scope="session", autouse=True)
def bibliotecas():
    """As bibliotecas como o notebook as deixa."""
    detector.prepara(0)


@pytest.fixture(scope="session")
def amostra():
    """Builder do TFDS da amostra embutida."""
    return tfds.builder_from_directory(AMOSTRA)


@pytest.fixture(scope="session")
def backbone():
    """EfficientNetLite0 congelado, com os pesos do pip."""
    modelo = detector.backbones.cria("EfficientNetLite0")
    modelo.trainable = False
    return modelo


def _uma_vez(tmp_path_factory, nome, faz):
    """A pasta `nome`, que `faz(pasta)` preenche uma vez para todos os processos do pytest."""
    raiz = tmp_path_factory.getbasetemp()
    raiz = raiz.parent if "PYTEST_XDIST_WORKER" in os.environ else raiz
    with filelock.FileLock(raiz / f"{nome}.lock"):
        if not (raiz / nome).exists():
            fazendo = tmp_path_factory.mktemp(nome)
            faz(fazendo)
            fazendo.rename(raiz / nome)
    return raiz / nome


@pytest.fixture(scope="session")
def dados_reais(tmp_path_factory):
    """DATA_DIR com as 2.000 fotos reais preparadas; onde elas não estão, o teste não se aplica."""
    if not COMPARTILHADO.is_dir():
        pytest.skip("as fotos reais não acompanham o repositório")
    prepara = [sys.executable, COMPARTILHADO / "prepare_cats_vs_dogs.py"]
    return _uma_vez(
        tmp_path_factory,
        "tfds_reais",
        lambda pasta: subprocess.run([*prepara, pasta], check=True, capture_output=True),
    )


@pytest.fixture(scope="session")
def pronto(tmp_path_factory):
    """MODELOS como a deixa uma execução do notebook em 300 fotos da amostra, que ninguém perturbou."""
    return _uma_vez(
        tmp_path_factory, "pronto", lambda pasta: roda(pasta, MAX_IMAGENS=300).check_returncode()
    )


def comando(modelos, *opcoes, **parametros):
    """Linha de comando que roda o notebook, célula a célula, num processo só."""
    parametros = {"DATASET": "amostra", "MODELOS": str(modelos)} | parametros
    programa = [sys.executable, str(RAIZ / "testes/roda_notebook.py"), json.dumps(parametros)]
    return [*programa, *map(str, opcoes)]


def roda(modelos, *opcoes, ambiente=(), **parametros):
    """Roda o notebook inteiro, sem rede; devolve o processo, com o que ele disse em `stdout`."""
    return subprocess.run(
        comando(modelos, *opcoes, **parametros),
        env={**os.environ, **SEM_REDE, **dict(ambiente)},
        cwd=RAIZ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
    )


def metricas(modelos):
    """O que está em metricas.json."""
    return json.loads((modelos / "metricas.json").read_text(encoding="utf-8"))


def resultados(modelos):
    """O que uma execução achou, mais os pesos do modelo; duas iguais dão o mesmo, bit a bit."""
    medidas = metricas(modelos)
    assert set(medidas) >= VARIAM
    return {chave: valor for chave, valor in medidas.items() if chave not in VARIAM}
