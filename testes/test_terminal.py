"""`python -m detector`: o que aparece no terminal e o código com que termina."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import RAIZ, SEM_REDE
from tensorflow_datasets.image_classification import cats_vs_dogs
from test_classificador import entrega, faz_modelo, foto

import detector
from detector import confere

FOTO = str(RAIZ / "imagens/onde_olhou.png")


def roda(*argumentos, pasta=None, **ambiente):
    """O `python -m detector` já terminado, com o que escreveu; começa em `pasta`."""
    comando = [sys.executable, "-m", "detector", *map(str, argumentos)]
    ambiente = os.environ | {"PYTHONPATH": f"{pasta}/lib:{RAIZ}"} | ambiente
    return subprocess.run(comando, capture_output=True, text=True, env=ambiente, cwd=pasta)


@pytest.fixture(scope="module")
def modelos(tmp_path_factory):
    pasta = entrega(tmp_path_factory.mktemp("modelos"))
    with np.load(pasta / "classificador.npz") as extras:
        medidas = {"inicio": 0, "modelo": str(extras["digest"]), "motor": "keras-float32"}
    medidas |= {"n_treino": 48, "dataset": "amostra"}
    (pasta / "metricas.json").write_text(json.dumps(medidas))
    return pasta


def test_uma_foto_da_uma_linha_e_mais_nada(modelos, tmp_path):
    foto("red").save(tmp_path / "rex.png")
    fim = roda(f'"{tmp_path}/rex.png"', "--modelos", modelos)
    assert fim.returncode == 0 and fim.stderr == ""
    resposta = r"\S+/rex\.png: gato \(probabilidade 100,0%, chance de ser um deles 100%\)\n"
    assert re.fullmatch(resposta, fim.stdout)


def test_do_que_o_terminal_nao_trocou_sai_uma_tabela_mesmo_com_arquivos_ruins(modelos, tmp_path):
    """Como no Windows, que não troca o `*.png` pelos nomes; e o Excel abre a tabela com acentos."""
    (tmp_path / "maçãs 1").mkdir()
    for i, cor in enumerate(["red", "lime", "blue"] * 2):
        foto(cor).save(tmp_path / f"maçãs 1/{i}.png")
    (tmp_path / "ruim.jpg").write_bytes(b"<html>404</html>")
    ditas = [(tmp_path / "maçãs 1").as_uri(), "*.jpg", "--csv", "tabela.csv"]
    fim = roda(*ditas, "--modelos", modelos, pasta=tmp_path)
    assert fim.returncode == 1 and "Traceback" not in fim.stderr
    assert "100%" in fim.stderr and "Classificando" not in fim.stdout
    assert (tmp_path / "tabela.csv").read_text(encoding="utf-8").startswith("\ufeffarquivo,")
    tabela = pd.read_csv(tmp_path / "tabela.csv")
    assert list(tabela) == detector.classificador.COLUNAS
    esperadas = ["gato", "cachorro", "nenhum dos dois"] * 2
    assert tabela["classe"][:6].tolist() == esperadas and tabela["erro"][:6].isna().all()
    assert "ruim.jpg não é uma foto" in tabela["erro"][6]
    linhas = fim.stdout.splitlines()
    assert len(linhas) == 7 and all(map(str.__contains__, linhas, esperadas))


@pytest.mark.parametrize(
    ("chamada", "frase"),
    [
        ([], "diga que fotos classificar"),
        (["--nada"], "não entendi `--nada --modelos"),
        (["extrai", "--csv", "a.csv"], "não entendi `extrai --csv a.csv"),
        (["extrai", "--max-imagens", "3"], "MAX_IMAGENS = 3: precisa ser um número inteiro"),
        (["*.jpg"], "*.jpg não existe"),
        ([__file__], "test_terminal.py não é uma foto"),
        ([FOTO], "rode antes o `make`"),
        ([FOTO, "--csv", "/tmp"], "--csv /tmp é uma pasta; diga o arquivo"),
        ([FOTO, "--csv", ""], "--csv . é uma pasta; diga o arquivo"),
        ([FOTO, "--csv", "-"], "--csv - não termina em .csv"),
        ([FOTO, "--csv", "/dev/stdout"], "--csv /dev/stdout não termina em .csv"),
    ],
)
def test_a_chamada_errada_e_explicada_sem_esperar_pelo_tensorflow(chamada, frase, tmp_path):
    """E quem ainda não tem um modelo fica sabendo o que rodar."""
    fim = roda(*chamada, "--modelos", tmp_path, PYTHONPROFILEIMPORTTIME="1")
    *importados, dito = fim.stderr.splitlines()
    assert fim.returncode == 2 and fim.stdout == "" and frase in dito
    assert all(linha.startswith("import time:") for linha in importados)
    assert not re.search(r"\| +tensorflow$", fim.stderr, re.MULTILINE)


def test_a_pasta_do_runtime_pode_vir_entre_aspas_e_e_olhada_antes_do_que_demora(tmp_path):
    fim = roda("pagina", "--runtime", '"nada"', "--modelos", tmp_path)
    assert fim.returncode == 2 and fim.stderr.startswith("nada/ort.wasm.bundle.min.mjs não existe")


@pytest.mark.parametrize("nome", ["rex.png", "rex.csv"])
def test_a_tabela_nunca_toma_o_lugar_de_uma_foto(nome, modelos, tmp_path):
    """Como em `--csv *.png`, que o terminal troca pelos nomes das fotos."""
    foto("red").save(tmp_path / nome, "PNG")
    antes = (tmp_path / nome).read_bytes()
    fim = roda(nome, "--csv", nome, "--modelos", modelos, pasta=tmp_path)
    assert fim.returncode == 2 and f"--csv {nome} " in fim.stderr and "Traceback" not in fim.stderr
    assert (tmp_path / nome).read_bytes() == antes


def test_a_ajuda_diz_cada_opcao_e_importar_o_pacote_e_leve_e_silencioso():
    fim = roda("--help", PYTHONPROFILEIMPORTTIME="1")
    assert fim.returncode == 0 and fim.stdout.startswith("uso: python -m detector")
    opcoes = "dataset data-dir arquivo-zip modelos backbone motor max-imagens ray threads csv"
    assert all(f"--{opcao}" in fim.stdout for opcao in f"{opcoes} confere runtime".split())
    assert "argparse" in fim.stderr and "numpy" not in fim.stderr
    assert roda("extrai", "-h").stdout == fim.stdout
    assert roda("--version").stdout == f"detector {detector.__version__}\n"


def test_confere_diz_o_que_serve_e_o_que_fazer_mesmo_sem_tensorflow_nem_rede(modelos, tmp_path):
    """Um TensorFlow que mata o Python, como o feito para outro processador, é só mais uma linha."""
    assert confere.URL == cats_vs_dogs._URL
    (tmp_path / "lib/tensorflow").mkdir(parents=True)
    (tmp_path / "lib/tensorflow/__init__.py").write_text("import os; os.kill(os.getpid(), 4)")
    fim = roda("--confere", "--modelos", modelos, pasta=tmp_path, **SEM_REDE)
    assert fim.returncode == 1 and fim.stderr == ""
    ditas = dict(re.split(" +", linha, maxsplit=1) for linha in fim.stdout.splitlines())
    ruins = {nome for nome, dito in ditas.items() if not dito.startswith("ok: ")}
    assert ruins == {"rede", "bibliotecas"}
    assert "o proxy da rede recusou a conexão. Sem o download, o notebook usa a" in ditas["rede"]
    assert ditas["bibliotecas"] == "ATENÇÃO: o Python morreu ao carregá-las (sinal 4)"
    assert f"Keras {detector.confere.version('keras')}" in ditas["modelos"]
    (tmp_path / "keras.py").write_text("print('a lição da aula 3')")
    fim = roda("--confere", "--modelos", tmp_path / "keras.py/m", pasta=tmp_path, **SEM_REDE)
    assert "keras.py tem o nome de uma biblioteca" in fim.stdout and "aula 3" not in fim.stdout
    assert "não consegui gravar em " in fim.stdout and "Traceback" not in fim.stdout + fim.stderr


@pytest.mark.parametrize("estrago", ["npz pela metade", "modelo de outra execução"])
def test_confere_recusa_os_modelos_que_a_classificacao_recusaria(estrago, modelos, tmp_path):
    shutil.copytree(modelos, tmp_path, dirs_exist_ok=True)
    if estrago == "npz pela metade":
        inteiro = (modelos / "classificador.npz").read_bytes()
        (tmp_path / "classificador.npz").write_bytes(inteiro[: len(inteiro) // 2])
    else:
        faz_modelo(peso=7.0).save(tmp_path / "detector_dogs_cats.keras")
    assert "keras-float32, 48 amostra" in confere._modelos(modelos)
    with pytest.raises(detector.ErroClaro, match="rode o notebook"):
        confere._modelos(tmp_path)
