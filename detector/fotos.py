"""Abrir uma foto, venha de onde vier, sem confiar no que está dentro do arquivo."""

import io
import os
import pathlib
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pillow_heif

from detector.ambiente import ErroClaro, motivo

LADO_MAXIMO = 512  # pixels; as fotos do dataset têm até 500, e as grandes ficam como elas
LIMITE_PIXELS = 100_000_000  # acima disso, é mais provável um arquivo feito para esgotar a memória
MAXIMOS = {"uint8": 255, "uint16": 65535, "float16": 1, "float32": 1, "float64": 1}

pillow_heif.register_heif_opener()  # as fotos do iPhone
PIL.Image.init()
# Só estes: o PIL abre também o EPS, que chama outro programa, e formatos raros e pouco revistos.
LIDOS = "JPEG, PNG, GIF, WEBP, BMP, TIFF, HEIF, AVIF"  # MPO, dos celulares, abre como JPEG
FORMATOS = [f for f in LIDOS.split(", ") if f in PIL.Image.OPEN]  # AVIF: Pillow 11.3 em diante


def abre_foto(foto: Any, nome: str = "a foto") -> np.ndarray:
    """Abre uma foto de qualquer origem: uint8 (altura, largura, 3), RGB, lados de até 512 pixels.

    foto: caminho, bytes, arquivo binário aberto, imagem do PIL, ou array (altura, largura) ou
    (altura, largura, canais), uint8 em 0–255, uint16 em 0–65535 ou float em [0, 1].
    nome: como chamá-la na mensagem de erro, se não vem de um caminho.
    Ela sai em pé (EXIF), com branco no lugar do transparente e sem mudar de proporção; de uma
    animação, sai o primeiro quadro. Levanta ErroClaro se não é uma foto ou não pôde ser lida.
    """
    if isinstance(foto, str | os.PathLike):
        try:
            with open(_existente(foto), "rb") as arquivo:
                return abre_foto(arquivo, pathlib.Path(foto).name)
        except OSError as erro:
            raise ErroClaro(f"{foto} não pôde ser lido ({motivo(erro)}).") from erro
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # o que o PIL avisa, em inglês, não muda a foto
            imagem = _imagem(foto, nome)
            if imagem.width * imagem.height > LIMITE_PIXELS:
                raise PIL.Image.DecompressionBombError
            if imagem is not foto:  # um JPEG grande já sai reduzido do decodificador, com folga
                reducao = min(1, 1.5 * LADO_MAXIMO / max(imagem.size))
                imagem.draft(None, tuple(max(1, int(lado * reducao)) for lado in imagem.size))
            return np.asarray(_rgb_reduzida(imagem))
    except ErroClaro:
        raise
    except PIL.Image.DecompressionBombError as erro:
        raise ErroClaro(f"{nome} tem mais de 100 milhões de pixels; reduza-a antes.") from erro
    except PIL.UnidentifiedImageError as erro:
        raise ErroClaro(f"{nome} não é uma foto ({LIDOS}), ou está danificada.") from erro
    except Exception as erro:  # cada formato falha à sua maneira: OSError, SyntaxError, ValueError…
        raise ErroClaro(f"{nome} está danificada ou incompleta; use outra cópia dela.") from erro


def caminhos(entradas: Iterable[str | os.PathLike]) -> list[pathlib.Path]:
    """Os arquivos dados e os visíveis das pastas e subpastas dadas; ErroClaro se falta algum."""
    arquivos = []
    for entrada in entradas:
        pasta = pathlib.Path(os.path.expanduser(entrada))
        if not os.path.isdir(pasta):
            arquivos.append(_existente(entrada))
            continue
        for caminho in sorted(pasta.rglob("*")):
            partes = caminho.relative_to(pasta).parts
            if os.path.isfile(caminho) and not any(p.startswith((".", "__")) for p in partes):
                arquivos.append(caminho)
    if not arquivos:
        raise ErroClaro("não há nenhum arquivo aí; indique fotos, ou uma pasta com fotos.")
    return list(dict.fromkeys(arquivos))


def _existente(foto: str | os.PathLike) -> pathlib.Path:
    """O caminho, com o ~ resolvido; ErroClaro se não há um arquivo nele."""
    caminho = pathlib.Path(os.path.expanduser(foto))
    if not os.path.isfile(caminho):
        falta = "é uma pasta" if os.path.isdir(caminho) else "não existe"
        raise ErroClaro(f"{str(foto) or 'o caminho vazio'} {falta}; indique uma foto.")
    return caminho


def _imagem(foto: Any, nome: str) -> PIL.Image.Image:
    """A imagem do PIL, ainda não decodificada se vem de um arquivo."""
    if isinstance(foto, PIL.Image.Image):
        return foto
    if hasattr(foto, "__array__"):
        return _do_array(np.asarray(foto), nome)
    if isinstance(foto, bytes | bytearray | memoryview):
        foto = io.BytesIO(foto)
    if not hasattr(foto, "read") or isinstance(foto, io.TextIOBase):
        aceitos = "um caminho, bytes, um arquivo binário aberto, uma imagem do PIL ou um array"
        raise ErroClaro(f"{nome} é {type(foto).__name__}; o que sei abrir é {aceitos}.")
    return PIL.Image.open(foto, formats=FORMATOS)


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
    imagem = PIL.ImageOps.exif_transpose(imagem)
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
