"""O que os testes compartilham: dados, o notebook rodado inteiro, a comparação de resultados."""

import hashlib
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys

import filelock
import pandas as pd
import pytest
import roda_notebook
import tensorflow_datasets as tfds

import detector

RAIZ, NOTEBOOK, FIM = roda_notebook.RAIZ, roda_notebook.NOTEBOOK, roda_notebook.FIM
AMOSTRA = detector.origem.AMOSTRA
PROGRAMA = [sys.executable, "-u", str(RAIZ / "testes/roda_notebook.py")]
# Um proxy que recusa tudo: para o programa, o mesmo que estar sem rede.
SEM_REDE = {nome: "http://127.0.0.1:9" for nome in ("http_proxy", "https_proxy", "HTTPS_PROXY")}
# Os de quem está sem rede: um backbone de keras.applications precisaria dela.
PARAMETROS = {"DATASET": "amostra", "BACKBONE": "EfficientNetLite0"}
POUCAS = {"MAX_IMAGENS": 60, "EPOCAS": 8}
# Células que só mostram, e as lições: quem as pula chega ao mesmo modelo, mais depressa.
SO_MOSTRAM = ["passos", "licao_lote", "lotes", "licao_horas", "licao_normalizacao"]
SO_MOSTRAM += ["curvas", "confusao", "onde_olhou", "mostra_suspeitas", "botao"]


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
def fotos_reais():
    """A pasta das fotos reais, que não acompanham o repositório: quem as tem diz onde estão."""
    if not (pasta := os.environ.get("DETECTOR_FOTOS_REAIS")):
        pytest.skip("sem fotos reais: DETECTOR_FOTOS_REAIS não diz em que pasta elas estão")
    for nome in ("prepare_cats_vs_dogs.py", "data"):
        assert pathlib.Path(pasta, nome).exists(), f"DETECTOR_FOTOS_REAIS={pasta} não tem {nome}"
    return pathlib.Path(pasta).absolute()


@pytest.fixture(scope="session")
def dados_reais(fotos_reais, tmp_path_factory):
    """DATA_DIR com as 2.000 fotos reais preparadas."""
    prepara = [sys.executable, fotos_reais / "prepare_cats_vs_dogs.py"]
    return _uma_vez(
        tmp_path_factory,
        "tfds_reais",
        lambda pasta: subprocess.run([*prepara, pasta], check=True, capture_output=True),
    )


def _pedido(modelos, acoes, resto):
    """O pedido a `roda_notebook`: em `resto`, MAIÚSCULAS são parâmetros; o mais, opções dele."""
    parametros = PARAMETROS | {"MODELOS": str(modelos)}
    parametros |= {nome: valor for nome, valor in resto.items() if nome.isupper()}
    opcoes = {nome: valor for nome, valor in resto.items() if not nome.isupper()}
    return {"parametros": parametros, "acoes": acoes, **opcoes}


def roda(modelos, *acoes, ambiente=(), **resto):
    """Roda o notebook num processo novo, sem rede; o que ele disse fica em `stdout`.

    acoes: cada uma como ("mata", TAG, SEGUNDOS). resto: os parâmetros do notebook e as opções de
    `roda_notebook.py`, como `pula` e `trocas`.
    """
    return subprocess.run(
        [*PROGRAMA, json.dumps(_pedido(modelos, acoes, resto))],
        env={**os.environ, **SEM_REDE, **dict(ambiente)},
        cwd=RAIZ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=roda_notebook.PRAZO,
    )


