"""Arquivos inteiros ou nenhum, e arrays guardados sob um nome que diz de que dependem.

O que se guarda de uma sessão para outra se chama `<o que é>-<digest>.npz`, e `numpy.load` o abre.
O digest resume tudo de que ele depende; mudou algo, muda o nome, e o velho nunca é lido por engano.
Dentro vai o mesmo digest, e um arquivo renomeado é percebido; o CRC-32 do zip acusa um danificado.
"""

import contextlib
import errno
import functools
import hashlib
import inspect
import io
import json
import os
import pathlib
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import BinaryIO

import numpy as np

from detector.ambiente import no_disco

if os.name == "nt":
    import msvcrt
else:
    import fcntl

SIMPLES = bool | int | float | str
# Do zipfile e do NumPy, diante de um arquivo que não é o que foi gravado.
ESTRAGOS = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def digesto(*partes) -> str:
    """Resume valores em 12 letras: textos, números, None, listas, dicts e arrays do NumPy."""
    texto = json.dumps(partes, sort_keys=True, default=_para_json)
    return hashlib.sha256(texto.encode()).hexdigest()[:12]


def _para_json(valor):
    if isinstance(valor, np.ndarray):
        conteudo = hashlib.sha256(np.ascontiguousarray(valor)).hexdigest()
        return [valor.dtype.str, valor.shape, conteudo]
    return str(valor)


def fontes(*modulos: ModuleType) -> list[str]:
    """SHA-256 do código de cada módulo: quem muda a conta não recebe o resultado da anterior."""
    return [_fonte(modulo) for modulo in modulos]


def de_fora(funcao: Callable) -> dict[str, object]:
    """As constantes que a função usa e não são dela: as que a cercam e as do módulo ou notebook."""
    try:
        nomes = inspect.getclosurevars(funcao)
    except TypeError:  # um functools.partial, um objeto
        return {}
    todas = nomes.globals | dict(nomes.nonlocals)
    return {k: v for k, v in todas.items() if isinstance(v, SIMPLES)}


@functools.cache  # quem edita o módulo com o kernel aberto continua rodando o código de antes
def _fonte(modulo: ModuleType) -> str:
    return hashlib.sha256(inspect.getsource(modulo).encode()).hexdigest()


def codigo_do_pacote() -> dict[str, str]:
    """O código de cada sala: o que uma medida gravada diz ter sido feito com ele."""
    salas = sorted(pathlib.Path(__file__).parent.glob("*.py"))
    return {sala.stem: sala.read_text(encoding="utf-8") for sala in salas}


def grava(arquivo: pathlib.Path, conteudo: bytes, ou: str = "mude MODELOS") -> None:
    """Grava o arquivo inteiro, ou deixa o que havia. Levanta ErroClaro se não puder."""
    temporario = arquivo.with_name(f".incompleto-{os.getpid()}-{arquivo.name}")
    try:
        with no_disco("gravar", arquivo, ou):
            arquivo.parent.mkdir(parents=True, exist_ok=True)
            with open(temporario, "wb") as f:
                f.write(conteudo)
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporario, arquivo)
    finally:
        with contextlib.suppress(OSError):
            temporario.unlink()


@contextlib.contextmanager
def trava(arquivo: pathlib.Path, ao_esperar: str) -> Iterator[None]:
    """Uma execução de cada vez no bloco; mostra `ao_esperar` se outra, viva, está nele.

    Quem trava é o sistema, e a trava some com o processo: um arquivo velho não prende ninguém. Num
    disco que não sabe travar, como alguns de rede, segue sem ela. Levanta o OSError de quem não
    consegue abrir `arquivo`.
    """
    arquivo.parent.mkdir(parents=True, exist_ok=True)
    with open(arquivo, "ab") as aberto:
        while _e_de_outra(aberto):
            if ao_esperar:
                print(ao_esperar)
                ao_esperar = ""
            time.sleep(0.05)
        yield


def _e_de_outra(aberto: BinaryIO) -> bool:
    """Tenta travar o arquivo; True se outra execução o tem."""
    try:
        if os.name == "nt":
            msvcrt.locking(aberto.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(aberto, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as erro:
        return erro.errno in (errno.EAGAIN, errno.EACCES)  # os outros: o disco não sabe travar
    return False


def guarda_arrays(arquivo: pathlib.Path, digest: str, **arrays: np.ndarray) -> None:
    """Grava os arrays com o digest daquilo de que dependem. Levanta ErroClaro se não puder."""
    memoria = io.BytesIO()
    np.savez(memoria, digest=digest, nomes=sorted(arrays), **arrays)
    grava(arquivo, memoria.getvalue())


def abre_arrays(arquivo: pathlib.Path, digest: str) -> dict[str, np.ndarray]:
    """Os arrays de `guarda_arrays`. Levanta ValueError se estão danificados ou são de outro digest.

    Se o arquivo não pôde ser aberto, levanta o OSError do sistema.
    """
    conteudo = io.BytesIO(arquivo.read_bytes())
    try:
        with zipfile.ZipFile(conteudo) as npz:
            ruim = npz.testzip()  # lê cada array até o fim e confere o CRC-32
        conteudo.seek(0)
        with np.load(conteudo, allow_pickle=False) as lido:
            arrays = dict(lido)
    except ESTRAGOS as erro:
        raise ValueError("está danificado") from erro
    if ruim:
        raise ValueError(f"está danificado: {ruim} não é o que foi gravado")
    nomes = arrays.pop("nomes", None)  # o CRC-32 não acusa um array que sumiu da lista do zip
    if str(arrays.pop("digest", None)) != digest or nomes is None or sorted(arrays) != [*nomes]:
        raise ValueError("pertence a outra configuração")
    return arrays


def le_arrays(arquivo: pathlib.Path, digest: str) -> dict[str, np.ndarray] | None:
    """O mesmo, para o que se pode refazer: None se o arquivo falta ou, e isto é dito, não serve."""
    try:
        return abre_arrays(arquivo, digest)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as erro:
        print(f"{arquivo.name} não serve ({erro}) e será refeito.")
        return None
