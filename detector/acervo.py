"""As fotos de uma pasta ou de um zip, cada uma com a sua classe, sem nada ir para o disco."""

import collections
import contextlib
import functools
import io
import os
import pathlib
import posixpath
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from glob import glob
from typing import BinaryIO, NamedTuple

import PIL.Image

import detector.pastas as pastas  # `from detector import` carregaria o TensorFlow
from detector.ambiente import ErroClaro, caminho, no_disco
from detector.fotos import EXTENSOES, FORMATOS, abre_arquivo, abre_foto
from detector.pastas import quantos

MAX_BYTES = 50_000_000  # num zip; acima disto, é mais provável uma armadilha para a memória
NAO_SAO_FOTOS = "arquivo que não é foto", "arquivos que não são fotos"
EM_PORTUGUES = {"cat": ("gato", "gatos"), "dog": ("cachorro", "cachorros")}


class Foto(NamedTuple):
    """Um arquivo. abre: para ler, ou ErroClaro se não dá. sha256: de quem passou por ali."""

    nome: str
    abre: Callable[[], BinaryIO]
    classe: str = ""
    sha256: str | None = None


def da_pasta(pasta: pathlib.Path) -> list[Foto]:
    """O que há na pasta, menos o que é do sistema. Levanta ErroClaro se não pode ser lida."""
    return [
        Foto(pastas.legivel(nome), functools.partial(abre_arquivo, pasta / nome, "a foto"))
        for nome in pastas.visiveis(pasta)
    ]


@contextlib.contextmanager
def do_zip(arquivo: pathlib.Path) -> Iterator[list[Foto]]:
    """O que há no zip, menos o que é do sistema ou sairia da pasta; ErroClaro se não é um zip."""
    if not arquivo.exists():
        raise ErroClaro(f"{arquivo} não existe; verifique o caminho.")
    if arquivo.is_dir():
        raise ErroClaro(f"{arquivo} é uma pasta; o lugar dela é em DATASET.")
    try:
        with no_disco("ler", arquivo, "aponte para outro zip"):
            aberto = zipfile.ZipFile(arquivo)
    except (zipfile.BadZipFile, ValueError) as erro:
        with open(arquivo, "rb") as aberto:
            cortado = aberto.read(2) in (b"PK", b"")
        falta = "está vazio, incompleto ou danificado: use outra cópia dele"
        outro = (
            "não é um zip: aponte para a pasta das fotos (se ele as contém, descompacte-o antes)"
        )
        raise ErroClaro(f"{arquivo} {falta if cortado else outro}.") from erro
    with aberto:
        dentro = []
        for item in aberto.infolist():
            nome = posixpath.normpath(_nome(item).replace("\\", "/").lstrip("/"))
            if not item.is_dir() and not pastas.do_sistema(nome):
                dentro.append(Foto(nome, functools.partial(_tira, aberto, item)))
        yield dentro


def _nome(item: zipfile.ZipInfo) -> str:
    """O nome como foi escrito; sem a marca do UTF-8, o do macOS é UTF-8, e o do Windows, cp850."""
    try:
        cru = item.filename.encode("utf-8" if item.flag_bits & 0x800 else "cp437")
    except UnicodeEncodeError:  # um campo extra do zip já deu o nome certo
        return item.filename
    return pastas.legivel(cru, "cp850")


def _tira(aberto: zipfile.ZipFile, item: zipfile.ZipInfo) -> BinaryIO:
    if item.file_size > MAX_BYTES:
        raise ErroClaro("é grande demais para uma foto")
    if item.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ErroClaro("a compressão é incomum")  # bz2 e lzma descomprimem sem limite
    try:
        return io.BytesIO(aberto.read(item))
    except RuntimeError as erro:
        raise ErroClaro("tem senha") from erro
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as erro:
        raise ErroClaro("está danificada") from erro


