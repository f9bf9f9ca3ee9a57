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

TIPOS = "vetores", "rotulos", "miniaturas"


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
                    mapas = parte.mapas()[destas - parte.inicio].astype("float32")
                    yield mapas, self.rotulos[destas]

        formato = (
            tf.TensorSpec((None, *self.partes[0].mapas().shape[1:]), tf.float32),
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
    espalha: Callable[..., Iterable[partes.Parte]] | None = None,
) -> Caracteristicas:
    """Passa cada foto pela parte congelada da rede, lendo de `pasta` o que já foi feito.

    fotos: as primeiras linhas de `dados.lista`. leitor: quem lê e prepara cada uma, como
    `dados.le`; mudou o leitor, nada do que está guardado serve. corte: a operação do backbone cujo
    resultado entra no topo, ou None. espalha: quem deixa prontas as partes que faltam, como
    `muitas` faz; None é este processo. Levanta ErroClaro se os dados estão danificados, ou se o
    leitor, o corte ou o disco não servem.
    """
    receita = partes.receita(leitor, backbone, corte)
    for nome in motores.candidatos(motor):
        todas = partes.divide(fotos, [*receita, nome, motores.versoes(nome)], pasta)
        prontas = {parte: parte.le() for parte in todas}
        faltam = [parte for parte in todas if prontas[parte] is None]
        if not faltam:
            break
        with partes.explica(builder):
            amostra = partes.com_miniaturas(leitor, builder, faltam)
            if roda := motores.monta(nome, backbone, corte, pasta, amostra):
                break
    inicio, quantas = time.perf_counter(), sum(parte.fim - parte.inicio for parte in faltam)
    if faltam:
        if espalha:
            feitas = espalha(builder, leitor, backbone, corte, nome, faltam)
        else:
            feitas = partes.calcula(roda, leitor, builder, faltam)
        with tqdm(total=quantas, desc="Extração", unit=" fotos", file=sys.stdout) as barra:
            for parte in feitas:
                if (lida := parte.le()) is None:
                    raise ErroClaro(
                        f"uma parte ficou pronta e não está em {pasta}. Se há várias máquinas, "
                        "todas têm de ver essa pasta; se não, o disco não serve: mude MODELOS."
                    )
                prontas[parte] = lida
                barra.update(parte.fim - parte.inicio)
    juntos = {tipo: [prontas[parte][tipo] for parte in todas] for tipo in TIPOS}
    return Caracteristicas(
        **{tipo: np.concatenate(arrays) for tipo, arrays in juntos.items()},
        digest=digesto([parte.digest for parte in todas]),
        prova=dados.prova(leitor),
        motor=nome,
        extraidas=quantas,
        segundos=time.perf_counter() - inicio if faltam else 0.0,
        partes=todas,
    )
