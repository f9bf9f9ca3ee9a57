"""O Colab, imitado: só o notebook numa pasta, e o projeto vindo de um repositório ou de um zip."""

import json
import os
import shutil
import subprocess
import sys
import types

import pytest
from conftest import NOTEBOOK, RAIZ, SEM_REDE

import detector
from detector.colab import faltam


@pytest.fixture
def colab(tmp_path):
    """Uma pasta só com o notebook, e um `google.colab` de mentira no caminho do Python."""
    falso = tmp_path / "modulos/google/colab"
    falso.mkdir(parents=True)
    (falso / "__init__.py").touch()
    (falso / "drive.py").write_text("def mount(onde):\n    print('Drive em', onde)\n")
    content = tmp_path / "content"
    content.mkdir()
    shutil.copy(NOTEBOOK, content)
    return content


@pytest.fixture(scope="module")
def projeto(tmp_path_factory):
    """O projeto como está num repositório, com a etiqueta da versão."""
    pasta = tmp_path_factory.mktemp("origem") / "projeto-2.0.0"
    pasta.mkdir()
    for nome in ("detector", "amostra", "requirements.txt", NOTEBOOK.name):
        copia = shutil.copytree if (RAIZ / nome).is_dir() else shutil.copy
        copia(RAIZ / nome, pasta / nome)
    eu = ["-c", "user.name=eu", "-c", "user.email=eu@exemplo"]
    for comando in (["init"], ["add", "."], [*eu, "commit", "-m", "v"], ["tag", "v2.0.0"]):
        subprocess.run(["git", *comando], cwd=pasta, check=True, capture_output=True)
    return pasta


def abre_no_colab(content, **parametros):
    """Roda o notebook lá, sem rede; devolve o processo, com tudo o que foi dito em `stdout`."""
    parametros = {"DATASET": "amostra", "MAX_IMAGENS": 60} | parametros
    sessao = (
        "import json, sys, google.colab\n"
        f"sys.path.append({str(RAIZ / 'testes')!r})\n"
        "import roda_notebook\n"
        "roda_notebook.roda(json.loads(sys.argv[1]), [])"
    )
    return subprocess.run(
        [sys.executable, "-c", sessao, json.dumps(parametros)],
        cwd=content,
        env={
            **os.environ,
            **SEM_REDE,
            "PYTHONPATH": str(content.parent / "modulos"),
            "NOTEBOOK": str(content / NOTEBOOK.name),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


def test_do_notebook_sozinho_a_ultima_celula_por_um_repositorio(colab, projeto):
    """Traz a versão com etiqueta, instala só o que falta e roda tudo na pasta do projeto."""
    sessao = abre_no_colab(colab, REPOSITORIO=f"file://{projeto}")
    assert sessao.returncode == 0, sessao.stdout[-2000:]
    assert "nada a instalar" in sessao.stdout
    assert (colab / "projeto/modelos/metricas.json").is_file()


def test_do_notebook_sozinho_a_ultima_celula_por_um_zip_enviado(colab, projeto):
    shutil.make_archive(str(colab / "projeto"), "zip", projeto.parent, projeto.name)
    sessao = abre_no_colab(colab)
    assert sessao.returncode == 0, sessao.stdout[-2000:]
    [metricas] = colab.rglob("modelos/metricas.json")
    assert json.loads(metricas.read_text(encoding="utf-8"))["n_treino"] == 48


def test_sem_repositorio_nem_zip_uma_frase_diz_o_que_por(colab):
    sessao = abre_no_colab(colab)
    assert sessao.returncode == 1
    assert "Ponha em REPOSITORIO o endereço do projeto, ou envie o zip dele." in sessao.stdout
    assert "Traceback" not in sessao.stdout


def test_modelos_no_drive_pede_o_drive(monkeypatch):
    """Sem isso, a pasta nasceria no disco do Colab e sumiria com a sessão."""
    drive = types.ModuleType("google.colab.drive")
    pedidos = []
    drive.mount = pedidos.append
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setitem(sys.modules, "google.colab.drive", drive)
    monkeypatch.setattr(detector.gravacao, "grava", lambda arquivo, conteudo: None)
    detector.gravacao.abre_pasta("/content/drive/MyDrive/modelos")
    detector.gravacao.abre_pasta("modelos")
    assert pedidos == ["/content/drive"]


def test_nunca_instala_outro_tensorflow_keras_ou_numpy_nem_o_que_ja_existe():
    requisitos = (RAIZ / "requirements.txt").read_text(encoding="utf-8")
    assert faltam(requisitos) == []
    inventados = (
        "nao-existe>=1,<2  # para quê\ntensorflow<2.22\nkeras\nnumpy>99\npandas>=2\njupyter"
    )
    assert faltam(inventados) == ["nao-existe>=1,<2"]


def test_a_versao_do_notebook_e_a_do_pacote():
    assert f"--branch v{detector.__version__} " in NOTEBOOK.read_text(encoding="utf-8")
