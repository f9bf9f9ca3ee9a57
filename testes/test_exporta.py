"""Os arquivos exportados dizem o mesmo que o Keras, ou não ficam gravados."""

import sys

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf

from detector import exporta
from detector.erros import ErroClaro

NOMES = ["detector_dogs_cats.tflite", "detector_dogs_cats.onnx"]
FOTOS = np.random.default_rng(0).random((40, 224, 224, 3), dtype="float32")


def rede(meio=None):
    """Um modelo pequeno, com as três partes do que o notebook entrega."""
    keras.utils.set_random_seed(0)
    foto = keras.Input((224, 224, 3), name="foto")
    x = keras.layers.Conv2D(8, 5, 16, activation="relu")(foto)
    base = keras.Model(foto, meio(x) if meio else x, name="base")
    mapa = keras.Input(base.output_shape[1:])
    vetor = keras.layers.GlobalAveragePooling2D(name="media")(mapa)
    topo = keras.Model(mapa, vetor, name="topo")
    cabeca = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1, "sigmoid")], name="cabeca")
    return keras.Model(foto, cabeca(topo(base(foto))))


@pytest.fixture(scope="module")
def modelo():
    return rede()


@pytest.fixture(scope="module")
def p_keras(modelo):
    return modelo.predict(FOTOS, verbose=0)[:, 0]


def test_o_que_foi_gravado_da_as_probabilidades_do_keras(
    modelo, p_keras, tmp_path, capsys, monkeypatch
):
    y = (p_keras > 0.5).astype(int)
    y[:4] = 1 - y[:4]
    fotos, threads = tf.data.Dataset.from_tensor_slices(FOTOS), []

    def anota(cria):
        def criada(*args, **opcoes):
            threads.append(opcoes.get("num_threads") or args[1].intra_op_num_threads)
            return cria(*args, **opcoes)

        return criada

    with monkeypatch.context() as espia:
        espia.setattr(tf.lite, "Interpreter", anota(tf.lite.Interpreter))
        espia.setattr(onnxruntime, "InferenceSession", anota(onnxruntime.InferenceSession))
        tabela = exporta.exporta(modelo, tmp_path, fotos, p_keras, y)
    assert threads == [exporta.THREADS] * 2, "ou as velocidades não se poderiam comparar"
    assert capsys.readouterr().out == ""
    assert tabela["arquivo"].tolist() == NOMES == sorted(a.name for a in tmp_path.iterdir())[::-1]
    assert (tabela["maior_diferenca"] < 1e-4).all() and (tabela["acuracia"] == 0.9).all()
    assert (tabela["decisoes_diferentes"] == 0).all() and (tabela["fotos_por_segundo"] > 0).all()
    sessao = onnxruntime.InferenceSession(tmp_path / NOMES[1])
    [p_onnx] = sessao.run(None, {sessao.get_inputs()[0].name: FOTOS})
    np.testing.assert_allclose(p_onnx[:, 0], p_keras, atol=1e-4)
    roda = tf.lite.Interpreter(str(tmp_path / NOMES[0])).get_signature_runner()
    [p_lite] = roda(foto=FOTOS[:1]).values()
    np.testing.assert_allclose(p_lite[:, 0], p_keras[:1], atol=1e-4)


@pytest.mark.parametrize("estrago", [0.002, np.nan])
def test_quem_difere_do_keras_e_recusado_e_nao_fica(modelo, p_keras, tmp_path, estrago):
    (tmp_path / NOMES[0]).write_text("o de uma execução anterior")
    outro = p_keras.copy()
    outro[17] += estrago
    with pytest.raises(ErroClaro, match="não foi gravado"):
        exporta.exporta(modelo, tmp_path, FOTOS, outro, np.zeros(40))
    assert list(tmp_path.iterdir()) == []


def test_sem_o_conversor_uma_frase_diz_o_que_instalar(modelo, p_keras, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)  # como quem não o instalou
    with pytest.raises(ErroClaro, match="pip install tf2onnx"):
        exporta.exporta(modelo, tmp_path, FOTOS, p_keras, np.zeros(40))


def test_rede_que_o_conversor_nao_aceita_vira_uma_frase(tmp_path):
    em_python = keras.layers.Lambda(
        lambda x: tf.ensure_shape(tf.py_function(tf.identity, [x], x.dtype), x.shape),
        output_shape=(14, 14, 8),
    )
    sem_conversao = rede(em_python)
    with pytest.raises(ErroClaro, match="o conversor não aceitou"):
        exporta.exporta(sem_conversao, tmp_path, FOTOS, np.zeros(40), np.zeros(40))
    assert list(tmp_path.iterdir()) == []
