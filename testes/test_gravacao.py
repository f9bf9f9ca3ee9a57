"""O que está gravado está inteiro, é do que diz ser, e duas execuções não se misturam."""

import hashlib
import io
import os
import subprocess
import sys
import threading
import time

import filelock
import numpy as np
import pytest
from conftest import RAIZ

from detector import gravacao
from detector.erros import ErroClaro

ARRAYS = {"a": np.arange(50.0), "b": np.array("época 3"), "c": np.zeros((0, 2), "uint8")}


@pytest.fixture
def guardado(tmp_path):
    """Um arquivo de arrays do digest "certo"."""
    gravacao.guarda_arrays(tmp_path / "x.dados", "certo", **ARRAYS)
    return tmp_path / "x.dados"


def iguais(lidos):
    return lidos.keys() == ARRAYS.keys() and all(np.array_equal(lidos[k], ARRAYS[k]) for k in ARRAYS)


# Um arquivo inteiro, ou o que havia


def test_disco_cheio_deixa_o_que_havia_e_e_dito_em_uma_frase(tmp_path):
    arquivo = tmp_path / "x.dados"
    arquivo.write_bytes(b"inteiro")
    programa = (
        "import pathlib, resource, sys, detector.gravacao\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: detector.gravacao.grava(pathlib.Path(sys.argv[1]), b'x' * 2000)\n"
        "except detector.ErroClaro as erro: print(erro)\n"
    )
    comando = [sys.executable, "-c", programa, arquivo]
    dito = subprocess.run(comando, cwd=RAIZ, capture_output=True, text=True, check=True).stdout
    assert dito.startswith(f"não consegui gravar {arquivo} (") and dito.count("\n") == 1
    assert "Libere espaço" in dito
    assert arquivo.read_bytes() == b"inteiro" and list(tmp_path.iterdir()) == [arquivo]


@pytest.mark.parametrize("ocupado", ["modelos", "modelos/x.dados/dentro"])
def test_lugar_ocupado_e_dito_e_nao_deixa_sobras(tmp_path, ocupado):
    (tmp_path / ocupado).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / ocupado).write_text("estou aqui")
    antes = sorted(tmp_path.rglob("*"))
    with pytest.raises(ErroClaro, match="mude MODELOS"):
        gravacao.grava(tmp_path / "modelos/x.dados", b"x")
    assert sorted(tmp_path.rglob("*")) == antes


def test_modelos_em_que_nao_se_pode_escrever_e_dito_no_comeco(tmp_path, monkeypatch):
    (tmp_path / "modelos").write_text("sou um arquivo")
    with pytest.raises(ErroClaro, match="mude MODELOS"):
        gravacao.abre_pasta(tmp_path / "modelos")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert gravacao.abre_pasta("~/novos/modelos") == tmp_path / "novos/modelos"
    assert (tmp_path / "novos/modelos").is_dir()


# O estragado, o de outro e o malicioso


def test_o_que_se_guarda_e_o_que_se_le(guardado):
    assert iguais(gravacao.le_arrays(guardado, "certo"))
    assert gravacao.le_arrays(guardado, "outro") is None
    assert gravacao.le_arrays(guardado.with_name("falta"), "certo") is None


def test_nenhum_estrago_passa(guardado):
    inteiro = guardado.read_bytes()
    estragados = [inteiro[:n] for n in range(0, len(inteiro), 40)]
    estragados += [inteiro + b"x", inteiro + inteiro, b"lixo" * 500]
    for i in range(0, len(inteiro), 3):  # um bit trocado a cada três bytes
        estragados.append(inteiro[:i] + bytes([inteiro[i] ^ 1 << i % 8]) + inteiro[i + 1 :])
    for estragado in estragados:
        guardado.write_bytes(estragado)
        assert gravacao.le_arrays(guardado, "certo") is None
    guardado.write_bytes(inteiro)
    assert iguais(gravacao.le_arrays(guardado, "certo"))


class Malicioso:
    """Um objeto que, lido de um pickle, deixaria um arquivo na pasta."""

    def __reduce__(self):
        return os.system, ("touch invadido",)


