"""Os arquivos exportados dizem o mesmo que o Keras, ou não ficam gravados."""

import sys

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf

from detector import exporta
from detector.ambiente import ErroClaro

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


def test_o_que_foi_gravado_da_as_probabilidades_do_keras(modelo, p_keras, tmp_path, capsys):
    y = (p_keras > 0.5).astype(int)
    y[:4] = 1 - y[:4]
    fotos = tf.data.Dataset.from_tensor_slices(FOTOS)
    tabela = exporta.exporta(modelo, tmp_path, fotos, p_keras, y)
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


def em_python(x):
    return tf.ensure_shape(tf.py_function(tf.identity, [x], x.dtype), x.shape)


def test_o_que_nao_se_exporta_e_dito_numa_frase_e_nao_fica(modelo, p_keras, tmp_path, monkeypatch):
    """Dada uma p que não é a do Keras, uma conta que só o Python faz, ou a falta do conversor."""
    sem_conversao = rede(keras.layers.Lambda(em_python, output_shape=(14, 14, 8)))
    for estrago in (0.002, np.nan):
        (tmp_path / NOMES[0]).write_text("o de uma execução anterior")
        outro = p_keras + estrago * (np.arange(40) == 17)
        with pytest.raises(ErroClaro, match="não foi gravado"):
            exporta.exporta(modelo, tmp_path, FOTOS, outro, np.zeros(40))
    with pytest.raises(ErroClaro, match="o conversor não aceitou"):
        exporta.exporta(sem_conversao, tmp_path, FOTOS, np.zeros(40), np.zeros(40))
    monkeypatch.setitem(sys.modules, "tf2onnx", None)  # como quem não o instalou
    with pytest.raises(ErroClaro, match="pip install tf2onnx"):
        exporta.exporta(modelo, tmp_path, FOTOS, p_keras, np.zeros(40))
    assert list(tmp_path.iterdir()) == []
