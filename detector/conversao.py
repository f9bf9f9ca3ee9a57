"""Fotos de um zip ou de uma pasta, gravadas como um dataset do TFDS."""

import collections
import contextlib
import io
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

import PIL.Image
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.image_classification import cats_vs_dogs
from tqdm import tqdm

from detector import arquivos, pastas
from detector.acervo import Foto
from detector.ambiente import ErroClaro, sem_stderr
from detector.fotos import abre_foto

MAX_PIXELS = 100_000_000
MINIMO_POR_CLASSE = 10
HORA = 3600  # segundos
Converte = Callable[[BinaryIO], bytes]


class Copia(cats_vs_dogs.CatsVsDogs, skip_registration=True):
    """O cats_vs_dogs do TFDS, com as fotos que recebe no lugar das do download, e as classes delas.

    Não se registra. Com o mesmo nome, grava o mesmo que o original: depois, quem lê é
    `tfds.load("cats_vs_dogs")`. converte: devolve o JPEG da foto, ou levanta ErroClaro.
    """

    name = "cats_vs_dogs"

    def __init__(self, fotos: list[Foto], converte: Converte, data_dir: pathlib.Path, nome=name):
        self.fotos, self.converte, self.name, self.recusadas = fotos, converte, nome, []
        super().__init__(data_dir=data_dir)

    def _info(self):
        classes = {foto.classe for foto in self.fotos}
        classes = sorted(classes, key=lambda c: (pastas.tipo(c) == "dog", c))  # cachorro é a 1
        rotulo = {"label": tfds.features.ClassLabel(names=classes)}
        features = tfds.features.FeaturesDict(dict(super()._info().features) | rotulo)
        pares = ("image", "label")
        return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=pares)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        aceitas = {}
        for foto in self.fotos:
            try:
                if foto.nome in aceitas:
                    raise ErroClaro("o nome se repete")
                with foto.abre() as arquivo:
                    jpeg = self.converte(arquivo)
            except ErroClaro as erro:
                self.recusadas.append(f"{foto.nome}: {erro}")
                continue
            aceitas[foto.nome] = foto.classe
            jpeg = io.BytesIO(jpeg)
            yield foto.nome, {"image": jpeg, "image/filename": foto.nome, "label": foto.classe}
        quantas = collections.Counter(aceitas.values())
        for classe in self.info.features["label"].names:
            if quantas[classe] < MINIMO_POR_CLASSE:
                raise ErroClaro(
                    f"só {quantas[classe]} fotos da classe {classe} puderam ser lidas, e são "
                    f"precisas {MINIMO_POR_CLASSE}. {_resumo(self.recusadas)}"
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
    espera = f"Outra execução está preparando fotos em {raiz}; espero por ela."
    with arquivos.trava(raiz / "cats_vs_dogs.lock", espera):
        yield


def em_pe(arquivo: BinaryIO) -> bytes:
    """O JPEG da foto como `abre_foto` a vê."""
    memoria = io.BytesIO()
    PIL.Image.fromarray(abre_foto(arquivo)).save(memoria, "JPEG", quality=95)
    return memoria.getvalue()


def como_o_tfds(arquivo: BinaryIO) -> bytes:
    """A foto regravada em JPEG, como faz o builder do TFDS. Levanta ErroClaro se ela não serve."""
    conteudo = arquivo.read()
    if b"JFIF" not in conteudo[:512]:  # o que o builder do TFDS chega a olhar
        raise ErroClaro("não tem o cabeçalho JFIF")
    try:
        altura, largura, _ = tf.io.extract_jpeg_shape(conteudo).numpy().tolist()
        if altura * largura > MAX_PIXELS:
            raise ErroClaro("tem pixels demais")
        with sem_stderr():  # o libjpeg acusa em vermelho fotos que abrem bem
            return tf.io.encode_jpeg(tf.io.decode_jpeg(conteudo)).numpy()
    except tf.errors.OpError as erro:
        raise ErroClaro("está danificada") from erro
