"""O que os testes compartilham: dados, o notebook rodado inteiro, a comparação de resultados."""

import datetime
import json
import os
import pathlib
import subprocess
import sys

import filelock
import pandas as pd
import pytest
import tensorflow_datasets as tfds
from roda_notebook import FIM

import detector

RAIZ = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOK = RAIZ / "detector_dogs_cats.ipynb"
COMPARTILHADO = RAIZ.parent / "shared"
AMOSTRA = RAIZ / "amostra/cats_vs_dogs_amostra/1.0.0"
PROGRAMA = [sys.executable, "-u", str(RAIZ / "testes/roda_notebook.py")]
# Um proxy que recusa tudo: para o programa, o mesmo que estar sem rede.
SEM_REDE = {nome: "http://127.0.0.1:9" for nome in ("http_proxy", "https_proxy", "HTTPS_PROXY")}
# Os de quem está sem rede: um backbone de keras.applications precisaria dela.
PARAMETROS = {"DATASET": "amostra", "BACKBONE": "EfficientNetLite0"}
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
    """MODELOS como a deixa o notebook, rodado em 300 fotos da amostra sem ninguém o perturbar."""
    return _uma_vez(
        tmp_path_factory, "pronto", lambda pasta: roda(pasta, MAX_IMAGENS=300).check_returncode()
    )


def comando(modelos, *opcoes, **parametros):
    """Linha de comando que roda o notebook, célula a célula, num processo só."""
    parametros = PARAMETROS | {"MODELOS": str(modelos)} | parametros
    return [*PROGRAMA, json.dumps(parametros), *map(str, opcoes)]


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


@pytest.fixture(scope="module")
def sessao():
    """O mesmo que `roda`, mas cada processo já nasce com as bibliotecas, carregadas uma vez só."""
    with subprocess.Popen(
        PROGRAMA,
        env={**os.environ, **SEM_REDE},
        cwd=RAIZ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as servidor:

        def roda(modelos, *opcoes, ambiente=(), **parametros):
            parametros = PARAMETROS | {"MODELOS": str(modelos)} | parametros
            pedido = [parametros, opcoes, dict(ambiente)]
            print(json.dumps(pedido), file=servidor.stdin, flush=True)
            dito = ""
            while (linha := servidor.stdout.readline()) and not linha.startswith(FIM):
                dito += linha
            return subprocess.CompletedProcess(pedido, int(linha.removeprefix(FIM)), dito)

        yield roda
        servidor.stdin.close()


def termina(execucao):
    """A mesma execução, que tem de ter chegado ao fim do notebook."""
    assert execucao.returncode == 0, execucao.stdout[-3000:]
    return execucao


def frase(execucao):
    """A frase com que a execução parou; ela não pode ter mostrado uma pilha de chamadas."""
    assert execucao.returncode == 1 and "Traceback" not in execucao.stdout, execucao.stdout[-3000:]
    return execucao.stdout.rstrip().rpartition("\n")[2].removeprefix("ERRO: ")


def metricas(modelos):
    """O que está em metricas.json."""
    return json.loads((modelos / "metricas.json").read_text(encoding="utf-8"))


def resultados(modelos):
    """O que uma execução achou, mais os pesos do modelo; duas iguais dão o mesmo, bit a bit."""
    medidas = metricas(modelos)
    assert set(medidas) >= VARIAM
    return {chave: valor for chave, valor in medidas.items() if chave not in VARIAM}


def linha_da_tabela(promessa, pastas, tentativas, sobreviveu, perdido):
    """Uma linha da tabela de resistência; os resultados são comparados aqui, nunca supostos."""
    maltratada, outra = map(resultados, pastas)
    fotos = sum(maltratada[f"n_{parte}"] for parte in ("treino", "validacao", "teste"))
    linha = {"promessa": promessa, "fotos": fotos, "tentativas": tentativas}
    linha |= {"sobreviveu": sobreviveu, "mesmos_resultados": maltratada == outra}
    return linha | {"perdido": perdido}


@pytest.fixture
def registra(record_property):
    """Anota uma linha da tabela de resistência, que aparece no fim dos testes."""

    def anota(promessa, pastas, tentativas, sobreviveu, perdido):
        """Anota e verifica que as duas pastas, a maltratada e a outra, têm os mesmos resultados.

        tentativas e sobreviveu: contados pelo teste. perdido: o que ele mediu, ou None.
        """
        linha = linha_da_tabela(promessa, pastas, tentativas, sobreviveu, perdido)
        record_property("resistencia", linha)
        assert linha["mesmos_resultados"], [*map(resultados, pastas)]

    return anota


def pytest_collection_modifyitems(items):
    """Os arquivos demorados começam primeiro, para os curtos rodarem ao lado deles."""
    demorados = ["test_promessas.py", "test_notebook.py"]
    items.sort(key=lambda item: item.path.name not in demorados)


def pytest_terminal_summary(terminalreporter):
    """A tabela de resistência; com GRAVA_RESISTENCIA no ambiente, também em docs/."""
    relatos = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    anotados = [item for r in relatos if r.when == "call" for item in r.user_properties]
    linhas = [valor for nome, valor in anotados if nome == "resistencia"]
    if not linhas:
        return
    hoje = datetime.date.today().isoformat()
    terminalreporter.section(f"resistência: detector {detector.__version__}, {hoje}")
    terminalreporter.write_line(pd.DataFrame(linhas).to_string(index=False, na_rep="-"))
    if os.environ.get("GRAVA_RESISTENCIA"):
        tabela = {"data": hoje, "versao": detector.__version__, "linhas": linhas}
        texto = json.dumps(tabela, indent=1, ensure_ascii=False) + "\n"
        (RAIZ / "docs/resistencia.json").write_text(texto, encoding="utf-8")
