"""O Colab, imitado: só o notebook numa pasta, e o projeto vindo de um repositório ou de um zip."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import types
import venv

import pytest
import roda_notebook
import tensorflow as tf
from conftest import NOTEBOOK, RAIZ, SEM_REDE

import detector

# Sem rede, o pip só pode usar o que já está instalado; se faltar algo, ele falha.
PIP = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_CONFIG_FILE": os.devnull}
SESSAO = f"""
import json, sys, types
sys.modules["google.colab"] = types.ModuleType("google.colab")
sys.path.append({str(RAIZ / "testes")!r})
import roda_notebook
roda_notebook.roda(json.loads(sys.argv[1]))
"""


@pytest.fixture
def colab(tmp_path):
    """Uma pasta só com o notebook, e um Python que tem o que o notebook pede, menos o projeto."""
    venv.create(tmp_path / "python", symlinks=True)
    daqui = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    (instalado(tmp_path) / "o_que_o_colab_traz.pth").write_text(daqui)
    shutil.copy(NOTEBOOK, tmp_path)
    return tmp_path


def instalado(colab):
    """A pasta onde o pip daquele Python instala."""
    [pasta] = colab.glob("python/lib/python*/site-packages")
    return pasta


@pytest.fixture
def projeto(tmp_path_factory):
    """O projeto, como o GitHub o oferece: numa pasta com o nome dele."""
    pasta = tmp_path_factory.mktemp("origem") / "projeto-main"
    shutil.copytree(RAIZ / "detector", pasta / "detector")
    for nome in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(RAIZ / nome, pasta)
    return pasta


def abre_no_colab(colab, ultima, **parametros):
    """Roda o notebook lá, sem rede, até a célula `ultima`; devolve o processo e o que foi dito."""
    tags = list(roda_notebook.celulas())
    pedido = {"parametros": {"DATASET": "amostra", "MAX_IMAGENS": 60} | parametros}
    pedido["pula"] = tags[tags.index(ultima) + 1 :]
    if ultima == tags[-1]:
        pedido["depois"] = {"botao": "print('a minha foto:', classifica('minha_foto.png'))"}
    comando = [colab / "python/bin/python", "-c", SESSAO, json.dumps(pedido)]
    saida = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    ambiente = {**os.environ, **SEM_REDE, **PIP}
    return subprocess.run(comando, cwd=colab, env=ambiente, timeout=300, **saida)


def test_do_notebook_a_ultima_celula_pelo_endereco_de_um_ramo(colab, projeto, amostra):
    """Dadas uma pasta de fotos e uma foto ao lado, são elas que se leem.

    O TensorFlow e o resto que o Colab já traz ficam como estão, mesmo que mais novos.
    """
    for i, (foto, rotulo) in enumerate(detector.dados.le(amostra, "train[:60]", prepara=None)):
        classe = colab / "fotos" / ("rosas", "tulipas")[rotulo]
        classe.mkdir(parents=True, exist_ok=True)
        tf.io.write_file(f"{classe}/{i}.png", tf.io.encode_png(foto))
    shutil.copy(next(classe.iterdir()), colab / "minha_foto.png")
    eu = ["-c", "user.name=eu", "-c", "user.email=eu@exemplo"]
    for comando in (["init"], ["add", "."], [*eu, "commit", "-m", "v"], ["branch", "aula/1"]):
        subprocess.run(["git", *comando], cwd=projeto, check=True, capture_output=True)
    antes, ultima = {*instalado(colab).iterdir()}, list(roda_notebook.celulas())[-1]
    endereco = f"file://{projeto}/tree/aula/1"
    minhas = {"DATASET": "fotos", "DATA_DIR": "dados", "EPOCAS": 2}
    sessao = abre_no_colab(colab, ultima, REPOSITORIO=endereco, **minhas)
    assert sessao.returncode == 0, sessao.stdout[-2000:]
    assert re.search("li fotos/: .* rosas, .* tulipas, pela pasta", sessao.stdout)
    assert re.search("a minha foto: .*(rosas|tulipas) .probabilidade", sessao.stdout)
    metricas = json.loads((colab / "modelos/metricas.json").read_text(encoding="utf-8"))
    assert metricas["n_treino"] == 48 and metricas["classes"] == ["rosas", "tulipas"]
    novos = {item.name for item in {*instalado(colab).iterdir()} - antes}
    assert novos == {"detector", f"detector_dogs_cats-{detector.__version__}.dist-info"}

    # Só pisos, e os mesmos pacotes que requirements.txt, que tem também os tetos.
    [pacote] = importlib.metadata.distributions(path=[str(instalado(colab))])
    so_piso = re.compile(r"([\w-]+)(\[\w+\])?>=[\d.]+ *(;|$)")
    pedidos = {so_piso.match(pedido)[1] for pedido in pacote.requires}
    linhas = "".join((RAIZ / f"requirements{r}.txt").read_text("utf-8") for r in ("", "-ray"))
    assert pedidos == set(re.findall(r"^[\w-]+", linhas, re.MULTILINE))


def test_por_um_zip_enviado_mesmo_ao_lado_do_zip_das_fotos(colab, projeto):
    shutil.make_archive(colab / "projeto-main (1)", "zip", projeto.parent, projeto.name)
    fotos = colab / "a_kagglecatsanddogs_5340.zip"
    fotos.write_bytes(b"PK, e muitas fotos")
    sessao = abre_no_colab(colab, "colab", ARQUIVO_ZIP=str(fotos))
    amostra = detector.origem.AMOSTRA.relative_to(RAIZ) / "dataset_info.json"
    assert (instalado(colab) / amostra).is_file(), sessao.stdout


def test_sem_repositorio_nem_zip_uma_frase_diz_o_que_por(colab):
    sessao = abre_no_colab(colab, "colab")
    assert sessao.returncode == 1
    assert "Ponha em REPOSITORIO o endereço do projeto, ou envie o zip dele." in sessao.stdout
    assert "Traceback" not in sessao.stdout and "pip" not in sessao.stdout


@pytest.mark.parametrize("nome", ["MODELOS", "FOTOS_FORA"])
def test_o_que_esta_no_drive_pede_o_drive_antes_de_abrir_a_pasta(monkeypatch, nome):
    """Sem isso, a pasta nasceria no disco do Colab e sumiria com a sessão."""
    feito = []
    drive = types.SimpleNamespace(mount=feito.append)
    monkeypatch.setitem(sys.modules, "google.colab", drive)
    monkeypatch.setitem(sys.modules, "google.colab.drive", drive)
    monkeypatch.setattr(detector.comeco, "abre_pasta", lambda pasta: feito.append("a pasta"))
    parametros = {"MODELOS": "modelos", "BACKBONE": "EfficientNetLite0", "SEMENTE": 0}
    detector.comeca(parametros | {"DATA_DIR": "/content/tfds"})
    assert feito == ["a pasta"]
    detector.comeca(parametros | {nome: "/content/drive/MyDrive/pasta"})
    assert feito == ["a pasta", "/content/drive", "a pasta"]
