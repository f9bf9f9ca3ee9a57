"""O que precisa estar certo na máquina antes da primeira conta, e a frase do que não está."""

from __future__ import annotations  # para dizer ao Python 3.9 que ele não serve

import contextlib
import ctypes
import errno
import importlib
import importlib.util
import os
import pathlib
import platform
import re
import signal
import sys
import threading
import unicodedata
from collections.abc import Iterator
from types import ModuleType
from urllib.parse import urlsplit

CONSELHOS = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "Libere espaço")
CONSELHOS |= dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Acerte a permissão")
NO_PIP = {"PIL": "pillow", "sklearn": "scikit-learn"}  # os outros têm o nome com que se importam
BIBLIOTECAS = ("tensorflow", "tensorflow_datasets", "keras", "numpy", "pandas", "matplotlib")
BIBLIOTECAS += ("scipy", "openvino", "tqdm", "requests", *NO_PIP)
CPUINFO = pathlib.Path("/proc/cpuinfo")


class ErroClaro(Exception):
    """Erro que a pessoa pode resolver: uma frase diz o que houve e o que fazer."""

    def _render_traceback_(self) -> list[str]:
        """O que o IPython mostra no lugar da pilha de chamadas."""
        return [f"ERRO: {self}"]


def motivo(erro: OSError) -> str:
    """O que aconteceu com o disco ou com a rede, nas palavras do sistema."""
    return erro.strerror or str(erro) or type(erro).__name__


@contextlib.contextmanager
def no_disco(fazer: str, onde: str | os.PathLike, ou: str) -> Iterator[None]:
    """Um OSError no bloco vira "não consegui {fazer} {onde} (a causa). Conselho ou {ou}…"."""
    try:
        yield
    except OSError as erro:
        conselho = CONSELHOS.get(erro.errno, "Confira o caminho")
        raise ErroClaro(
            f"não consegui {fazer} {onde} ({motivo(erro)}). {conselho} ou {ou}, e rode de novo: o "
            "que já estava gravado continua valendo."
        ) from erro


def caminho(dito: str | os.PathLike) -> pathlib.Path:
    """O caminho que a pessoa quis dizer: sem aspas nem file://, e com os acentos como no disco."""
    limpo = os.fspath(dito).strip(" \n\"'“”‘’")
    if limpo.startswith("file:"):
        from urllib.request import url2pathname  # só aqui: demora a carregar

        limpo = url2pathname(urlsplit(limpo).path)
    formas = [unicodedata.normalize(forma, limpo) for forma in ("NFC", "NFD")]  # o macOS decompõe
    for possivel in (dito, limpo, *formas):
        onde = os.path.expanduser(possivel)
        if os.path.lexists(onde):
            return pathlib.Path(onde)
    return pathlib.Path(os.path.expanduser(limpo))


def confere_python() -> None:
    """Levanta ErroClaro se não há TensorFlow para este Python."""
    bits = 64 if sys.maxsize > 2**32 else 32
    if bits == 32 or not (3, 10) <= sys.version_info[:2] <= (3, 13):
        este = f"{platform.python_version()}, de {bits}"
        raise ErroClaro(f"é preciso Python de 3.10 a 3.13, de 64 bits, e este é o {este}.")


def confere_processador() -> set[str]:
    """As instruções que o processador diz ter, se o sistema as conta.

    Levanta ErroClaro se falta o AVX: sem ele, o TensorFlow mata o Python sem dizer por quê.
    """
    if sys.platform == "win32":
        tem = {"avx"} if ctypes.windll.kernel32.IsProcessorFeaturePresent(39) else {"sem avx"}
    else:
        dito = CPUINFO.read_text() if CPUINFO.is_file() else ""
        achado = re.search(r"^flags\s*:(.*)", dito, re.MULTILINE)
        tem = set(achado[1].split()) if achado else set()
    if tem and "avx" not in tem:
        raise ErroClaro(
            "o processador não tem AVX, ou a máquina virtual o esconde, e sem ele o TensorFlow não "
            "roda. Use outra máquina, ou o Colab."
        )
    return tem


def confere_vizinhos() -> None:
    """Levanta ErroClaro se um arquivo daqui seria carregado no lugar de uma biblioteca."""
    for biblioteca in BIBLIOTECAS:
        igual = pathlib.Path(f"{biblioteca}.py")
        if igual.is_file():
            raise ErroClaro(
                f"{igual.absolute()} tem o nome de uma biblioteca e seria carregado no lugar dela. "
                "Mude o nome dele e reinicie o kernel."
            )


def carrega_tensorflow() -> None:
    """Carrega o TensorFlow e o Keras 3 sem avisos internos; um Ctrl-C não os corta ao meio.

    Levanta ErroClaro, com a causa, se um deles não carrega.
    """
    if "tensorflow" in sys.modules and "keras" in sys.modules:
        return
    confere_processador()
    confere_vizinhos()
    os.environ.update(KERAS_BACKEND="tensorflow", TF_USE_LEGACY_KERAS="0", TF_CPP_MIN_LOG_LEVEL="3")
    with _sem_interrupcao(), sem_stderr():
        importa("tensorflow")
        importa("keras")


def importa(nome: str) -> ModuleType:
    """O módulo. Levanta ErroClaro, com a causa, se ele não carrega."""
    try:
        return importlib.import_module(nome)
    except Exception as erro:  # um pacote pela metade falha à sua maneira: a causa vai na frase
        raise nao_carrega(nome, erro) from erro


def nao_carrega(nome: str, erro: Exception) -> ErroClaro:
    """A frase que diz qual pacote falta, ou por que o que há não carrega, e como instalá-lo."""
    culpado = erro.name if isinstance(erro, ImportError) else None
    pacote = (culpado or nome).partition(".")[0]
    no_pip = NO_PIP.get(pacote, pacote)
    if isinstance(erro, ModuleNotFoundError) and importlib.util.find_spec(pacote) is None:
        if pacote == "tensorflow":
            confere_python()
        return ErroClaro(f"falta o pacote {pacote}. No terminal: python -m pip install {no_pip}")
    causas = re.findall(r"^\w*Error: .+", str(erro), re.MULTILINE)  # o TensorFlow mostra a pilha
    causa = causas[-1] if causas else f"{type(erro).__name__}: {erro}".partition("\n")[0]
    conselho = f"No terminal: python -m pip install --force-reinstall {no_pip}"
    if "DLL" in causa:
        conselho = "Instale o Microsoft Visual C++ Redistributable."
    elif pacote == "detector":
        conselho = "`python -m detector --confere` diz o que falta."
    return ErroClaro(f"o pacote {pacote} está instalado, mas não carrega ({causa}). {conselho}")


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
def sem_stderr() -> Iterator[None]:
    """Cala o que as bibliotecas escrevem no stderr sem passar pelo Python, como o TensorFlow."""
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
    keras, tf = importa("keras"), importa("tensorflow")
    usado = keras.config.backend()
    if usado != "tensorflow":
        raise ErroClaro(f"o Keras está usando o {usado}. Reinicie o kernel e rode de novo.")
    keras.backend.clear_session()
    keras.config.set_dtype_policy("float32")
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    keras.utils.set_random_seed(semente)
    tf.config.experimental.enable_op_determinism()
    tf.get_logger().setLevel("ERROR")
    importa("matplotlib").rcdefaults()
    importa("threadpoolctl").threadpool_limits(1, "blas")  # em contas pequenas, duas se esperam
