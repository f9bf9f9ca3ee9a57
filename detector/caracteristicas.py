"""Cada foto passa pela parte congelada da rede uma vez só, e o que sai fica guardado em partes.

Uma parte é função apenas de (fotos da fatia, preparação, backbone, corte, motor): qualquer
processo pode calcular qualquer uma, e o nome do arquivo resume tudo de que ela depende.
"""

import dataclasses
import inspect
import pathlib
import sys
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
import tensorflow_datasets as tfds
from tqdm import tqdm

from detector import backbones, leitura, motores, preparo
from detector.erros import ErroClaro
from detector.gravacao import digesto, fontes, guarda_arrays, le_arrays, uma_vez

FOTOS_POR_PARTE = 500
LADO_MINIATURA = 16


@dataclasses.dataclass
class Caracteristicas:
    """O que a parte congelada da rede diz das n primeiras fotos do dataset.

    vetores: float32 (n, canais). miniaturas: uint8 (n, 16, 16), em tons de cinza. digest: resume
    tudo de que dependem. preparo: a função que preparou as fotos. motor: o que rodou, com a
    precisão. extraidas e segundos: quantas fotos passaram pela rede agora, e em quanto tempo.
    """

    vetores: np.ndarray
    miniaturas: np.ndarray
    digest: str
    preparo: preparo.Preparo
    motor: str
    extraidas: int
    segundos: float
    partes: list["Parte"]

    def mapas(self, indices: Sequence[int], y: np.ndarray | None = None) -> tf.data.Dataset:
        """tf.data com o mapa float32 de cada foto de `indices` (crescentes), lido do disco.

        Com os rótulos y (n, 1), gera pares (mapa, rótulo). Na memória, só uma parte por vez.
        """
        indices = np.asarray(indices)

        def gera():
            for parte in self.partes:
                destas = indices[(indices >= parte.inicio) & (indices < parte.fim)]
                if len(destas):
                    mapas = parte.le_mapas()[destas - parte.inicio].astype("float32")
                    yield mapas if y is None else (mapas, y[destas])

        formato = tf.TensorSpec((None, *self.partes[0].le_mapas().shape[1:]), tf.float32)
        if y is not None:
            formato = (formato, tf.TensorSpec((None, 1), tf.as_dtype(y.dtype)))
        mapas = tf.data.Dataset.from_generator(gera, output_signature=formato).unbatch()
        mapas = mapas.apply(tf.data.experimental.assert_cardinality(len(indices)))
        return mapas.with_options(leitura.SEM_AJUSTE)

    def mapas_de(self, indices: Sequence[int]) -> np.ndarray:
        """Os mapas float32 de umas poucas fotos, na ordem pedida: (len(indices), …)."""
        crescentes = np.unique(indices)
        lidos = np.stack(list(self.mapas(crescentes).as_numpy_iterator()))
        return lidos[np.searchsorted(crescentes, indices)]

    def pelo_topo(
        self, topo: keras.Model, indices: Sequence[int], pasta: pathlib.Path
    ) -> list[np.ndarray]:
        """Cada saída de `topo`, que recebe mapas, para as fotos de `indices` (crescentes).

        O que ele disse fica em `pasta`: os mesmos pesos, nas mesmas fotos, só são rodados uma vez.
        """

        def calcula():
            saidas = topo.predict(self.mapas(indices).batch(128), verbose=0)
            return {str(i): saida for i, saida in enumerate(keras.tree.flatten(saidas))}

        depende_de = [self.digest, indices, topo.to_json(), topo.get_weights()]
        guardadas = uma_vez(pasta, "topo", depende_de, calcula)
        return [guardadas[str(i)] for i in range(len(guardadas))]


