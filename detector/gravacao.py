"""Arquivos inteiros ou nenhum, e resultados guardados sob um nome que diz de que dependem.

Um resultado guardado se chama `<o que é>-<digest>.dados`. O digest resume tudo de que ele depende;
mudou algo, muda o nome, e o velho nunca é lido por engano. Dentro do arquivo vão o mesmo digest
(um arquivo renomeado é percebido) e o SHA-256 do conteúdo (um arquivo danificado também).
"""

import atexit
import contextlib
import errno
import functools
import hashlib
import importlib
import inspect
import io
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from types import ModuleType

import filelock
import numpy as np

from detector.erros import ErroClaro, motivo

SEM_ESPACO = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
MODELO, DO_CLASSIFICADOR = "detector_dogs_cats.keras", "classificador.dados"
EXPORTADOS = {"detector_dogs_cats.tflite", "detector_dogs_cats.onnx"}
ESPERA = 60  # segundos que uma execução espera por outra que está publicando
TAMANHO_SHA256 = 64  # letras do SHA-256 que vão na frente do npz


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


@functools.cache  # quem edita o módulo com o kernel aberto continua rodando o código de antes
def _fonte(modulo: ModuleType) -> str:
    return hashlib.sha256(inspect.getsource(modulo).encode()).hexdigest()


def grava(arquivo: pathlib.Path, conteudo: bytes) -> None:
    """Grava o arquivo inteiro, ou deixa o que havia. Levanta ErroClaro se não puder."""
    temporario = arquivo.with_name(f".incompleto-{os.getpid()}-{arquivo.name}")
    try:
        arquivo.parent.mkdir(parents=True, exist_ok=True)
        with open(temporario, "wb") as f:
            f.write(conteudo)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporario, arquivo)
    except OSError as erro:
        raise ErroClaro(
            f"não consegui gravar {arquivo} ({motivo(erro)}). Libere espaço, acerte a permissão ou "
            "mude MODELOS, e rode de novo: o que já estava gravado continua valendo."
        ) from erro
    finally:
        with contextlib.suppress(OSError):
            temporario.unlink()


def guarda_arrays(arquivo: pathlib.Path, digest: str, **arrays: np.ndarray) -> None:
    """Grava os arrays com o digest daquilo de que dependem. Levanta ErroClaro se não puder."""
    memoria = io.BytesIO()
    np.savez(memoria, digest=digest, **arrays)
    npz = memoria.getvalue()
    grava(arquivo, hashlib.sha256(npz).hexdigest().encode() + npz)


def abre_arrays(arquivo: pathlib.Path, digest: str) -> dict[str, np.ndarray]:
    """Os arrays de `guarda_arrays`. Levanta ValueError se estão danificados ou são de outro digest.

    Se o arquivo não pôde ser aberto, levanta o OSError do sistema.
    """
    conteudo = arquivo.read_bytes()
    npz = conteudo[TAMANHO_SHA256:]
    if hashlib.sha256(npz).hexdigest().encode() != conteudo[:TAMANHO_SHA256]:
        raise ValueError("está danificado: o SHA-256 não é o que foi gravado")
    with np.load(io.BytesIO(npz), allow_pickle=False) as lido:
        arrays = dict(lido)
    if str(arrays.pop("digest", None)) != digest:
        raise ValueError("pertence a outra configuração")
    return arrays


def le_arrays(arquivo: pathlib.Path, digest: str) -> dict[str, np.ndarray] | None:
    """O mesmo, para o que se pode refazer: None se o arquivo falta ou, e isto é dito, não serve.

    Um arquivo usado fica com a data de agora: é assim que `limpa` sabe o que ainda serve.
    """
    try:
        arrays = abre_arrays(arquivo, digest)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as erro:
        print(f"{arquivo.name} não serve ({erro}) e será refeito.")
        return None
    with contextlib.suppress(OSError):
        os.utime(arquivo)
    return arrays


