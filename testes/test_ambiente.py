"""Parâmetros errados param na primeira célula, e o que há na máquina não muda nenhum número."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from conftest import NOTEBOOK, RAIZ

import detector

CELULAS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
[FONTE] = ["".join(c["source"]) for c in CELULAS if "parameters" in c["metadata"].get("tags", ())]
PARAMETROS = {}  # como vêm no notebook
exec(FONTE, {}, PARAMETROS)


def roda(programa, pasta=RAIZ, **ambiente):
    """O processo, já terminado, de um programa em Python que começa em `pasta`."""
    ambiente = os.environ | {"PYTHONPATH": f"{pasta / 'lib'}:{RAIZ}"} | ambiente
    saida = {"capture_output": True, "text": True, "timeout": 120}
    return subprocess.run([sys.executable, "-c", programa], cwd=pasta, env=ambiente, **saida)


def test_os_parametros_do_notebook_servem_e_todos_sao_conferidos():
    outros = {"DATASET": pathlib.Path("minhas fotos"), "MAX_IMAGENS": 20, "EXPORTAR": True}
    detector.confere_parametros(PARAMETROS)
    detector.confere_parametros(PARAMETROS | outros | {"outro nome": object()})
    for nome in PARAMETROS.keys() - {"REPOSITORIO"}:
        with pytest.raises(detector.ErroClaro, match=nome):
            detector.confere_parametros({nome: object()})


@pytest.mark.parametrize(
    ("nome", "valor", "conselho"),
    [
        ("EXPORTAR", "não", "precisa ser True ou False, sem aspas"),
        ("EXPORTAR", 0, "precisa ser True ou False, sem aspas"),
        ("MAX_IMAGENS", 19, "precisa ser um número inteiro, de 20 a 4294967295"),
        ("MAX_IMAGENS", "300", "precisa ser um número inteiro, de 20 a 4294967295"),
        ("TAMANHO_LOTE", True, "precisa ser um número inteiro, de 1 a 4096"),
        ("TAMANHO_LOTE", 32.0, "precisa ser um número inteiro, de 1 a 4096"),
        ("TAMANHO_LOTE", 10**9, "precisa ser um número inteiro, de 1 a 4096"),
        ("EPOCAS", None, "precisa ser um número inteiro, de 1 a 4294967295"),
        ("SEMENTE", 2**32, "precisa ser um número inteiro, de 0 a 4294967295"),
        ("MOTOR", "gpu", "use um destes: auto, keras, openvino"),
        ("MODELOS", " ", "está vazio; ponha um texto, entre aspas"),
        ("ARQUIVO_ZIP", "", "está vazio; use None, sem aspas"),
        ("DATASET", None, "precisa ser um texto, entre aspas"),
        ("BACKBONE", pathlib.Path("VGG16"), "precisa ser um texto, entre aspas"),
        ("DATASET", "https://exemplo.br/fotos", "é um endereço; baixe antes o que há nele"),
        ("DATA_DIR", "C:\fotos\novas", "a barra invertida muda o caminho"),
    ],
)
def test_o_que_nao_serve_e_recusado_em_uma_frase(nome, valor, conselho):
    with pytest.raises(detector.ErroClaro) as recusa:
        detector.confere_parametros({nome: valor})
    dito = str(recusa.value)
    assert dito.startswith(f"{nome} = {valor!r}: {conselho}") and "\n" not in dito


def test_quem_quer_exportar_fica_sabendo_antes_o_que_instalar(monkeypatch):
    confere = detector.confere_parametros
    monkeypatch.setattr("importlib.util.find_spec", lambda nome: None)
    confere({"EXPORTAR": False})
    with pytest.raises(detector.ErroClaro, match="instale antes: python -m pip install tf2onnx"):
        confere({"EXPORTAR": True})


PREPARA_DUAS_VEZES = """
import os, signal, sys, threading, detector
assert 'tensorflow' not in sys.modules and 'numpy' not in sys.modules
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try: detector.prepara(7)
except KeyboardInterrupt: print('parou;', end=' ')
detector.prepara(7)
import keras, matplotlib, numpy as np
def sorteia():
    peso = keras.layers.Dense(1).build((1, 1)) or keras.random.normal((1,))
    return float(peso[0]), float(np.random.rand())
um = sorteia()
detector.prepara(7)
assert um == sorteia()
c, conv = keras.config, keras.layers.Conv2D(2, 1)
conv.build((None, 8, 8, 3))
print(c.backend(), c.dtype_policy().name, c.floatx(), c.epsilon(), conv.kernel.shape,
      conv.kernel.dtype, matplotlib.rcParams['font.size'])
"""


def test_o_que_foi_feito_para_outro_projeto_nao_muda_nada(tmp_path):
    """E importar é leve, nada aparece na tela, e quem interrompe pode rodar a célula de novo."""
    alheio = {"floatx": "float16", "epsilon": 1e-3, "backend": "jax"}
    alheio["image_data_format"] = "channels_first"
    (tmp_path / "keras.json").write_text(json.dumps(alheio))
    (tmp_path / "matplotlibrc").write_text("font.size: 40\n")
    de_outro = {"KERAS_HOME": str(tmp_path), "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    processo = roda(PREPARA_DUAS_VEZES, **de_outro)
    assert processo.returncode == 0 and processo.stderr == ""
    esperado = "parou; tensorflow float32 float32 1e-07 (1, 1, 3, 2) float32 10.0\n"
    assert processo.stdout == esperado


SEM_AVX = "from detector import ambiente as a; a.CPUINFO = __import__('pathlib').Path('cpuinfo')"
SEM_TENSORFLOW = "import sys; sys.modules['tensorflow'] = None"
SEM_DLL = (
    "raise ImportError('Traceback…\\n  File…\\nImportError: DLL load failed: libx\\n\\nFailed.')"
)
PYTHON_NOVO = f"{SEM_TENSORFLOW}; sys.version_info = (3, 14)"
IMPEDEM = {  # a frase: o que roda antes, e um arquivo que está na pasta
    "o Keras está usando o openvino. Reinicie o kernel": ("import keras", "x", ""),
    "falta o pacote tensorflow. No terminal: python -m pip": (SEM_TENSORFLOW, "x", ""),
    "o processador não tem AVX, ou a máquina ": (SEM_AVX, "cpuinfo", "flags\t\t: fpu sse4_2"),
    "keras.py tem o nome de uma biblioteca": ("", "keras.py", "print('a lição da aula 3')"),
    "é preciso Python de 3.10 a 3.13, de 64 bits": (PYTHON_NOVO, "x", ""),
    "(ImportError: DLL load failed: libx). Instale o Microsoft": (
        "",
        "lib/tensorflow/__init__.py",
        SEM_DLL,
    ),
}


@pytest.mark.parametrize("frase", IMPEDEM)
def test_o_que_impede_as_bibliotecas_e_dito_em_uma_frase(tmp_path, frase):
    """Antes que o TensorFlow mate o Python calado, ou que o `keras.py` da pessoa rode."""
    antes, arquivo, conteudo = IMPEDEM[frase]
    (tmp_path / arquivo).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / arquivo).write_text(conteudo)
    tenta = "\ntry: detector.prepara(0)\nexcept detector.ErroClaro as erro: print(erro)\n"
    processo = roda(f"{antes}\nimport detector{tenta}", tmp_path, KERAS_BACKEND="openvino")
    assert frase in processo.stdout and processo.stdout.count("\n") == 1 and not processo.stderr
