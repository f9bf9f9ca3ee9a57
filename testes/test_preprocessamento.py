"""`redimensiona_img` recebe qualquer foto e devolve sempre o que o modelo espera."""

import numpy as np
import pytest


@pytest.mark.parametrize("formato", [(375, 500, 3), (1, 1, 3), (3, 900, 3), (224, 224, 3), (50, 60, 1), (50, 60, 4)])
def test_a_saida_tem_sempre_o_mesmo_formato_tipo_e_faixa(nb, formato):
    foto = np.random.default_rng(0).integers(0, 256, formato, dtype="uint8")
    img, label = nb.redimensiona_img(foto, 1)
    assert img.shape == (224, 224, 3) and img.dtype == "float32"
    assert 0 <= img.numpy().min() <= img.numpy().max() <= 1
    assert label.dtype == "float32" and float(label) == 1.0


def test_a_faixa_vai_do_preto_ao_branco(nb):
    metade = np.zeros((100, 100, 3), "uint8")
    metade[:, 50:] = 255
    img, _ = nb.redimensiona_img(metade, 0)
    np.testing.assert_allclose(img[:, 0], 0, atol=1e-6)
    np.testing.assert_allclose(img[:, -1], 1, atol=1e-6)


def test_uma_foto_do_tamanho_certo_so_e_dividida_por_255(nb):
    foto = np.random.default_rng(1).integers(0, 256, (224, 224, 3), dtype="uint8")
    np.testing.assert_allclose(nb.redimensiona_img(foto, 0)[0], foto / 255, atol=1e-6)


def test_cinza_vira_tres_canais_iguais_e_transparencia_sai(nb):
    cinza = np.random.default_rng(2).integers(0, 256, (40, 40, 1), dtype="uint8")
    img = nb.redimensiona_img(cinza, 0)[0].numpy()
    assert np.array_equal(img[..., 0], img[..., 1]) and np.array_equal(img[..., 0], img[..., 2])
    rgba = np.random.default_rng(3).integers(0, 256, (40, 40, 4), dtype="uint8")
    assert np.array_equal(nb.redimensiona_img(rgba, 0)[0], nb.redimensiona_img(rgba[..., :3], 0)[0])


@pytest.mark.parametrize("formato", [(224, 224), (1, 224, 224, 3)])
def test_recusa_o_que_nao_e_uma_foto(nb, formato):
    with pytest.raises(ValueError, match="3 eixos"):
        nb.redimensiona_img(np.zeros(formato, "uint8"), 0)


def test_funciona_dentro_do_tf_data(nb, amostra):
    img, label = next(iter(nb.le_fotos(amostra, (0, 4)).map(nb.prepara).batch(4)))
    assert img.shape == (4, 224, 224, 3) and label.shape == (4,)
