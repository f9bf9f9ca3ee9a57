"""Cada figura aparece, inteira e do tamanho certo, e mostra o que diz mostrar."""

import io
import threading

import IPython.display
import keras
import numpy as np
import pytest
from PIL import Image

from detector import figuras

ACASO = np.random.default_rng(0)
FOTOS = ACASO.random((4, 224, 224, 3))
HISTORICO = {"loss": [1] * 5, "val_log_loss": [4, 1, 0, 1, 4]}
HISTORICO |= dict.fromkeys(("log_loss", "acuracia", "val_acuracia"), (0.9, 0.8, 0.7, 0.6, 0.5))
Y = np.arange(200) % 2
P = np.clip(Y * 0.9 + ACASO.normal(0.05, 0.2, 200), 0, 1)
DESENHOS = {
    "fotos": (lambda: figuras.mostra_fotos(list(FOTOS), "abcd", colunas=4), (612, 180)),
    "curvas": (lambda: figuras.curvas(HISTORICO), (810, 270)),
    "confusão": (lambda: figuras.confusao(Y, P, ["g", "c"]), (405, 342)),
    "a de duas fotos": (lambda: figuras.confusao([1, 1], [0.1, 0.9], ["g", "c"]), (405, 342)),
    "mapas": (lambda: figuras.mostra_onde_olhou(FOTOS, FOTOS[..., 0] - 0.5, "abcd"), (792, 225)),
    "nenhuma foto": (lambda: figuras.mostra_fotos([], []), (918, 180)),
}


@pytest.fixture
def vistas(monkeypatch):
    """As figuras que apareceram na tela, como arrays RGB."""
    telas = []
    monkeypatch.setattr(IPython.display, "display", lambda png: telas.append(png.data))
    return lambda: [np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in telas]


@pytest.mark.parametrize("nome", DESENHOS)
def test_a_figura_aparece_ate_de_outra_thread(nome, vistas):
    desenha, (largura, altura) = DESENHOS[nome]
    thread = threading.Thread(target=desenha)
    thread.start()
    thread.join()
    [figura] = vistas()
    assert figura.shape == (altura, largura, 3)
    assert figura.std() > 10 or nome == "nenhuma foto"


def test_a_media_do_mapa_somada_ao_vies_e_o_logit_e_sem_mapa_isto_e_dito(vistas, capsys):
    keras.utils.set_random_seed(1)
    mapa, vetor = keras.Input((7, 7, 3)), keras.Input((8,))
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(mapa)
    topo = keras.Model(mapa, keras.layers.GlobalAveragePooling2D(name="media")(x), name="topo")
    camada = keras.layers.Dense(1, "sigmoid", bias_initializer="random_normal")
    cabeca = keras.Sequential([keras.Input((8,)), camada], name="cabeca")
    mapas = ACASO.normal(size=(5, 7, 7, 3)).astype("float16")
    olhou = figuras.onde_olhou(topo, cabeca, mapas)
    p = cabeca(topo(mapas.astype("float32"))).numpy()[:, 0]
    media = olhou.mean(axis=(1, 2)) + camada.get_weights()[1]
    np.testing.assert_allclose(media, np.log(p / (1 - p)), atol=1e-4)
    unidas = keras.Model(vetor, keras.layers.Identity()(vetor), name="topo")
    figuras.mostra_onde_olhou(FOTOS[:2], figuras.onde_olhou(unidas, cabeca, FOTOS), "ab")
    assert vistas() == [] and "não se vê" in capsys.readouterr().out


def test_o_mapa_fraco_tambem_se_ve_e_cada_classe_tem_a_sua_cor(vistas):
    cinzas = np.full((2, 224, 224, 3), 0.5)
    mapas = np.stack([np.full((224, 224), 5.0), np.full((224, 224), -0.01)])
    figuras.mostra_onde_olhou(cinzas, mapas, "ab")
    pixels = vistas()[0].astype(int)
    altura, largura, _ = pixels.shape
    laranja, azul = pixels[altura // 2, largura // 8], pixels[altura // 2, 3 * largura // 8]
    assert laranja[0] - laranja[2] > 80 and azul[2] - azul[0] > 80


def test_ha_seis_coisas_que_nao_sao_gato_nem_cachorro():
    imagens = figuras.outras_coisas().values()
    assert len(imagens) == 6 and all(imagem.dtype == np.uint8 for imagem in imagens)
    assert all(min(i.shape[:2]) >= 224 and i.shape[2:] == (3,) and i.std() > 10 for i in imagens)
