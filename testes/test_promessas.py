"""As promessas do projeto, postas à prova no notebook inteiro: nada se perde, nada se mistura.

As contagens que aparecem na tabela do fim são medidas aqui, nunca escritas à mão.
"""

import concurrent.futures
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import RAIZ, SEM_REDE, frase, linha_da_tabela, metricas, roda, termina
from PIL import Image

import detector
from detector.gravacao import digesto

POUCAS = {"MAX_IMAGENS": 60}
TRES_PARTES = {"MAX_IMAGENS": 1010}

# Onde matar, na ordem em que o notebook passa por lá: o meio de uma conta, tantos segundos depois
# de a célula começar, ou o instante em que um arquivo, já escrito, vai entrar no lugar.
MORTES = [
    ("mata", "acha_corte(backbone)", 0.5),  # a extração: o motor, os dois arquivos de uma parte
    ("mata-gravando", "mapas-", 1),
    ("mata-gravando", "vetores-", 2),
    ("mata-gravando", "cabeca-", 3),  # a cabeça
    ("mata", "ajustado.fit(", 0.5),  # o ajuste fino
    ("mata-gravando", "ajuste-", 2),
    # a avaliação: a mistura, o teste, a validação cruzada, a lição 2
    ("mata", "validacoes = {}", 0.05),
    ("mata", "do_arquivo = detector.classificador", 0.2),
    ("mata-gravando", "validacao_cruzada-", 1),
    ("mata-gravando", "vetores-", 1),
    ("mata", "modelo.save(", 0.05),  # a gravação
    ("mata-gravando", "detector_dogs_cats.keras", 1),
    ("mata-gravando", "metricas.json", 1),
]
DANOS = {
    "um bit trocado": lambda dados, acaso: _troca_um_bit(dados),
    "cortado ao meio": lambda dados, acaso: dados[: len(dados) // 2],
    "vazio": lambda dados, acaso: b"",
    "bytes ao acaso": lambda dados, acaso: acaso.bytes(len(dados)),
    "uma página HTML": lambda dados, acaso: b"<html>entre na rede do hotel</html>",
}
# Cada dano em todos os arquivos leva minutos: só quando se grava a tabela. Senão, um em cada um.
VOLTAS = {"cada um dos danos": list(DANOS)}
if os.environ.get("GRAVA_RESISTENCIA"):
    VOLTAS = {dano: [dano] for dano in DANOS}
INTERRUPCOES = {  # trecho da célula: segundos até o Ctrl-C
    "detector.prepara(SEMENTE)": 0.05,
    "doze = list(treino": 0.1,
    "backbone = detector.backbones.cria": 0.1,
    "lotes = treino.map": 0.2,
    "acha_corte(backbone)": 1,
    "cabeca.fit(": 0.3,
    "ajustado.fit(": 0.5,
    "validacoes = {}": 0.1,
    "modelo.save(": 0.1,
    "duas_saidas = keras.Model": 0.1,
    "do_arquivo = detector.classificador": 0.3,
    "classifica = detector.carrega_classificador": 0.3,
    "licao_2 = {}": 1,
}


def _troca_um_bit(dados):
    meio = len(dados) // 2
    return dados[:meio] + bytes(b ^ 1 for b in dados[meio : meio + 1]) + dados[meio + 1 :]


@pytest.fixture(scope="module")
def sem_perturbar(sessao, tmp_path_factory):
    """Função: MODELOS como a deixa uma execução destas fotos, que ninguém perturbou."""
    prontas = {}

    def pasta(MAX_IMAGENS):
        if MAX_IMAGENS not in prontas:
            prontas[MAX_IMAGENS] = tmp_path_factory.mktemp("modelos")
            termina(sessao(prontas[MAX_IMAGENS], MAX_IMAGENS=MAX_IMAGENS))
        return prontas[MAX_IMAGENS]

    return pasta


def guardados(modelos):
    """{arquivo: digest do conteúdo} do que foi guardado e, uma vez pronto, não deve mudar."""
    prontos = (a for a in modelos.glob("*.dados") if not a.name.startswith("classificador"))
    return {a.name: digesto(np.frombuffer(a.read_bytes(), "uint8")) for a in prontos}


def epocas(modelos):
    """{arquivo do treino: quantas épocas estão guardadas nele}."""
    contagem = {}
    for arquivo in [*modelos.glob("cabeca-*.dados"), *modelos.glob("ajuste-*.dados")]:
        digest = arquivo.stem.partition("-")[2]
        historico = detector.gravacao.abre_arrays(arquivo, digest)["historico"]
        contagem[arquivo.name] = len(json.loads(str(historico)))
    return contagem


def test_a_tabela_diz_quando_os_resultados_nao_sao_os_mesmos(sem_perturbar, tmp_path):
    """Dada uma medida diferente no último algarismo, a linha da tabela não diz que sobreviveu."""
    certo = sem_perturbar(**POUCAS)
    medidas = metricas(certo)
    for outra, iguais in ((medidas["log_loss"], True), (medidas["log_loss"] + 1e-12, False)):
        (tmp_path / "metricas.json").write_text(json.dumps(medidas | {"log_loss": outra}))
        linha = linha_da_tabela("promessa", (tmp_path, certo), 3, 2, None)
        assert linha["mesmos_resultados"] is iguais and linha["fotos"] == POUCAS["MAX_IMAGENS"]
        assert (linha["tentativas"], linha["sobreviveu"]) == (3, 2)


def test_morto_a_qualquer_momento_continua_de_onde_parou(sessao, sem_perturbar, tmp_path, registra):
    """Dada uma execução morta em cada passo, a próxima continua; a última dá o mesmo resultado."""
    perdidos, refeitas, antes, epocas_antes = [], [], {}, {}
    for morte in MORTES:
        inicio = time.time()
        execucao = sessao(tmp_path, *morte, **TRES_PARTES)
        assert execucao.returncode == -9, (morte, execucao.stdout[-3000:])
        ultimo = max((a.stat().st_mtime for a in tmp_path.glob("*.dados")), default=inicio)
        perdidos.append(time.time() - max(ultimo, inicio))
        agora, epocas_agora = guardados(tmp_path), epocas(tmp_path)
        partes = sum(agora[nome] != antes[nome] for nome in antes.keys() - epocas_antes.keys())
        refeitas.append(
            partes + sum(max(n - epocas_agora[nome], 0) for nome, n in epocas_antes.items())
        )
        antes, epocas_antes = agora, epocas_agora
    ultima = termina(sessao(tmp_path, **TRES_PARTES))
    registra(
        "kill -9",
        (tmp_path, sem_perturbar(**TRES_PARTES)),
        len(perdidos),
        refeitas.count(0),
        f"{sum(refeitas)} partes ou épocas prontas; no máximo {max(perdidos):.1f} s de cada vez",
    )
    assert "não serve" not in ultima.stdout
    assert not any(refeitas) and not metricas(tmp_path)["imagens_extraidas"]
    # Prometemos 10 s; o dobro, porque aqui outro teste pode estar usando metade da máquina.
    assert len(perdidos) >= 12 and max(perdidos) < 20, perdidos


def danifica(modelos, danos):
    """Estraga todos os arquivos da pasta, cada um com o próximo dos danos; diz quantos eram."""
    acaso = np.random.default_rng(5)
    arquivos = [a for a in sorted(modelos.rglob("*")) if a.is_file() and a.stat().st_size]
    for arquivo, dano in zip(arquivos, itertools.cycle(danos)):
        arquivo.write_bytes(DANOS[dano](arquivo.read_bytes(), acaso))
    return len(arquivos)


def troca_os_nomes(modelos):
    """Cada arquivo guardado recebe o nome de outro, de preferência da mesma parte; diz quantos."""
    arquivos = sorted(modelos.glob("*.dados"), key=lambda a: a.name.partition("-")[::-1])
    arquivos.sort(key=lambda a: not a.name.startswith(("mapas-", "vetores-")))  # em pares
    for i in sorted({*range(0, len(arquivos) - 1, 2), len(arquivos) - 2}):
        um, outro = arquivos[i].read_bytes(), arquivos[i + 1].read_bytes()
        arquivos[i].write_bytes(outro)
        arquivos[i + 1].write_bytes(um)
    return len(arquivos)


@pytest.mark.parametrize("dano", [*VOLTAS, "o nome de outro"])
def test_arquivos_danificados_sao_percebidos_ditos_e_refeitos(
    sessao, sem_perturbar, tmp_path, registra, dano
):
    """Dada uma pasta em que nada presta, nada é usado: nem para classificar, nem para continuar."""
    certo = sem_perturbar(**POUCAS)
    shutil.copytree(certo, tmp_path, dirs_exist_ok=True)
    quantos = danifica(tmp_path, VOLTAS[dano]) if dano in VOLTAS else troca_os_nomes(tmp_path)
    with pytest.raises(detector.ErroClaro, match="rode o notebook inteiro de novo"):
        detector.carrega_classificador(tmp_path)
    shutil.copy(certo / "detector_dogs_cats.keras", tmp_path)
    with pytest.raises(detector.ErroClaro, match=r"classificador\.dados está danificado ou não é"):
        detector.carrega_classificador(tmp_path)
    usados = {nome for nome in guardados(tmp_path) if not nome.startswith("mapas-")}
    execucao = termina(sessao(tmp_path, **POUCAS))
    ditos = usados & set(re.findall(r"(\S+) não serve", execucao.stdout))
    extraidas = metricas(tmp_path)["imagens_extraidas"]
    perdido = f"{extraidas} fotos extraídas de novo; {quantos} arquivos estragados"
    registra(f"arquivos com {dano}", (tmp_path, certo), len(usados), len(ditos), perdido)
    assert ditos == usados


def test_o_terminal_nao_responde_com_um_modelo_danificado(sem_perturbar, tmp_path):
    """Dado um bit trocado no modelo, `python -m detector` não arrisca uma resposta: diz a frase."""
    shutil.copytree(sem_perturbar(**POUCAS), tmp_path, dirs_exist_ok=True)
    danifica(tmp_path, ["um bit trocado"])
    Image.new("RGB", (99, 99)).save(tmp_path / "foto.png")
    comando = [sys.executable, "-m", "detector", tmp_path / "foto.png", "--modelos", tmp_path]
    terminal = subprocess.run(comando, cwd=RAIZ, capture_output=True, text=True)
    assert terminal.returncode == 2 and not terminal.stdout
    assert terminal.stderr.count("\n") == 1 and "está danificado" in terminal.stderr


def test_disco_cheio_e_uma_frase_e_o_que_estava_gravado_continua_valendo(
    sessao, sem_perturbar, tmp_path, registra
):
    """Dado um disco que enche em três passos diferentes, cada execução aproveita a anterior."""
    certo, temporaria = sem_perturbar(**POUCAS), tempfile.gettempdir()
    passos = [  # o que já estava guardado, o maior arquivo que cabe, o que não coube
        ("nada", 1_000_000, f"em {temporaria}"),  # a rede que o OpenVINO converte
        ("motor-*", 1_000_000, tmp_path / "mapas-"),
        ("cabeca-*", 15_000_000, tmp_path / "ajuste-"),
        ("ajuste-*", 14_000_000, f"em {temporaria}"),  # o modelo, ainda no rascunho
    ]
    intactos = 0
    for ja_havia, limite, nao_coube in passos:
        for arquivo in certo.glob(ja_havia):
            shutil.copy(arquivo, tmp_path)
        antes = guardados(tmp_path)
        cheio = sessao(tmp_path, ambiente={"LIMITE_DE_ARQUIVO": str(limite)}, **POUCAS)
        assert frase(cheio).startswith(f"não consegui gravar {nao_coube}")
        intactos += antes.items() <= guardados(tmp_path).items()
    execucao = termina(sessao(tmp_path, **POUCAS))
    extraidas = metricas(tmp_path)["imagens_extraidas"]
    perdido = f"{extraidas} fotos extraídas de novo"
    registra("disco cheio", (tmp_path, certo), len(passos), intactos, perdido)
    assert intactos == len(passos) and "não serve" not in execucao.stdout


def test_modelos_onde_nao_se_pode_gravar_e_dito_antes_de_qualquer_conta(sessao, tmp_path):
    """Dada uma pasta MODELOS que não pode existir, a frase vem antes de procurar as fotos."""
    (tmp_path / "arquivo").write_text("não sou uma pasta")
    execucao = sessao(tmp_path / "arquivo/modelos")
    assert frase(execucao).startswith(f"não consegui gravar {tmp_path / 'arquivo/modelos'}")
    assert "s: builder = detector.dados.abre" not in execucao.stdout


def test_duas_ao_mesmo_tempo_terminam_com_arquivos_que_combinam(
    sessao, sem_perturbar, tmp_path, registra
):
    """Dadas duas execuções diferentes numa pasta, o que fica é inteiro de uma delas."""
    with concurrent.futures.ThreadPoolExecutor() as duas:
        sementes = (42, 7)
        execucoes = [duas.submit(roda, tmp_path, SEMENTE=s, **POUCAS) for s in sementes]
    certas = sum(execucao.result().returncode == 0 for execucao in execucoes)
    medidas = metricas(tmp_path)
    detector.carrega_classificador(tmp_path)
    pesos = keras.models.load_model(tmp_path / "detector_dogs_cats.keras").get_weights()
    assert medidas["semente"] in sementes and medidas["modelo"] == digesto(pesos)
    assert medidas["suspeitas"] == len(pd.read_csv(tmp_path / "suspeitas.csv"))
    execucao = termina(sessao(tmp_path, **POUCAS))
    extraidas = metricas(tmp_path)["imagens_extraidas"]
    pastas, perdido = (tmp_path, sem_perturbar(**POUCAS)), f"{extraidas} fotos extraídas de novo"
    registra("duas ao mesmo tempo", pastas, len(sementes), certas, perdido)
    assert certas == 2 and "não serve" not in execucao.stdout and not extraidas


def test_ctrl_c_numa_celula_e_a_celula_de_novo(sessao, sem_perturbar, tmp_path, registra):
    """Dado um Ctrl-C em cada célula demorada, rodá-la de novo leva aos mesmos resultados."""
    pedidos = [("interrompe", *quando) for quando in INTERRUPCOES.items()]
    execucao = termina(sessao(tmp_path, *itertools.chain(*pedidos), **POUCAS))
    avisos = re.findall(r"<interrompe em .*: parou>|<\S+ s: ", execucao.stdout)
    paradas = [i for i, aviso in enumerate(avisos) if aviso.endswith("parou>")]
    refeitas = sum("s: " in aviso for i in paradas for aviso in avisos[i + 1 : i + 2])
    perdido = f"{len(paradas)} células, rodadas de novo"
    registra("Ctrl-C", (tmp_path, sem_perturbar(**POUCAS)), len(paradas), refeitas, perdido)
    assert refeitas == len(paradas) >= 8, execucao.stdout


def test_bibliotecas_configuradas_para_outro_projeto_nao_mudam_nada_e_ninguem_e_avisado(
    sem_perturbar, tmp_path, registra
):
    """Dados um keras.json e um matplotlibrc estranhos e um proxy que escuta, nada muda nem sai."""
    outro = {"floatx": "float16", "image_data_format": "channels_first", "backend": "jax"}
    (tmp_path / "keras.json").write_text(json.dumps(outro | {"epsilon": 0.1}))
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.setblocking(False)
        ambiente = dict.fromkeys(SEM_REDE, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        ambiente |= {"KERAS_HOME": str(tmp_path), "MATPLOTLIBRC": str(tmp_path)}
        execucao = roda(tmp_path / "modelos", ambiente=ambiente, **POUCAS)
        with pytest.raises(BlockingIOError):
            proxy.accept()
    pastas, acabou = (tmp_path / "modelos", sem_perturbar(**POUCAS)), execucao.returncode == 0
    registra("keras.json e matplotlibrc de outro projeto", pastas, 1, int(acabou), None)
    assert acabou and "<conexão" not in execucao.stdout


@pytest.mark.parametrize("rede", ["que recusa", "que não responde"])
def test_sem_rede_a_amostra_vem_em_seis_segundos(sessao, tmp_path, rede):
    """Dada uma máquina sem rede e sem dados, a célula dos dados acaba logo, com o aviso."""
    with socket.create_server(("127.0.0.1", 0)) as mudo:
        proxy = f"http://127.0.0.1:{mudo.getsockname()[1]}"
        ambiente = {} if rede == "que recusa" else dict.fromkeys(SEM_REDE, proxy)
        dados = {"DATASET": "cats_vs_dogs", "DATA_DIR": str(tmp_path / "tfds")}
        execucao = sessao(tmp_path / "modelos", "mata", "cortes = [", 0, ambiente=ambiente, **dados)
    assert "<conexão" in execucao.stdout and "ESTA É A AMOSTRA EMBUTIDA" in execucao.stdout
    [segundos] = re.findall(r"<(\S+) s: builder = detector.dados.abre", execucao.stdout)
    assert float(segundos) < 6
