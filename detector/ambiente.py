"""O que precisa estar certo na máquina antes da primeira conta, e a frase do que não está."""

from __future__ import annotations  # para dizer ao Python 3.9 que ele não serve

import contextlib
import ctypes
import errno
import importlib
import importlib.util
import os
import pathlib
import re
import signal
import sys
import threading
import unicodedata
from collections.abc import Iterator, Mapping
from types import ModuleType
from urllib.parse import urlsplit

MOTORES = ("auto", "keras", "openvino")
MINIMOS = {"TAMANHO_LOTE": 1, "EPOCAS": 1, "EPOCAS_AJUSTE_FINO": 0}
MINIMOS |= {"MAX_IMAGENS": 20, "SEMENTE": 0, "THREADS": 1}
TEXTOS = ("DATASET", "DATA_DIR", "ARQUIVO_ZIP", "MODELOS", "BACKBONE", "FOTOS_FORA")
PODEM_SER_NONE = ("DATA_DIR", "ARQUIVO_ZIP", "FOTOS_FORA", "MAX_IMAGENS")
CONSELHOS = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "Libere espaço")
CONSELHOS |= dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Acerte a permissão")
NO_PIP = {"PIL": "pillow", "sklearn": "scikit-learn"}  # os outros têm o nome com que se importam
BIBLIOTECAS = ("tensorflow", "keras", "numpy", "pandas", "matplotlib", "scipy", "openvino", "tqdm")
BIBLIOTECAS += ("requests", "tensorflow_datasets", *NO_PIP)
EXPORTAM = ("tf2onnx", "onnx", "onnxruntime")
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
    texto = os.path.expanduser(dito)
    if os.path.lexists(texto):
        return pathlib.Path(texto)
    texto = texto.strip(" \n\"'“”‘’")
    if texto.startswith("file:"):
        from urllib.request import url2pathname  # só aqui: demora a carregar

        texto = url2pathname(urlsplit(texto).path)
    texto = os.path.expanduser(texto)
    formas = [unicodedata.normalize(forma, texto) for forma in ("NFC", "NFD")]  # o macOS decompõe
    return pathlib.Path(next(filter(os.path.lexists, formas), texto))


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
    if nome in MINIMOS and not (type(valor) is int and MINIMOS[nome] <= valor < 2**32):
        return f"precisa ser um número inteiro, de {MINIMOS[nome]} a {2**32 - 1}"
    if nome == "EXPORTAR" and type(valor) is not bool:  # qualquer texto vale True, até "não"
        return "precisa ser True ou False, sem aspas"
    if nome == "EXPORTAR" and valor and (faltam := [p for p in EXPORTAM if not _ha(p)]):
        return f"para exportar, instale antes: python -m pip install {' '.join(faltam)}"
    if nome == "MOTOR" and valor not in MOTORES:
        return f"use um destes: {', '.join(MOTORES)}"
    if nome in TEXTOS and not (isinstance(valor, str | os.PathLike) and str(valor).strip()):
        return "precisa ser um texto, entre aspas"
    if nome in TEXTOS and re.search(r"[\0-\x1f]", str(valor)):  # "C:\novo" tem uma quebra de linha
        return r'a barra invertida muda o caminho: ponha um r antes das aspas, como em r"C:\novo"'
    return None


def _ha(pacote: str) -> bool:
    return importlib.util.find_spec(pacote) is not None


def confere_python() -> None:
    """Levanta ErroClaro se não há TensorFlow para este Python."""
    este, bits = "{}.{}".format(*sys.version_info), 64 if sys.maxsize > 2**32 else 32
    if bits == 32 or este not in ("3.10", "3.11", "3.12", "3.13"):
        raise ErroClaro(
            f"é preciso Python de 3.10 a 3.13, de 64 bits, e este é o {este}, de {bits}."
        )


def confere_processador() -> set[str]:
    """As instruções que o processador diz ter, se o sistema as conta.

    Levanta ErroClaro se falta o AVX: sem ele, o TensorFlow mata o Python sem dizer por quê.
    """
    if sys.platform == "win32":
        tem = {"avx"} if ctypes.windll.kernel32.IsProcessorFeaturePresent(39) else {"sem avx"}
    else:
        linhas = CPUINFO.read_text() if CPUINFO.is_file() else ""
        tem = set(" ".join(re.findall(r"^flags\s*:(.*)", linhas, re.MULTILINE)[:1]).split())
    if tem and "avx" not in tem:
        raise ErroClaro(
            "o processador não tem AVX, ou a máquina virtual o esconde, e sem ele o TensorFlow não "
            "roda. Use outra máquina, ou o Colab."
        )
    return tem


def confere_vizinhos() -> None:
    """Levanta ErroClaro se um arquivo daqui seria carregado no lugar de uma biblioteca."""
    iguais = [os.path.abspath(f"{n}.py") for n in BIBLIOTECAS if os.path.isfile(f"{n}.py")]
    if iguais and {"", os.getcwd()} & {*sys.path}:
        raise ErroClaro(
            f"{iguais[0]} tem o nome de uma biblioteca e seria carregado no lugar dela. Mude o "
            "nome dele e reinicie o kernel."
        )


def carrega_tensorflow() -> None:
    """Carrega o TensorFlow e o Keras 3 sem avisos internos; um Ctrl-C não os corta ao meio.

    Levanta ErroClaro, com a causa, se um deles não carrega.
    """
    if "tensorflow" in sys.modules and "keras" in sys.modules:
        return
    confere_processador()
    confere_vizinhos()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ.update(KERAS_BACKEND="tensorflow", TF_USE_LEGACY_KERAS="0")
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
    pacote = (erro.name if isinstance(erro, ImportError) else "") or nome
    pacote = pacote.partition(".")[0]
    no_pip = NO_PIP.get(pacote, pacote)
    if isinstance(erro, ModuleNotFoundError) and importlib.util.find_spec(pacote) is None:
        if pacote == "tensorflow":
            confere_python()
        return ErroClaro(f"falta o pacote {pacote}. No terminal: python -m pip install {no_pip}")
    while "\n" in str(erro).strip() and erro.__context__:  # o TensorFlow conta a história inteira
        erro = erro.__context__
    causa = f"{type(erro).__name__}: {str(erro).strip().partition(chr(10))[0]}"
    conselho = f"No terminal: python -m pip install --force-reinstall {no_pip}"
    if pacote == "detector":
        conselho = "`python -m detector --confere` diz o que falta."
    if "DLL" in causa:
        conselho = "Instale o Microsoft Visual C++ Redistributable."
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
    importa("matplotlib").rcdefaults()
    # Nas contas pequenas do scikit-learn, duas threads se esperam.
    importa("threadpoolctl").threadpool_limits(1, "blas")
