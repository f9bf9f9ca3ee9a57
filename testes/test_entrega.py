"""A pasta MODELOS: uma execução aparece inteira ou não aparece."""

import errno
import itertools
import json
import os
import pathlib
import shutil
import threading
import zipfile

import keras
import numpy as np
import pytest

from detector import arquivos, entrega, metricas
from detector.ambiente import ErroClaro

EXPORTADO = "detector_dogs_cats.onnx"


def publica(pasta, nome, *mais):
    """Publica em `pasta` uma execução em que todo arquivo, e os de `mais`, diz `nome`."""
    rascunho = entrega.rascunho()
    for arquivo in (entrega.MODELO, "suspeitas.csv", *mais):
        (rascunho / arquivo).write_text(nome)
    arquivos.guarda_arrays(rascunho / entrega.DO_CLASSIFICADOR, nome)
    medidas = metricas.Medidas()
    medidas["teste"] = {"acuracia": 0.9}
    entrega.publica(rascunho, pasta, medidas)
    shutil.rmtree(rascunho)


def entregue(pasta):
    """{arquivo: a execução de que ele é}, depois que alguém abriu a pasta."""
    modelo, extras = entrega.acha_modelo(pasta)
    de_quem = {a.name: a.read_text() for a in pasta.iterdir() if a.suffix in (".csv", ".onnx")}
    medidas = json.loads((pasta / "metricas.json").read_text())
    assert medidas["acuracia"] == medidas["teste"]["acuracia"] == 0.9
    de_quem |= {"metricas.json": medidas["modelo"], modelo.name: modelo.read_text()}
    with np.load(extras) as npz:
        return de_quem | {extras.name: str(npz["digest"])}


def morre_no_passo(passo, faz):
    """Faz, num processo que morre antes de mexer pela `passo`-ésima vez no disco; True se acaba."""
    filho = os.fork()
    if not filho:
        passos = itertools.count()

        def mortal(mexe):
            return lambda *a, **k: os._exit(9) if next(passos) == passo else mexe(*a, **k)

        for nome in ("replace", "rename", "unlink", "rmdir", "mkdir"):
            setattr(os, nome, mortal(getattr(os, nome)))
        try:
            faz()
            os._exit(0)
        finally:
            os._exit(1)
    codigo = os.waitstatus_to_exitcode(os.waitpid(filho, 0)[1])
    assert codigo in (0, 9), "não morreu nem acabou: falhou"
    return codigo == 0


def test_morta_em_qualquer_passo_fica_a_execucao_de_antes_ou_a_nova_inteira(tmp_path):
    """Dada uma execução publicada, quando a seguinte morre ao publicar, nunca há mistura.

    O exportado que a seguinte não gerou é de outro modelo, e sai.
    """
    publica(tmp_path / "velha", "velha", EXPORTADO)
    (tmp_path / "velha/notas.txt").write_text("da pessoa")
    velha, vistas = entregue(tmp_path / "velha"), []
    nova = dict.fromkeys(velha.keys() - {EXPORTADO}, "nova")
    for passo in itertools.count():
        pasta = shutil.copytree(tmp_path / "velha", tmp_path / str(passo))
        acabou = morre_no_passo(passo, lambda pasta=pasta: publica(pasta, "nova"))
        vistas.append(entregue(pasta))
        assert vistas[-1] in (velha, nova) and (vistas[-1] == nova or not acabou)
        publica(pasta, "seguinte")
        assert set(entregue(pasta).values()) == {"seguinte"}, "o que sobrou não atrapalha"
        assert (pasta / "notas.txt").exists()
        if acabou:
            break
    assert vistas.count(velha) > 5 and vistas.count(nova) > 5, "morreu antes e depois de decidir"


def test_a_publicacao_decidida_termina_mesmo_que_quem_a_acaba_morra_tambem(tmp_path):
    publica(tmp_path, "velha")
    passos = itertools.count()
    while not (tmp_path / entrega.PUBLICANDO).is_dir():
        assert not morre_no_passo(next(passos), lambda: publica(tmp_path, "nova"))
    mortes = itertools.count()
    while not morre_no_passo(next(mortes), lambda: entrega.completa(tmp_path)):
        assert (tmp_path / entrega.PUBLICANDO).is_dir()
    assert set(entregue(tmp_path).values()) == {"nova"} and next(mortes) > 2


