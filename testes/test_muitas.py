"""Muitas máquinas fazem o que uma faria: os mesmos arquivos, e uma frase quando não dá."""

import linecache
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

import pytest
import tensorflow_datasets as tfds
from test_caracteristicas import rede

from detector import caracteristicas, dados, motores, muitas, origem
from detector.ambiente import ErroClaro

N, POR_PARTE = 200, 10
RAIZ = pathlib.Path(muitas.__file__).parent.parent
# Uma célula do notebook: o código só existe na memória deste processo.
CELULA = """
def anota(fatia):
    import ray
    (pasta / fatia.split("+")[-1]).write_text(ray.get_runtime_context().get_node_id())

leitor = lambda builder, fatia: anota(fatia) or dados.le(builder, fatia)
"""


def pedido(leitor=dados.le):
    """Os argumentos de `extrai`, menos a pasta, com uma rede de brinquedo e partes pequenas."""
    caracteristicas.FOTOS_POR_PARTE = POR_PARTE
    builder = tfds.builder_from_directory(origem.AMOSTRA)
    return builder, dados.lista(builder, N), leitor, rede(), "corte", "auto"


@pytest.fixture(scope="module")
def nos():
    """Um nó do Ray que só coordena, nesta máquina; os que trabalham, a fixture `ray` acrescenta."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "180"}
    from ray.cluster_utils import Cluster

    nos = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield nos
    nos.shutdown()


@pytest.fixture(scope="module")
def ray(nos):
    with pytest.MonkeyPatch.context() as troca, muitas.liga(nos.address, 1) as ligado:
        troca.setattr(caracteristicas, "FOTOS_POR_PARTE", POR_PARTE)
        for _ in range(2):  # só depois de `liga`, que senão poderia se ligar a um deles
            nos.add_node(num_cpus=1)
        yield ligado


def guardadas(pasta):
    return {arquivo.name: arquivo for arquivo in pasta.glob("vetores-*.npz")}


def depois(pasta, quantas, faz):
    """Chama `faz`, noutra thread, quando `quantas` partes estiverem prontas."""

    def espera():
        while len(guardadas(pasta)) < quantas:
            time.sleep(0.02)
        faz()

    thread = threading.Thread(target=espera, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("modulo", "nome", "outro", "esperada"),
    [
        (muitas, "_info", lambda onde: b"outro", "não vê"),
        (motores, "versoes", lambda motor: ["1.0"], "e não ['1.0']: instale as mesmas"),
        (motores, "candidatos", lambda motor: ["keras-float16"], "não roda o motor keras-float16"),
    ],
    ids=["pastas", "versões", "motor"],
)
def test_o_no_que_nao_pode_e_recusado(ray, tmp_path, monkeypatch, modulo, nome, outro, esperada):
    monkeypatch.setattr(modulo, nome, outro)
    with pytest.raises(ErroClaro, match=f"^o nó {os.uname().nodename} .*{re.escape(esperada)}"):
        muitas.extrai(ray, 1, *pedido(), tmp_path)
    assert not guardadas(tmp_path)


def test_nenhum_no_com_tantos_nucleos(ray, tmp_path):
    with pytest.raises(ErroClaro, match="nenhum nó do Ray tem 2 núcleos"):
        muitas.extrai(ray, 2, *pedido(), tmp_path)


def test_quem_chama_morre_e_o_mesmo_comando_continua_de_onde_parou(nos, ray, tmp_path):
    busca = {"PYTHONPATH": os.pathsep.join(map(str, [RAIZ, RAIZ / "testes"]))}
    programa = (
        "import pathlib, sys, detector, test_muitas as t; detector.prepara(0)\n"
        "with detector.muitas.liga(sys.argv[1], 1) as ray:\n"
        "    detector.muitas.extrai(ray, 1, *t.pedido(), pathlib.Path(sys.argv[2]))"
    )
    comando = [sys.executable, "-c", programa, nos.address, tmp_path]
    outro = subprocess.Popen(comando, env=os.environ | busca)
    depois(tmp_path, 3, outro.kill).join(180)
    assert outro.wait(60) == -9
    time.sleep(5)  # até acabarem os processos dele nos nós
    antes = {nome: arquivo.stat().st_ino for nome, arquivo in guardadas(tmp_path).items()}
    assert 3 <= len(antes) < N // POR_PARTE
    extracao = muitas.extrai(ray, 1, *pedido(), tmp_path)
    assert extracao.extraidas == N - POR_PARTE * len(antes)
    assert antes.items() <= {n: a.stat().st_ino for n, a in guardadas(tmp_path).items()}.items()


def test_um_no_cai_no_meio_e_os_arquivos_sao_os_de_uma_maquina_so(nos, ray, tmp_path):
    """Com um leitor de notebook, que anota onde faz cada parte: cai o nó que fez a terceira."""
    linecache.cache["<célula>"] = (len(CELULA), None, CELULA.splitlines(True), "<célula>")
    celula = {"__name__": "__main__", "dados": dados, "pasta": tmp_path}
    exec(compile(CELULA, "<célula>", "exec"), celula)
    juntas, sozinha = tmp_path / "juntas", tmp_path / "sozinha"

    def derruba():
        onde = (tmp_path / "train[20:30]").read_text()
        nos.remove_node(next(no for no in nos.worker_nodes if no.node_id == onde), False)

    queda = depois(juntas, 5, derruba)
    muitas.extrai(ray, 1, *pedido(celula["leitor"]), juntas)
    queda.join()
    caracteristicas.extrai(*pedido(celula["leitor"]), sozinha)
    assert len(nos.worker_nodes) == 1
    esperadas = {nome: arquivo.read_bytes() for nome, arquivo in guardadas(sozinha).items()}
    assert len(esperadas) == N // POR_PARTE
    assert {nome: a.read_bytes() for nome, a in guardadas(juntas).items()} == esperadas


def test_se_todos_os_nos_caem_ele_diz_e_para(nos, ray, tmp_path, monkeypatch):
    paciencia = "execution_no_progress_timeout_s"  # meia hora, se ninguém a muda
    monkeypatch.setattr(ray.data.DataContext.get_current(), paciencia, 20)
    depois(tmp_path, 1, lambda: [nos.remove_node(no, False) for no in [*nos.worker_nodes]])
    with pytest.raises(ErroClaro, match=r"os nós do Ray pararam.*Rode de novo"):
        muitas.extrai(ray, 1, *pedido(), tmp_path)


@pytest.mark.parametrize("endereco", ["127.0.0.1:9", "abc", "ray://127.0.0.1:9"])
def test_endereco_errado_e_dito(endereco):
    frase = f"--ray {endereco}: nenhum Ray atende aí"
    with pytest.raises(ErroClaro, match=frase), muitas.liga(endereco, 1):
        pass


def test_sem_o_ray_ele_diz_como_instalar(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    frase = r"falta o Ray.*requirements-ray.txt"
    with pytest.raises(ErroClaro, match=frase), muitas.liga("auto", 1):
        pass


def test_pelo_terminal_a_extracao_nao_precisa_do_ray(tmp_path):
    programa = "import runpy, sys; sys.modules['ray'] = None\n"
    programa += "runpy.run_module('detector', run_name='__main__', alter_sys=True)"
    opcoes = ["extrai", "--dataset", "amostra", "--max-imagens", "20", "--modelos", tmp_path]
    comando = [sys.executable, "-c", programa, *opcoes]
    fim = subprocess.run(comando, capture_output=True, text=True, cwd=RAIZ)
    assert fim.returncode == 0, fim.stderr
    assert "extraídas agora: 20 fotos" in fim.stdout and len(guardadas(tmp_path)) == 1
