"""Ler as fotos do dataset: prontas para a rede, sempre na mesma ordem, por um caminho só."""

import hashlib
import pathlib
import types
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import tensorflow as tf
import tensorflow_datasets as tfds

from detector.ambiente import ErroClaro

LADO = 224  # pixels; o que EfficientNet-Lite0, MobileNetV2 e a maioria dos backbones esperam
MINIMO_DE_FOTOS = 20  # com menos, não há o que dividir em treino, validação e teste
MINIMO_POR_CLASSE = 5  # uma para cada grupo da validação cruzada

# Sem o ajuste automático do tf.data: com ele, o fim de uma passagem pelos dados às vezes trava até
# a thread do ajuste acordar, o que, no TensorFlow 2.21, demora até o que a passagem demorou.
SEM_AJUSTE = tf.data.Options()
SEM_AJUSTE.autotune.enabled = False
# Um arquivo do dataset depois do outro: o TFDS intercala 16 deles se ninguém pede outra coisa.
EM_ORDEM = tfds.ReadConfig(options=SEM_AJUSTE, interleave_cycle_length=1, try_autocache=False)

Builder = tfds.core.DatasetBuilder
Preparo = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
Leitor = Callable[[Builder, str], tf.data.Dataset]


def redimensiona_img(img: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Deixa a foto pronta para o modelo.

    img: (altura, largura, 3), em 0–255. label: 0 (gato) ou 1 (cachorro).
    Devolve a imagem float32 (224, 224, 3), em [0, 1], e o rótulo float32.
    Recusa, com ValueError ou InvalidArgumentError, o que não tem três eixos e três canais.
    """
    img = tf.image.resize(img, (LADO, LADO), "bicubic") / 255
    img = tf.clip_by_value(img, 0, 1)  # o bicúbico passa um pouco do preto e do branco
    return tf.ensure_shape(img, (LADO, LADO, 3)), tf.cast(label, tf.float32)


def le(builder: Builder, fatia: str, prepara: Preparo | None = redimensiona_img) -> tf.data.Dataset:
    """Pares (foto, rótulo) de uma fatia do dataset, como "train[0:1600]", sempre na mesma ordem.

    prepara: o que se faz com cada par; None o deixa como veio, com a foto uint8 em 0–255.
    """
    pares = builder.as_dataset(
        split=fatia,
        as_supervised=True,  # pares (foto, rótulo), em vez de dicts
        decoders={"image": decodifica()},
        read_config=EM_ORDEM,
    )
    return pares.map(prepara, tf.data.AUTOTUNE) if prepara else pares


@tfds.decode.make_decoder()
def decodifica(codificada: tf.Tensor, feature: tfds.features.Image) -> tf.Tensor:
    """Decoder do TFDS: uint8 (altura, largura, 3), em 0–255, de um JPEG ou PNG codificado.

    A conta é a exata, a mesma do PIL a menos de ±1 (arredondamento): a mesma foto dá o mesmo
    vetor aqui e em `classifica`.
    """
    return tf.io.decode_jpeg(codificada, channels=3, dct_method="INTEGER_ACCURATE")


def na_prova(leitor: Leitor) -> tf.data.Dataset:
    """O que `leitor` entrega de um dataset de uma foto só, sempre igual: 300×400, de chuvisco."""
    acaso = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype="uint8")
    uma = tf.data.Dataset.from_tensors((tf.constant(acaso), tf.constant(1, tf.int64)))
    builder = types.SimpleNamespace(as_dataset=lambda *_, **__: uma)  # faz as vezes de um do TFDS
    return leitor(builder, "train[0:1]")


def prova(leitor: Leitor) -> np.ndarray:
    """O que `leitor` faz com uma foto sempre igual: float32 (14, 14, 3), e o rótulo no fim.

    Diz, em qualquer máquina, se um modelo foi treinado com este leitor ou com outro. Devolve
    float32 (589,). Levanta ErroClaro se o que ele lê não são pares de foto 224×224 e rótulo.
    """
    lidos = list(na_prova(leitor).take(2).as_numpy_iterator())
    um_par = len(lidos) == 1 and isinstance(lidos[0], tuple) and len(lidos[0]) == 2
    foto, rotulo = lidos[0] if um_par else (np.zeros(0), 0)
    if foto.shape != (LADO, LADO, 3) or foto.dtype.kind != "f" or np.size(rotulo) != 1:
        raise ErroClaro(
            "o leitor tem de entregar, de cada foto, um par: a foto, em números float de forma "
            f"({LADO}, {LADO}, 3), e um rótulo só."
        )
    return np.append(foto[::16, ::16], rotulo).astype("float32")


def com_miniaturas(leitor: Leitor, builder: Builder, linhas: list[range]) -> tf.data.Dataset:
    """O que o leitor entrega dessas linhas: (foto, rótulo (1,), miniatura float16 (16, 16)).

    Levanta ErroClaro se ele não diz que são tantas fotos quantas as linhas.
    """

    def junta(foto, rotulo):
        pequena = tf.image.resize(foto, (16, 16), "area")
        miniatura = tf.cast(tf.image.rgb_to_grayscale(pequena)[..., 0], tf.float16)
        return foto, tf.reshape(tf.cast(rotulo, tf.float32), (1,)), miniatura

    pares = leitor(builder, "+".join(f"train[{de.start}:{de.stop}]" for de in linhas))
    if int(pares.cardinality()) != sum(map(len, linhas)):
        raise ErroClaro(
            "o leitor tem de entregar uma foto por linha da fatia, na mesma ordem: não pode "
            "filtrar nem repetir fotos."
        )
    return pares.map(junta, tf.data.AUTOTUNE).with_options(SEM_AJUSTE)


def pega(leitor: Leitor, builder: Builder, indices: Sequence[int], **opcoes) -> list[np.ndarray]:
    """As fotos dessas linhas de `lista`, na ordem pedida; só elas são abertas.

    opcoes: as que o leitor aceita, como `prepara=None`, que as deixa do tamanho que têm.
    """
    if not len(indices):
        return []
    fatia = "+".join(f"train[{i}:{i + 1}]" for i in indices)
    return [foto for foto, _ in leitor(builder, fatia, **opcoes).as_numpy_iterator()]


def classes(builder: Builder) -> list[str]:
    """Nomes das classes 0 e 1, em português quando são as do cats_vs_dogs."""
    nomes = builder.info.features["label"].names
    return ["gato", "cachorro"] if nomes == ["cat", "dog"] else nomes


def lista(builder: Builder, n: int | None = None) -> pd.DataFrame:
    """As `n` primeiras fotos (None: todas), na ordem, sem decodificar nenhuma.

    Colunas: arquivo, rotulo (0 ou 1) e sha256, que resume a foto, o nome dela e o rótulo.
    Levanta ErroClaro se são menos de 20, ou 5 de uma classe, ou se os arquivos estão danificados.
    """
    total = builder.info.splits["train"].num_examples
    n = min(n or total, total)
    linhas = []
    codificadas = builder.as_dataset(
        split=f"train[0:{n}]",
        decoders={"image": tfds.decode.SkipDecoding()},
        read_config=EM_ORDEM,
    )
    try:
        for lote in codificadas.batch(100).as_numpy_iterator():  # de 1 em 1 custa mais
            trios = zip(lote["image/filename"], lote["label"], lote["image"], strict=True)
            for nome, rotulo, foto in trios:
                resumo = hashlib.sha256(b"\0".join([nome, str(rotulo).encode(), foto]))
                linhas.append((nome.decode(), int(rotulo), resumo.hexdigest()))
    except tf.errors.OpError as erro:
        raise danificado(builder, erro) from erro
    tabela = pd.DataFrame(linhas, columns=["arquivo", "rotulo", "sha256"])
    de_cada = [int((tabela["rotulo"] == classe).sum()) for classe in (0, 1)]
    if n < MINIMO_DE_FOTOS or min(de_cada) < MINIMO_POR_CLASSE:
        raise ErroClaro(
            f"fotos lidas: {n}, {de_cada[0]} da classe 0 e {de_cada[1]} da classe 1; são "
            f"precisas pelo menos {MINIMO_DE_FOTOS}, com {MINIMO_POR_CLASSE} de cada classe."
        )
    return tabela


def danificado(builder: Builder, erro: tf.errors.OpError) -> ErroClaro:
    """A frase de quem não leu as fotos até o fim; só o que está estragado se manda apagar."""
    onde = pathlib.Path(builder.data_path)
    estragos = (
        tf.errors.DataLossError,
        tf.errors.NotFoundError,
        tf.errors.OutOfRangeError,
        tf.errors.FailedPreconditionError,  # menos fotos do que o TFDS anotou
    )
    estragado = isinstance(erro, estragos) or "jpeg" in erro.message.lower()
    if not estragado:  # é a permissão, a memória, a rede, o leitor
        causa = f"{type(erro).__name__}: {erro.message.splitlines()[0][-200:]}"
        return ErroClaro(
            f"não consegui ler as fotos de {onde} ({causa}). Os arquivos podem estar bons: confira "
            "a permissão, a memória, o disco ou a rede e, se você o mudou, o leitor."
        )
    return ErroClaro(
        f"os arquivos de {onde} estão danificados ou incompletos. Apague essa pasta e rode de novo."
    )