@dataclasses.dataclass
class Parte:
    """As fotos de `inicio` a `fim` (sem ele), e os dois arquivos em que ficam."""

    pasta: pathlib.Path
    inicio: int
    fim: int
    digest: str
    tem_mapas: bool

    def _arquivo(self, tipo: str) -> pathlib.Path:
        return self.pasta / f"{tipo}-{self.digest}-{self.inicio:06}.dados"

    def _le(self, tipo: str) -> dict[str, np.ndarray] | None:
        return le_arrays(self._arquivo(tipo), f"{tipo} de {self.digest}")

    def _guarda(self, tipo: str, **arrays: np.ndarray) -> None:
        guarda_arrays(self._arquivo(tipo), f"{tipo} de {self.digest}", **arrays)

    def le(self) -> dict[str, np.ndarray] | None:
        """Vetores e miniaturas; None se eles, ou os mapas, faltam ou não servem."""
        vetores = self._le("vetores")
        if vetores and self.tem_mapas and self._le("mapas") is None:
            return None
        return vetores

    def le_mapas(self) -> np.ndarray:
        """Mapas float16 (fim − inicio, altura, largura, canais), ou os vetores, se não há corte."""
        tipo = "mapas" if self.tem_mapas else "vetores"
        arrays = self._le(tipo)
        if arrays is None:
            raise ErroClaro(f"{self._arquivo(tipo)} sumiu ou se estragou. Rode o notebook de novo.")
        return arrays[tipo]

    def guarda(self, mapas: np.ndarray, vetores: np.ndarray, miniaturas: np.ndarray) -> None:
        """Grava a parte; ela só vale com os dois arquivos inteiros."""
        if self.tem_mapas:
            with np.errstate(over="ignore"):
                metade = mapas.astype("float16")
            if not np.isfinite(metade).all():
                raise ErroClaro("os mapas deste corte não cabem em 16 bits: escolha outro corte.")
            self._guarda("mapas", mapas=metade)
        self._guarda("vetores", vetores=vetores, miniaturas=miniaturas)


def extrai(
    builder: tfds.core.DatasetBuilder,
    fotos: pd.DataFrame,
    preparo_: preparo.Preparo,
    backbone: keras.Model,
    corte: str | None,
    motor: str,
    pasta: pathlib.Path,
    espalha: Callable[[str, list["Parte"]], None] | None = None,
) -> Caracteristicas:
    """Passa cada foto pela parte congelada da rede, lendo de `pasta` o que já foi feito.

    fotos: as primeiras linhas de `leitura.lista`. preparo_: a função que prepara cada uma, como
    `redimensiona_img`; mudou a função, nada do que está guardado serve. corte: a operação do
    backbone cujo resultado entra no topo, ou None. espalha: quem deixa em `pasta` as partes que
    faltam, feitas no motor que recebe; None é este processo. Levanta ErroClaro se os dados estão
    danificados.
    """
    receita_ = receita(preparo_, backbone, corte)
    for nome in motores.candidatos(motor):
        depende_de = [*receita_, nome, motores.versoes(nome)]
        partes = _partes(fotos, depende_de, pasta, corte is not None)
        prontas = {parte.inicio: parte.le() for parte in partes}
        faltam = [parte for parte in partes if prontas[parte.inicio] is None]
        amostra = pares(builder, faltam or partes[:1], preparo_)
        try:
            if not faltam or (roda := motores.monta(nome, backbone, corte, pasta, amostra)):
                break
        except tf.errors.OpError as erro:
            raise _danificado(builder) from erro
    inicio = time.perf_counter()
    if faltam and espalha:
        espalha(nome, faltam)
        prontas |= {parte.inicio: parte.le() for parte in faltam}
    elif faltam:
        total = sum(parte.fim - parte.inicio for parte in faltam)
        with barra(total) as feitas:
            prontas |= calcula(roda, builder, preparo_, faltam, feitas)
    return Caracteristicas(
        vetores=np.concatenate([prontas[parte.inicio]["vetores"] for parte in partes]),
        miniaturas=np.concatenate([prontas[parte.inicio]["miniaturas"] for parte in partes]),
        digest=digesto([parte.digest for parte in partes]),
        preparo=preparo_,
        motor=nome,
        extraidas=sum(parte.fim - parte.inicio for parte in faltam),
        segundos=time.perf_counter() - inicio if faltam else 0.0,
        partes=partes,
    )


