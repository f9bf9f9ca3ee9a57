"""A rede do pip é mesmo a da ImageNet, as do Keras recebem a faixa certa, e todas se dividem."""

import keras
import matplotlib.cbook
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from sklearn.datasets import load_sample_image

from detector import backbones, imagenet
from detector.ambiente import ErroClaro

CORTES = {"MobileNetV2": "block_15_add", "ResNet50": "conv5_block2_out", "NASNetMobile": None}
CORTES |= {"EfficientNetV2B0": "block6g_add"}
FOTOS = np.random.default_rng(0).random((3, 224, 224, 3), dtype="float32")


@pytest.mark.parametrize("nome", backbones.LITE)
def test_com_a_cabeca_da_imagenet_a_rede_reconhece_o_que_ha_na_foto(nome):
    """Três fotos que vêm com as bibliotecas; as classes são as da ImageNet."""
    rede, [(kernel, bias)] = backbones.efficientnet_lite(nome), imagenet.cabecas(nome)
    lado = rede.input_shape[1]
    hopper = PIL.Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg"))
    fotos = [hopper, load_sample_image("china.jpg"), load_sample_image("flower.jpg")]
    lote = tf.stack([tf.image.resize(np.asarray(foto), (lado, lado)) / 255 for foto in fotos])
    farda, templo, flor = np.argsort(-(rede.predict(lote, verbose=0) @ kernel + bias))
    assert farda[0] == 652  # uniforme militar
    assert set(templo[:3]) <= {698, 663, 497, 442, 832, 483}  # palácio, mosteiro, igreja…
    assert {985, 309} & set(flor[:5])  # margarida, abelha


@pytest.mark.parametrize(
    ("nome", "familia"),
    [
        ("MobileNetV2", keras.applications.mobilenet_v2),  # de −1 a 1
        ("ResNet50", keras.applications.resnet50),  # BGR, com as médias subtraídas
        ("DenseNet121", keras.applications.densenet),  # cada canal com a sua média e o seu desvio
        ("EfficientNetV2B0", keras.applications.efficientnet_v2),  # de 0 a 255
    ],
)
def test_cada_familia_recebe_a_faixa_de_pixels_que_espera(nome, familia):
    rede = backbones.do_keras(nome, pesos=None)
    esperado = familia.preprocess_input(FOTOS * 255)
    np.testing.assert_allclose(rede.get_layer("faixa_de_pixels")(FOTOS), esperado, atol=1e-3)


@pytest.mark.parametrize("nome", CORTES)
def test_cada_rede_se_divide_no_ponto_mais_estreito_com_convolucoes_acima(nome):
    rede = backbones.do_keras(nome, pesos=None)  # os da ImageNet viriam da internet
    assert backbones.acha_corte(rede) == CORTES[nome]
    if CORTES[nome]:
        base, topo = backbones.divide(rede, CORTES[nome])
        assert topo.layers[-1].name == "media" and len(topo.layers) < len(base.layers)
        np.testing.assert_allclose(topo(base(FOTOS)), rede(FOTOS), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("corte", ["blocks.14.add", "blocks.8.bn2", "conv_head", None])
def test_base_e_topo_fazem_a_conta_do_backbone_e_treinar_o_topo_nao_o_muda(backbone, corte):
    assert backbones.acha_corte(backbone) == "blocks.14.add"
    antes = [peso.copy() for peso in backbone.get_weights()]
    base, topo = backbones.divide(backbone, corte)
    assert np.array_equal(topo(base(FOTOS)), backbone(FOTOS))
    topo.set_weights([peso + 1 for peso in topo.get_weights()])
    assert all(map(np.array_equal, antes, backbone.get_weights()))


def test_nome_que_nao_existe_e_dito_em_uma_frase(backbone):
    for nome in ("ResNet9000", "EfficientNetLite0+", "efficientnetlite0", "__name__"):
        with pytest.raises(ErroClaro, match=r"EfficientNetLite0.*MobileNetV2") as recusa:
            backbones.cria(nome)
        assert "\n" not in str(recusa.value)
    with pytest.raises(ErroClaro, match=r"'blocks\.99\.add'.*conv_head.*media"):
        backbones.divide(backbone, "blocks.99.add")


def test_redes_unidas_dao_os_vetores_lado_a_lado_e_nao_se_dividem(backbone):
    unidas = backbones.cria("EfficientNetLite0+EfficientNetLite1")
    assert unidas.input_shape == (None, 224, 224, 3) and unidas.output_shape == (None, 2560)
    pela_chamada = unidas(FOTOS)  # mesmo sem congelar, uma chamada não muda os pesos
    np.testing.assert_allclose(pela_chamada[:, :1280], backbone(FOTOS), atol=1e-4)
    np.testing.assert_allclose(unidas.predict(FOTOS, verbose=0), pela_chamada, atol=1e-4)
    assert backbones.acha_corte(unidas) is None
    base, topo = backbones.divide(unidas, None)
    assert np.array_equal(topo(base(FOTOS)), unidas(FOTOS))
