"""O que os testes compartilham: as definições do notebook, os dados e um jeito de rodá-lo inteiro."""

import json
import os
import pathlib
import subprocess
import sys
import types

import filelock
import pytest

RAIZ = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOK = RAIZ / "detector_dogs_cats.ipynb"
COMPARTILHADO = RAIZ.parent / "shared"
COMPLETA = os.environ.get("RESISTENCIA") == "completa"
# Um proxy que recusa tudo: para o programa, o mesmo que estar sem rede.
SEM_REDE = {f"{protocolo}_proxy": "http://127.0.0.1:9" for protocolo in ("http", "https", "HTTP", "HTTPS")}


def celulas(*tags):
    """Fontes das células de código do notebook; com tags, só das que têm alguma delas."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"
            and (not tags or set(tags) & set(c["metadata"].get("tags", [])))]


@pytest.fixture(scope="session")
def nb():
    """Módulo com as definições do notebook, carregadas sozinhas (o contrato da tag `definicoes`)."""
    modulo = types.ModuleType("detector_dogs_cats")
    for fonte in celulas("definicoes"):
        exec(compile(fonte, "<definicoes>", "exec"), modulo.__dict__)
    modulo.keras.utils.set_random_seed(0)
    modulo.tf.config.experimental.enable_op_determinism()
    return modulo


@pytest.fixture(scope="session")
def amostra(nb):
    """Builder do TFDS da amostra embutida."""
    return nb.tfds.builder_from_directory(RAIZ / "amostra/cats_vs_dogs_amostra/1.0.0")


@pytest.fixture(scope="session")
def backbone(nb):
    """EfficientNetLite0 congelado, com os pesos do pip."""
    return nb.cria_backbone("EfficientNetLite0")


@pytest.fixture(scope="session")
def caracteristicas(nb, amostra, backbone, tmp_path_factory):
    """Vetores e rótulos das 2.000 fotos da amostra, pelo motor padrão."""
    X, _ = nb.extrai_caracteristicas(amostra, 2000, backbone, nb.escolhe_motor("auto"), tmp_path_factory.mktemp("X"))
    return X, nb.le_rotulos(amostra, 2000)[0]


@pytest.fixture(scope="session")
def dados_reais(tmp_path_factory):
    """DATA_DIR com as 2.000 fotos reais preparadas; onde elas não estão, o teste não se aplica."""
    if not COMPARTILHADO.is_dir():
        pytest.skip("as fotos reais não acompanham o repositório")
    raiz = tmp_path_factory.getbasetemp()
    raiz = raiz.parent if "PYTEST_XDIST_WORKER" in os.environ else raiz  # os dois processos do pytest usam a mesma
    with filelock.FileLock(raiz / "tfds.lock"):
        if not (raiz / "tfds").exists():
            preparando = tmp_path_factory.mktemp("tfds")
            subprocess.run([sys.executable, COMPARTILHADO / "prepare_cats_vs_dogs.py", preparando], check=True, capture_output=True)
            preparando.rename(raiz / "tfds")
    return raiz / "tfds"


def comando(pasta, **parametros):
    """Linha de comando que roda o notebook pelo papermill, como faz o `make`."""
    parametros = {"EXPORTAR": False} | parametros  # leva meio minuto: só quem a testa a pede
    opcoes = [texto for nome, valor in parametros.items() for texto in ("-p", nome, str(valor))]
    return [sys.executable, "-m", "papermill", "--no-progress-bar", "--log-output", "-k", "python3", *opcoes,
            str(NOTEBOOK), str(pasta / "executado.ipynb")]


def ambiente(pasta):
    """Variáveis de um computador sem rede e sem datasets, com a pasta do usuário dentro de `pasta`."""
    return {**os.environ, **SEM_REDE, "HOME": str(pasta), "TFDS_DATA_DIR": str(pasta / "tfds"), "PYTHONWARNINGS": "ignore",
            "JUPYTER_PATH": str(pathlib.Path(sys.prefix) / "share/jupyter")}


def prepara_pasta(pasta):
    """Deixa em `pasta` o que uma pessoa teria ao lado do notebook."""
    pasta.mkdir(parents=True, exist_ok=True)
    if not (pasta / "amostra").exists():
        (pasta / "amostra").symlink_to(RAIZ / "amostra")
    return pasta


def executa(pasta, **parametros):
    """Roda o notebook inteiro em `pasta`, sem rede; devolve o resultado do processo e as métricas gravadas."""
    prepara_pasta(pasta)
    processo = subprocess.run(comando(pasta, **parametros), cwd=pasta, env=ambiente(pasta), capture_output=True, text=True)
    arquivo = pasta / "modelos/metricas.json"
    return processo, json.loads(arquivo.read_text(encoding="utf-8")) if arquivo.exists() else None


def saidas(executado):
    """Todo o texto que as células de um notebook executado imprimiram."""
    notebook = json.loads(executado.read_text(encoding="utf-8"))
    return "".join("".join(saida.get("text", "")) for c in notebook["cells"] for saida in c.get("outputs", []))


# O que uma interrupção pode mudar: quanto se calculou desta vez e a que velocidade. Nada mais.
VARIAVEIS = {"imagens_extraidas", "segundos_extracao", "imagens_por_segundo", "segundos_total", "exportados"}


def resultados(execucao):
    """O que se achou numa execução (as métricas dela, ou a pasta); duas iguais têm de dar o mesmo, bit a bit."""
    if isinstance(execucao, pathlib.Path):
        execucao = json.loads((execucao / "modelos/metricas.json").read_text(encoding="utf-8"))
    assert VARIAVEIS < set(execucao)
    return {chave: valor for chave, valor in execucao.items() if chave not in VARIAVEIS}


@pytest.fixture
def registra(record_property):
    """Função que põe uma linha na tabela do fim; falha se as métricas são outras. Quem não sobreviveu falhou antes."""
    def linha(caso, tentativas, perdido, iguais):
        record_property("resistencia", {"caso": caso, "tentativas": tentativas, "sobreviveu": tentativas,
                                        "perdido": perdido, "iguais": bool(iguais)})
        assert iguais, caso
    return linha


def pytest_collection_modifyitems(config, items):
    """O arquivo mais demorado vai primeiro, para os outros rodarem ao lado dele; o que leva minutos, só na completa."""
    fora = [item for item in items if item.get_closest_marker("completa") and not COMPLETA]
    config.hook.pytest_deselected(items=fora)
    items[:] = sorted(set(items) - set(fora), key=lambda item: (item.path.name != "test_resistencia.py", items.index(item)))


def pytest_terminal_summary(terminalreporter):
    """No fim, a tabela do que fizemos o notebook aguentar; com RESISTENCIA no ambiente, grava-a."""
    linhas = [valor for relatorios in terminalreporter.stats.values() for r in relatorios
              for nome, valor in getattr(r, "user_properties", ()) if nome == "resistencia" and r.when == "call"]
    if not linhas:
        return
    linha = "{caso:<50} {tentativas:>10} {sobreviveu:>10}  {perdido:<45} {iguais}"
    terminalreporter.section("resistência")
    terminalreporter.write_line(linha.format(caso="caso", tentativas="tentativas", sobreviveu="sobreviveu",
                                             perdido="trabalho perdido", iguais="métricas iguais"))
    for feito in linhas:
        terminalreporter.write_line(linha.format(**feito | {"iguais": "sim" if feito["iguais"] else "NÃO"}))
    if os.environ.get("RESISTENCIA"):
        arquivo = RAIZ / "testes/resistencia.json"
        antes = json.loads(arquivo.read_text(encoding="utf-8")) if arquivo.exists() else []
        tabela = {feito["caso"]: feito for feito in [*antes, *linhas]}
        arquivo.write_text(json.dumps(list(tabela.values()), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
