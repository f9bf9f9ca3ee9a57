"""As fotos de uma pasta ou de um zip, cada uma com a sua classe, sem nada ir para o disco."""

import collections
import contextlib
import functools
import hashlib
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

import detector.pastas as pastas  # `from detector import` carregaria o TensorFlow
from detector.ambiente import ErroClaro, caminho, motivo
from detector.fotos import abre_arquivo, parece_foto

MAX_BYTES = 50_000_000  # num zip; acima disto, é mais provável uma armadilha para a memória
EM_PORTUGUES = {"cat": "gatos", "dog": "cachorros"}


class Foto(NamedTuple):
    """Um arquivo. abre: para ler, ou ErroClaro se não dá. resumo: muda com o conteúdo."""

    nome: str
    abre: Callable[[], BinaryIO]
    resumo: Callable[[], object]
    classe: str = ""


def da_pasta(pasta: pathlib.Path) -> list[Foto]:
    """O que há na pasta, menos o que é do sistema. Levanta ErroClaro se não pode ser lida."""
    return [
        Foto(nome, *(functools.partial(faz, pasta / nome) for faz in (abre_arquivo, _sha256)))
        for nome in pastas.visiveis(pasta)
    ]


def _sha256(onde: pathlib.Path) -> str | None:
    """None se não é um arquivo que se possa ler; quem o copiar dirá por quê."""
    resumo = hashlib.sha256()
    try:
        with abre_arquivo(onde) as arquivo:
            while pedaco := arquivo.read(1 << 20):
                resumo.update(pedaco)
    except (OSError, ErroClaro):
        return None
    return resumo.hexdigest()


@contextlib.contextmanager
def do_zip(arquivo: pathlib.Path) -> Iterator[list[Foto]]:
    """O que há no zip, menos o que é do sistema ou sairia da pasta; ErroClaro se não é um zip."""
    try:
        aberto = zipfile.ZipFile(arquivo)
    except FileNotFoundError as erro:
        raise ErroClaro(f"{arquivo} não existe; verifique o caminho.") from erro
    except OSError as erro:
        pasta = "é uma pasta; o lugar dela é em DATASET" if arquivo.is_dir() else None
        raise ErroClaro(f"{arquivo} {pasta or f'não pôde ser lido ({motivo(erro)})'}.") from erro
    except (zipfile.BadZipFile, ValueError) as erro:
        raise ErroClaro(
            f"{arquivo} não é um zip inteiro; se é de outro tipo, descompacte-o."
        ) from erro
    with aberto:
        dentro = []
        for item in aberto.infolist():
            nome = posixpath.normpath(item.filename.replace("\\", "/").lstrip("/"))
            if not item.is_dir() and not pastas.do_sistema(nome):
                tira = functools.partial(_tira, aberto, item)
                dentro.append(Foto(nome, tira, lambda item=item: (item.CRC, item.file_size)))
        yield dentro


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
    sao_fotos = [foto for foto in todos if parece_foto(foto.nome, foto.abre)]
    if not sao_fotos:
        zips = [foto.nome for foto in todos if foto.nome.lower().endswith(".zip")]
        dica = f"; há {', '.join(zips[:3])}: descompacte, ou aponte para um deles" if zips else ""
        raise ErroClaro(f"não há fotos em {onde}{dica}.")
    lidas = pastas.entende([foto.nome for foto in sao_fotos], onde)
    prontas = [
        foto._replace(nome=pastas.legivel(foto.nome), classe=lidas[foto.nome].classe)
        for foto in sao_fotos
        if foto.nome in lidas
    ]
    sem_classe = [foto.nome.rpartition("/")[0] for foto in sao_fotos if foto.nome not in lidas]
    quantas = collections.Counter(foto.classe for foto in prontas)
    lugares = sorted({f"{lida.onde or onde.name}/" for lida in lidas.values()})
    dito = [f"{quantas[c]} {EM_PORTUGUES.get(c.lower(), c)}" for c in sorted(quantas)]
    dito += sorted({lida.como for lida in lidas.values()})
    sobra = []
    if sem_classe:
        de_onde = ", ".join(sorted({pasta or onde.name for pasta in sem_classe})[:3])
        sobra = [f"{len(sem_classe)} fotos sem classe, de {de_onde}"]
    if len(sao_fotos) < len(todos):
        sobra.append(f"{len(todos) - len(sao_fotos)} arquivos que não são fotos")
    deixei = f"; deixei de lado {' e '.join(sobra)}" if sobra else ""
    print(f"li {' e '.join(lugares)}: {', '.join(dito)}{deixei}")
    return prontas


def caminhos(entradas: Iterable[str | os.PathLike]) -> list[pathlib.Path]:
    """Os arquivos dados e as fotos das pastas e subpastas dadas; ErroClaro se falta algum."""
    achados, outros = [], 0
    for entrada in entradas:
        if not os.fspath(entrada).strip():
            raise ErroClaro("o caminho está vazio; indique fotos, ou uma pasta com fotos.")
        onde = caminho(entrada)
        if os.path.isdir(onde):
            todos = sorted(onde / nome for nome in pastas.visiveis(onde))
            fotos = [a for a in todos if parece_foto(a.name, lambda a=a: abre_arquivo(a))]
            outros += len(todos) - len(fotos)
        elif os.path.exists(onde) or not (fotos := sorted(map(pathlib.Path, glob(str(onde))))):
            abre_arquivo(entrada).close()
            fotos = [onde]
        achados += fotos
    if outros:
        print(f"deixei de lado {outros} arquivos que não são fotos", file=sys.stderr)
    if not achados:
        raise ErroClaro("não há nenhuma foto aí; indique fotos, ou uma pasta com fotos.")
    return list(dict.fromkeys(achados))
