"""O que está gravado está inteiro, é do que diz ser, e duas execuções não se misturam."""

import hashlib
import importlib.util
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
    assert arquivo.read_bytes() == b"inteiro" and list(tmp_path.iterdir()) == [arquivo]


@pytest.mark.parametrize("ocupado", ["modelos", "modelos/x.dados/dentro"])
def test_lugar_ocupado_e_dito_e_nao_deixa_sobras(tmp_path, ocupado):
    (tmp_path / ocupado).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / ocupado).write_text("estou aqui")
    antes = sorted(tmp_path.rglob("*"))
    with pytest.raises(ErroClaro, match="mude MODELOS"):
        gravacao.grava(tmp_path / "modelos/x.dados", b"x")
    assert sorted(tmp_path.rglob("*")) == antes


# O estragado, o de outro e o malicioso


def test_so_se_le_o_que_foi_guardado_e_nenhum_estrago_passa(tmp_path):
    arquivo = tmp_path / "x.dados"
    assert gravacao.le_arrays(arquivo, "certo") is None
    gravacao.guarda_arrays(arquivo, "certo", **ARRAYS)
    inteiro = arquivo.read_bytes()
    estragados = [inteiro[:n] for n in range(0, len(inteiro), 40)]
    estragados += [inteiro + b"x", inteiro + inteiro, b"lixo" * 500]
    for i in range(0, len(inteiro), 3):  # um bit trocado a cada três bytes
        estragados.append(inteiro[:i] + bytes([inteiro[i] ^ 1 << i % 8]) + inteiro[i + 1 :])
    for estragado in estragados:
        arquivo.write_bytes(estragado)
        assert gravacao.le_arrays(arquivo, "certo") is None
    arquivo.write_bytes(inteiro)
    assert gravacao.le_arrays(arquivo, "outro") is None, "um arquivo renomeado"
    lidos = gravacao.le_arrays(arquivo, "certo")
    assert lidos.keys() == ARRAYS.keys()
    assert all(np.array_equal(lidos[nome], ARRAYS[nome]) for nome in ARRAYS)


class Malicioso:
    """Um objeto que, lido de um pickle, deixaria um arquivo na pasta."""

    def __reduce__(self):
        return os.system, ("touch invadido",)


@pytest.mark.parametrize("salva", [np.save, np.savez])
def test_um_arquivo_feito_para_enganar_nao_executa_nada(tmp_path, monkeypatch, salva):
    monkeypatch.chdir(tmp_path)
    memoria = io.BytesIO()
    salva(memoria, np.array([Malicioso()], object), allow_pickle=True)
    npz, arquivo = memoria.getvalue(), tmp_path / "x.dados"
    arquivo.write_bytes(hashlib.sha256(npz).hexdigest().encode() + npz)
    assert gravacao.le_arrays(arquivo, "certo") is None
    assert list(tmp_path.iterdir()) == [arquivo]


# O nome diz de que depende


def test_o_digesto_muda_com_o_conteudo_e_so_com_ele():
    a = np.arange(6, dtype="int32").reshape(2, 3)
    diferentes = [
        *[a, a + 1, a[::-1], a.astype("int64"), a.view("uint32"), a.ravel(), a.T, a[:0]],
        *[a.tolist(), "0", 0, 0.5, None, [], {}, ["0"], [["0"]], float("nan"), ("a", "b"), "ab"],
        *[{"x": 1, "y": 2}, {"x": 2, "y": 1}],
    ]
    assert len({gravacao.digesto(valor) for valor in diferentes}) == len(diferentes)
    assert gravacao.digesto("a", "b") != gravacao.digesto("b", "a") != gravacao.digesto("ab")
    for igual in (a.copy(), np.asfortranarray(a)):
        assert gravacao.digesto({"x": 1, "y": a}) == gravacao.digesto({"y": igual, "x": 1})
    assert gravacao.digesto("gato", 1, [2.5]) == "bd946a605a24", "o mesmo em qualquer máquina"


def test_uma_vez_calcula_uma_vez(tmp_path):
    contas = []

    def calcula():
        contas.append(1)
        return {"x": np.full(3, len(contas))}

    lidos = [gravacao.uma_vez(tmp_path, "conta", [i], calcula)["x"][0] for i in (1, 1, 2, 1, 2)]
    assert lidos == [1, 1, 2, 1, 2] and len(list(tmp_path.glob("conta-*.dados"))) == 2


def importa(arquivo):
    """O módulo que está em `arquivo`, como um Python que acaba de começar o importaria."""
    descricao = importlib.util.spec_from_file_location("modulo", arquivo)
    modulo = importlib.util.module_from_spec(descricao)
    descricao.loader.exec_module(modulo)
    return modulo


