"""O que está gravado está inteiro e é do que diz ser; o estragado e o malicioso não passam."""

import errno
import fcntl
import importlib.util
import io
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import RAIZ

from detector import arquivos
from detector.ambiente import ErroClaro

ARRAYS = {"a": np.arange(50.0), "b": np.array("época 3"), "c": np.zeros((0, 2), "uint8")}


def test_disco_cheio_ou_lugar_ocupado_e_dito_em_uma_frase_e_fica_o_que_havia(tmp_path):
    arquivo = tmp_path / "x-1.npz"
    arquivo.mkdir()
    with pytest.raises(ErroClaro, match="mude MODELOS"):
        arquivos.grava(arquivo, b"x")
    arquivo.rmdir()
    arquivo.write_bytes(b"inteiro")
    programa = (
        "import pathlib, resource, sys, detector.arquivos\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: detector.arquivos.grava(pathlib.Path(sys.argv[1]), b'x' * 2000)\n"
        "except detector.ErroClaro as erro: print(erro)\n"
    )
    comando = [sys.executable, "-c", programa, arquivo]
    dito = subprocess.run(comando, cwd=RAIZ, capture_output=True, text=True, check=True).stdout
    frase = rf"não consegui gravar {arquivo} \(.+\)\. Libere espaço ou mude MODELOS.+\n"
    assert re.fullmatch(frase, dito)
    assert arquivo.read_bytes() == b"inteiro" and list(tmp_path.iterdir()) == [arquivo]


@pytest.mark.parametrize("falha", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_num_disco_sem_trava_uma_trava_velha_nao_prende_ninguem(
    tmp_path, monkeypatch, capsys, falha
):
    def flock(*args):
        raise OSError(falha, "o disco não sabe travar")

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / "trava").write_text("1234")
    with arquivos.trava(tmp_path / "trava", "Outra execução está aqui."):
        assert capsys.readouterr().out == ""


@pytest.fixture
def guardado(tmp_path):
    arquivos.guarda_arrays(tmp_path / "x-1.npz", "certo", **ARRAYS)
    return tmp_path / "x-1.npz"


def iguais(lidos):
    assert lidos.keys() == ARRAYS.keys()
    return all(np.array_equal(lidos[nome], valor) for nome, valor in ARRAYS.items())


def test_nenhum_bit_trocado_da_outros_arrays(guardado):
    """Dado um bit trocado aqui e ali, ou ele não fazia falta, ou o arquivo não serve."""
    inteiro, passaram = guardado.read_bytes(), 0
    for i in range(0, len(inteiro), 3):
        guardado.write_bytes(inteiro[:i] + bytes([inteiro[i] ^ 1 << i % 8]) + inteiro[i + 1 :])
        if (lidos := arquivos.le_arrays(guardado, "certo")) is not None:
            assert iguais(lidos), i
            passaram += 1
    assert passaram < len(inteiro) / 9, "só os campos do zip de que ninguém precisa"


def test_um_array_que_o_cabecalho_encurta_nao_serve(guardado):
    """O NumPy leria só o começo dele, e nem chegaria à soma que acusa o estrago."""
    arquivos.guarda_arrays(guardado, "certo", a=np.zeros(9000))
    guardado.write_bytes(guardado.read_bytes().replace(b"(9000,)", b"(1000,)"))
    assert np.load(guardado)["a"].shape == (1000,) and arquivos.le_arrays(guardado, "certo") is None


class Malicioso:
    """Um objeto que, lido de um pickle, deixaria um arquivo na pasta."""

    def __reduce__(self):
        return os.system, ("touch invadido",)


def malicioso(salva):
    memoria = io.BytesIO()
    salva(memoria, np.array([Malicioso()], object), allow_pickle=True)
    return memoria.getvalue()


def test_so_o_inteiro_se_le_e_nada_do_que_vem_num_arquivo_e_executado(
    guardado, capsys, monkeypatch
):
    monkeypatch.chdir(guardado.parent)
    with np.load(guardado, allow_pickle=False) as npz:  # em qualquer NumPy
        assert iguais({nome: npz[nome] for nome in ARRAYS})
    assert arquivos.le_arrays(guardado, "outro") is None, "um arquivo renomeado"
    inteiro = guardado.read_bytes()
    ruins = [inteiro[:n] for n in range(0, len(inteiro), 40)] + [b"<html>404</html>"]
    ruins += [malicioso(np.save), malicioso(np.savez)]
    for ruim in ruins:
        guardado.write_bytes(ruim)
        assert arquivos.le_arrays(guardado, "certo") is None
    dito = capsys.readouterr().out.splitlines()
    assert len(dito) == len(ruins) + 1 and all("x-1.npz não serve" in linha for linha in dito)
    assert arquivos.le_arrays(guardado.with_name("falta.npz"), "certo") is None
    assert capsys.readouterr().out == "", "o que falta, não é preciso dizer"
    assert list(guardado.parent.iterdir()) == [guardado], "nada foi executado"


def test_o_digesto_muda_com_o_conteudo_e_so_com_ele():
    a = np.arange(6, dtype="int32").reshape(2, 3)
    arrays = [a, a + 1, a[::-1], a.astype("int64"), a.view("uint32"), a.ravel(), a.T, a[:0]]
    outros = [a.tolist(), "0", 0, None, [], {}, ["0"], [["0"]], ("a", "b"), "ab", {"x": 1, "y": 2}]
    diferentes = {arquivos.digesto(valor) for valor in arrays + outros}
    assert len(diferentes) == len(arrays + outros)
    assert arquivos.digesto("a", "b") != arquivos.digesto("b", "a") != arquivos.digesto("ab")
    for igual in (a.copy(), np.asfortranarray(a)):
        assert arquivos.digesto({"x": 1, "y": a}) == arquivos.digesto({"y": igual, "x": 1})
    assert arquivos.digesto("gato", 1, [2.5]) == "bd946a605a24", "o mesmo em qualquer máquina"


def test_o_resumo_do_codigo_muda_com_uma_linha_e_e_o_do_codigo_que_roda(tmp_path):
    """Dado um módulo editado com o kernel aberto, vale o código que ele carregou."""

    def importa(codigo):
        (tmp_path / "modulo.py").write_text(codigo)
        descricao = importlib.util.spec_from_file_location("modulo", tmp_path / "modulo.py")
        modulo = importlib.util.module_from_spec(descricao)
        descricao.loader.exec_module(modulo)
        return modulo

    antigo = importa("VALOR = 1\n")
    antes = arquivos.fontes(antigo)
    assert antes != arquivos.fontes(importa("VALOR = 22\n"))
    assert antes == arquivos.fontes(antigo) == arquivos.fontes(importa("VALOR = 1\n"))
