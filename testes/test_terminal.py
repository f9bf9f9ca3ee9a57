"""`python -m detector`: o que aparece no terminal e o código com que termina."""

import json
import os
import re
import subprocess
import sys
import time

import pandas as pd
import pytest
from conftest import RAIZ
from test_classificador import entrega, foto

import detector

AMBIENTE = os.environ | {"PYTHONPATH": str(RAIZ)}


def roda(*argumentos, **ambiente):
    """O `python -m detector` já terminado, com o que escreveu."""
    comando = [sys.executable, "-m", "detector", *map(str, argumentos)]
    return subprocess.run(comando, capture_output=True, text=True, env=AMBIENTE | ambiente)


@pytest.fixture(scope="module")
def modelos(tmp_path_factory):
    return entrega(tmp_path_factory.mktemp("modelos"))


def test_uma_foto_da_uma_linha_e_mais_nada(modelos, tmp_path):
    """Nem com um keras.json feito para outro projeto."""
    alheio = {"backend": "jax", "image_data_format": "channels_first", "floatx": "float16"}
    (tmp_path / "keras.json").write_text(json.dumps(alheio))
    foto("red").save(tmp_path / "rex.png")
    fim = roda(tmp_path / "rex.png", "--modelos", modelos, KERAS_HOME=str(tmp_path))
    assert fim.returncode == 0 and fim.stderr == ""
    resposta = r"\S+/rex\.png: gato \(probabilidade 100,0%, chance de ser um deles 100%\)\n"
    assert re.fullmatch(resposta, fim.stdout)


def test_da_pasta_sai_uma_tabela_mesmo_com_arquivos_ruins(modelos, tmp_path):
    (tmp_path / "fotos").mkdir()
    for i, cor in enumerate(["red", "lime", "blue"] * 2):
        foto(cor).save(tmp_path / f"fotos/{i}.png")
    (tmp_path / "fotos/ruim.jpg").write_bytes(b"<html>404</html>")
    fim = roda(tmp_path / "fotos", "--modelos", modelos, "--csv", tmp_path / "tabela.csv")
    assert fim.returncode == 1 and "Traceback" not in fim.stderr
    assert "100%" in fim.stderr and "Classificando" not in fim.stdout
    tabela = pd.read_csv(tmp_path / "tabela.csv")
    assert list(tabela) == detector.classificador.COLUNAS
    esperadas = ["gato", "cachorro", "nenhum dos dois"] * 2
    assert tabela["classe"][:6].tolist() == esperadas and tabela["erro"][:6].isna().all()
    assert "ruim.jpg não é uma foto" in tabela["erro"][6]
    linhas = fim.stdout.splitlines()
    assert len(linhas) == 7 and all(map(str.__contains__, linhas, esperadas))


@pytest.mark.parametrize(
    "chamada", [[], ["--nada"], ["--csv"], ["/nao.jpg"], ["--limpa"], [__file__]]
)
def test_a_chamada_errada_e_explicada_na_hora(chamada, tmp_path):
    """E quem ainda não tem um modelo fica sabendo o que rodar."""
    inicio = time.perf_counter()
    fim = roda(*chamada, "--modelos", tmp_path)
    assert time.perf_counter() - inicio < 2, "sem esperar pelo TensorFlow"
    assert fim.returncode == 2 and fim.stdout == ""
    assert fim.stderr.count("\n") == 1 and "error" not in fim.stderr
    assert ("`make`" in fim.stderr) == (chamada == [__file__])


def test_a_ajuda_vem_na_hora_e_em_portugues_e_importar_o_pacote_e_leve_e_silencioso():
    inicio = time.perf_counter()
    fim = roda("--help", PYTHONPROFILEIMPORTTIME="1")
    assert time.perf_counter() - inicio < 1.5
    assert fim.returncode == 0 and fim.stdout.startswith("uso: python -m detector")
    assert "usage" not in fim.stdout and "show this" not in fim.stdout
    assert "detector.fotos" in fim.stderr and "tensorflow" not in fim.stderr
    assert roda("--version").stdout == f"detector {detector.__version__}\n"
    comando = [sys.executable, "-c", "import detector"]
    fim = subprocess.run(comando, capture_output=True, env=AMBIENTE)
    assert (fim.returncode, fim.stdout, fim.stderr) == (0, b"", b"")


def test_limpa_apaga_o_que_a_ultima_execucao_nao_usou(tmp_path):
    agora = time.time()
    (tmp_path / "metricas.json").write_text(f'{{"inicio": {agora - 60}}}')
    for nome, idade in (("velho-0123456789ab.npz", 999), ("novo-0123456789ab.npz", 0)):
        (tmp_path / nome).write_bytes(bytes(2_500_000))
        os.utime(tmp_path / nome, (agora - idade, agora - idade))
    fim = roda("--limpa", "--modelos", tmp_path)
    assert fim.returncode == 0 and "1 arquivos, 2.5 MB" in fim.stdout
    assert {p.name for p in tmp_path.iterdir()} == {"metricas.json", "novo-0123456789ab.npz"}
