"""As promessas do projeto, postas à prova no notebook inteiro: nada se perde, nada se mistura.

As contagens que aparecem na tabela do fim são medidas aqui, nunca escritas à mão.
"""

import errno
import itertools
import json
import re
import shutil
import socket
import types

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import (
    POUCAS,
    SEM_REDE,
    SO_MOSTRAM,
    frase,
    gravacoes,
    guardados,
    metricas,
    resultados,
    roda,
    termina,
)
from roda_notebook import celulas

import detector

RAPIDO = POUCAS | {"pula": SO_MOSTRAM}
TRES_PARTES = RAPIDO | {"depois": {"comeca": "detector.caracteristicas.FOTOS_POR_PARTE = 20"}}
PUBLICADOS = ("classificador.npz", "detector_dogs_cats.keras", "metricas.json", "suspeitas.csv")

# Onde matar, na ordem em que o notebook passa por lá: o meio de uma conta, tantos segundos depois
# de a célula começar, ou o instante em que um arquivo, já escrito, vai entrar no lugar.
MORTES = [
    ("mata-gravando", "motor-", 1),  # a extração
    ("mata-gravando", "vetores-", 1),  # a primeira parte
    ("mata-gravando", "vetores-", 3),  # com duas partes prontas
    ("mata-gravando", "cabeca-", 3),
    ("mata-gravando", "ajuste-", 1),
    ("mata-gravando", "ajuste-", 2),
    ("mata", "modelo", 0.1),
    ("mata", "teste", 0.5),
    ("mata-gravando", "metricas.json", 1),
]
# Cada passo de publicar: o que vai entrar no lugar, ou sair dele, a vez, e que execução fica.
AO_PUBLICAR = [
    (nome, vez + (nome == "metricas.json"), fica)  # metricas.json entra antes no rascunho
    for vez, fica in ((1, "a velha"), (2, "a nova"))
    for nome in (*PUBLICADOS, ".lista.json", ".publicando")
]
DANOS = {  # o que sobra de um arquivo, e de outro do mesmo tipo
    "um bit trocado": lambda dados, outro: _troca_um_bit(dados),
    "o nome de outro": lambda dados, outro: outro,
    "cortado ao meio": lambda dados, outro: dados[: len(dados) // 2],
    "vazio": lambda dados, outro: b"",
    "bytes ao acaso": lambda dados, outro: np.random.default_rng(5).bytes(len(dados)),
    "uma página HTML": lambda dados, outro: b"<html>entre na rede do hotel</html>",
}
INTERRUPCOES = {  # etiqueta da célula: segundos até o Ctrl-C
    **{"comeca": 0.05, "exemplos": 0.1, "backbone": 0.1, "extracao": 1, "licao_horas": 0.5},
    **{"fit_cabeca": 0.3, "licao_normalizacao": 0.5, "fit_ajuste": 0.5, "limiar": 0.1},
    **{"modelo": 0.1, "teste": 0.3, "suspeitas": 0.01, "botao": 0.3, "publica": 0.02},
}


def _troca_um_bit(dados):
    meio = len(dados) // 2
    return b"%s%c%s" % (dados[:meio], dados[meio] ^ 1, dados[meio + 1 :])


def test_morto_a_qualquer_momento_continua_de_onde_parou(sessao, tmp_path, registra):
    """Dada uma execução morta em cada passo, a próxima continua; a última dá o mesmo resultado."""
    perdidos, refeitos, antes = [], 0, {}
    for morte in MORTES:
        execucao = sessao(tmp_path, morte, **TRES_PARTES)
        assert execucao.returncode == -9, (morte, execucao.stdout[-3000:])
        pela_metade = [*tmp_path.glob(".incompleto-*")]
        perdidos.append(len(pela_metade))
        for arquivo in pela_metade:
            arquivo.unlink()
        agora = gravacoes(tmp_path)
        refeitos += len(antes.items() - agora.items())
        antes = agora
    assert {nome.partition("-")[0] for nome in antes} == {"motor", "vetores", "cabeca", "ajuste"}
    ultima = termina(sessao(tmp_path, **TRES_PARTES))
    passos = [float(s) for s in re.findall(r"<(\S+) s: ", ultima.stdout)]
    perdido = f"no máximo {max(perdidos)} parte ou época de cada vez, ou {max(passos):.1f} s"
    registra("kill -9", tmp_path, len(MORTES), len(MORTES) - refeitos, perdido)
    assert not refeitos and gravacoes(tmp_path) == antes
    assert not metricas(tmp_path)["imagens_extraidas"]
    assert max(perdidos) == 1 and "não serve" not in ultima.stdout
    # Prometemos 10 s; o dobro, porque aqui outro teste pode estar usando metade da máquina.
    assert max(passos) < 20, passos


def test_morto_ao_publicar_deixa_a_execucao_velha_ou_a_nova_inteira(
    sessao, pronto, tmp_path, registra
):
    """Dada uma execução morta em cada passo de publicar, os arquivos são todos da mesma."""
    modelos = tmp_path / "modelos"
    so_publica = {tag for tag in celulas() if tag not in ("parameters", "comeca", "publica")}
    rascunho = f"""
import json, pathlib, shutil
shutil.copytree({str(pronto)!r}, rascunho := pathlib.Path({str(tmp_path)!r}, "rascunho"),
    ignore=shutil.ignore_patterns("*-*"), dirs_exist_ok=True)
medidas.update(json.loads((rascunho / "metricas.json").read_text()))
CLASSES = medidas["classes"]
"""
    certas = 0
    for nome, vez, fica in AO_PUBLICAR:
        shutil.rmtree(modelos, ignore_errors=True)
        modelos.mkdir()
        for velho in (*PUBLICADOS, "detector_dogs_cats.onnx"):
            (modelos / velho).write_text("da execução velha")
        opcoes = {"pula": [*so_publica], "depois": {"comeca": rascunho}}
        morta = sessao(modelos, ("mata-gravando", nome, vez), **opcoes)
        assert morta.returncode == -9, (nome, morta.stdout[-3000:])
        detector.entrega.abre_pasta(modelos)
        ficou = {a.name: a.read_bytes() for a in modelos.iterdir() if a.name[0] != "."}
        if fica == "a velha":
            certas += {*ficou.values()} == {"da execução velha".encode()} and len(ficou) == 5
        else:
            certas += ficou.keys() == {*PUBLICADOS} and resultados(modelos) == resultados(pronto)
            detector.carrega_classificador(modelos)
        assert not (modelos / ".publicando").exists()
    registra("kill -9 ao publicar", modelos, len(AO_PUBLICAR), certas)
    assert certas == len(AO_PUBLICAR)


def usados(nomes):
    """Dos arquivos guardados, os que se abrem quando nenhum presta; os outros são só regravados."""
    return {n for n in nomes if re.match(r"motor-|vetores-|(cabeca|ajuste)-\w+-000\.", n)}


def danifica(modelos):
    """Estraga todos os arquivos, cada um com o próximo dos danos; primeiro os que se abrem."""
    arquivos = [a for a in modelos.iterdir() if a.stat().st_size]
    arquivos.sort(key=lambda a: (a.name in usados([a.name]), a.name), reverse=True)
    conteudos = [arquivo.read_bytes() for arquivo in arquivos]
    for i, dano in zip(range(len(arquivos)), itertools.cycle(DANOS.values())):
        arquivos[i].write_bytes(dano(conteudos[i], conteudos[i - 1]))
    return len(arquivos)


def test_arquivos_danificados_sao_percebidos_ditos_e_refeitos(sessao, pronto, tmp_path, registra):
    """Dada uma pasta em que nada presta, nada é usado: nem para classificar, nem para continuar."""
    shutil.copytree(pronto, tmp_path, dirs_exist_ok=True)
    quantos, abertos = danifica(tmp_path), usados(guardados(pronto))
    assert len(abertos) >= len(DANOS)
    with pytest.raises(detector.ErroClaro, match="rode o notebook inteiro de novo"):
        detector.carrega_classificador(tmp_path)
    shutil.copy(pronto / "detector_dogs_cats.keras", tmp_path)
    with pytest.raises(detector.ErroClaro, match=r"classificador\.npz está danificado ou não é"):
        detector.carrega_classificador(tmp_path)
    pula = [tag for tag in SO_MOSTRAM if tag != "licao_normalizacao"]  # ela também guarda partes
    execucao = termina(sessao(tmp_path, pula=pula, **POUCAS))
    ditos = abertos & set(re.findall(r"(\S+) não serve", execucao.stdout))
    perdido = f"{metricas(tmp_path)['imagens_extraidas']} fotos; {quantos} arquivos estragados"
    registra("arquivos danificados", tmp_path, len(abertos), len(ditos), perdido)
    assert ditos == abertos and guardados(tmp_path) == guardados(pronto)


def test_disco_cheio_e_uma_frase_e_o_que_estava_gravado_continua_valendo(
    sessao, pronto, tmp_path, registra
):
    """Dado um disco que enche em cada passo, cada execução aproveita a anterior."""
    enche = "__import__('resource').setrlimit(1, (500_000, 500_000))"  # RLIMIT_FSIZE, em bytes
    passos = [  # o que já estava gravado, a célula depois da qual o disco enche, o que não coube
        ("nada", "comeca", "temporaria"),  # a rede que o OpenVINO converte
        ("motor-*", "comeca", f"{tmp_path}/vetores-"),
        ("[cmv]*-*", "comeca", f"{tmp_path}/ajuste-"),
        ("*-*", "fit_ajuste", "temporaria"),  # o modelo, ainda no rascunho
        ("*", "teste", f"{tmp_path}/.nova-"),  # e de novo, ao publicar
    ]
    intactos = 0
    for ja_havia, tag, nao_coube in passos:
        for arquivo in pronto.glob(ja_havia):
            shutil.copy(arquivo, tmp_path)
        antes = {a.name: a.read_bytes() for a in tmp_path.glob("[!.]*")}
        cheio = sessao(tmp_path, depois={tag: enche}, **RAPIDO)
        assert frase(cheio).startswith("não consegui gravar ") and nao_coube in frase(cheio)
        intactos += all((tmp_path / nome).read_bytes() == antes[nome] for nome in antes)
    execucao = termina(sessao(tmp_path, **RAPIDO))
    perdido = f"{metricas(tmp_path)['imagens_extraidas']} fotos extraídas de novo"
    registra("disco cheio", tmp_path, len(passos), intactos, perdido)
    assert intactos == len(passos) and "não serve" not in execucao.stdout
    assert guardados(tmp_path) == guardados(pronto)


@pytest.mark.parametrize(
    "numero, conselho", [(errno.ENOSPC, "Libere espaço"), (errno.EROFS, "Acerte a permissão")]
)
def test_o_disco_que_para_de_gravar_no_meio_da_celula_tem_o_conselho_certo(numero, conselho):
    vistos = []
    kernel = types.SimpleNamespace(showtraceback=lambda pilha, _: vistos.append(str(pilha[1])))
    detector.comeco._disco_cheio(kernel, OSError, OSError(numero, "causa", "aqui"), None)
    assert vistos[0].startswith(f"não consegui gravar em aqui (causa). {conselho} ou use outro")


def test_modelos_onde_nao_se_pode_gravar_e_dito_antes_de_qualquer_conta(sessao, tmp_path):
    """Dada uma pasta MODELOS que não pode existir, a frase vem antes de procurar as fotos."""
    (tmp_path / "arquivo").write_text("não sou uma pasta")
    execucao = sessao(tmp_path / "arquivo/modelos")
    assert frase(execucao).startswith(f"não consegui gravar {tmp_path / 'arquivo/modelos'}")
    assert "s: dados>" not in execucao.stdout


def test_duas_ao_mesmo_tempo_terminam_com_arquivos_que_combinam(sessao, pronto, tmp_path, registra):
    """Dadas duas execuções diferentes numa pasta, o que fica é inteiro de uma delas."""
    for motor in pronto.glob("motor-*"):
        shutil.copy(motor, tmp_path)
    execucao = termina(sessao(tmp_path, junto=[{"SEMENTE": 7}], **RAPIDO))
    certas, medidas = execucao.stdout.count("s: publica>"), metricas(tmp_path)
    detector.carrega_classificador(tmp_path)
    pesos = keras.models.load_model(tmp_path / "detector_dogs_cats.keras").get_weights()
    assert medidas["semente"] in (42, 7) and medidas["modelo"] == detector.arquivos.digesto(pesos)
    assert medidas["suspeitas"] == len(pd.read_csv(tmp_path / "suspeitas.csv"))
    execucao = termina(sessao(tmp_path, **RAPIDO))
    extraidas = metricas(tmp_path)["imagens_extraidas"]
    registra("duas ao mesmo tempo", tmp_path, 2, certas, f"{extraidas} fotos extraídas de novo")
    assert certas == 2 and "não serve" not in execucao.stdout and not extraidas


def test_ctrl_c_numa_celula_e_a_celula_de_novo(sessao, pronto, tmp_path, registra):
    """Dado um Ctrl-C em cada célula demorada, rodá-la de novo leva aos mesmos resultados."""
    pedidos = [("interrompe", *quando) for quando in INTERRUPCOES.items()]
    pula = [tag for tag in SO_MOSTRAM if tag not in INTERRUPCOES]
    execucao = termina(sessao(tmp_path, *pedidos, pula=pula, **POUCAS))
    paradas = re.findall(r"<interrompe em (\w+): parou>", execucao.stdout)
    refeitas = [tag for tag in paradas if f"s: {tag}>" in execucao.stdout]
    perdido = f"{len(paradas)} células, rodadas de novo"
    registra("Ctrl-C", tmp_path, len(paradas), len(refeitas), perdido)
    assert refeitas == paradas and len(paradas) >= 10, execucao.stdout
    assert guardados(tmp_path) == guardados(pronto)


def test_bibliotecas_configuradas_para_outro_projeto_nao_mudam_nada_e_ninguem_e_avisado(
    pronto, tmp_path, registra
):
    """Dados um keras.json e um matplotlibrc estranhos e um proxy que escuta, nada muda nem sai."""
    outro = {"floatx": "float16", "image_data_format": "channels_first", "backend": "jax"}
    (tmp_path / "keras.json").write_text(json.dumps(outro | {"epsilon": 0.1}))
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.setblocking(False)
        ambiente = dict.fromkeys(SEM_REDE, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        ambiente |= {"KERAS_HOME": str(tmp_path), "MATPLOTLIBRC": str(tmp_path)}
        execucao = roda(tmp_path / "modelos", ambiente=ambiente, **RAPIDO)
        with pytest.raises(BlockingIOError):
            proxy.accept()
    modelos, acabou = tmp_path / "modelos", execucao.returncode == 0
    registra("keras.json e matplotlibrc de outro projeto", modelos, 1, int(acabou))
    assert acabou and "<conexão" not in execucao.stdout
    assert guardados(modelos).items() <= guardados(pronto).items()


@pytest.mark.parametrize("rede", ["que recusa", "que não responde"])
def test_sem_rede_a_amostra_vem_em_seis_segundos(sessao, tmp_path, rede):
    """Dada uma máquina sem rede e sem dados, a célula dos dados acaba logo, com o aviso."""
    with socket.create_server(("127.0.0.1", 0)) as mudo:
        proxy = f"http://127.0.0.1:{mudo.getsockname()[1]}"
        ambiente = {} if rede == "que recusa" else dict.fromkeys(SEM_REDE, proxy)
        dados = {"DATASET": "cats_vs_dogs", "DATA_DIR": str(tmp_path / "tfds")}
        execucao = sessao(tmp_path, ("mata", "exemplos", 0), ambiente=ambiente, **dados)
    assert "<conexão" in execucao.stdout and "ESTA É A AMOSTRA EMBUTIDA" in execucao.stdout
    [segundos] = re.findall(r"<(\S+) s: dados>", execucao.stdout)
    assert float(segundos) < 6
