"""As fotos em partes de 500: o nome de cada parte, o que fica guardado dela, e quem a calcula.

Uma parte é função apenas de (fotos da fatia, leitor, backbone, corte, motor): qualquer processo, em
qualquer máquina, pode calcular qualquer uma, e o nome do arquivo resume tudo de que ela depende.
"""

import dataclasses
import inspect
import pathlib
import re
import sys
from collections.abc import Iterator

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from detector import backbones, dados, motores
from detector.ambiente import ErroClaro
from detector.arquivos import de_fora, digesto, fontes, guarda_arrays, le_arrays

FOTOS_POR_PARTE = 500
LADO_MINIATURA = 16


@dataclasses.dataclass
class Parte:
    """As fotos de `inicio` a `fim` (sem ele), e os dois arquivos em que ficam."""

    pasta: pathlib.Path
    inicio: int
    fim: int
    digest: str
    tem_mapas: bool

    def _arquivo(self, tipo: str) -> tuple[pathlib.Path, str]:
        nome = f"{tipo}-{self.digest}-{self.inicio:06}.npz"
        return self.pasta / nome, f"{tipo} de {self.digest}"

    def le(self) -> dict[str, np.ndarray] | None:
        """Vetores, rótulos e miniaturas; None se eles, ou os mapas, faltam ou não servem."""
        vetores = le_arrays(*self._arquivo("vetores"))
        if vetores and self.tem_mapas and le_arrays(*self._arquivo("mapas")) is None:
            return None
        return vetores

    def le_mapas(self) -> np.ndarray:
        """Mapas float16 (fim − inicio, altura, largura, canais), ou os vetores, se não há corte."""
        tipo = "mapas" if self.tem_mapas else "vetores"
        if (arrays := le_arrays(*self._arquivo(tipo))) is None:
            raise ErroClaro(
                f"{self._arquivo(tipo)[0]} sumiu ou se estragou. Rode o notebook de novo."
            )
        return arrays[tipo]

    def guarda(self, mapas: np.ndarray, **vetores: np.ndarray) -> None:
        """Grava a parte; ela só vale com os dois arquivos inteiros."""
        if self.tem_mapas:
            with np.errstate(over="ignore"):
                metade = mapas.astype("float16")
            if not np.isfinite(metade).all():
                raise ErroClaro("os mapas deste corte não cabem em 16 bits: escolha outro corte.")
            guarda_arrays(*self._arquivo("mapas"), mapas=metade)
        guarda_arrays(*self._arquivo("vetores"), **vetores)


def receita(leitor: dados.Leitor, backbone: keras.Model, corte: str | None) -> list:
    """Tudo de que uma parte depende, menos as fotos e o motor.

    Do leitor, o código, as constantes que ele usa e o que ele faz com uma foto de prova.
    """
    try:
        codigo = [inspect.getsource(leitor), de_fora(leitor)]
    except (OSError, TypeError):  # definido onde não há arquivo, ou um functools.partial
        codigo = [de_fora(leitor)]
    modulos = fontes(backbones, dados, motores, sys.modules[__name__])
    pesos = digesto(backbone.get_weights())
    return [[codigo, dados.prova(leitor)], backbone.name, pesos, corte, *modulos]


def divide(
    fotos: pd.DataFrame, depende_de: list, pasta: pathlib.Path, tem_mapas: bool
) -> list[Parte]:
    """As partes de 500 fotos; o digest de cada uma depende só das fotos que estão nela."""
    partes = []
    for inicio in range(0, len(fotos), FOTOS_POR_PARTE):
        destas = fotos["sha256"].iloc[inicio : inicio + FOTOS_POR_PARTE].tolist()
        digest = digesto(depende_de, destas)
        partes.append(Parte(pasta, inicio, inicio + len(destas), digest, tem_mapas))
    return partes


def com_miniaturas(
    leitor: dados.Leitor, builder: dados.Builder, partes: list[Parte]
) -> tf.data.Dataset:
    """O que o leitor entrega das partes: (foto, (rótulo (1,), miniatura float16 (16, 16))).

    Levanta ErroClaro se ele não diz que são tantas fotos quantas linhas têm as partes.
    """

    def junta(foto, rotulo):
        quadros = tf.reshape(foto, (LADO_MINIATURA, 14, LADO_MINIATURA, 14, 3))
        cinza = tf.image.rgb_to_grayscale(tf.reduce_mean(quadros, (1, 3)))
        miniatura = tf.cast(cinza[..., 0], tf.float16)
        return foto, (tf.reshape(tf.cast(rotulo, tf.float32), (1,)), miniatura)

    fatia = "+".join(f"train[{parte.inicio}:{parte.fim}]" for parte in partes)
    pares, linhas = leitor(builder, fatia), sum(parte.fim - parte.inicio for parte in partes)
    if int(pares.cardinality()) != linhas:
        raise ErroClaro(
            "o leitor tem de entregar uma foto por linha da fatia, na mesma ordem: não pode "
            "filtrar nem repetir fotos."
        )
    return pares.map(junta, tf.data.AUTOTUNE).with_options(dados.SEM_AJUSTE)


def nao_leu(builder: dados.Builder, erro: Exception) -> ErroClaro:
    """A frase de quem não leu as fotos até o fim: só o que está estragado se manda apagar."""
    estragos = (tf.errors.DataLossError, tf.errors.NotFoundError, StopIteration)
    if isinstance(erro, estragos) or re.search("jpeg|decode", str(erro), re.IGNORECASE):
        return dados.danificado(builder)
    causa = f"{type(erro).__name__}: {str(erro).splitlines()[0][-200:]}"
    return ErroClaro(
        f"não consegui ler as fotos de {builder.data_path} ({causa}). Os arquivos podem estar "
        "bons: confira a permissão, a memória, o disco ou a rede e, se você o mudou, o leitor."
    )


def calcula(
    roda: motores.Roda, leitor: dados.Leitor, builder: dados.Builder, partes: list[Parte]
) -> Iterator[Parte]:
    """Passa as fotos das partes pelo motor e gera cada parte assim que ela está guardada.

    Levanta ErroClaro se o dataset está danificado ou se o leitor não entrega uma foto por linha.
    """
    saidas = roda(com_miniaturas(leitor, builder, partes))
    for parte in partes:
        lidas = []
        try:
            for _ in range(parte.inicio, parte.fim):
                lidas.append(next(saidas))
        except (tf.errors.OpError, StopIteration) as erro:
            raise nao_leu(builder, erro) from erro
        mapas, vetores, outras = zip(*lidas, strict=True)
        rotulos, miniaturas = zip(*outras, strict=True)
        juntos = {"vetores": vetores, "rotulos": rotulos, "miniaturas": miniaturas}
        juntos = {nome: np.stack(arrays) for nome, arrays in juntos.items()}
        parte.guarda(np.stack(mapas), **juntos)
        yield parte
