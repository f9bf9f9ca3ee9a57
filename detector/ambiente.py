"""O que precisa estar certo na máquina antes da primeira conta."""

import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping

from detector.erros import ErroClaro

MOTORES = ("auto", "keras", "openvino")
MINIMOS = {
    "TAMANHO_LOTE": 1,
    "EPOCAS": 1,
    "EPOCAS_AJUSTE_FINO": 0,
    "MAX_IMAGENS": 20,
    "SEMENTE": 0,
    "THREADS": 1,
}
TEXTOS = ("DATASET", "DATA_DIR", "ARQUIVO_ZIP", "MODELOS", "BACKBONE", "FOTOS_FORA")
PODEM_SER_NONE = ("DATA_DIR", "ARQUIVO_ZIP", "FOTOS_FORA", "MAX_IMAGENS")


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
    if nome in MINIMOS:
        if type(valor) is int and valor >= 2**32:
            return f"precisa ser menor que {2**32}"
        serve = type(valor) is int and valor >= MINIMOS[nome]
        return None if serve else f"precisa ser um número inteiro, de {MINIMOS[nome]} para cima"
    if nome == "EXPORTAR":  # para o Python, qualquer texto vale True, até "não"
        return None if type(valor) is bool else "precisa ser True ou False, sem aspas"
    if nome == "MOTOR":
        return None if valor in MOTORES else f"use um destes: {', '.join(MOTORES)}"
    if nome in TEXTOS:
        serve = isinstance(valor, str | os.PathLike) and str(valor).strip()
        return None if serve else "precisa ser um texto, entre aspas"
    return None


def carrega_tensorflow() -> None:
    """Carrega o TensorFlow e o Keras 3 sem avisos internos; um Ctrl-C não os corta ao meio."""
    if "tensorflow" in sys.modules and "keras" in sys.modules:
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ.update(KERAS_BACKEND="tensorflow", TF_USE_LEGACY_KERAS="0")
    try:
        with _sem_interrupcao(), _sem_stderr():
            importlib.import_module("tensorflow")
            importlib.import_module("keras")
    except ModuleNotFoundError as erro:
        raise falta_pacote(erro) from erro


def falta_pacote(erro: ModuleNotFoundError) -> ErroClaro:
    """A frase que diz qual pacote falta e como instalá-lo."""
    return ErroClaro(
        f"falta o pacote {erro.name}. No terminal: python -m pip install -r requirements.txt"
    )


@contextlib.contextmanager
def _sem_interrupcao() -> Iterator[None]:
    """Adia o Ctrl-C até o fim: o Python não sabe retomar um import interrompido."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pedidos = []
    antes = signal.signal(signal.SIGINT, lambda *_: pedidos.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, antes)
    if pedidos:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _sem_stderr() -> Iterator[None]:
    """Cala o TensorFlow: nenhuma variável de ambiente cala o que ele diz ao carregar."""
    tela = os.dup(2)
    with open(os.devnull, "w") as nada:
        os.dup2(nada.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(tela, 2)
        os.close(tela)


def prepara(semente: int) -> None:
    """Deixa as bibliotecas como elas vêm e fixa o acaso: mesma máquina, mesmos números.

    Um keras.json ou um matplotlibrc feitos para outro projeto não mudam nada aqui.
    semente: de 0 a 2³² − 1. Levanta ErroClaro se o Keras já foi carregado sobre outro backend.
    """
    carrega_tensorflow()
    import keras
    import matplotlib
    import tensorflow as tf
    import threadpoolctl

    if keras.config.backend() != "tensorflow":
        raise ErroClaro(
            f"o Keras está usando o {keras.config.backend()}. Reinicie o kernel e rode de novo."
        )
    keras.backend.clear_session()
    keras.config.set_dtype_policy("float32")
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    keras.utils.set_random_seed(semente)
    tf.config.experimental.enable_op_determinism()
    tf.get_logger().setLevel("ERROR")
    matplotlib.rcdefaults()
    threadpoolctl.threadpool_limits(
        1, "blas"
    )  # nas contas pequenas do scikit-learn, duas se esperam
