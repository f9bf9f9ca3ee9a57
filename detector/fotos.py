"""Abrir uma foto, venha de onde vier, sem confiar no que está dentro do arquivo."""

import contextlib
import io
import os
import pathlib
import stat
import struct
import warnings
from typing import Any, BinaryIO

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageFile
import PIL.JpegImagePlugin
import pillow_heif
from PIL import ImageChops

import detector.pastas as pastas  # `from detector import` carregaria o TensorFlow
from detector.ambiente import ErroClaro, caminho, motivo

LADO_MAXIMO = 512  # pixels; as fotos do dataset têm até 500, e as grandes ficam como elas
LIMITE_PIXELS = 100_000_000  # acima disso, é mais provável um arquivo feito para esgotar a memória
LIMITE_REDUZIDA = 300_000_000  # de um JPEG que se decodifica reduzido, sem nunca estar inteiro
LIMITE_BYTES = 500_000_000
MAXIMOS = {"uint8": 255, "uint16": 65535, "float16": 1, "float32": 1, "float64": 1}
# O que põe em pé a foto de cada orientação do EXIF, da 2 à 8.
GIROS = "FLIP_LEFT_RIGHT ROTATE_180 FLIP_TOP_BOTTOM TRANSPOSE ROTATE_270 TRANSVERSE ROTATE_90"
GIROS = {i: PIL.Image.Transpose[giro] for i, giro in enumerate(GIROS.split(), 2)}

pillow_heif.register_heif_opener()  # as fotos do iPhone
PIL.Image.init()
# Só estes: o PIL abre também o EPS, que chama outro programa, e formatos raros e pouco revistos.
LIDOS = "JPEG, PNG, GIF, WEBP, BMP, TIFF, HEIF, AVIF"  # MPO, dos celulares, abre como JPEG
FORMATOS = [f for f in LIDOS.split(", ") if f in PIL.Image.OPEN]  # AVIF: Pillow 11.3 em diante
EXTENSOES = {fim for fim, f in PIL.Image.registered_extensions().items() if f in FORMATOS}


class FotoIncompleta(ErroClaro):
    """Falta o fim do arquivo, mas a maior parte da foto se vê; ela está no atributo `foto`."""


def abre_foto(foto: Any, nome: str = "a foto") -> np.ndarray:
    """Abre uma foto de qualquer origem: uint8 (altura, largura, 3), RGB, lados de até 512 pixels.

    foto: caminho, bytes, arquivo binário aberto, imagem do PIL, ou array (altura, largura) ou
    (altura, largura, canais), uint8 em 0–255, uint16 em 0–65535 ou float em [0, 1].
    nome: como chamá-la na mensagem de erro, se não vem de um caminho.
    Ela sai em pé (EXIF), com branco no lugar do transparente e sem mudar de proporção; de uma
    animação, sai o primeiro quadro. Levanta ErroClaro se não é uma foto ou não pôde ser lida; é
    uma FotoIncompleta se falta menos da metade dela.
    """
    if isinstance(foto, str | os.PathLike):
        with abre_arquivo(foto) as arquivo:
            return abre_foto(arquivo, pastas.legivel(pathlib.Path(foto).name))
    if isinstance(foto, bytes | bytearray | memoryview):
        foto = io.BytesIO(foto)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # o que o PIL avisa, em inglês, não muda a foto
            imagem, falta = _decodifica(foto, nome)
            pronta = np.asarray(_rgb_reduzida(imagem))
    except ErroClaro:
        raise
    except PIL.Image.DecompressionBombError as erro:
        raise ErroClaro(f"{nome} tem mais de 100 milhões de pixels; reduza-a antes.") from erro
    except PIL.UnidentifiedImageError as erro:
        raise ErroClaro(f"{nome} não é uma foto ({LIDOS}), ou está danificada.") from erro
    except Exception as erro:  # cada formato falha à sua maneira: OSError, SyntaxError, ValueError…
        memoria = "falta memória" if isinstance(erro, MemoryError) else None
        if causa := memoria or getattr(erro, "strerror", None):  # falhou o computador, não a foto
            raise ErroClaro(f"{nome} não pôde ser lida ({causa}).") from erro
        raise ErroClaro(f"{nome} está danificada ou incompleta; use outra cópia dela.") from erro
    if falta:
        erro = FotoIncompleta(f"{nome} está incompleta: falta o fim do arquivo; use outra cópia.")
        erro.foto = pronta
        raise erro
    return pronta


def abre_arquivo(dito: str | os.PathLike, nome: str = "") -> BinaryIO:
    """Levanta ErroClaro se não existe, não pode ser lido ou não tem o tamanho de uma foto.

    nome: como chamá-lo na mensagem de erro, se não pelo caminho.
    """
    alvo = caminho(dito)
    try:
        dados = os.stat(alvo)
        if stat.S_ISDIR(dados.st_mode):
            falta = "é uma pasta"
        elif not stat.S_ISREG(dados.st_mode):
            falta = "não é um arquivo comum"
        elif dados.st_size > LIMITE_BYTES:
            falta = "é grande demais para uma foto"
        else:
            return open(alvo, "rb")
    except (FileNotFoundError, NotADirectoryError, ValueError):
        falta = "não existe"
    except OSError as erro:
        falta = f"não pôde ser lido ({motivo(erro)})"
    raise ErroClaro(
        f"{nome or pastas.legivel(dito) or 'o caminho vazio'} {falta}; indique uma foto."
    )


