"""As redes do Keras recebem a faixa de pixels certa, e todas se dividem e se unem."""

import keras
import numpy as np
import pytest

import detector
from detector import backbones
from detector.ambiente import ErroClaro

FOTOS = np.random.default_rng(0).random((3, 224, 224, 3), dtype="float32")


@pytest.mark.parametrize(
    ("nome", "familia", "corte"),
    [
        ("MobileNetV2", "mobilenet_v2", "block_15_add"),  # pixels de −1 a 1
        ("ResNet50", "resnet50", "conv5_block2_out"),  # BGR, com as médias subtraídas
        ("DenseNet121", "densenet", "pool4_pool"),  # cada canal com a sua conta
        ("EfficientNetV2B0", "efficientnet_v2", "block6g_add"),  # de 0 a 255
        ("NASNetMobile", "nasnet", None),
    ],
)
def test_a_rede_do_keras_recebe_a_faixa_que_espera_e_se_divide_onde_e_mais_estreita(
    nome, familia, corte
):
    rede = backbones.do_keras(nome, pesos=None)  # os da ImageNet viriam da internet
    esperado = getattr(keras.applications, familia).preprocess_input(FOTOS * 255)
    np.testing.assert_allclose(rede.get_layer("faixa_de_pixels")(FOTOS), esperado, atol=1e-3)
    assert backbones.acha_corte(rede) == corte
    base, topo = backbones.divide(rede, corte)
    assert len(topo.layers) < len(base.layers)
    np.testing.assert_allclose(topo(base(FOTOS)), rede(FOTOS), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("corte", ["blocks.14.add", "blocks.8.bn2", "conv_head", None])
def test_base_e_topo_fazem_a_conta_do_backbone_e_treinar_o_topo_nao_o_muda(backbone, corte):
    assert backbones.acha_corte(backbone) == "blocks.14.add"
    antes = [peso.copy() for peso in backbone.get_weights()]
    base, topo = backbones.divide(backbone, corte)
    assert np.array_equal(topo(base(FOTOS)), backbone(FOTOS))
    topo.set_weights([peso + 1 for peso in topo.get_weights()])
    assert all(map(np.array_equal, antes, backbone.get_weights()))


@pytest.mark.parametrize(
    ("nome", "dica"),
    [
        ("EfficientNetLite0+", "Os que conheço: EfficientNetLite0, .*MobileNetV2"),
        ("__name__", "Os que conheço: EfficientNetLite0, .*MobileNetV2"),
        ("efficientnetlite0", "Você quis dizer EfficientNetLite0\\?"),
        ("ResNet50+ mobilenet_v2", "Você quis dizer MobileNetV2\\?"),
    ],
)
def test_nome_que_nao_existe_e_dito_em_uma_frase_antes_de_tudo(nome, dica):
    parametros = {"MODELOS": "modelos", "SEMENTE": 0, "BACKBONE": nome}
    with pytest.raises(ErroClaro, match=dica) as recusa:
        detector.comeca(parametros)
    assert str(recusa.value).startswith("não conheço o backbone '")
    assert "\n" not in str(recusa.value)


def test_operacao_que_nao_existe_e_dita_em_uma_frase(backbone):
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
