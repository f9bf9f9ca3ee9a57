"""Fotos de um zip ou de uma pasta, gravadas como um dataset do TFDS."""

import collections
import contextlib
import errno
import hashlib
import io
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable
from typing import BinaryIO

import PIL.Image
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.image_classification import cats_vs_dogs
from tqdm import tqdm

from detector import pastas
from detector.acervo import Foto
from detector.ambiente import ErroClaro, sem_stderr
from detector.fotos import abre_foto
from detector.pastas import quantos

MAX_PIXELS = 100_000_000
MINIMO_POR_CLASSE = 10


class Copia(cats_vs_dogs.CatsVsDogs, skip_registration=True):
    """O cats_vs_dogs do TFDS, com as fotos que recebe no lugar das do download, e as classes delas.

    Não se registra. Com o mesmo nome, grava o mesmo que o original: depois, quem lê é
    `tfds.load("cats_vs_dogs")`. converte: do arquivo de uma foto, devolve o JPEG, ou
    levanta ErroClaro.
    """

    def __init__(self, nome: str, fotos: list[Foto], converte: Callable, data_dir: pathlib.Path):
        self.name = nome
        self.fotos = fotos
        self.converte = converte
        self.recusadas = []
        super().__init__(data_dir=data_dir)

    def _info(self):
        classes = {foto.classe for foto in self.fotos}
        em_ordem = sorted(classes, key=lambda c: (pastas.tipo(c) == "dog", c))  # cachorro é a 1
        features = dict(super()._info().features)
        features["label"] = tfds.features.ClassLabel(names=em_ordem)
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        aceitas = {}  # a classe de cada uma, pelo nome
        for foto in self.fotos:
            try:
                if foto.nome in aceitas:
                    raise ErroClaro("o nome se repete")
                with foto.abre() as arquivo:
                    jpeg = self.converte(arquivo)
            except ErroClaro as erro:
                causa = str(erro).removeprefix("a foto ").partition("; ")[0].rstrip(".")
                self.recusadas.append(f"{foto.nome}: {causa}")
                continue
            aceitas[foto.nome] = foto.classe
            exemplo = {"image": io.BytesIO(jpeg), "image/filename": foto.nome}
            yield foto.nome, exemplo | {"label": foto.classe}
        quantas = collections.Counter(aceitas.values())
        for classe in self.info.features["label"].names:
            if quantas[classe] < MINIMO_POR_CLASSE:
                tem = quantos(quantas[classe], "foto", "fotos")
                que_servem = " que se leem" if self.recusadas else ""
                raise ErroClaro(
                    f"a classe {classe} tem só {tem}{que_servem}, e são precisas "
                    f"{MINIMO_POR_CLASSE}. {_resumo(self.recusadas)}".strip()
                )


def prepara(copia: Copia) -> None:
    """Grava o dataset, inteiro ou nada, e diz quais fotos ficaram de fora.

    Levanta ErroClaro se sobram menos de 10 fotos de uma classe, OSError se não dá para gravar.
    """
    pasta = pathlib.Path(copia.data_path)
    for resto in pasta.parent.glob("incomplete.*"):  # o TFDS não os apaga
        if resto.stat().st_mtime < time.time() - 3600:  # nada nele há uma hora: o preparo morreu
            shutil.rmtree(resto)
    tfds.disable_progress_bar()  # as do TFDS vão para o stderr, que o Jupyter mostra em vermelho
    copia.fotos = tqdm(copia.fotos, "Preparando as fotos", mininterval=1, file=sys.stdout)
    por_cima = tfds.download.DownloadConfig(download_mode=tfds.GenerateMode.REUSE_CACHE_IF_EXISTS)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # o TFDS diria que está baixando
            copia.download_and_prepare(download_config=por_cima)
    except (RuntimeError, tf.errors.OpError) as erro:  # assim o TFDS conta que o disco encheu
        causa = str(erro).rpartition("; ")[2]
        numeros = {os.strerror(numero): numero for numero in errno.errorcode}
        raise OSError(numeros.get(causa, 0), causa) from erro
    finally:
        copia.fotos.close()
    if copia.recusadas:
        print(_resumo(copia.recusadas))


def _resumo(recusadas: list[str]) -> str:
    if not recusadas:
        return ""
    fim = "…" if len(recusadas) > 5 else ""
    deixei = quantos(len(recusadas), "arquivo", "arquivos")
    return f"Deixei de fora {deixei}: {'; '.join(recusadas[:5])}{fim}"


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


def sem_repetidas(fotos: list[Foto]) -> list[Foto]:
    """Cada foto uma vez, com o sha256, e nenhuma das que estão nas duas classes; diz quais não.

    Levanta ErroClaro se assim uma classe fica sem nenhuma.
    """
    iguais = collections.defaultdict(list)
    for foto in fotos:
        foto = foto._replace(sha256=_sha256(foto))
        iguais[foto.sha256 or foto.nome].append(foto)
    ficam, repetidas, nas_duas = [], [], []
    for primeira, *outras in iguais.values():
        if all(foto.classe == primeira.classe for foto in outras):
            ficam.append(primeira)
            repetidas += outras
        else:
            nas_duas += [primeira, *outras]
    if repetidas:
        ditas = quantos(len(repetidas), "foto repetida", "fotos repetidas")
        print(f"deixei de lado {ditas}: {_alguns(repetidas)}")
    iguais_nas_duas = f"estão, iguais, nas duas classes: {_alguns(nas_duas)}"
    if sem_nada := {foto.classe for foto in fotos} - {foto.classe for foto in ficam}:
        classes = " e ".join(sorted(sem_nada))
        raise ErroClaro(f"deixe cada foto numa classe só: as de {classes} {iguais_nas_duas}")
    if nas_duas:
        print(f"deixei de lado {len(nas_duas)} fotos que {iguais_nas_duas}")
    return ficam


def _alguns(fotos: list[Foto]) -> str:
    fim = "…" if len(fotos) > 4 else ""
    return ", ".join(foto.nome for foto in fotos[:4]) + fim


def _sha256(foto: Foto) -> str | None:
    """None se está vazia ou não se pode ler; quem a copiar dirá."""
    resumo = hashlib.sha256()
    try:
        with foto.abre() as arquivo:
            while pedaco := arquivo.read(1 << 20):
                resumo.update(pedaco)
            return resumo.hexdigest() if arquivo.tell() else None
    except (OSError, ErroClaro):
        return None
