"""O começo de uma execução: os parâmetros conferidos, o acaso fixado, a pasta MODELOS aberta."""

import errno
import importlib
import importlib.util
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Mapping

from IPython import get_ipython

import detector
from detector.ambiente import CONSELHOS, ErroClaro, motivo, prepara
from detector.entrega import abre_pasta
from detector.metricas import Medidas

MOTORES = ("auto", "keras", "openvino")
TEXTOS = ("DATASET", "DATA_DIR", "ARQUIVO_ZIP", "MODELOS", "BACKBONE", "FOTOS_FORA")
ATE = 2**32  # menos um: o que cabe numa semente
FAIXAS = {"TAMANHO_LOTE": range(1, 4097), "EPOCAS": range(1, ATE), "MAX_IMAGENS": range(20, ATE)}
FAIXAS |= {"EPOCAS_AJUSTE_FINO": range(ATE), "SEMENTE": range(ATE), "THREADS": range(1, 1025)}
PODEM_SER_NONE = ("DATA_DIR", "ARQUIVO_ZIP", "FOTOS_FORA", "MAX_IMAGENS")
EXPORTAM = ("tf2onnx", "onnx", "onnxruntime")
SEM_ESPACO = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # só quem grava os vê


def comeca(parametros: Mapping) -> tuple[pathlib.Path, Medidas]:
    """A pasta MODELOS e as medidas, ainda vazias, de uma execução que começa agora.

    parametros: {nome: valor}, como o `globals()` do notebook. Confere cada um e fixa o acaso.
    No Jupyter, um disco que enche no meio de uma célula passa a ser dito numa frase. No Colab, liga
    o Drive se algum parâmetro aponta para ele. Levanta ErroClaro se um parâmetro não serve ou se
    não se pode gravar em MODELOS.
    """
    medidas = Medidas()
    confere_parametros(parametros)
    medidas.update(backbone=parametros["BACKBONE"], semente=parametros["SEMENTE"])
    prepara(parametros["SEMENTE"])
    detector.backbones.confere(parametros["BACKBONE"])
    if kernel := get_ipython():
        kernel.set_custom_exc((OSError,), _disco_cheio)
    if "google.colab" in sys.modules:
        ditos = [os.path.abspath(parametros.get(nome) or "") for nome in TEXTOS]
        if any(dito.startswith("/content/drive") for dito in ditos):
            importlib.import_module("google.colab.drive").mount("/content/drive")
    return abre_pasta(parametros["MODELOS"]), medidas


def _disco_cheio(kernel, tipo, erro, pilha, tb_offset=None) -> None:
    """Mostra o OSError como o IPython mostraria, a não ser que seja falta de espaço."""
    if erro.errno in SEM_ESPACO:
        onde = erro.filename or tempfile.gettempdir()
        erro = ErroClaro(
            f"não consegui gravar em {onde} ({motivo(erro)}). {CONSELHOS[erro.errno]} ou use outro "
            "disco, e rode esta célula de novo: o que já estava gravado continua valendo."
        )
    kernel.showtraceback((type(erro), erro, pilha), tb_offset)


def confere_parametros(parametros: Mapping) -> None:
    """Recusa o parâmetro que faria falhar mais tarde, ou que valeria o contrário do que diz.

    parametros: {nome: valor}; nomes que não são parâmetros do notebook são ignorados, de modo que
    `globals()` serve. Levanta ErroClaro, que diz o valor e o que pôr no lugar dele.
    """
    for nome, valor in parametros.items():
        if nome in PODEM_SER_NONE and valor is None:
            continue
        if certo := _o_certo(nome, valor):
            raise ErroClaro(f"{nome} = {valor!r}: {certo}.")


def _o_certo(nome: str, valor) -> str | None:
    """O que `valor` devia ser, ou None se já é."""
    if nome in FAIXAS and not (type(valor) is int and valor in FAIXAS[nome]):
        return f"precisa ser um número inteiro, de {FAIXAS[nome][0]} a {FAIXAS[nome][-1]}"
    if nome == "EXPORTAR":
        if type(valor) is not bool:  # qualquer texto vale True, até "não"
            return "precisa ser True ou False, sem aspas"
        faltam = [pacote for pacote in EXPORTAM if not importlib.util.find_spec(pacote)]
        if valor and faltam:
            return f"para exportar, instale antes: python -m pip install {' '.join(faltam)}"
    if nome == "MOTOR" and valor not in MOTORES:
        return f"use um destes: {', '.join(MOTORES)}"
    return _o_texto_certo(nome, valor) if nome in TEXTOS else None


def _o_texto_certo(nome: str, valor) -> str | None:
    """O mesmo, de um dos TEXTOS."""
    if not isinstance(valor, str if nome == "BACKBONE" else str | os.PathLike):
        return "precisa ser um texto, entre aspas"
    if not str(valor).strip():
        use = "use None, sem aspas" if nome in PODEM_SER_NONE else "ponha um texto, entre aspas"
        return f"está vazio; {use}"
    if re.search(r"[\0-\x1f]", str(valor)):  # "C:\novo" tem uma quebra de linha
        return r'a barra invertida muda o caminho: ponha um r antes das aspas, como em r"C:\novo"'
    if re.match("https?:/", str(valor)):
        return "é um endereço; baixe antes o que há nele e ponha aqui o caminho no disco"
    return None
