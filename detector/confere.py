"""`python -m detector --confere`: de cada coisa de que o projeto precisa, «ok» ou o que fazer.

Cada linha só carrega aquilo de que precisa: se o TensorFlow não serve, as outras saem assim mesmo.
"""

from __future__ import annotations  # para dizer ao Python 3.9 que ele não serve

import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from importlib.metadata import version

from detector import ambiente
from detector.ambiente import ErroClaro

URL = "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/"
URL += "kagglecatsanddogs_5340.zip"  # o TFDS a sabe, mas só carrega depois do TensorFlow
# Num processo à parte: uma biblioteca feita para outro processador mata o Python em silêncio.
CARREGA = """
import pathlib, sys, detector
try:
    for sala in pathlib.Path(detector.__file__).parent.glob("[!_]*.py"):
        getattr(detector, sala.stem)
    print(detector.motores.candidatos("auto")[0])
except detector.ErroClaro as erro:
    sys.exit(str(erro))
"""
ABRE = """
import sys, detector
try:
    sala = detector.classificador
except detector.ErroClaro:
    sys.exit()  # a linha das bibliotecas já disse por quê
try:
    sala.abre(sys.argv[1])
except detector.ErroClaro as erro:
    sys.exit(str(erro))
"""


def confere(modelos: pathlib.Path) -> bool:
    """Mostra uma linha por coisa; True se todas servem."""
    olhadas = {"Python": _python, "processador": _processador, "memória": _memoria, "disco": _disco}
    olhadas |= {"rede": _rede, "versões": _versoes, "bibliotecas": _carrega, "modelos": _modelos}
    serve = True
    for nome, olha in olhadas.items():
        try:
            dito = f"ok: {olha(modelos)}"
        except ErroClaro as erro:
            dito, serve = f"ATENÇÃO: {erro}", False
        except ImportError as erro:
            dito, serve = f"ATENÇÃO: {ambiente.nao_carrega('detector', erro)}", False
        print(f"{nome:<12} {dito}", flush=True)
    return serve


def _python(_) -> str:
    ambiente.confere_python()
    ambiente.confere_vizinhos()
    return f"{platform.python_version()}, {platform.system()}, em {sys.prefix}"


def _processador(_) -> str:
    sabe = ambiente.confere_processador()
    rapido = [nome for nome in ("avx", "avx512_bf16", "amx_bf16") if nome in sabe]
    return ", ".join([platform.machine(), f"{os.cpu_count()} núcleos", *rapido])


def _memoria(_) -> str:
    import psutil

    return _sobram(psutil.virtual_memory().available, 2, "feche outros programas")


def _disco(modelos: pathlib.Path) -> str:
    pasta = next(p for p in (modelos.absolute(), *modelos.absolute().parents) if p.exists())
    with ambiente.no_disco("gravar em", pasta, "mude MODELOS"):
        tempfile.TemporaryFile(dir=pasta).close()
        return _sobram(shutil.disk_usage(pasta).free, 3, "libere espaço") + f" em {pasta}"


def _sobram(bytes_: int, precisa: int, conselho: str) -> str:
    if bytes_ < precisa * 1e9:
        usa = f"o notebook usa uns {precisa} GB"
        raise ErroClaro(f"só {bytes_ / 1e9:.1f} GB livres, e {usa}: {conselho}.")
    return f"{bytes_ / 1e9:.0f} GB livres"


def _rede(_) -> str:
    from detector.download import sonda

    try:
        sonda(URL, 5)
    except ConnectionError as erro:
        outra = "o notebook usa a amostra, ou o zip que você puser em ARQUIVO_ZIP"
        raise ErroClaro(f"{erro}. Sem o download, {outra}.") from erro
    return "o site das fotos responde"


def _versoes(_) -> str:
    from packaging.requirements import Requirement

    lista = pathlib.Path(__file__).parents[1] / "requirements.txt"
    texto = lista.read_text(encoding="utf-8") if lista.is_file() else ""  # senão, o pip conferiu
    for pedido in map(Requirement, re.findall(r"^[^#\s]+", texto, re.MULTILINE)):
        ha = version(pedido.name)
        if not pedido.specifier.contains(ha):
            comando = f'python -m pip install "{pedido}"'
            raise ErroClaro(f"{pedido.name} é o {ha}, que não serve. No terminal: {comando}")
    return ", ".join(f"{n} {version(n)}" for n in ("tensorflow", "keras", "numpy", "openvino"))


def _carrega(_) -> str:
    fim = _noutro_processo(CARREGA)
    if fim.returncode:
        dito = fim.stderr.strip() or f"o Python morreu ao carregá-las (sinal {-fim.returncode})"
        raise ErroClaro(dito.splitlines()[-1])
    return f"carregam todas; o motor é {fim.stdout.split()[-1]}"


def _noutro_processo(programa: str, *argumentos: str) -> subprocess.CompletedProcess:
    comando = [sys.executable, "-c", programa, *argumentos]
    return subprocess.run(comando, capture_output=True, text=True)


def _modelos(modelos: pathlib.Path) -> str:
    from detector.arquivos import abre_arrays
    from detector.entrega import METRICAS, acha_modelo

    arquivo, extras = acha_modelo(modelos)
    try:
        with zipfile.ZipFile(arquivo) as aberto:
            keras = json.loads(aberto.read("metadata.json"))["keras_version"]
        feito = json.loads((modelos / METRICAS).read_bytes())
        quando = time.strftime("%d/%m/%Y", time.localtime(feito["inicio"]))
        dito = f"{quando}, Keras {keras}, {feito['motor']}, {feito['n_treino']} {feito['dataset']}"
        abre_arrays(extras, feito["modelo"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as erro:
        raise ErroClaro(f"{modelos} não está inteira ({erro}); rode o notebook de novo.") from erro
    fim = _noutro_processo(ABRE, str(modelos))
    if fim.returncode > 0:  # se um sinal o matou, a culpa é das bibliotecas
        raise ErroClaro(fim.stderr.splitlines()[-1])
    return dito
