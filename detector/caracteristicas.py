"""Cada foto passa pela parte congelada da rede uma vez só, e o que sai dela fica guardado.

As fotos vão em partes de 500. Uma parte é função apenas de (fotos da fatia, leitor, backbone,
corte, motor): qualquer processo, em qualquer máquina, pode calcular qualquer uma.
"""

import contextlib
import dataclasses
import inspect
import itertools
import pathlib
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from tqdm import tqdm

from detector import backbones, dados, lite, motores
from detector.ambiente import ErroClaro
from detector.arquivos import de_fora, digesto, fontes, guarda_arrays, le_arrays

FOTOS_POR_PARTE = 500


@dataclasses.dataclass(frozen=True)
class Parte:
    """As fotos dessas linhas da tabela, e o arquivo em que fica o que a rede diz delas."""

    arquivo: pathlib.Path
    digest: str
    linhas: range

    def le(self) -> dict[str, np.ndarray] | None:
        """Vetores, rótulos e miniaturas; None se a parte falta ou não serve."""
        if arrays := le_arrays(self.arquivo, self.digest):
            arrays.pop("mapas", None)
        return arrays

    def mapas(self) -> np.ndarray:
        """Mapas float16 (fotos, altura, largura, canais), ou os vetores, se são o mesmo."""
        if (arrays := le_arrays(self.arquivo, self.digest)) is None:
            raise ErroClaro(f"{self.arquivo} sumiu ou se estragou. Rode o notebook de novo.")
        return arrays.get("mapas", arrays["vetores"])


@dataclasses.dataclass
class Caracteristicas:
    """O que a parte congelada da rede diz das n primeiras fotos do dataset.

    motor: o que rodou, com a precisão. prova: de `dados.prova`, com este leitor. extraidas e
    segundos: quantas fotos passaram pela rede agora, e em quanto tempo. vetores: float32
    (n, canais). rotulos: float32 (n, 1), os do leitor. miniaturas: float16 (n, 16, 16), cinzentas.
    """

    partes: list[Parte]
    motor: str
    prova: np.ndarray
    extraidas: int
    segundos: float
    vetores: np.ndarray
    rotulos: np.ndarray
    miniaturas: np.ndarray

    def mapas(self, indices: Sequence[int]) -> tf.data.Dataset:
        """tf.data com (mapa float32, rótulo (1,)) de cada foto de `indices` (crescentes).

        Vêm do disco; na memória, só uma parte por vez.
        """
        indices = np.asarray(indices)

        def de_cada_parte():
            for parte in self.partes:
                destas = indices[np.isin(indices, parte.linhas)]
                if len(destas):
                    mapas = parte.mapas()[destas - parte.linhas.start].astype("float32")
                    yield mapas, self.rotulos[destas]

        forma = self.partes[0].mapas().shape[1:]
        formato = tf.TensorSpec((None, *forma), tf.float32), tf.TensorSpec((None, 1), tf.float32)
        mapas = tf.data.Dataset.from_generator(de_cada_parte, output_signature=formato).unbatch()
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
    espalha: Callable[[str, list[Parte]], Iterable[Parte]] | None = None,
) -> Caracteristicas:
    """Passa cada foto pela parte congelada da rede, lendo de `pasta` o que já foi feito.

    fotos: as primeiras linhas de `dados.lista`. leitor: quem lê e prepara cada uma, como
    `dados.le`; mudou o leitor, nada do que está guardado serve. corte: a operação do backbone cujo
    resultado entra no topo, ou None. espalha: quem, com esse motor, deixa prontas as partes que
    faltam, como `muitas` faz; None é este processo. Levanta ErroClaro se os dados estão
    danificados, ou se o leitor, o corte ou o disco não servem.
    """
    for nome in motores.candidatos(motor):
        partes = _divide(fotos, leitor, backbone, corte, nome, pasta)
        prontas = {parte: parte.le() for parte in partes}
        faltam = [parte for parte in partes if prontas[parte] is None]
        if not faltam:
            break
        try:
            amostra = dados.com_miniaturas(leitor, builder, [parte.linhas for parte in faltam])
            roda = motores.monta(nome, backbone, corte, pasta, amostra)
        except tf.errors.OpError as erro:
            raise dados.danificado(builder, erro) from erro
        if roda:
            break
    inicio, extraidas = time.perf_counter(), sum(len(parte.linhas) for parte in faltam)
    if faltam:
        feitas = espalha(nome, faltam) if espalha else calcula(roda, leitor, builder, faltam)
        with tqdm(total=extraidas, desc="Extração", unit=" fotos", file=sys.stdout) as barra:
            for parte in feitas:
                prontas[parte] = parte.le()
                if prontas[parte] is None:
                    raise ErroClaro(
                        f"uma parte ficou pronta e não está em {pasta}. Se há várias máquinas, "
                        "todas têm de ver essa pasta; se não, o disco não serve: mude MODELOS."
                    )
                barra.update(len(parte.linhas))
    arrays = {}
    for tipo in ("vetores", "rotulos", "miniaturas"):
        arrays[tipo] = np.concatenate([prontas[parte][tipo] for parte in partes])
    segundos = time.perf_counter() - inicio if faltam else 0.0
    return Caracteristicas(partes, nome, dados.prova(leitor), extraidas, segundos, **arrays)