def uma_vez(
    pasta: pathlib.Path, nome: str, depende_de: list, calcula: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """O que `calcula()` devolve (arrays por nome); da segunda vez em diante, lido de `pasta`.

    depende_de: tudo o que muda o resultado, do que `digesto` aceita.
    """
    digest = digesto(nome, depende_de)
    arquivo = pasta / f"{nome}-{digest}.dados"
    arrays = le_arrays(arquivo, digest)
    if arrays is None:
        arrays = calcula()
        guarda_arrays(arquivo, digest, **arrays)
    return arrays


def abre_pasta(modelos: str | os.PathLike) -> pathlib.Path:
    """A pasta MODELOS, criada se não existia. Levanta ErroClaro se não se pode escrever nela.

    No Colab, se ela fica no Drive, liga o Drive antes: senão, a pasta sumiria com a sessão.
    """
    pasta = pathlib.Path(modelos).expanduser()
    if "google.colab" in sys.modules and pasta.is_relative_to("/content/drive"):
        importlib.import_module("google.colab.drive").mount("/content/drive")
    grava(pasta / ".pode-gravar", b"")
    return pasta


def acha_modelo(modelos: str | os.PathLike) -> tuple[pathlib.Path, pathlib.Path]:
    """O modelo e os dados do classificador que o notebook deixou; ErroClaro se falta um deles."""
    pasta = pathlib.Path(os.path.expanduser(modelos))
    for arquivo in (achados := (pasta / MODELO, pasta / DO_CLASSIFICADOR)):
        if not arquivo.is_file():
            raise ErroClaro(f"{arquivo} não existe; rode antes o `make`, ou o notebook inteiro.")
    return achados


def rascunho() -> pathlib.Path:
    """Pasta temporária do que só vai para MODELOS pronto e junto; some quando o Python acaba.

    No Jupyter, um disco que enche no meio de uma célula passa a ser dito numa frase.
    """
    if kernel := "IPython" in sys.modules and sys.modules["IPython"].get_ipython():
        kernel.set_custom_exc((OSError,), _disco_cheio)
    pasta = tempfile.mkdtemp(prefix="detector-")
    atexit.register(shutil.rmtree, pasta, ignore_errors=True)
    return pathlib.Path(pasta)


def _disco_cheio(kernel, tipo, erro, pilha, tb_offset=None) -> None:
    """Mostra o OSError como o IPython mostraria, a não ser que seja falta de espaço."""
    if erro.errno in SEM_ESPACO:
        onde = erro.filename or tempfile.gettempdir()
        erro = ErroClaro(
            f"não consegui gravar em {onde} ({motivo(erro)}). Libere espaço e rode esta célula de "
            "novo: o que já estava gravado continua valendo."
        )
    kernel.showtraceback((type(erro), erro, pilha), tb_offset)


def publica(rascunho: pathlib.Path, pasta: pathlib.Path) -> None:
    """Copia `rascunho` para `pasta` de uma vez só: uma execução não se mistura a outra.

    Um LiteRT ou um ONNX que esta execução não gerou é de outro modelo, e sai. Levanta ErroClaro
    se outra execução passa um minuto publicando, ou se não pode gravar.
    """
    arquivos = sorted(a for a in rascunho.rglob("*") if a.is_file())
    arquivos.sort(key=lambda a: a.name == "metricas.json")  # as métricas, só com tudo no lugar
    try:
        with filelock.FileLock(pasta / ".trava", timeout=ESPERA):
            for exportado in EXPORTADOS - {arquivo.name for arquivo in arquivos}:
                (pasta / exportado).unlink(missing_ok=True)
            for arquivo in arquivos:
                grava(pasta / arquivo.relative_to(rascunho), arquivo.read_bytes())
    except filelock.Timeout as erro:
        raise ErroClaro(
            f"outra execução está gravando em {pasta} há um minuto. Rode esta célula de novo."
        ) from erro
    except OSError as erro:
        raise ErroClaro(f"não consigo escrever em {pasta} ({motivo(erro)}).") from erro


def limpa(pasta: pathlib.Path) -> tuple[int, int]:
    """Apaga de `pasta` os resultados guardados que a última execução completa não usou.

    Devolve quantos arquivos e quantos bytes saíram. Levanta ErroClaro se nenhuma execução terminou.
    """
    try:
        inicio = json.loads((pasta / "metricas.json").read_text(encoding="utf-8"))["inicio"] + 0.0
    except (OSError, ValueError, KeyError, TypeError) as erro:
        raise ErroClaro(
            f"em {pasta} não há uma execução completa; rode o notebook antes de limpar."
        ) from erro
    sobras = [a for a in pasta.glob("*.dados") if a.stat().st_mtime < inicio]
    sobras += [a for a in pasta.glob(".incompleto-*") if a.stat().st_mtime < time.time() - 3600]
    tamanho = sum(a.stat().st_size for a in sobras)
    for arquivo in sobras:
        arquivo.unlink()
    return len(sobras), tamanho
