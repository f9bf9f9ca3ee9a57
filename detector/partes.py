"""As fotos em partes de 500: o nome de cada parte, o que fica guardado dela, e quem a calcula.

Uma parte é função apenas de (fotos da fatia, leitor, backbone, corte, motor): qualquer processo, em
qualquer máquina, pode calcular qualquer uma, e o nome do arquivo resume tudo de que ela depende.
"""

import contextlib
import dataclasses
import inspect
import pathlib
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


@dataclasses.dataclass(frozen=True)
class Parte:
    """As fotos de `inicio` a `fim` (sem ele), e o arquivo em que fica o que a rede diz delas."""

    arquivo: pathlib.Path
    digest: str
    inicio: int
    fim: int

    def le(self) -> dict[str, np.ndarray] | None:
        """Vetores, rótulos e miniaturas; None se a parte falta ou não serve."""
        if arrays := le_arrays(self.arquivo, self.digest):
            arrays.pop("mapas", None)
        return arrays

    def mapas(self) -> np.ndarray:
        """Mapas float16 (fim − inicio, altura, largura, canais), ou os vetores, se são o mesmo."""
        if (arrays := le_arrays(self.arquivo, self.digest)) is None:
            raise ErroClaro(f"{self.arquivo} sumiu ou se estragou. Rode o notebook de novo.")
        return arrays.get("mapas", arrays["vetores"])


def receita(leitor: dados.Leitor, backbone: keras.Model, corte: str | None) -> list:
    """Tudo de que uma parte depende, menos as fotos e o motor.

    Do leitor, o código, as constantes que ele usa e o que ele faz com uma foto de prova.
    """
    codigo = [de_fora(leitor)]
    with contextlib.suppress(OSError, TypeError):  # definido fora de um arquivo, ou um partial
        codigo.append(inspect.getsource(leitor))
    modulos = fontes(backbones, dados, motores, sys.modules[__name__])
    pesos = digesto(backbone.get_weights())
    return [[codigo, dados.prova(leitor)], backbone.name, pesos, corte, *modulos]


def divide(fotos: pd.DataFrame, depende_de: list, pasta: pathlib.Path) -> list[Parte]:
    """As partes de 500 fotos; o digest de cada uma depende só das fotos que estão nela."""
    partes = []
    for inicio in range(0, len(fotos), FOTOS_POR_PARTE):
        destas = fotos["sha256"].iloc[inicio : inicio + FOTOS_POR_PARTE].tolist()
        digest = digesto(depende_de, destas)
        arquivo = pasta.absolute() / f"vetores-{digest}-{inicio:06}.npz"
        partes.append(Parte(arquivo, digest, inicio, inicio + len(destas)))
    return partes


def com_miniaturas(
    leitor: dados.Leitor, builder: dados.Builder, partes: list[Parte]
) -> tf.data.Dataset:
    """O que o leitor entrega das partes: (foto, (rótulo (1,), miniatura float16 (16, 16))).

    Levanta ErroClaro se ele não diz que são tantas fotos quantas linhas têm as partes.
    """

    quadro = dados.LADO // LADO_MINIATURA

    def junta(foto, rotulo):
        quadros = tf.reshape(foto, (LADO_MINIATURA, quadro, LADO_MINIATURA, quadro, 3))
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


@contextlib.contextmanager
def explica(builder: dados.Builder) -> Iterator[None]:
    """Põe numa frase a falha de quem lê as fotos; só o que está estragado se manda apagar."""
    try:
        yield
    except (tf.errors.OpError, StopIteration) as erro:
        raise dados.danificado(builder, erro) from erro


def calcula(
    roda: motores.Roda, leitor: dados.Leitor, builder: dados.Builder, partes: list[Parte]
) -> Iterator[Parte]:
    """Passa as fotos das partes pelo motor e gera cada parte assim que ela está guardada.

    Levanta ErroClaro se o dataset está danificado, se o leitor não entrega uma foto por linha, se
    os mapas não cabem em float16 ou se não se pode gravar.
    """
    saidas = roda(com_miniaturas(leitor, builder, partes))
    for parte in partes:
        with explica(builder):
            lidas = [next(saidas) for _ in range(parte.inicio, parte.fim)]
        mapas, vetores, outras = zip(*lidas, strict=True)
        rotulos, miniaturas = zip(*outras, strict=True)
        arrays = {"vetores": vetores, "rotulos": rotulos, "miniaturas": miniaturas, "mapas": mapas}
        arrays = {nome: np.stack(valores) for nome, valores in arrays.items()}
        mapas = arrays.pop("mapas")
        if not np.array_equal(mapas, arrays["vetores"]):
            if not np.abs(mapas).max() <= np.finfo("float16").max:
                raise ErroClaro("os mapas deste corte não cabem em 16 bits: escolha outro corte.")
            arrays["mapas"] = mapas.astype("float16")
        guarda_arrays(parte.arquivo, parte.digest, **arrays)
        yield parte
