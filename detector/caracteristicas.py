"""Cada foto passa pela parte congelada da rede uma vez só; aqui se junta o que sai dela."""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from tqdm import tqdm

from detector import dados, motores, partes
from detector.ambiente import ErroClaro
from detector.arquivos import digesto

Espalha = Callable[[str, list[partes.Parte]], Iterable[partes.Parte]]


@dataclasses.dataclass
class Caracteristicas:
    """O que a parte congelada da rede diz das n primeiras fotos do dataset.

    vetores: float32 (n, canais). rotulos: float32 (n, 1), os que o leitor entregou com as fotos.
    miniaturas: float16 (n, 16, 16), em tons de cinza. prova: de `dados.prova`, com este leitor.
    motor: o que rodou, com a precisão. extraidas e segundos: quantas fotos passaram pela rede
    agora, e em quanto tempo.
    """

    vetores: np.ndarray
    rotulos: np.ndarray
    miniaturas: np.ndarray
    digest: str
    prova: np.ndarray
    motor: str
    extraidas: int
    segundos: float
    partes: list[partes.Parte]

    def mapas(self, indices: Sequence[int]) -> tf.data.Dataset:
        """tf.data com (mapa float32, rótulo (1,)) de cada foto de `indices` (crescentes).

        Vêm do disco; na memória, só uma parte por vez.
        """
        indices = np.asarray(indices)

        def gera():
            for parte in self.partes:
                destas = indices[(indices >= parte.inicio) & (indices < parte.fim)]
                if len(destas):
                    mapas = parte.le_mapas()[destas - parte.inicio].astype("float32")
                    yield mapas, self.rotulos[destas]

        formato = (
            tf.TensorSpec((None, *self.partes[0].le_mapas().shape[1:]), tf.float32),
            tf.TensorSpec((None, 1), tf.float32),
        )
        mapas = tf.data.Dataset.from_generator(gera, output_signature=formato).unbatch()
        mapas = mapas.apply(tf.data.experimental.assert_cardinality(len(indices)))
        return mapas.with_options(dados.SEM_AJUSTE)

    def mapas_de(self, indices: Sequence[int]) -> np.ndarray:
        """Os mapas float32 de umas poucas fotos, na ordem pedida: (len(indices), …)."""
        crescentes = np.unique(indices)
        lidos = np.stack([mapa for mapa, _ in self.mapas(crescentes).as_numpy_iterator()])
        return lidos[np.searchsorted(crescentes, indices)]


def extrai(
    builder: dados.Builder,
    fotos: pd.DataFrame,
    leitor: dados.Leitor,
    backbone: keras.Model,
    corte: str | None,
    motor: str,
    pasta: pathlib.Path,
    espalha: Espalha | None = None,
) -> Caracteristicas:
    """Passa cada foto pela parte congelada da rede, lendo de `pasta` o que já foi feito.

    fotos: as primeiras linhas de `dados.lista`. leitor: quem lê e prepara cada uma, como
    `dados.le`; mudou o leitor, nada do que está guardado serve. corte: a operação do backbone cujo
    resultado entra no topo, ou None. espalha: quem deixa em `pasta` as partes que faltam, feitas no
    motor que recebe; None é este processo. Levanta ErroClaro se os dados estão danificados.
    """
    receita = partes.receita(leitor, backbone, corte)
    for nome in motores.candidatos(motor):
        depende_de = [*receita, nome, motores.versoes(nome)]
        todas = partes.divide(fotos, depende_de, pasta, corte is not None)
        prontas = {parte.inicio: parte.le() for parte in todas}
        faltam = [parte for parte in todas if prontas[parte.inicio] is None]
        if not faltam:
            break
        amostra = partes.com_miniaturas(leitor, builder, faltam)
        try:
            if roda := motores.monta(nome, backbone, corte, pasta, amostra):
                break
        except tf.errors.OpError as erro:
            raise dados.danificado(builder) from erro
    inicio = time.perf_counter()
    if faltam:
        feitas = espalha(nome, faltam) if espalha else partes.calcula(roda, leitor, builder, faltam)
        prontas |= _acompanha(feitas, faltam)
    tudo = {tipo: [parte[tipo] for parte in prontas.values()] for tipo in prontas[0]}
    return Caracteristicas(
        **{tipo: np.concatenate(arrays) for tipo, arrays in tudo.items()},
        digest=digesto([parte.digest for parte in todas]),
        prova=dados.prova(leitor),
        motor=nome,
        extraidas=sum(parte.fim - parte.inicio for parte in faltam),
        segundos=time.perf_counter() - inicio if faltam else 0.0,
        partes=todas,
    )


def _acompanha(feitas: Iterable[partes.Parte], faltam: list[partes.Parte]) -> dict[int, dict]:
    """O que há em cada parte, pelo início dela, com uma barra que anda quando uma fica pronta."""
    total = sum(parte.fim - parte.inicio for parte in faltam)
    prontas = {}
    with tqdm(total=total, desc="Extração", unit=" fotos", file=sys.stdout) as barra:
        for parte in feitas:
            prontas[parte.inicio] = parte.le()
            if prontas[parte.inicio] is None:
                raise ErroClaro(f"{parte.pasta} não devolve o que nela se grava. Mude MODELOS.")
            barra.update(parte.fim - parte.inicio)
    return prontas