def com_classe(todos: list[Foto], onde: pathlib.Path) -> list[Foto]:
    """As fotos que têm uma classe, com ela; diz o que entendeu e o que deixou de lado."""
    fotos = [foto for foto in todos if parece_foto(foto.nome, foto.abre)]
    if not fotos:
        zips = [foto.nome for foto in todos if foto.nome.lower().endswith(".zip")]
        faca = f"descompacte {onde.name} e aponte" if onde.is_file() else "aponte"
        um = "ele" if len(zips) == 1 else "um deles"
        dica = f"; há {', '.join(zips[:3])}: {faca} para {um}" if zips else ""
        raise ErroClaro(f"não há fotos em {onde}{dica}.")
    lidas = pastas.entende([foto.nome for foto in fotos], onde)
    sem_classe = [foto.nome for foto in fotos if foto.nome not in lidas]
    print(_o_que_li(list(lidas.values()), sem_classe, len(todos) - len(fotos), onde))
    return [foto._replace(classe=lidas[foto.nome].classe) for foto in fotos if foto.nome in lidas]


def _o_que_li(
    lidas: list[pastas.Lida], sem_classe: list[str], outros: int, onde: pathlib.Path
) -> str:
    """Como em "li train/: 12 gatos, 12 cachorros, pelo nome do arquivo"; e o que ficou de lado."""
    lugares = sorted({f"{lida.onde or onde.name}/" for lida in lidas})
    quantas = collections.Counter(lida.classe for lida in lidas)
    classes = [quantos(quantas[c], *EM_PORTUGUES.get(c.lower(), (c, c))) for c in sorted(quantas)]
    deixei = []
    if sem_classe:
        de_onde = sorted({nome.rpartition("/")[0] or onde.name for nome in sem_classe})
        fotos = quantos(len(sem_classe), "foto", "fotos")
        deixei.append(f"{fotos} sem classe, de {', '.join(de_onde[:3])}")
    if outros:
        deixei.append(quantos(outros, *NAO_SAO_FOTOS))
    fim = f"; deixei de lado {' e '.join(deixei)}" if deixei else ""
    return f"li {' e '.join(lugares)}: {', '.join(classes)}, {lidas[0].como}{fim}"


def caminhos(entradas: Iterable[str | os.PathLike]) -> list[pathlib.Path]:
    """Os arquivos dados e as fotos das pastas e subpastas dadas; ErroClaro se falta algum."""
    achados, outros = [], 0
    for entrada in entradas:
        if not os.fspath(entrada).strip():
            raise ErroClaro("o caminho está vazio; indique fotos, ou uma pasta com fotos.")
        onde = caminho(entrada)
        # Nem todo terminal troca *.jpg pelos nomes.
        ditos = [onde] if os.path.exists(onde) else sorted(map(pathlib.Path, glob(str(onde))))
        if not ditos:
            abre_arquivo(onde)  # diz por que não
        for dito in ditos:
            if os.path.isdir(dito):
                todos = sorted(dito / nome for nome in pastas.visiveis(dito))
                fotos = [arquivo for arquivo in todos if _e_foto(arquivo)]
                outros += len(todos) - len(fotos)
                achados += fotos
            else:
                achados.append(dito)
    if outros:
        print(f"deixei de lado {quantos(outros, *NAO_SAO_FOTOS)}", file=sys.stderr)
    if not achados:
        raise ErroClaro("não há nenhuma foto aí; indique fotos, ou uma pasta com fotos.")
    if len(achados) == 1 and not _e_foto(achados[0]):
        abre_foto(achados[0])  # diz logo por que não
    return list(dict.fromkeys(achados))


def parece_foto(nome: str, abre: Callable[[], BinaryIO]) -> bool:
    """Pelo fim do nome ou, se ele não diz, pelos primeiros bytes."""
    if os.path.splitext(nome)[1].lower() in EXTENSOES:
        return True
    try:
        with abre() as arquivo:
            inicio = arquivo.read(32)
    except (OSError, ErroClaro):
        return False
    return any(PIL.Image.OPEN[formato][1](inicio) for formato in FORMATOS)


def _e_foto(arquivo: pathlib.Path) -> bool:
    return parece_foto(arquivo.name, functools.partial(abre_arquivo, arquivo))