def _decodifica(foto: Any, nome: str) -> tuple[PIL.Image.Image, bool]:
    """A imagem do PIL, já decodificada, e se falta o fim dela; um JPEG grande sai reduzido."""
    if isinstance(foto, PIL.Image.Image):
        return foto, False
    if hasattr(foto, "__array__"):
        return _do_array(np.asarray(foto), nome), False
    if not hasattr(foto, "read") or isinstance(foto, io.TextIOBase):
        aceitos = "um caminho, bytes, um arquivo binário aberto, uma imagem do PIL ou um array"
        raise ErroClaro(f"{nome} é {type(foto).__name__}; o que sei abrir é {aceitos}.")
    foto.seek(0)
    inicio = foto.read(4)
    if not inicio:
        raise ErroClaro(f"{nome} está vazia; use outra cópia dela.")
    if inicio == b"PK\3\4":
        raise ErroClaro(f"{nome} é um zip; descompacte-o e indique a pasta.")
    if inicio.startswith(b"\xff\xd8\xff"):
        return _jpeg(foto)
    PIL.ImageFile.LOAD_TRUNCATED_IMAGES = True  # no cabeçalho: um texto ruim não a estraga
    try:
        imagem = PIL.Image.open(foto, formats=FORMATOS)
    finally:
        PIL.ImageFile.LOAD_TRUNCATED_IMAGES = False
    return _carrega(imagem), False


def _jpeg(foto: BinaryIO) -> tuple[PIL.Image.Image, bool]:
    """O mesmo, de um JPEG; levanta o erro do PIL se falta a metade dele."""
    try:
        return _inteiro(foto), False
    except OSError:
        # O decodificador inventa o que falta. Se o que se põe no fim não muda nada, nada falta.
        foto.seek(0)
        cortado = foto.read()
        um = _inteiro(io.BytesIO(cortado + b"\xff\xd9"))
        outro = _inteiro(io.BytesIO(cortado + bytes(range(255)) + b"\xff\xd9"))
        # De um JPEG em camadas pode faltar só o detalhe: vale o que muda na média de 8×8 pixels.
        muda = np.asarray(ImageChops.difference(um.reduce(8), outro.reduce(8))) > 8
        if muda[: len(muda) // 2].any():
            raise
        return um, um != outro


def _inteiro(foto: BinaryIO) -> PIL.Image.Image:
    foto.seek(0)
    imagem = PIL.JpegImagePlugin.JpegImageFile(foto)  # o PIL.Image.open recusa 200 megapixels
    return _carrega(imagem)


def _carrega(imagem: PIL.Image.Image) -> PIL.Image.Image:
    em_camadas = "progressive" in imagem.info  # este JPEG fica inteiro na memória
    reduz = imagem.format == "JPEG" and not em_camadas
    if imagem.width * imagem.height > (LIMITE_REDUZIDA if reduz else LIMITE_PIXELS):
        raise PIL.Image.DecompressionBombError
    reducao = min(1, 1.5 * LADO_MAXIMO / max(imagem.size))  # com folga; só o JPEG obedece
    imagem.draft(None, tuple(max(1, int(lado * reducao)) for lado in imagem.size))
    imagem.load()
    return imagem


def _do_array(foto: np.ndarray, nome: str) -> PIL.Image.Image:
    """A imagem do PIL de um array; ErroClaro se a forma ou os valores não são de uma foto."""
    if foto.ndim not in (2, 3) or 0 in foto.shape or foto.shape[2:] not in ((), (1,), (3,), (4,)):
        raise ErroClaro(f"{nome} tem a forma {foto.shape}; use (altura, largura, 3).")
    maximo = MAXIMOS.get(foto.dtype.name, -1)
    if maximo < 0 or not (foto.min() >= 0 and foto.max() <= maximo):  # assim, NaN não passa
        faixa = f" de {foto.min()} a {foto.max()}" if foto.dtype.kind in "iuf" else ""
        certo = "uint8 em 0–255, uint16 em 0–65535 ou float em [0, 1]"
        raise ErroClaro(f"{nome} é {foto.dtype.name}{faixa}; use {certo}.")
    if maximo != 255:
        foto = np.rint(foto.astype("float32") * np.float32(255 / maximo)).astype("uint8")
    return PIL.Image.fromarray(foto[..., 0] if foto.shape[2:] == (1,) else foto)


def _rgb_reduzida(imagem: PIL.Image.Image) -> PIL.Image.Image:
    """A foto RGB, em pé e reduzida, de uma imagem em qualquer modo do PIL."""
    # Sem EXIF, sem orientação ou com um EXIF estragado, a foto fica como está.
    with contextlib.suppress(KeyError, SyntaxError, struct.error):
        imagem = imagem.transpose(GIROS[imagem.getexif()[PIL.ExifTags.Base.Orientation]])
    if imagem.mode.startswith(("I", "F")):  # um canal só, de 16 ou 32 bits
        valores = np.clip(np.nan_to_num(np.asarray(imagem, "float32")), 0, 65535)
        teto = min(t for t in (1, 255, 65535) if valores.max() <= t)
        imagem = PIL.Image.fromarray(np.rint(valores * (255 / teto)).astype("uint8"))
    if imagem.has_transparency_data:
        branco = PIL.Image.new("RGBA", imagem.size, "white")
        imagem = PIL.Image.alpha_composite(branco, imagem.convert("RGBA"))
    imagem = imagem.convert("RGB")
    imagem.thumbnail((LADO_MAXIMO, LADO_MAXIMO), PIL.Image.Resampling.LANCZOS, reducing_gap=3)
    return imagem