def _divide(fotos, leitor, backbone, corte, motor, pasta) -> list[Parte]:
    """As partes de 500 fotos, cada uma com o nome que resume tudo de que ela depende."""
    do_leitor = [de_fora(leitor), _grafo(leitor), dados.prova(leitor)]
    with contextlib.suppress(OSError, TypeError):  # definido fora de um arquivo, ou um partial
        do_leitor.append(inspect.getsource(leitor))
    camadas = str([[type(camada).__name__, camada.get_config()] for camada in backbone.layers])
    camadas = re.sub(r"_\d+|'trainable': \w+", "", camadas)  # nem o número nem quem treina contam
    da_rede = [camadas, backbone.get_weights(), corte, motor, motores.versoes(motor)]
    codigo = fontes(backbones, dados, lite, motores, sys.modules[__name__])
    receita = digesto(do_leitor, da_rede, codigo)
    partes = []
    for inicio in range(0, len(fotos), FOTOS_POR_PARTE):
        linhas = range(inicio, min(inicio + FOTOS_POR_PARTE, len(fotos)))
        digest = digesto(receita, fotos["sha256"].iloc[linhas].tolist())
        arquivo = pasta.absolute() / f"vetores-{digest}-{inicio:06}.npz"
        partes.append(Parte(arquivo, digest, linhas))
    return partes


def _grafo(leitor: dados.Leitor) -> list[str]:
    """As operações que o leitor monta, com as funções e os valores que ele usa de fora."""
    lidas = tf.data.experimental.to_variant(dados.na_prova(leitor))
    grafo = tf.raw_ops.DatasetToGraphV2(input_dataset=lidas, external_state_policy=1)
    grafo = tf.compat.v1.GraphDef.FromString(grafo.numpy())
    numeros = re.compile(r'[_:]\d+|s: "\\n.*"')  # dos nomes: são outros a cada vez
    return sorted(numeros.sub("", str(p)) for p in [*grafo.node, *grafo.library.function])


def calcula(
    roda: motores.Roda, leitor: dados.Leitor, builder: dados.Builder, partes: list[Parte]
) -> Iterator[Parte]:
    """Passa as fotos das partes pelo motor e gera cada parte assim que ela está guardada.

    Levanta ErroClaro se o dataset está danificado, se o motor perde uma foto, se os mapas não cabem
    em float16 ou se não se pode gravar.
    """
    saidas = roda(dados.com_miniaturas(leitor, builder, [parte.linhas for parte in partes]))
    for parte in partes:
        try:
            lidas = list(itertools.islice(saidas, len(parte.linhas)))
        except tf.errors.OpError as erro:
            raise dados.danificado(builder, erro) from erro
        if len(lidas) < len(parte.linhas):
            raise ErroClaro("o motor perdeu fotos: rode de novo ou, se isso se repete, mude MOTOR.")
        mapas, vetores, rotulos, miniaturas = map(np.stack, zip(*lidas, strict=True))
        arrays = {"vetores": vetores, "rotulos": rotulos, "miniaturas": miniaturas}
        if not np.array_equal(mapas, vetores):
            if not np.abs(mapas).max() <= np.finfo("float16").max:
                raise ErroClaro("os mapas deste corte não cabem em 16 bits: escolha outro corte.")
            arrays["mapas"] = mapas.astype("float16")
        guarda_arrays(parte.arquivo, parte.digest, **arrays)
        yield parte