def test_um_arquivo_feito_para_enganar_nao_executa_nada(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    arquivo = tmp_path / "x.dados"
    objetos = np.array([Malicioso()], object)
    for salva in (np.save, np.savez):
        npz = io.BytesIO()
        salva(npz, objetos, allow_pickle=True)
        arquivo.write_bytes(hashlib.sha256(npz.getvalue()).hexdigest().encode() + npz.getvalue())
        assert gravacao.le_arrays(arquivo, "certo") is None
    assert list(tmp_path.iterdir()) == [arquivo]
    assert "não serve" in capfd.readouterr().out


# O nome diz de que depende


def test_o_digesto_muda_quando_o_conteudo_muda():
    a = np.arange(6, dtype="int32")
    diferentes = [
        *[a, a + 1, a[::-1], a.astype("int64"), a.view("uint32"), a.reshape(2, 3), a[:0]],
        *[a.reshape(2, 3).T, a.tolist(), "0", 0, 0.5, None, [], {}, ["0"], [["0"]], [0, None]],
        *[{"x": 1, "y": 2}, {"x": 2, "y": 1}, True, float("nan"), "ação", ("a", "b"), ("b", "a")],
    ]
    digestos = [gravacao.digesto(valor) for valor in diferentes]
    assert len({*digestos, gravacao.digesto("a", "b"), gravacao.digesto("ab")}) == len(digestos) + 2
    assert all(len(digest) == 12 for digest in digestos)


def test_o_digesto_e_igual_para_conteudo_igual():
    a = np.arange(6, dtype="int32").reshape(2, 3)
    iguais = [(a, a.copy()), (a, np.asfortranarray(a)), ({"x": 1, "y": 2}, {"y": 2, "x": 1})]
    for um, outro in iguais:
        assert gravacao.digesto(um) == gravacao.digesto(outro)
    assert gravacao.digesto("gato", 1, [2.5]) == "bd946a605a24", "igual em todas as máquinas"


def test_uma_vez_calcula_uma_vez(tmp_path):
    contas = []

    def calcula():
        contas.append(1)
        return {"x": np.full(3, len(contas))}

    lido = [gravacao.uma_vez(tmp_path, "conta", [i], calcula)["x"][0] for i in (1, 1, 2, 1, 2)]
    assert lido == [1, 1, 2, 1, 2] and len(list(tmp_path.glob("conta-*.dados"))) == 2
    sorted(tmp_path.iterdir())[0].write_bytes(b"estragado")
    for i in (1, 2):
        gravacao.uma_vez(tmp_path, "conta", [i], calcula)
    assert len(contas) == 3


# Publicar e limpar


def rascunho_com(**conteudos):
    pasta = gravacao.rascunho()
    for nome, conteudo in conteudos.items():
        arquivo = pasta / nome.replace("__", "/").replace("_", ".")
        arquivo.parent.mkdir(exist_ok=True)
        arquivo.write_text(conteudo)
    return pasta


def test_as_metricas_so_aparecem_com_tudo_no_lugar(tmp_path):
    rascunho = rascunho_com(metricas_json="{}", suspeitas_csv="novas", figuras__a_png="figura")
    (tmp_path / "suspeitas.csv/ocupado").mkdir(parents=True)
    with pytest.raises(ErroClaro, match=r"não consegui gravar .*suspeitas\.csv"):
        gravacao.publica(rascunho, tmp_path)
    assert not (tmp_path / "metricas.json").exists()
    (tmp_path / "suspeitas.csv/ocupado").rmdir()
    (tmp_path / "suspeitas.csv").rmdir()
    gravacao.publica(rascunho, tmp_path)
    assert (tmp_path / "figuras/a.png").read_text() == "figura"
    assert (tmp_path / "metricas.json").exists()


def test_duas_execucoes_que_publicam_juntas_nao_se_misturam(tmp_path):
    rascunhos = [rascunho_com(**{f"arquivo{i}": nome for i in range(30)}) for nome in "ab"]
    ao_mesmo_tempo = [
        threading.Thread(target=gravacao.publica, args=(rascunho, tmp_path))
        for rascunho in rascunhos * 4
    ]
    for fio in ao_mesmo_tempo:
        fio.start()
    for fio in ao_mesmo_tempo:
        fio.join()
    assert len({a.read_text() for a in tmp_path.glob("arquivo*")}) == 1


def test_quem_espera_demais_pela_outra_execucao_fica_sabendo(tmp_path, monkeypatch):
    monkeypatch.setattr(gravacao, "ESPERA", 0.1)
    pronta = threading.Event()
    espera = threading.Event()

    def outra_execucao():
        with filelock.FileLock(tmp_path / ".trava"):
            pronta.set()
            espera.wait()

    fio = threading.Thread(target=outra_execucao)
    fio.start()
    pronta.wait()
    with pytest.raises(ErroClaro, match="outra execução está gravando"):
        gravacao.publica(rascunho_com(metricas_json="{}"), tmp_path)
    espera.set()
    fio.join()
    assert not (tmp_path / "metricas.json").exists()


def test_limpar_so_apaga_o_que_a_ultima_execucao_nao_usou(tmp_path):
    ontem = time.time() - 86400
    guardados = [tmp_path / f"{nome}.dados" for nome in ("usado", "sobra")]
    for arquivo in guardados:
        gravacao.guarda_arrays(arquivo, "certo", a=np.zeros(9))
    outros = [tmp_path / "detector.keras", tmp_path / "minha.foto", tmp_path / ".incompleto-7-x"]
    for arquivo in outros:
        arquivo.write_bytes(b"123")
    for arquivo in tmp_path.iterdir():
        os.utime(arquivo, (ontem, ontem))
    agora = tmp_path / ".incompleto-8-y"  # de quem ainda está gravando
    agora.write_bytes(b"456")
    (tmp_path / "metricas.json").write_text(f'{{"inicio": {time.time() - 5}}}')
    gravacao.le_arrays(guardados[0], "certo")
    tamanho = guardados[1].stat().st_size
    assert gravacao.limpa(tmp_path) == (2, tamanho + 3)
    restam = {guardados[0], *outros[:2], agora, tmp_path / "metricas.json"}
    assert set(tmp_path.iterdir()) == restam


@pytest.mark.parametrize("metricas", [None, "", "{}", "[]", '{"inicio": "ontem"}'])
def test_sem_uma_execucao_completa_nada_e_apagado(tmp_path, metricas):
    (tmp_path / "x.dados").write_bytes(b"caro")
    if metricas is not None:
        (tmp_path / "metricas.json").write_text(metricas)
    with pytest.raises(ErroClaro, match="não há uma execução completa"):
        gravacao.limpa(tmp_path)
    assert (tmp_path / "x.dados").exists()