def receita(preparo_: preparo.Preparo, backbone: keras.Model, corte: str | None) -> list:
    """Tudo de que as características dependem, menos as fotos e o motor.

    Da função `preparo_`, o código e o que ela faz com uma imagem de prova.
    """
    try:
        codigo = inspect.getsource(preparo_)
    except (OSError, TypeError):  # definida onde não há arquivo, como num terminal do Python
        codigo = repr(preparo_)
    prova, pesos = preparo.prova(preparo_), digesto(backbone.get_weights())
    modulos = fontes(backbones, leitura, motores, preparo, sys.modules[__name__])
    return [[codigo, prova], backbone.name, pesos, corte, *modulos]


def _partes(
    fotos: pd.DataFrame, depende_de: list, pasta: pathlib.Path, tem_mapas: bool
) -> list[Parte]:
    """As partes de 500 fotos; o digest de cada uma depende só das fotos que estão nela."""
    partes = []
    for inicio in range(0, len(fotos), FOTOS_POR_PARTE):
        destas = fotos["sha256"].iloc[inicio : inicio + FOTOS_POR_PARTE].tolist()
        digest = digesto(depende_de, destas)
        partes.append(Parte(pasta, inicio, inicio + len(destas), digest, tem_mapas))
    return partes


def pares(
    builder: tfds.core.DatasetBuilder, partes: list[Parte], preparo_: preparo.Preparo
) -> tf.data.Dataset:
    """tf.data com (foto preparada, miniatura) de cada foto das partes."""

    def prepara(img, label):
        menor = tf.image.resize(img, [LADO_MINIATURA] * 2, "area")  # antes do cinza: custa menos
        cinza = tf.image.rgb_to_grayscale(menor)[..., 0]
        return preparo_(img, label)[0], tf.cast(cinza, tf.uint8)

    fatia = "+".join(f"train[{parte.inicio}:{parte.fim}]" for parte in partes)
    return leitura.le(builder, fatia).map(prepara, tf.data.AUTOTUNE)


def barra(total: int, **opcoes) -> tqdm:
    """Barra de progresso de `total` fotos."""
    return tqdm(
        total=total, desc="Extração", unit=" fotos", file=sys.stdout, mininterval=0.5, **opcoes
    )


def calcula(
    roda: motores.Roda,
    builder: tfds.core.DatasetBuilder,
    preparo_: preparo.Preparo,
    faltam: list[Parte],
    feitas: tqdm,
) -> dict[int, dict[str, np.ndarray]]:
    """Junta as saídas do motor em partes e guarda cada uma assim que fica pronta.

    feitas: a barra que conta as fotos. Devolve vetores e miniaturas pelo início de cada parte.
    """
    prontas, saidas = {}, roda(pares(builder, faltam, preparo_))
    for parte in faltam:
        lidas = []
        try:
            for _ in range(parte.inicio, parte.fim):
                lidas.append(next(saidas))
                feitas.update()
        except tf.errors.ResourceExhaustedError:  # falta memória; os dados estão bons
            raise
        except (tf.errors.OpError, StopIteration) as erro:
            raise _danificado(builder) from erro
        mapas, vetores, miniaturas = map(np.stack, zip(*lidas, strict=True))
        parte.guarda(mapas, vetores, miniaturas)
        prontas[parte.inicio] = {"vetores": vetores, "miniaturas": miniaturas}
    return prontas


def _danificado(builder: tfds.core.DatasetBuilder) -> ErroClaro:
    return ErroClaro(
        f"os arquivos de {builder.data_path} estão danificados ou incompletos. Apague essa pasta e "
        "rode de novo."
    )
