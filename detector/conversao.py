"""Fotos de um zip ou de uma pasta, gravadas como um dataset do TFDS."""

import collections
import contextlib
import io
import os
import pathlib
import shutil
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import filelock
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.image_classification import cats_vs_dogs
from tqdm import tqdm

from detector.ambiente import ErroClaro

MAX_BYTES = 50_000_000  # acima disto, mais provável uma armadilha para a memória que uma foto
MAX_PIXELS = 100_000_000
MINIMO_POR_CLASSE = 10
HORA = 3600  # segundos


class Foto(NamedTuple):
    """Uma foto a copiar. le: devolve o JPEG, ou levanta ErroClaro se a foto não serve."""

    nome: str
    classe: str
    le: Callable[[], bytes]


class Copia(cats_vs_dogs.CatsVsDogs, skip_registration=True):
    """O cats_vs_dogs do TFDS, com as fotos que recebe no lugar das do download.

    Não se registra, e grava o mesmo que o original: depois, quem lê é `tfds.load("cats_vs_dogs")`.
    """

    name = "cats_vs_dogs"

    def __init__(self, fotos: list[Foto], data_dir: pathlib.Path):
        self.fotos, self.recusadas = fotos, []
        super().__init__(data_dir=data_dir)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        aceitas = {}
        for foto in self.fotos:
            try:
                if foto.nome in aceitas:
                    raise ErroClaro("o nome se repete")
                jpeg = foto.le()
            except ErroClaro as erro:
                self.recusadas.append(f"{foto.nome}: {erro}")
                continue
            aceitas[foto.nome] = foto.classe
            yield (
                foto.nome,
                {"image": io.BytesIO(jpeg), "image/filename": foto.nome, "label": foto.classe},
            )
        quantas = collections.Counter(aceitas.values())
        for classe in self.info.features["label"].names:
            if quantas[classe] < MINIMO_POR_CLASSE:
                raise ErroClaro(
                    f"só {quantas[classe]} fotos da classe {classe} puderam ser lidas, e são "
                    f"precisas {MINIMO_POR_CLASSE}. {_resumo(self.recusadas)}"
                )


class CopiaDaPasta(Copia, skip_registration=True):
    """As mesmas features, com outro nome e outras classes."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, nome: str, classes: list[str], fotos: list[Foto], data_dir: pathlib.Path):
        self.name, self.classes = nome, classes
        super().__init__(fotos, data_dir)

    def _info(self):
        features = dict(super()._info().features)
        features["label"] = tfds.features.ClassLabel(names=self.classes)
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )


def prepara(copia: Copia) -> None:
    """Grava o dataset, inteiro ou nada, e diz quais fotos ficaram de fora.

    Levanta ErroClaro se sobram menos de 10 fotos de uma classe, OSError se não dá para gravar.
    """
    pasta = pathlib.Path(copia.data_path)
    for resto in pasta.parent.glob("incomplete.*"):  # de preparos mortos; o TFDS não os apaga
        if resto.stat().st_mtime < time.time() - HORA:
            shutil.rmtree(resto)
    tfds.disable_progress_bar()  # as do TFDS vão para o stderr, que o Jupyter mostra em vermelho
    por_cima = tfds.download.DownloadConfig(download_mode=tfds.GenerateMode.REUSE_CACHE_IF_EXISTS)
    with (
        tqdm(copia.fotos, "Preparando as fotos", mininterval=1, file=sys.stdout) as copia.fotos,
        contextlib.redirect_stdout(io.StringIO()),  # o TFDS diria, em inglês, que está baixando
    ):
        try:
            copia.download_and_prepare(download_config=por_cima)
        except (RuntimeError, tf.errors.OpError) as erro:  # assim o TFDS conta que o disco encheu
            raise OSError(str(erro).rpartition("; ")[2]) from erro
    if copia.recusadas:
        print(_resumo(copia.recusadas))


def _resumo(recusadas: list[str]) -> str:
    reticencias = "…" if len(recusadas) > 5 else ""
    return f"Ficaram de fora {len(recusadas)} arquivos: {'; '.join(recusadas[:5])}{reticencias}"


@contextlib.contextmanager
def reservada(raiz: pathlib.Path) -> Iterator[None]:
    """Uma execução de cada vez prepara ou baixa em `raiz`; as outras esperam."""
    raiz.mkdir(parents=True, exist_ok=True)
    trava = filelock.FileLock(raiz / "cats_vs_dogs.lock")
    try:
        trava.acquire(timeout=0)
    except filelock.Timeout:
        print(f"Outra execução está preparando fotos em {raiz}; espero por ela.")
        trava.acquire()
    try:
        yield
    finally:
        trava.release()


def do_zip(aberto: zipfile.ZipFile) -> list[Foto]:
    """As fotos que estão onde o cats_vs_dogs as espera; nada é extraído para o disco."""
    fotos = []
    for item in aberto.infolist():
        nome = os.path.normpath(item.filename)
        if achado := cats_vs_dogs._NAME_RE.match(nome):  # PetImages/Cat/1.jpg
            fotos.append(Foto(nome, achado[1].lower(), lambda item=item: _jpeg(aberto, item)))
    return fotos


def _jpeg(aberto: zipfile.ZipFile, item: zipfile.ZipInfo) -> bytes:
    """A foto regravada em JPEG, como faz o builder do TFDS. Levanta ErroClaro se ela não serve."""
    if item.file_size > MAX_BYTES:
        raise ErroClaro("é grande demais para uma foto")
    if item.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ErroClaro("a compressão é incomum")  # bz2 e lzma descomprimem sem limite
    try:
        conteudo = aberto.read(item)
        if b"JFIF" not in conteudo[:512]:  # o que o builder do TFDS chega a olhar
            raise ErroClaro("não tem o cabeçalho JFIF")
        altura, largura, _ = tf.io.extract_jpeg_shape(conteudo).numpy().tolist()
        if altura * largura > MAX_PIXELS:
            raise ErroClaro("tem pixels demais")
        return tf.io.encode_jpeg(tf.io.decode_jpeg(conteudo)).numpy()
    except RuntimeError as erro:
        raise ErroClaro("tem senha") from erro
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, tf.errors.OpError) as erro:
        raise ErroClaro("está danificada") from erro