@pytest.fixture(scope="session")
def sessao(tmp_path_factory):
    """O mesmo que `roda`, mas cada processo já nasce com as bibliotecas, carregadas uma vez só.

    junto: parâmetros de outras execuções, que rodam ao mesmo tempo que esta.
    """
    with subprocess.Popen(
        PROGRAMA,
        env={**os.environ, **SEM_REDE, "TMPDIR": str(tmp_path_factory.mktemp("temporaria"))},
        cwd=RAIZ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as servidor:

        def roda(modelos, *acoes, junto=(), **resto):
            pedidos = [_pedido(modelos, acoes, resto | outra) for outra in ({}, *junto)]
            print(json.dumps(pedidos), file=servidor.stdin, flush=True)
            dito = ""
            while (linha := servidor.stdout.readline()) and not linha.startswith(FIM):
                dito += linha
            assert linha, f"a sessão acabou antes ({servidor.wait()}): {dito[-3000:]}"
            return subprocess.CompletedProcess(pedidos, int(linha.removeprefix(FIM)), dito)

        yield roda
        servidor.stdin.close()


@pytest.fixture(scope="session")
def pronto(tmp_path_factory):
    """MODELOS como a deixa o comando do Makefile, em 60 fotos, sem ninguém o perturbar.

    Ao lado dela, o que ele disse, em `dito.txt`, e o que mudou no projeto, em `mudou.json`.
    """

    def faz(pasta):
        parametros = PARAMETROS | POUCAS | {"MODELOS": pasta / "modelos"}
        comando = [sys.executable, "-m", "papermill", "--log-level", "ERROR", "--no-progress-bar"]
        comando += ["--stdout-file", "/dev/stdout", "-k", "python3"]
        comando += itertools.chain(*(["-p", nome, str(v)] for nome, v in parametros.items()))
        comando += [NOTEBOOK, pasta / "executado.ipynb"]
        antes = _arquivos_do_projeto()
        make = subprocess.run(
            comando, cwd=RAIZ, env={**os.environ, **SEM_REDE}, capture_output=True, text=True
        )
        assert make.returncode == 0, make.stderr[-3000:]
        (pasta / "dito.txt").write_text(make.stdout)
        (pasta / "mudou.json").write_text(json.dumps([*antes ^ _arquivos_do_projeto()]))

    return _uma_vez(tmp_path_factory, "pronto", faz) / "modelos"


def _arquivos_do_projeto():
    """{(caminho, data)} do que não é oculto."""
    nao_contam = ("*.pyc", "*.log", "*.txt")  # um log pode ser o destes testes
    caminhos = (p for p in RAIZ.rglob("*") if p.is_file() and not any(map(p.match, nao_contam)))
    visiveis = (p for p in caminhos if not any(n[0] == "." for n in p.relative_to(RAIZ).parts))
    return {(str(caminho), caminho.stat().st_mtime_ns) for caminho in visiveis}


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
    """O que uma execução achou, e o digest dos pesos; duas iguais dão o mesmo, bit a bit.

    Só não se compara em quanto tempo, quantas fotos foi preciso extrair, e o digest do código, que
    resume também a célula dos parâmetros, onde está o nome da pasta.
    """
    varia = re.compile("segundos|horas|inicio$|imagens_extraidas$|codigo$")
    return {chave: valor for chave, valor in metricas(modelos).items() if not varia.match(chave)}


def guardados(modelos):
    """{arquivo: SHA-256} do que foi guardado e, uma vez pronto, não deve mudar."""
    return {a.name: hashlib.sha256(a.read_bytes()).hexdigest() for a in modelos.glob("*-*.npz")}


def gravacoes(modelos):
    """{arquivo: número dele no disco}: quem grava de novo, mesmo que o mesmo, muda o número."""
    return {a.name: a.stat().st_ino for a in modelos.glob("*-*.npz")}


@pytest.fixture
def registra(record_property, request):
    """Anota uma linha da tabela de resistência, que aparece no fim dos testes."""

    def anota(promessa, modelos, tentativas, sobreviveu, perdido=""):
        """Anota e verifica que a pasta maltratada tem os resultados da que ninguém perturbou.

        tentativas, sobreviveu e perdido: contados e medidos pelo teste. Na pasta só pode faltar o
        que as lições medem.
        """
        pronto = request.getfixturevalue("pronto")  # só agora: talvez outro processo a tenha feito
        um, outro = resultados(modelos), resultados(pronto)
        diferem = {medida for medida in um if um[medida] != outro.get(medida)}
        linha = {"promessa": promessa, "tentativas": tentativas, "sobreviveu": sobreviveu}
        linha |= {"mesmos_resultados": not diferem, "perdido": perdido}
        record_property("resistencia", linha)
        assert um.keys() >= {"teste", "validacao_cruzada", "limiar", "modelo", "ajuste_fino"}
        assert not diferem

    return anota


def pytest_collection_modifyitems(items):
    """Os arquivos demorados começam primeiro, para os curtos rodarem ao lado deles."""
    demorados = [f"test_{nome}.py" for nome in ("notebook", "promessas", "muitas", "navegador")]
    posicao = {nome: i for i, nome in enumerate(demorados)}
    items.sort(key=lambda item: posicao.get(item.path.name, len(demorados)))


def pytest_terminal_summary(terminalreporter):
    """A tabela de resistência, com o que os testes contaram."""
    relatos = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    anotados = [item for r in relatos if r.when == "call" for item in r.user_properties]
    if linhas := [valor for nome, valor in anotados if nome == "resistencia"]:
        terminalreporter.section("resistência")
        terminalreporter.write_line(pd.DataFrame(linhas).to_string(index=False))
