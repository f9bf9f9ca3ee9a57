"""Do arquivo à rede: a mesma preparação para as fotos do dataset e para a sua."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

LADO = 224  # pixels; o que EfficientNet-Lite0, MobileNetV2 e a maioria dos backbones esperam

Preparo = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


@tfds.decode.make_decoder()
def decodifica(codificada: tf.Tensor, feature: tfds.features.Image) -> tf.Tensor:
    """Decoder do TFDS: uint8 (altura, largura, 3), em 0–255, de um JPEG ou PNG codificado.

    Faz a conta exata, que é também a do PIL: a mesma foto dá o mesmo vetor aqui e em `classifica`.
    """
    return tf.io.decode_jpeg(codificada, channels=3, dct_method="INTEGER_ACCURATE")


def redimensiona_img(img: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Deixa a foto pronta para o modelo.

    img: (altura, largura, 3), em 0–255. label: 0 (gato) ou 1 (cachorro).
    Devolve a imagem float32 (224, 224, 3), em [0, 1], e o rótulo float32.
    Recusa, com ValueError ou InvalidArgumentError, o que não tem três eixos e três canais.
    """
    img = tf.image.resize(img, (LADO, LADO), "bicubic") / 255
    img = tf.clip_by_value(img, 0, 1)  # o bicúbico passa um pouco do preto e do branco
    return tf.ensure_shape(img, (LADO, LADO, 3)), tf.cast(label, tf.float32)


def prova(preparo: Preparo) -> np.ndarray:
    """O que `preparo` faz com uma imagem sempre igual: float32 (14, 14, 3).

    Diz, em qualquer máquina, se um modelo foi treinado com esta preparação ou com outra.
    """
    acaso = np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype="uint8")
    img, _ = preparo(tf.constant(acaso), tf.constant(0, tf.int64))
    return np.asarray(img, "float32")[::16, ::16]
