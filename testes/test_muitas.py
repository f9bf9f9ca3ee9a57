"""Muitas máquinas fazem o que uma faria: os mesmos arquivos, e uma frase quando não dá."""

import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest
from test_caracteristicas import CORTE, rede

from detector import caracteristicas, dados, motores, muitas
from detector.erros import ErroClaro
from detector.preparo import redimensiona_img

N = 600
RAIZ = pathlib.Path(muitas.__file__).parent.parent


@pytest.fixture(scope="module")
def cluster():
    """Um nó do Ray que só coordena e dois que trabalham, de um núcleo cada, nesta máquina."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    nos = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        nos.add_node(num_cpus=1)
    yield nos
    nos.shutdown()


@pytest.fixture(scope="module")
def ray(cluster):
    with muitas.liga(cluster.address, 1) as ligado:
        yield ligado


@pytest.fixture
def pedido(amostra, monkeypatch):
    """Os argumentos de `extrai`, com uma rede de brinquedo e partes de 10 fotos."""
    monkeypatch.setattr(caracteristicas, "FOTOS_POR_PARTE", 10)
    fotos = dados.lista(amostra, N)
    receita = {"preparo_": redimensiona_img, "backbone": rede(), "corte": CORTE, "motor": "auto"}
    return {"builder": amostra, "fotos": fotos} | receita


def partes(pasta):
    """O conteúdo de cada arquivo de vetores ou de mapas, pelo nome."""
    todos = [*pasta.glob("vetores-*.dados"), *pasta.glob("mapas-*.dados")]
    return {arquivo.name: arquivo.read_bytes() for arquivo in todos}


def test_o_no_que_nao_pode_e_recusado_em_uma_frase(ray, pedido, tmp_path, monkeypatch):
    def frase(threads=1):
        with pytest.raises(ErroClaro) as erro:
            muitas.extrai(ray, threads, **pedido, pasta=tmp_path)
        return str(erro.value)

    with monkeypatch.context() as aqui:
        aqui.setattr(muitas, "grava", lambda *a: None)  # a marca que os nós têm de ver não aparece
        assert "não vê" in frase() and str(tmp_path) in frase()
    with monkeypatch.context() as aqui:
        aqui.setattr(motores, "versoes", lambda motor: ["1.0"])
        assert "este computador, ['1.0']: instale as mesmas" in frase()
    with monkeypatch.context() as aqui:
        aqui.setattr(motores, "candidatos", lambda motor: ["keras-float16"])
        assert "não roda o motor keras-float16" in frase()
    with monkeypatch.context() as aqui:
        aqui.setattr(caracteristicas.preparo, "prova", lambda preparo: 0)
        assert "prepara as fotos com outro resultado" in frase()
    assert "nenhum nó do Ray tem 2 núcleos" in frase(threads=2)
    assert not list(tmp_path.glob("vetores-*")) and not list(tmp_path.glob(".incompleto-*"))


def test_um_no_cai_no_meio_e_os_arquivos_sao_os_de_uma_maquina_so(
    cluster, ray, pedido, tmp_path, capsys
):
    """E o que já estava em disco, de uma execução interrompida, não é refeito."""
    sozinha, juntas = tmp_path / "sozinha", tmp_path / "juntas"
    caracteristicas.extrai(**pedido | {"fotos": pedido["fotos"][:50]}, pasta=juntas)
    uma = caracteristicas.extrai(**pedido, pasta=sozinha)

    def derruba():
        while len(list(juntas.glob("vetores-*"))) < 6:
            time.sleep(0.02)
        cluster.remove_node(alheio, allow_graceful=False)

    # O Ray pode ligar este processo a qualquer um dos nós da máquina: cai um que não é o dele.
    nosso = ray.get_runtime_context().get_node_id()
    alheio = next(no for no in cluster.worker_nodes if no.node_id != nosso)
    queda = threading.Thread(target=derruba)
    queda.start()
    muitas_ = muitas.extrai(ray, 1, **pedido, pasta=juntas)
    queda.join()
    assert "Um trabalhador caiu" in capsys.readouterr().out
    assert muitas_.extraidas == N - 50 and muitas_.digest == uma.digest
    assert partes(juntas) == partes(sozinha) and len(partes(juntas)) == 2 * N // 10
    assert caracteristicas.extrai(**pedido, pasta=juntas).extraidas == 0


@pytest.mark.parametrize("endereco", ["127.0.0.1:9", "abc", "ray://127.0.0.1:9"])
def test_endereco_errado_e_dito_logo(endereco):
    inicio = time.perf_counter()
    with (
        pytest.raises(ErroClaro, match=f"--ray {endereco}: nenhum Ray atende aí"),
        muitas.liga(endereco, 1),
    ):
        pass
    assert time.perf_counter() - inicio < 10


def test_sem_o_ray_ele_diz_como_instalar(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ErroClaro, match=r"falta o Ray.*requirements-ray.txt"),
        muitas.liga("auto", 1),
    ):
        pass


def test_pelo_terminal_sem_ray_nada_do_ray_e_importado(tmp_path):
    programa = (
        "import runpy, sys, detector; detector.muitas\n"
        "try: runpy.run_module('detector', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as fim: assert not fim.code\n"
        "assert 'ray' not in sys.modules"
    )
    opcoes = ["extrai", "--dataset", "amostra", "--max-imagens", "20", "--modelos", tmp_path]
    fim = subprocess.run(
        [sys.executable, "-c", programa, *opcoes], capture_output=True, text=True, cwd=RAIZ
    )
    assert fim.returncode == 0, fim.stderr
    assert "extraídas agora: 20 fotos" in fim.stdout
    assert len(partes(tmp_path)) == 2


def test_um_pedido_errado_e_explicado():
    fim = subprocess.run(
        [sys.executable, "-m", "detector", "extrai", "--threads", "0"],
        capture_output=True,
        text=True,
        cwd=RAIZ,
    )
    assert fim.returncode == 2 and fim.stdout == ""
    assert fim.stderr == "THREADS = 0: precisa ser um número inteiro, de 1 para cima.\n"