def test_o_resumo_do_codigo_muda_com_uma_linha_e_e_o_do_codigo_que_roda(tmp_path):
    """Dado um módulo editado com o kernel aberto, vale o código que ele carregou."""
    arquivo = tmp_path / "modulo.py"
    arquivo.write_text("VALOR = 1\n")
    antigo = importa(arquivo)
    antes = gravacao.fontes(antigo)
    assert antes == gravacao.fontes(importa(arquivo)), "o mesmo código, o mesmo resumo"
    arquivo.write_text("VALOR = 22\n")
    assert gravacao.fontes(antigo) == antes != gravacao.fontes(importa(arquivo))


# Publicar e limpar


def rascunho_com(**conteudos):
    pasta = gravacao.rascunho()
    for nome, conteudo in conteudos.items():
        (pasta / nome.replace("_", ".")).write_text(conteudo)
    return pasta


def test_as_metricas_so_aparecem_com_tudo_no_lugar(tmp_path):
    rascunho = rascunho_com(metricas_json="{}", suspeitas_csv="novas")
    (tmp_path / "suspeitas.csv").mkdir()
    with pytest.raises(ErroClaro, match=r"não consegui gravar .*suspeitas\.csv"):
        gravacao.publica(rascunho, tmp_path)
    assert not (tmp_path / "metricas.json").exists()
    (tmp_path / "suspeitas.csv").rmdir()
    gravacao.publica(rascunho, tmp_path)
    assert (tmp_path / "metricas.json").exists()


def test_o_exportado_que_esta_execucao_nao_gerou_e_de_outro_modelo_e_sai(tmp_path):
    for nome in ("detector_dogs_cats.tflite", "detector_dogs_cats.onnx", "minhas_notas.txt"):
        (tmp_path / nome).write_text("de antes")
    rascunho = rascunho_com(metricas_json="{}")
    (rascunho / "detector_dogs_cats.onnx").write_text("novo")
    gravacao.publica(rascunho, tmp_path)
    ficaram = {a.name for a in tmp_path.iterdir() if not a.name.startswith(".")}
    assert ficaram == {"minhas_notas.txt", "metricas.json", "detector_dogs_cats.onnx"}
    assert (tmp_path / "detector_dogs_cats.onnx").read_text() == "novo"


def test_duas_execucoes_que_publicam_juntas_nao_se_misturam(tmp_path):
    rascunhos = [rascunho_com(**{f"arquivo{i}": nome for i in range(30)}) for nome in "ab" * 4]
    publicam = [
        threading.Thread(target=gravacao.publica, args=(rascunho, tmp_path))
        for rascunho in rascunhos
    ]
    for acao in (threading.Thread.start, threading.Thread.join):
        for execucao in publicam:
            acao(execucao)
    assert len({arquivo.read_text() for arquivo in tmp_path.glob("arquivo*")}) == 1


def test_quem_espera_demais_pela_outra_execucao_fica_sabendo(tmp_path, monkeypatch):
    monkeypatch.setattr(gravacao, "ESPERA", 0.1)
    rascunho = rascunho_com(metricas_json="{}")
    with filelock.FileLock(tmp_path / ".trava"), pytest.raises(ErroClaro, match="outra execução"):
        gravacao.publica(rascunho, tmp_path)
    assert not (tmp_path / "metricas.json").exists()


def test_limpar_so_apaga_o_que_a_ultima_execucao_nao_usou(tmp_path):
    usado, sobra, interrompido = (
        tmp_path / nome for nome in ("usado.dados", "sobra.dados", ".incompleto-7-x")
    )
    for arquivo in (usado, sobra, interrompido, tmp_path / "minha.foto"):
        gravacao.guarda_arrays(arquivo, "certo", **ARRAYS)
        os.utime(arquivo, (1e9, 1e9))
    (tmp_path / ".incompleto-8-y").write_text("de quem ainda grava")
    (tmp_path / "metricas.json").write_text(f'{{"inicio": {time.time() - 5}}}')
    gravacao.le_arrays(usado, "certo")
    antes, tamanho = set(tmp_path.iterdir()), sobra.stat().st_size + interrompido.stat().st_size
    assert gravacao.limpa(tmp_path) == (2, tamanho)
    assert antes - set(tmp_path.iterdir()) == {sobra, interrompido}


@pytest.mark.parametrize("metricas", ["", "{}", "[]", '{"inicio": "ontem"}'])
def test_sem_uma_execucao_completa_nada_e_apagado(tmp_path, metricas):
    (tmp_path / "x.dados").write_bytes(b"caro")
    (tmp_path / "metricas.json").write_text(metricas)
    with pytest.raises(ErroClaro, match="não há uma execução completa"):
        gravacao.limpa(tmp_path)
    assert (tmp_path / "x.dados").exists()
