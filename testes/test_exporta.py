"""O que se exporta diz o mesmo que o Keras, e o que é; ou não fica gravado."""

import sys
import zipfile

import keras
import numpy as np
import onnxruntime
import PIL.Image
import pytest
import tensorflow as tf
from conftest import RAIZ

from detector import carrega_classificador, classificador, dados, exporta
from detector.ambiente import ErroClaro
from detector.imagenet import Conhecidas

sys.path.insert(0, str(RAIZ / "docs/exemplos"))
import com_litert
import com_onnx

NOME = "detector_dogs_cats"
FOTOS = np.random.default_rng(0).random((12, 224, 224, 3), dtype="float32")


def entrega(pasta, com_cabeca=True):
    """Deixa em `pasta` uma rede pequena, como o notebook deixaria; devolve-a."""
    foto = keras.Input((224, 224, 3), name="foto")
    x = keras.layers.Conv2D(8, 5, 16, activation="relu")(foto)
    base = keras.Model(foto, x, name="base")
    mapa = keras.Input(base.output_shape[1:])
    vetor = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 1)(mapa))
    topo = keras.Model(mapa, vetor, name="topo")
    antes = keras.models.clone_model(topo)  # com outros pesos: é dele que vem a nota
    cabeca = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1, "sigmoid")], name="cabeca")
    acaso = np.random.default_rng(0)
    for parte in (base, topo, antes, cabeca):
        parte.set_weights([acaso.normal(0, 0.4, peso.shape) for peso in parte.get_weights()])
    modelo = keras.Model(foto, cabeca(topo(base(foto))))
    modelo.save(pasta / f"{NOME}.keras")
    pesos = acaso.normal(0, 1, (8, 1000)).astype("float32")
    cabecas = [(pesos, np.zeros(1000, "float32"))] if com_cabeca else []
    conhecidas = Conhecidas(cabecas, np.arange(500, 1000))
    prova, limiar = dados.prova(dados.le), -1.45  # recusa umas fotos e outras não
    classificador.guarda(pasta, modelo, ["maçã", "pera<"], prova, conhecidas, limiar, antes)
    return modelo


def em_dataset(fotos):
    return tf.data.Dataset.from_tensor_slices(fotos)


@pytest.fixture(scope="module")
def pasta(tmp_path_factory):
    """O que se exportou, e uma foto deitada, que o EXIF põe em pé."""
    pasta = tmp_path_factory.mktemp("exportado")
    modelo = entrega(pasta)
    p_keras = modelo.predict(FOTOS, verbose=0)[:, 0]
    tabela = exporta.exporta(pasta, em_dataset(FOTOS), p_keras)
    assert len(tabela) == 4 and (tabela["maior_diferenca"] < 1e-4).all()
    y, x = np.mgrid[:300, :400]
    imagem = PIL.Image.fromarray(np.stack([x // 2, y // 2, 255 - x // 2], -1).astype("uint8"))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    imagem.save(pasta / "foto.png", exif=exif)
    return pasta


def test_cada_modelo_da_a_probabilidade_do_keras(pasta):
    p = keras.models.load_model(pasta / f"{NOME}.keras").predict(FOTOS[:1], verbose=0)
    [p_onnx] = onnxruntime.InferenceSession(pasta / f"{NOME}.onnx").run(None, {"foto": FOTOS[:1]})
    litert = tf.lite.Interpreter(str(pasta / f"{NOME}.tflite")).get_signature_runner()
    np.testing.assert_allclose(p_onnx, p, atol=1e-4)
    np.testing.assert_allclose(litert(foto=FOTOS[:1])["probabilidade"], p, atol=1e-4)


def test_os_exemplos_respondem_o_que_classifica_responde(pasta):
    """E quem entrega a um 0–255 uma foto em [0, 1] é recusado: o tipo não é o dela."""
    visto = carrega_classificador(pasta)(pasta / "foto.png")
    classe, p = com_onnx.classifica(pasta / f"{NOME}_0a255.onnx", pasta / "foto.png")
    assert classe == visto["classe"] and abs(p - visto["probabilidade"]) < 1e-3
    classe, p = com_litert.classifica(str(pasta / f"{NOME}_0a255.tflite"), pasta / "foto.png")
    assert classe == visto["parece"] and abs(p - visto["probabilidade"]) < 1e-2
    litert = tf.lite.Interpreter(str(pasta / f"{NOME}_0a255.tflite")).get_signature_runner()
    with pytest.raises(ValueError, match="UINT8"):
        litert(foto=FOTOS[:1])
    with pytest.raises(Exception, match="uint8"):
        onnxruntime.InferenceSession(pasta / f"{NOME}_0a255.onnx").run(None, {"foto": FOTOS[0]})


def test_cada_arquivo_diz_as_suas_classes_e_os_pixels_que_espera(pasta):
    assert (pasta / "classes.txt").read_text("utf-8") == "maçã\npera<\n"
    for sufixo, pixels in (("", "float32"), ("_0a255", "uint8")):
        sessao = onnxruntime.InferenceSession(pasta / f"{NOME}{sufixo}.onnx")
        textos = sessao.get_modelmeta().custom_metadata_map
        with zipfile.ZipFile(pasta / f"{NOME}{sufixo}.tflite") as zip_:
            assert {n[:-4]: zip_.read(n).decode() for n in zip_.namelist()} == textos
        assert textos["classes"] == "maçã\npera<" and textos["foto"].startswith(pixels)


def test_o_que_nao_se_exporta_e_dito_numa_frase_e_nao_fica(tmp_path, monkeypatch):
    """Dada uma p que não é a do Keras, a falta do conversor, ou um que não aceita a rede."""
    modelo = entrega(tmp_path)
    p = modelo.predict(FOTOS, verbose=0)[:, 0]
    for estrago in (0.002, np.nan):
        p[7] += estrago
        with pytest.raises(ErroClaro, match="não foi gravado"):
            exporta.exporta(tmp_path, em_dataset(FOTOS), p)
    monkeypatch.setitem(sys.modules, "tf2onnx", None)  # como quem não o instalou
    with pytest.raises(ErroClaro, match="pip install tf2onnx"):
        exporta.exporta(tmp_path, em_dataset(FOTOS), p)
    monkeypatch.undo()
    monkeypatch.setattr(tf.lite.TFLiteConverter, "from_keras_model", lambda rede: 1 / 0)
    with pytest.raises(ErroClaro, match="não consegui converter"):
        exporta.exporta(tmp_path, em_dataset(FOTOS), p)
    assert not [*tmp_path.glob("*.tflite"), *tmp_path.glob("*.onnx")]
