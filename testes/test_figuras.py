"""Cada figura aparece, fica gravada no tamanho certo e mostra o que diz mostrar."""

import threading

import keras
import numpy as np
import pytest
from PIL import Image

from detector import figuras
from detector.erros import ErroClaro

ACASO = np.random.default_rng(0)
FOTOS = ACASO.random((4, 224, 224, 3))
HISTORICO = [
    {"log_loss": 1 / e, "acuracia": 0.9, "val_log_loss": (e - 3) ** 2, "val_acuracia": 0.8}
    for e in range(1, 6)
]
Y = np.arange(200) % 2
P = np.clip(Y * 0.9 + ACASO.normal(0.05, 0.2, 200), 0, 1)
DESENHOS = {
    "fotos": (lambda a: figuras.mostra_fotos(list(FOTOS), "abcd", a, colunas=4), (612, 180)),
    "curvas": (lambda a: figuras.curvas(HISTORICO, a), (810, 270)),
    "confusão": (lambda a: figuras.confusao_e_calibracao(Y, P, ["g", "c"], a), (810, 342)),
    "mapas": (
        lambda a: figuras.mostra_onde_olhou(FOTOS, FOTOS[..., 0] - 0.5, "abcd", a),
        (792, 225),
    ),
}


@pytest.mark.parametrize(("desenha", "tamanho"), DESENHOS.values(), ids=DESENHOS.keys())
def test_a_figura_aparece_e_fica_gravada_ate_de_outra_thread(desenha, tamanho, tmp_path, capsys):
    arquivo = tmp_path / "nova" / "figura.png"
    thread = threading.Thread(target=desenha, args=(arquivo,))
    thread.start()
    thread.join()
    assert "Image" in capsys.readouterr().out  # o que o display escreve fora do Jupyter
    with Image.open(arquivo) as figura:
        assert figura.size == tamanho
        assert np.asarray(figura.convert("L")).std() > 10
    assert [a.name for a in arquivo.parent.iterdir()] == ["figura.png"]


def test_se_nao_da_para_gravar_a_figura_aparece_e_uma_frase_diz_por_que(tmp_path, capsys):
    (tmp_path / "pasta").write_text("não é uma pasta")
    with pytest.raises(ErroClaro, match="não consegui gravar"):
        figuras.mostra_fotos(FOTOS, "abcd", tmp_path / "pasta" / "figura.png")
    assert "Image" in capsys.readouterr().out


@pytest.mark.parametrize("y", [[1, 1], [0, 0], [0, 1]], ids=str)
def test_um_teste_de_duas_fotos_tambem_e_desenhado(y, tmp_path):
    figuras.confusao_e_calibracao(np.array(y), np.array([0.1, 0.9]), ["g", "c"], tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size > 1000


def rede(canais):
    """Topo (7, 7, 3) → (canais,), terminado na média, e uma cabeça sobre ele."""
    keras.utils.set_random_seed(1)
    mapa = keras.Input((7, 7, 3))
    x = keras.layers.Conv2D(canais, 3, padding="same", activation="relu")(mapa)
    topo = keras.Model(mapa, keras.layers.GlobalAveragePooling2D(name="media")(x), name="topo")
    camada = keras.layers.Dense(1, activation="sigmoid", bias_initializer="random_normal")
    return topo, keras.Sequential([keras.Input((canais,)), camada], name="cabeca")


def test_a_media_do_mapa_somada_ao_vies_e_o_logit():
    topo, cabeca = rede(16)
    mapas = ACASO.normal(size=(5, 7, 7, 3)).astype("float16")
    olhou = figuras.onde_olhou(topo, cabeca, mapas)
    p = cabeca(topo(mapas.astype("float32"))).numpy()[:, 0]
    assert olhou.shape == (5, 224, 224)
    vies = cabeca.layers[-1].get_weights()[1]
    np.testing.assert_allclose(olhou.mean(axis=(1, 2)) + vies, np.log(p / (1 - p)), atol=1e-4)


def test_redes_unidas_nao_tem_um_mapa_para_mostrar():
    vetor = keras.Input((8,))
    topo = keras.Model(vetor, keras.layers.Identity()(vetor), name="topo")
    assert figuras.onde_olhou(topo, rede(8)[1], np.ones((2, 8))) is None


def test_o_mapa_fraco_tambem_se_ve_e_cada_classe_tem_a_sua_cor(tmp_path):
    cinzas = np.full((2, 224, 224, 3), 0.5)
    mapas = np.stack([np.full((224, 224), 5.0), np.full((224, 224), -0.01)])
    figuras.mostra_onde_olhou(cinzas, mapas, "ab", tmp_path / "f.png", colunas=2)
    with Image.open(tmp_path / "f.png") as figura:
        pixels = np.asarray(figura.convert("RGB")).astype(int)
    altura, largura, _ = pixels.shape
    laranja, azul = pixels[altura // 2, largura // 4], pixels[altura // 2, 3 * largura // 4]
    assert laranja[0] - laranja[2] > 80 and azul[2] - azul[0] > 80


def test_ha_seis_coisas_que_nao_sao_gato_nem_cachorro():
    imagens = figuras.outras_coisas()
    assert len(imagens) == 6
    for imagem in imagens.values():
        assert imagem.dtype == np.uint8 and imagem.shape[2:] == (3,)
        assert min(imagem.shape[:2]) >= 224 and imagem.std() > 10
