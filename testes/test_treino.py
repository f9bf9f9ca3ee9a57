"""Um treino interrompido termina igual, o que mudou recomeça, e ninguém avalia o que já viu."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, metrics
from sklearn.linear_model import LogisticRegression

from detector import backbones, caracteristicas, dados, treino
from detector.preparo import redimensiona_img

RNG = np.random.default_rng(0)
X = RNG.normal(size=(128, 12)).astype("float32")
Y = (X[:, :1] + RNG.normal(size=(128, 1)) > 0).astype("float32")
L2 = keras.regularizers.L2


def cria(otimizador=None, l2=1e-3, congelada=False, semente=1, metade=0.5):
    """Um modelo com tudo o que guarda estado: Dropout, BatchNormalization e um ritmo que muda."""
    keras.utils.set_random_seed(semente)
    escondida = layers.Dense(32, "relu", trainable=not congelada)
    topo = keras.Sequential([keras.Input((12,)), escondida, layers.BatchNormalization()])
    cabeca = layers.Dense(1, "sigmoid", kernel_regularizer=L2(l2))
    modelo = keras.Sequential([topo, layers.Dropout(metade), cabeca])
    ritmo = keras.optimizers.schedules.CosineDecay(0.03, 60)
    modelo.compile(
        otimizador or keras.optimizers.AdamW(ritmo),
        loss="binary_crossentropy",
        metrics=[metrics.BinaryCrossentropy("log_loss")],
    )
    return modelo


class Interrompe(keras.callbacks.Callback):
    """Um Ctrl-C no meio de uma época."""

    def __init__(self, epoca, lote):
        super().__init__()
        self.quando, self.epoca = (epoca, lote), 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoca = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoca, batch) == self.quando:
            raise KeyboardInterrupt


def treina(pasta, *outros, modelo=None, epocas=6, depende_de=("as fotos",), paciencia=99):
    """O treino do notebook, em miniatura; devolve o modelo, o callback e as épocas feitas agora."""
    modelo = modelo or cria()
    retoma = treino.Retoma(pasta, "teste", modelo, list(depende_de), paciencia)
    return modelo, retoma, ajusta(modelo, retoma, *outros, epocas=epocas)


def ajusta(modelo, retoma, *outros, epocas=6):
    feito = modelo.fit(
        *(X[:96], Y[:96]),
        validation_data=(X[96:], Y[96:]),
        batch_size=16,
        initial_epoch=retoma.epoca,
        epochs=epocas,
        shuffle=False,
        callbacks=[retoma, *outros],
        verbose=0,
    )
    return feito.epoch


def mesmos_pesos(um, outro):
    return all(map(np.array_equal, um.get_weights(), outro.get_weights()))


@pytest.fixture
def inteiro(tmp_path):
    """O treino que ninguém interrompeu, em outra pasta."""
    modelo, retoma, epocas = treina(tmp_path / "inteiro")
    assert epocas == list(range(6)) and len(retoma.historico) == 6
    return modelo, retoma


# Retomar


def test_morto_duas_vezes_termina_com_os_mesmos_pesos(inteiro, tmp_path):
    for epoca, lote in ((2, 3), (4, 0)):
        with pytest.raises(KeyboardInterrupt):
            treina(tmp_path, Interrompe(epoca, lote))
    modelo, retoma, epocas = treina(tmp_path)
    assert epocas == [4, 5], "só as que faltavam"
    assert retoma.historico == inteiro[1].historico and mesmos_pesos(modelo, inteiro[0])


def test_depois_de_um_ctrl_c_basta_rodar_a_celula_de_novo(inteiro, tmp_path):
    """No mesmo processo, o modelo ficou no meio de uma época; a célula só chama `fit` outra vez."""
    modelo = cria()
    retoma = treino.Retoma(tmp_path, "teste", modelo, ["as fotos"])
    for epoca, lote in ((0, 1), (3, 2)):
        with pytest.raises(KeyboardInterrupt):
            ajusta(modelo, retoma, Interrompe(epoca, lote))
    ajusta(modelo, retoma)
    assert retoma.historico == inteiro[1].historico and mesmos_pesos(modelo, inteiro[0])
    assert ajusta(modelo, retoma) == [] and mesmos_pesos(modelo, inteiro[0])


def test_fica_com_a_melhor_epoca_e_para_quando_ela_custa_a_vir(tmp_path):
    decora = keras.optimizers.Adam(0.1)
    modelo, retoma, _ = treina(tmp_path, modelo=cria(decora), epocas=50, paciencia=3)
    perdas = [epoca["val_log_loss"] for epoca in retoma.historico]
    assert retoma.melhor_epoca == np.argmin(perdas) + 1 == len(perdas) - 3
    medido = modelo.evaluate(X[96:], Y[96:], verbose=0, return_dict=True)["log_loss"]
    assert medido == pytest.approx(min(perdas), rel=1e-5)
    decora = keras.optimizers.Adam(0.1)
    de_novo, _, epocas = treina(tmp_path, modelo=cria(decora), epocas=50, paciencia=3)
    assert epocas == [] and mesmos_pesos(modelo, de_novo), "quem já parou não continua"


def test_uma_epoca_que_diverge_nunca_e_a_melhor(tmp_path):
    explode = keras.optimizers.schedules.PiecewiseConstantDecay([12], [1e-3, 1e38])
    modelo, retoma, _ = treina(tmp_path, modelo=cria(keras.optimizers.SGD(explode)))
    assert np.isnan(retoma.historico[-1]["val_log_loss"]), "ou este teste não testa nada"
    assert retoma.melhor_epoca <= 3 and np.isfinite(modelo.get_weights()[0]).all()


@pytest.mark.parametrize(
    "mudanca",
    [{"l2": 1e-2}, {"congelada": True}, {"metade": 0.4}, {"semente": 2}, {"otimizador": "adam"}],
)
def test_outro_modelo_recomeca_e_o_de_antes_continua_guardado(inteiro, tmp_path, mudanca):
    assert treina(tmp_path / "inteiro", modelo=cria(**mudanca), epocas=2)[2] == [0, 1]
    assert treina(tmp_path / "inteiro", depende_de=["outras fotos"], epocas=1)[2] == [0]
    modelo, retoma, epocas = treina(tmp_path / "inteiro")
    assert epocas == [] and retoma.historico == inteiro[1].historico
    assert mesmos_pesos(modelo, inteiro[0])


@pytest.mark.parametrize("estraga", [lambda b: b[:-9], lambda b: b[:700] + b[701:]])
def test_arquivo_danificado_recomeca(inteiro, tmp_path, estraga, capsys):
    [arquivo] = (tmp_path / "inteiro").iterdir()
    arquivo.write_bytes(estraga(arquivo.read_bytes()))
    modelo, _, epocas = treina(tmp_path / "inteiro")
    assert epocas == list(range(6)) and mesmos_pesos(modelo, inteiro[0])
    assert "não serve" in capsys.readouterr().out


def test_uma_linha_mudada_no_modulo_refaz_o_treino_e_a_validacao_cruzada(
    inteiro, tmp_path, monkeypatch
):
    rotulos = RNG.integers(0, 2, 60)
    vetores = RNG.normal(size=(60, 4))
    treino.validacao_cruzada(vetores, rotulos, 0, tmp_path)
    monkeypatch.setattr(treino, "fontes", lambda *modulos: ["outro código"])
    assert treina(tmp_path / "inteiro", epocas=1)[2] == [0]
    treino.validacao_cruzada(vetores, rotulos, 0, tmp_path)
    assert len(list(tmp_path.glob("validacao_cruzada-*"))) == 2


# Misturar


@pytest.mark.parametrize("parte", [0, 0.5, 1])
def test_a_mistura_vai_do_antes_ao_depois(parte):
    modelo = cria()
    antes, depois = modelo.get_weights(), cria(semente=2).get_weights()
    treino.mistura(modelo, antes, depois, parte)
    for peso, a, d in zip(modelo.get_weights(), antes, depois, strict=True):
        np.testing.assert_allclose(peso, a + parte * (d - a), atol=1e-7)


# Validar com todas as fotos


def test_cada_foto_e_avaliada_por_quem_nunca_a_viu(tmp_path):
    """Com vetores e rótulos ao acaso, quem espiasse acertaria tudo; quem não espia, metade."""
    ruido, rotulos = RNG.normal(size=(300, 600)).astype("float32"), RNG.integers(0, 2, 300)
    assert LogisticRegression(max_iter=1000).fit(ruido, rotulos).score(ruido, rotulos) == 1
    p = treino.validacao_cruzada(ruido, rotulos, 0, tmp_path)
    assert p.shape == (300,) and abs(np.mean((p > 0.5) == rotulos) - 0.5) < 0.1


def test_a_validacao_cruzada_fica_guardada_e_cada_p_e_da_sua_foto(tmp_path, monkeypatch):
    rotulos = RNG.integers(0, 2, 100)
    vetores = RNG.normal(size=(100, 4)) + 9 * rotulos[:, np.newaxis]
    p = treino.validacao_cruzada(vetores, rotulos, 0, tmp_path)
    assert np.array_equal(p > 0.5, rotulos)
    outra = treino.validacao_cruzada(vetores, rotulos, 1, tmp_path)
    assert not np.array_equal(p, outra) and len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(treino, "cross_val_predict", lambda *a, **k: pytest.fail("calculou"))
    assert np.array_equal(p, treino.validacao_cruzada(vetores, rotulos, 0, tmp_path))


def test_a_cabeca_do_keras_e_a_regressao_logistica_sao_a_mesma_conta(amostra, backbone, tmp_path):
    """A `Dense(1, sigmoid)` com L2(λ), levada até convergir, e o scikit-learn com C = 1/(2λn)."""
    fotos, regularizacao = dados.lista(amostra, 600), 1e-3
    corte = backbones.acha_corte(backbone)
    vetores = caracteristicas.extrai(
        *(amostra, fotos, redimensiona_img, backbone, corte, "auto", tmp_path)
    ).vetores
    rotulos = fotos["rotulo"].to_numpy()
    C = 1 / (2 * regularizacao * len(rotulos))
    gemea = LogisticRegression(C=C, max_iter=5000, tol=1e-6).fit(vetores, rotulos)
    cabeca = keras.Sequential([keras.Input((vetores.shape[1],))])
    cabeca.add(layers.Dense(1, "sigmoid", kernel_regularizer=L2(regularizacao)))
    ritmo = keras.optimizers.schedules.CosineDecay(0.02, 800)
    cabeca.compile(keras.optimizers.Adam(ritmo), loss="binary_crossentropy")
    todas = tf.data.Dataset.from_tensors((vetores, rotulos[:, np.newaxis]))
    cabeca.fit(todas.repeat(800), verbose=0)  # cada passo, com todas as fotos
    p, p_gemea = cabeca.predict(vetores, verbose=0)[:, 0], gemea.predict_proba(vetores)[:, 1]
    assert np.mean((p > 0.5) == (p_gemea > 0.5)) >= 0.995
    assert np.abs(p - p_gemea).max() < 0.02
