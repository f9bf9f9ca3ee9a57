"""Ler o dataset preparado, sempre na mesma ordem: as fotos, a lista delas, algumas delas."""

import contextlib
import hashlib
import io
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
import tensorflow as tf
import tensorflow_datasets as tfds

from detector import preparo
from detector.erros import ErroClaro, motivo

MINIMO_DE_FOTOS = 20  # com menos, não há o que dividir em treino, validação e teste
MINIMO_POR_CLASSE = 5  # uma para cada grupo da validação cruzada
# Sem o ajuste automático do tf.data: com ele, o fim de uma passagem pelos dados às vezes trava até
# a thread do ajuste acordar, o que, no TensorFlow 2.21, demora até o que a passagem demorou.
SEM_AJUSTE = tf.data.Options()
SEM_AJUSTE.autotune.enabled = False
# Um arquivo do dataset depois do outro: o TFDS intercala 16 deles se ninguém pede outra coisa.
EM_ORDEM = tfds.ReadConfig(options=SEM_AJUSTE, interleave_cycle_length=1, try_autocache=False)

Builder = tfds.core.DatasetBuilder


def classes(builder: Builder) -> list[str]:
    """Nomes das classes 0 e 1, em português quando são as do cats_vs_dogs."""
    nomes = builder.info.features["label"].names
    return ["gato", "cachorro"] if nomes == ["cat", "dog"] else nomes


def le(builder: Builder, fatia: str) -> tf.data.Dataset:
    """Pares (foto uint8 (h, w, 3) em 0–255, rótulo int64) da `fatia`, como "train[0:1600]".

    Vêm na ordem em que o dataset os numera, qualquer que seja o número de arquivos dele.
    """
    return builder.as_dataset(
        split=fatia,
        as_supervised=True,
        decoders={"image": preparo.decodifica()},
        read_config=EM_ORDEM,
    )


def lista(builder: Builder, n: int | None = None) -> pd.DataFrame:
    """As `n` primeiras fotos (None: todas), na ordem, sem decodificar nenhuma.

    Colunas: arquivo, rotulo (0 ou 1) e sha256, que resume a foto, o nome dela e o rótulo.
    Levanta ErroClaro se são menos de 20, ou 5 de uma classe, ou se os arquivos estão danificados.
    """
    total = builder.info.splits["train"].num_examples
    n = min(n or total, total)
    linhas = []
    with contextlib.suppress(tf.errors.OpError):  # se falta um arquivo, ou um registro se estragou
        codificadas = builder.as_dataset(
            split=f"train[0:{n}]",
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=EM_ORDEM,
        )
        colunas = ("image/filename", "label", "image")
        for lote in codificadas.batch(100).as_numpy_iterator():  # de 1 em 1 custa mais
            for nome, rotulo, foto in zip(*(lote[coluna] for coluna in colunas), strict=True):
                resumo = hashlib.sha256(b"\0".join([nome, str(rotulo).encode(), foto]))
                linhas.append((nome.decode(), int(rotulo), resumo.hexdigest()))
    if len(linhas) < n:
        raise ErroClaro(
            f"os arquivos de {builder.data_path} estão danificados ou incompletos. Apague essa "
            "pasta e rode de novo."
        )
    tabela = pd.DataFrame(linhas, columns=["arquivo", "rotulo", "sha256"])
    de_cada = [int((tabela["rotulo"] == classe).sum()) for classe in (0, 1)]
    if n < MINIMO_DE_FOTOS or min(de_cada) < MINIMO_POR_CLASSE or sum(de_cada) < n:
        raise ErroClaro(
            f"encontrei {n} fotos, {de_cada[0]} da classe 0 e {de_cada[1]} da classe 1; são "
            f"precisas pelo menos {MINIMO_DE_FOTOS}, com {MINIMO_POR_CLASSE} de cada classe."
        )
    return tabela


def pega(builder: Builder, indices: Sequence[int]) -> list[np.ndarray]:
    """As fotos dessas linhas de `lista`, uint8 (h, w, 3), na ordem pedida; só elas são abertas."""
    fatia = "+".join(f"train[{i}:{i + 1}]" for i in indices)
    return [foto for foto, _ in le(builder, fatia).as_numpy_iterator()] if fatia else []


def le_fotos_fora(arquivo: str | os.PathLike | None) -> list[str]:
    """Nomes das fotos a deixar fora do treino: a coluna `arquivo` de um CSV, ou [] se é None.

    Serve o CSV que o notebook grava e também o que o Excel em português salva por cima dele.
    """
    if arquivo is None:
        return []
    try:
        conteudo = pathlib.Path(arquivo).expanduser().read_bytes()
        try:
            texto = conteudo.decode("utf-8-sig")
        except UnicodeDecodeError:
            texto = conteudo.decode("cp1252", errors="replace")
        separador = ";" if ";" in texto.partition("\n")[0] else ","
        tabela = pd.read_csv(io.StringIO(texto), sep=separador, dtype=str)
        return tabela["arquivo"].dropna().tolist()
    except OSError as erro:
        raise ErroClaro(f"FOTOS_FORA: não consegui ler {arquivo} ({motivo(erro)}).") from erro
    except (ValueError, KeyError) as erro:
        raise ErroClaro(f"FOTOS_FORA: {arquivo} não é um CSV com a coluna `arquivo`.") from erro
