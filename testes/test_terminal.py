"""`python -m detector`: o que aparece no terminal e o código com que termina."""

import json
import os
import pathlib
import re
import subprocess
import sys
import time

import pandas as pd
import pytest
from test_classificador import entrega, foto

import detector

RAIZ = pathlib.Path(detector.__file__).parent.parent
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
    resposta = r"\S+/rex\.png: gato \(probabilidade \S+%, semelhança 1\.00\)\n"
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
    assert list(tabela) == ["arquivo", "classe", "probabilidade", "similaridade", "erro"]
    esperadas = ["gato", "cachorro", "nenhum dos dois"] * 2
    assert tabela["classe"][:6].tolist() == esperadas and tabela["erro"][:6].isna().all()
    assert "ruim.jpg não é uma foto" in tabela["erro"][6]
    linhas = fim.stdout.splitlines()
    assert len(linhas) == 7 and all(map(str.__contains__, linhas, esperadas))


def test_sem_modelo_ele_diz_o_que_rodar(tmp_path):
    foto("red").save(tmp_path / "rex.png")
    fim = roda(tmp_path / "rex.png", "--modelos", tmp_path)
    assert fim.returncode == 2 and fim.stdout == ""
    assert "`make`" in fim.stderr and fim.stderr.count("\n") == 1


@pytest.mark.parametrize("chamada", [[], ["--nada"], ["--csv"], ["/nao/existe.jpg"], ["--limpa"]])
def test_a_chamada_errada_e_explicada_na_hora(chamada, tmp_path):
    inicio = time.perf_counter()
    fim = roda(*chamada, "--modelos", tmp_path)
    assert fim.returncode == 2 and fim.stdout == ""
    assert fim.stderr.count("\n") == 1 and "error" not in fim.stderr
    assert time.perf_counter() - inicio < 2, "sem esperar pelo TensorFlow"


def test_a_ajuda_vem_na_hora_e_em_portugues():
    inicio = time.perf_counter()
    fim = roda("--help", PYTHONPROFILEIMPORTTIME="1")
    assert time.perf_counter() - inicio < 1.5
    assert fim.returncode == 0 and fim.stdout.startswith("uso: python -m detector")
    assert "usage" not in fim.stdout and "show this" not in fim.stdout
    assert "detector.fotos" in fim.stderr and "tensorflow" not in fim.stderr
    assert roda("--version").stdout == f"detector {detector.__version__}\n"


def test_importar_o_pacote_e_leve_e_silencioso():
    programa = "import detector, sys; assert not {'tensorflow', 'numpy'} & set(sys.modules)"
    fim = subprocess.run([sys.executable, "-c", programa], capture_output=True, env=AMBIENTE)
    assert (fim.returncode, fim.stdout, fim.stderr) == (0, b"", b"")


def test_limpa_apaga_o_que_a_ultima_execucao_nao_usou(tmp_path):
    agora = time.time()
    (tmp_path / "metricas.json").write_text(f'{{"inicio": {agora - 60}}}')
    for nome, idade in (("velho.dados", 999), ("novo.dados", 0), ("velho.keras", 999)):
        (tmp_path / nome).write_bytes(bytes(2_500_000))
        os.utime(tmp_path / nome, (agora - idade, agora - idade))
    fim = roda("--limpa", "--modelos", tmp_path)
    assert fim.returncode == 0 and "1 arquivos, 2.5 MB" in fim.stdout
    ficaram = sorted(p.name for p in tmp_path.iterdir())
    assert ficaram == ["metricas.json", "novo.dados", "velho.keras"]
