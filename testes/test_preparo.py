"""Qualquer foto sai pronta para a rede, igual à do dataset e à que a pessoa abre."""

import io

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from detector import dados
from detector.preparo import LADO, prova, redimensiona_img

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("formato", [(375, 500, 3), (1, 1, 3), (3, 900, 3), (224, 224, 3)])
def test_a_saida_tem_sempre_o_mesmo_formato_tipo_e_faixa(formato):
    xadrez = RNG.choice([0, 255], formato).astype("uint8")  # contraste que faz o bicúbico passar
    img, label = redimensiona_img(xadrez, 1)
    assert img.shape == (LADO, LADO, 3) and img.dtype == tf.float32
    assert tf.reduce_min(img) >= 0 and tf.reduce_max(img) <= 1
    assert label.dtype == tf.float32 and label == 1


def test_uma_foto_do_tamanho_certo_so_e_dividida_por_255():
    foto = RNG.integers(0, 256, (LADO, LADO, 3), dtype="uint8")
    np.testing.assert_allclose(redimensiona_img(foto, 0)[0], foto / 255, atol=1e-6)


def test_ampliar_e_a_conta_bicubica_do_pil():
    foto = RNG.integers(60, 200, (32, 40, 3), dtype="uint8")
    pelo_pil = PIL.Image.fromarray(foto).resize((LADO, LADO), PIL.Image.Resampling.BICUBIC)
    diferenca = np.abs(redimensiona_img(foto, 0)[0] * 255 - np.asarray(pelo_pil, "float32"))
    assert diferenca.max() < 2  # o PIL arredonda duas vezes; o bilinear passaria de 20


@pytest.mark.parametrize("formato", [(50, 60), (50, 60, 1), (50, 60, 4), (1, 50, 60, 3)])
def test_o_que_nao_e_uma_foto_colorida_e_recusado(formato):
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        redimensiona_img(np.zeros(formato, "uint8"), 0)


def test_as_fotos_do_dataset_sao_pixel_a_pixel_as_do_pil(amostra):
    arquivos = amostra.as_dataset("train[:30]", decoders={"image": tfds.decode.SkipDecoding()})
    lidas = dados.le(amostra, "train[:30]").as_numpy_iterator()
    for arquivo, (foto, rotulo) in zip(arquivos.as_numpy_iterator(), lidas, strict=True):
        pelo_pil = PIL.Image.open(io.BytesIO(arquivo["image"])).convert("RGB")
        assert np.array_equal(foto, np.asarray(pelo_pil)) and rotulo == arquivo["label"]


def test_a_prova_distingue_uma_preparacao_da_outra():
    def de_outra_rede(img, label):
        img, label = redimensiona_img(img, label)
        return img * 2 - 1, label

    def bilinear(img, label):
        return tf.image.resize(img, (LADO, LADO)) / 255, tf.cast(label, tf.float32)

    esta = prova(redimensiona_img)
    assert esta.shape == (14, 14, 3) and np.array_equal(esta, prova(redimensiona_img))
    for outra in (de_outra_rede, bilinear):
        assert not np.allclose(esta, prova(outra), atol=0.02)