def test_o_que_o_sistema_poe_na_pasta_nao_impede_a_publicacao(tmp_path):
    (tmp_path / entrega.PUBLICANDO).mkdir()
    (tmp_path / entrega.PUBLICANDO / ".DS_Store").touch()  # do macOS, que o põe em toda pasta
    publica(tmp_path, "nova")
    assert set(entregue(tmp_path).values()) == {"nova"}


def test_duas_execucoes_que_publicam_juntas_nao_se_misturam(tmp_path, capsys):
    publicam = [threading.Thread(target=publica, args=(tmp_path, nome)) for nome in "ab" * 4]
    with arquivos.trava(tmp_path / ".trava", ""):
        for execucao in publicam:
            execucao.start()
        while "espero por ela" not in (dito := capsys.readouterr().out):
            assert not (tmp_path / "metricas.json").exists() and "erro" not in dito
    for execucao in publicam:
        execucao.join()
    assert len(set(entregue(tmp_path).values())) == 1


def test_quem_nao_pode_publicar_fica_sabendo_numa_frase(tmp_path):
    (tmp_path / "suspeitas.csv").mkdir()  # o lugar está ocupado
    with pytest.raises(ErroClaro, match=rf"não consegui gravar em {tmp_path} \(Is a directory\)"):
        publica(tmp_path, "nova")
    (tmp_path / "suspeitas.csv").rmdir()
    assert set(entregue(tmp_path).values()) == {"nova"}, "estava decidido: só faltava o lugar"


def test_a_frase_diz_se_nao_se_pode_gravar_ou_abrir_e_por_que(tmp_path, monkeypatch):
    (tmp_path / "arquivo").write_text("não é uma pasta")
    with pytest.raises(ErroClaro, match=r"não consegui gravar .*mude MODELOS"):
        entrega.abre_pasta(tmp_path / "arquivo/modelos")
    assert entrega.abre_pasta(f'"{tmp_path}/a/b" ') == tmp_path / "a/b", "colado com aspas"

    def proibido(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "is_file", proibido)
    dito = rf"não consegui abrir {tmp_path} \(Permission denied\)\. Acerte a permissão"
    with pytest.raises(ErroClaro, match=dito):
        entrega.acha_modelo(tmp_path)


def test_quem_aponta_para_o_modelo_fica_sabendo_que_o_lugar_e_o_da_pasta(tmp_path):
    publica(tmp_path, "nova")
    with pytest.raises(ErroClaro, match=r"dogs_cats\.keras é um arquivo; diga a pasta em que"):
        entrega.acha_modelo(tmp_path / entrega.MODELO)


def test_o_mesmo_modelo_da_os_mesmos_bytes_sem_o_que_o_keras_antigo_recusa(tmp_path):
    """Dado um modelo gravado duas vezes, o conteúdo é o mesmo, e quem o abre responde igual."""
    keras.backend.clear_session()
    foto = keras.Input((4,), name="foto")
    modelo = keras.Model(foto, keras.layers.Dense(2)(keras.layers.Dense(4)(foto)))
    gravados = []
    for politica in ("float32", keras.DTypePolicy("float32")):  # cada uma num endereço
        modelo.layers[1].dtype_policy = keras.dtype_policies.get(politica)
        modelo.save(arquivo := tmp_path / "m.keras")
        with zipfile.ZipFile(arquivo) as bruto:
            hora = json.loads(bruto.read("metadata.json"))["date_saved"]
        entrega.abre_em_qualquer_keras(arquivo)
        gravados.append(arquivo.read_bytes())
        assert hora.encode() not in gravados[-1]
    assert gravados[0] == gravados[1]
    with zipfile.ZipFile(arquivo) as limpo:
        config = limpo.read("config.json").decode()
    assert not [novidade for novidade in entrega.NOVIDADES if f'"{novidade}"' in config]
    aberto, x = keras.models.load_model(arquivo), np.ones((1, 4), "float32")
    assert np.array_equal(aberto(x), modelo(x))
