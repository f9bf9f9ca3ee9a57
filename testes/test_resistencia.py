"""Nada se perde e nada sai errado: o notebook de verdade morto, interrompido, danificado, sem disco e sem memória.

`make testes` roda uma parte; `make resistencia` roda tudo (uma a duas horas) e grava a tabela em resistencia.json.
"""

import collections
import contextlib
import hashlib
import io
import json
import os
import pathlib
import queue
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
import zipfile

import numpy as np
import PIL.Image
import psutil
import pytest
from conftest import COMPLETA, NOTEBOOK, RAIZ, ambiente, celulas, comando, prepara_pasta, resultados, saidas
from jupyter_client.manager import start_new_kernel

# Pequena, mas com duas partes de características e suspeitas fora do treino; na suíte completa, também com ajuste fino.
CONFIGURACAO = {"DATASET": "amostra", "MAX_IMAGENS": 600, "EPOCAS": 8, "EPOCAS_AJUSTE_FINO": 2 if COMPLETA else 0,
                "REMOVE_SUSPEITAS": True}
FASES = {"extração": "X, extracao = ", "cabeça": "treino, validacao, teste = ", "validação cruzada": "p_cv = ",
         "suspeitas fora do treino": "if REMOVE_SUSPEITAS:", "lição 2": "ESCALAS = ", "ajuste fino": "epocas_ajuste = ",
         "gravação do modelo": "caminho_modelo = ", "avaliação": "y_teste, (p_teste", "classificador": "referencia = unit",
         "cópias": "copias = acha", "métricas": "segundos_total = "}
EXPORTACAO = {"exportação": "exportados = {}"}  # só onde se pede: leva meio minuto


# Rodar, vigiar e comparar

def numero_da_celula(marca):
    """O número que o papermill dá à célula de código que contém `marca` (ele insere uma com os parâmetros)."""
    celulas_ = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    [i] = [i for i, c in enumerate(celulas_) if c["cell_type"] == "code" and marca in "".join(c["source"])
           and "definicoes" not in c["metadata"].get("tags", [])]
    return i + 2


class Execucao:
    """O notebook rodando pelo papermill, com o número da célula em que está."""

    vivas = []

    def __init__(self, pasta, antes=(), mais_ambiente=None, limita=None, **parametros):
        prepara_pasta(pasta)
        self.vivas.append(self)
        self.pasta, self.diario = pasta, pasta / "diario.txt"
        with open(self.diario, "w") as diario:
            self.processo = subprocess.Popen([*antes, *comando(pasta, **CONFIGURACAO | parametros)], cwd=pasta,
                                             env=ambiente(pasta) | (mais_ambiente or {}), stdout=diario, stderr=diario,
                                             preexec_fn=limita)

    def celula(self):
        return max(map(int, re.findall(r"Executing Cell (\d+)", self.diario.read_text(errors="replace"))), default=0)

    def espera_celula(self, numero, prazo=300):
        """Espera que a célula comece; devolve se o notebook ainda está rodando."""
        fim = time.monotonic() + prazo
        while self.processo.poll() is None and self.celula() < numero and time.monotonic() < fim:
            time.sleep(0.005)
        return self.processo.poll() is None

    def mata(self):
        """kill -9 em tudo, sem aviso."""
        filhos = psutil.Process(self.processo.pid).children(recursive=True)
        for processo in [*filhos, self.processo]:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                processo.kill()
        self.processo.wait()
        psutil.wait_procs(filhos, timeout=10)

    def termina(self, prazo=600):
        """Espera o fim; devolve se deu certo."""
        return self.processo.wait(prazo) == 0

    def erro(self):
        """A única linha de erro que a pessoa vê."""
        executado = json.loads((self.pasta / "executado.ipynb").read_text(encoding="utf-8"))
        [erro] = [s for c in executado["cells"] for s in c.get("outputs", []) if s["output_type"] == "error"]
        assert len(erro["traceback"]) == 1 and erro["traceback"][0].startswith("ERRO: "), erro["traceback"]
        return erro["traceback"][0]


@pytest.fixture(autouse=True)
def nenhuma_sobra():
    """Um teste que falha não deixa notebook rodando."""
    yield
    for execucao in Execucao.vivas:
        if execucao.processo.poll() is None:
            execucao.mata()
    Execucao.vivas.clear()


@pytest.fixture(scope="module")
def inteira(tmp_path_factory):
    """Uma execução que nada perturbou: a pasta dela, que ninguém muda. Exporta só na suíte completa, que leva um minuto."""
    pasta = tmp_path_factory.mktemp("inteira")
    execucao = Execucao(pasta, EXPORTAR=COMPLETA)
    assert execucao.termina(), execucao.diario.read_text()[-3000:]
    metricas = json.loads((pasta / "modelos/metricas.json").read_text(encoding="utf-8"))
    assert (metricas["n_treino"], metricas["n_validacao"], metricas["n_teste"]) == (480, 60, 60)
    ajuste = f"dos pesos novos: {metricas['ajuste_fino']}." if COMPLETA else "Sem ajuste fino"
    assert ajuste in saidas(pasta / "executado.ipynb")
    return pasta


def duracoes(pasta):
    """Segundos que cada célula levou, pelo número que o papermill lhe deu."""
    celulas_ = json.loads((pasta / "executado.ipynb").read_text(encoding="utf-8"))["cells"]
    return {i + 1: c["metadata"]["papermill"].get("duration") or 0.0 for i, c in enumerate(celulas_)}


def copia(inteira, pasta):
    """Uma cópia do que a execução inteira deixou."""
    prepara_pasta(pasta)
    shutil.copytree(inteira / "modelos", pasta / "modelos")
    return pasta


def prontos(modelos):
    """{arquivo: SHA-256} dos resultados que, uma vez gravados, ninguém deve refazer."""
    return {p.name: sha256(p) for p in modelos.glob("*-*.npz")
            if p.name.startswith(("caracteristicas-", "validacao_cruzada-", "predicoes-", "exportado-"))}


def sha256(caminho):
    return hashlib.sha256(caminho.read_bytes()).hexdigest()


class VigiaDeEpocas:
    """Anota quantas épocas cada treino tem gravadas; se um dia tiver menos que antes, uma época se perdeu."""

    def __init__(self, modelos):
        self.modelos, self.epocas, self.perdidas, self.fim = modelos, {}, 0, threading.Event()
        self.linha = threading.Thread(target=self.vigia)

    def vigia(self):
        while not self.fim.wait(0.05):
            for arquivo in [*self.modelos.glob("cabeca-*.npz"), *self.modelos.glob("ajuste-*.npz")]:
                with contextlib.suppress(FileNotFoundError), np.load(arquivo) as salvo:
                    agora = len(json.loads(str(salvo["historico"])))
                    self.perdidas += max(0, self.epocas.get(arquivo.name, 0) - agora)
                    self.epocas[arquivo.name] = agora

    def __enter__(self):
        self.linha.start()
        return self

    def __exit__(self, *_):
        self.fim.set()
        self.linha.join()


# kill -9

def morre_e_continua(inteira, pasta, sorteio, onde, **parametros):
    """Mata a execução num momento sorteado de cada fase de `onde`, ou até que acabe; devolve as fases em que morreu."""
    fases, segundos = [], duracoes(inteira)
    with VigiaDeEpocas(pasta / "modelos") as vigia:
        for fase in onde:
            numero = numero_da_celula((FASES | EXPORTACAO)[fase])
            execucao = Execucao(pasta, **parametros)
            vivo = execucao.espera_celula(numero)
            time.sleep(sorteio.uniform(0, segundos[numero]))
            if not vivo or execucao.processo.poll() is not None:
                assert execucao.termina(), execucao.diario.read_text()[-3000:]
                break
            execucao.mata()
            fases.append(fase)
            antes = prontos(pasta / "modelos")
        else:
            execucao = Execucao(pasta, **parametros)
            assert execucao.termina(), execucao.diario.read_text()[-3000:]
        if fases:
            agora = prontos(pasta / "modelos")
            assert all(agora.get(nome) == sha for nome, sha in antes.items()), "refez o que já estava pronto"
    assert vigia.perdidas == 0 and not list((pasta / "modelos").glob("incompleto-*"))
    assert resultados(pasta) == resultados(inteira)
    return fases


def test_kill_9_em_momentos_sorteados(registra, inteira, tmp_path):
    """Depois de cada morte a próxima continua: nada pronto é refeito, nenhuma época gravada se perde."""
    sorteio, fases, vida = np.random.default_rng(5), [], 0
    faltam = sorteio.permutation(list(FASES) * 3).tolist() if COMPLETA else ["extração", "cabeça", "validação cruzada"]
    while faltam:
        mortas = morre_e_continua(inteira, tmp_path / f"vida{vida}", sorteio, faltam[:6])
        fases, faltam, vida = fases + mortas, faltam[max(1, len(mortas)):], vida + 1
    assert len(fases) >= (30 if COMPLETA else 3)
    for fase in sorted(set(fases), key=list(FASES).index):
        registra(f"kill -9: {fase}", fases.count(fase), "a parte ou a época em curso", True)


@pytest.mark.completa
def test_kill_9_com_as_fotos_reais(registra, dados_reais, tmp_path):
    """As 2.000 fotos de ../shared, com os mesmos parâmetros de quem as usa."""
    reais = {"DATASET": "cats_vs_dogs", "DATA_DIR": dados_reais, "MAX_IMAGENS": 2000, "EPOCAS": 100, "EPOCAS_AJUSTE_FINO": 0,
             "REMOVE_SUSPEITAS": False}
    execucao = Execucao(tmp_path / "inteira", **reais)
    assert execucao.termina(), execucao.diario.read_text()[-3000:]
    onde = ["extração", "cabeça", "extração", "validação cruzada", "lição 2", "avaliação", "cópias"]
    fases = morre_e_continua(tmp_path / "inteira", tmp_path / "vida", np.random.default_rng(6), onde, **reais)
    assert len(fases) == len(onde)
    registra("kill -9: com as fotos reais", len(fases), "a parte ou a época em curso", True)


@pytest.mark.completa
def test_kill_9_na_exportacao(registra, inteira, tmp_path):
    """O que já foi convertido e conferido não se converte de novo, e os três formatos saem inteiros."""
    sorteio = np.random.default_rng(8)
    for vida in range(3):
        pasta = copia(inteira, tmp_path / str(vida))
        for feito in [p for p in (pasta / "modelos").iterdir() if p.name.startswith("exportado-") or p.suffix in (".tflite", ".onnx")]:
            feito.unlink()
        assert morre_e_continua(inteira, pasta, sorteio, ["exportação"], EXPORTAR=True) == ["exportação"]
        exportados = json.loads((pasta / "modelos/metricas.json").read_text(encoding="utf-8"))["exportados"]
        assert len(exportados) == 3 and not [n for n, e in exportados.items() if e["sha256"] != sha256(pasta / "modelos" / n)]
    registra("kill -9: exportação", 3, "o formato em curso", True)


@pytest.mark.completa
def test_uma_execucao_morta_sem_parar_ate_acabar(registra, inteira, tmp_path):
    """Quem só tem um pouco de tempo por sessão: cada sessão morre e, mesmo assim, um dia acaba."""
    mortes, folga = 0, 20.0
    while True:
        execucao = Execucao(tmp_path)
        try:
            assert execucao.termina(prazo=folga), execucao.diario.read_text()[-3000:]
            break
        except subprocess.TimeoutExpired:
            execucao.mata()
            mortes, folga = mortes + 1, folga * 1.25
    assert mortes >= 3
    registra("kill -9: a mesma execução, até acabar", mortes, "a parte ou a época em curso",
             resultados(tmp_path) == resultados(inteira))


# Arquivos estragados

DANOS = {
    "truncado": lambda p, outro: p.write_bytes(p.read_bytes()[:p.stat().st_size // 2]),
    "vazio": lambda p, outro: p.write_bytes(b""),
    "um byte trocado": lambda p, outro: troca_byte(p),
    "de outra execução": lambda p, outro: shutil.copy(outro, p),
    "apagado": lambda p, outro: p.unlink(),
    "sem permissão de leitura": lambda p, outro: p.chmod(0),
}


def troca_byte(caminho):
    dados = bytearray(caminho.read_bytes())
    dados[len(dados) * 2 // 3] ^= 1
    caminho.write_bytes(dados)


def sem_poderes():
    """O que pôr antes do comando para que nem o root leia o que não tem permissão de ler."""
    return [] if os.geteuid() else ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


@pytest.fixture(scope="module")
def de_outra(tmp_path_factory):
    """Uma execução com outro limite, em pasta nova: os arquivos dela são de outra configuração."""
    pasta = tmp_path_factory.mktemp("outra")
    execucao = Execucao(pasta, MAX_IMAGENS=560, EXPORTAR=COMPLETA)
    assert execucao.termina(), execucao.diario.read_text()[-3000:]
    return pasta


@pytest.mark.parametrize("volta", range(6) if COMPLETA else [2])
def test_cada_arquivo_estragado_e_percebido_dito_e_refeito(registra, inteira, de_outra, tmp_path, volta):
    """Em seis voltas, cada arquivo de MODELOS sofre cada um dos seis danos, todos os arquivos ao mesmo tempo."""
    pasta, ditos = copia(inteira, tmp_path), []
    arquivos = sorted(p for p in (pasta / "modelos").iterdir() if p.name != ".trava")
    for i, arquivo in enumerate(arquivos):
        dano = list(DANOS)[(i + volta) % 6]
        tipo = re.sub(r"-[0-9a-f]{12}.*", "-*", arquivo.name)
        DANOS[dano](arquivo, max((de_outra / "modelos").glob(tipo)))
        if "-" in arquivo.name and dano != "apagado":
            ditos.append(arquivo.name)
    execucao = Execucao(pasta, antes=sem_poderes(), EXPORTAR=COMPLETA)
    assert execucao.termina(), execucao.diario.read_text()[-3000:]
    texto = saidas(pasta / "executado.ipynb")
    assert not [nome for nome in ditos if f"{nome} não serve" not in texto]
    registra(f"arquivos estragados, todos de uma vez (volta {volta + 1})", len(arquivos), "só os estragados",
             resultados(pasta) == resultados(inteira))


@pytest.mark.completa
def test_cada_arquivo_estragado_sozinho_e_so_ele_e_refeito(registra, inteira, de_outra, tmp_path):
    """Um arquivo de MODELOS por vez, com um dano sorteado, num kernel que não fecha: os outros ficam como estavam."""
    sorteio, pasta = np.random.default_rng(7), copia(inteira, tmp_path)
    arquivos = sorted(p for p in (pasta / "modelos").iterdir() if p.name != ".trava")
    with Nucleo(pasta) as nucleo:
        for arquivo in arquivos:
            dano = sorteio.choice([nome for nome in DANOS if nome != "sem permissão de leitura"])  # o root lê tudo
            tipo = re.sub(r"-[0-9a-f]{12}.*", "-*", arquivo.name)
            antes = prontos(pasta / "modelos")
            DANOS[dano](arquivo, max((de_outra / "modelos").glob(tipo)))
            texto = "".join(nucleo.certo(fonte) for fonte in celulas_do_kernel(EXPORTAR=True))
            depois = prontos(pasta / "modelos")
            refeitos = {nome for nome in antes if antes[nome] != depois.get(nome)} - {arquivo.name}
            recibos = {nome for nome in refeitos if nome.startswith("exportado-") and arquivo.suffix in (".tflite", ".onnx")}
            assert refeitos == recibos and len(recibos) <= 1, (arquivo.name, dano)  # quem refaz um formato, confere-o de novo
            assert "-" not in arquivo.name or dano == "apagado" or f"{arquivo.name} não serve" in texto, (arquivo.name, dano)
            assert resultados(pasta) == resultados(inteira), (arquivo.name, dano)
    registra("arquivos estragados, um de cada vez", len(arquivos), "só o estragado", True)


# Dados estragados

def foto(semente, formato="JPEG", modo="RGB"):
    """Os bytes de uma foto de manchas coloridas ao acaso."""
    pixels = np.random.default_rng(semente).integers(0, 256, (9, 9, 3), dtype="uint8")
    tela = io.BytesIO()
    PIL.Image.fromarray(pixels).resize((200, 150)).convert(modo).save(tela, formato)
    return tela.getvalue()


def com_lado(jpeg, lado):
    """O mesmo JPEG, que agora se diz de `lado` × `lado` pixels."""
    onde = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:onde] + lado.to_bytes(2, "big") * 2 + jpeg[onde + 4:]


BOAS = {f"PetImages/{classe}/{i}.jpg": foto(2 * i + (classe == "Dog")) for classe in ("Cat", "Dog") for i in range(30)}
RUINS = {"truncada": foto(1)[:900], "vazia": b"", "na verdade um PNG": foto(1, "PNG"), "CMYK": foto(1, modo="CMYK"),
         "de 60.000 × 60.000 pixels": com_lado(foto(1), 60_000), "bomba": bytes(60_000_000)}
FORA_DO_LUGAR = ("../../fugiu.jpg", "PetImages/Cat/../../../fugiu.jpg", "/fugiu.jpg", "PetImages/Dog/Thumbs.db")


def troca_bit_do_tfrecord(versao):
    [arquivo] = versao.glob("*.tfrecord*")
    troca_byte(arquivo)


def corta_tfrecord(versao):
    [arquivo] = versao.glob("*.tfrecord*")
    os.truncate(arquivo, arquivo.stat().st_size // 2)


def esvazia_descricao(versao):
    info = json.loads((versao / "dataset_info.json").read_text(encoding="utf-8"))
    info["splits"][0]["shardLengths"] = ["0"]
    (versao / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")


@pytest.mark.completa
def test_dados_estragados_sao_recusados_ou_refeitos(registra, tmp_path):
    """O que um disco, um download ou um zip ruim deixam: nada entra no treino, e com os dados bons tudo volta."""
    zips = {"bom": BOAS, "só gatos": {nome: dados for nome, dados in BOAS.items() if "Cat" in nome},
            "com ruins": BOAS | {f"PetImages/Dog/{900 + i}.jpg": dados for i, dados in enumerate(RUINS.values())} |
            {nome: foto(3) for nome in FORA_DO_LUGAR}}
    for nome, conteudo in zips.items():
        with zipfile.ZipFile(tmp_path / f"{nome}.zip", "w", zipfile.ZIP_DEFLATED) as z:
            for caminho, dados in conteudo.items():
                z.writestr(caminho, dados)
    (tmp_path / "página.zip").write_bytes(b"<html>entre na rede do hotel</html>")
    (tmp_path / "cortado.zip").write_bytes((tmp_path / "bom.zip").read_bytes()[:-5000])

    def roda(pasta, nome="bom", **parametros):
        return Execucao(tmp_path / pasta, ARQUIVO_ZIP=tmp_path / f"{nome}.zip", **{
            "DATASET": "cats_vs_dogs", "MAX_IMAGENS": 60, "EPOCAS_AJUSTE_FINO": 0, "REMOVE_SUSPEITAS": False} | parametros)

    def certo(pasta, nome="bom"):
        execucao = roda(pasta, nome)
        assert execucao.termina(), execucao.diario.read_text()[-3000:]
        return resultados(tmp_path / pasta)

    inteira = certo("p")
    registra(f"dados: zip com fotos ruins ({', '.join(RUINS)}) e caminhos que fogem", len(RUINS) + len(FORA_DO_LUGAR),
             "nada; ficam de fora", certo("q", "com ruins") == inteira)
    assert f"{len(RUINS)} arquivos do zip ficaram de fora" in saidas(tmp_path / "q/executado.ipynb")
    assert not list(tmp_path.rglob("fugiu*")) and not pathlib.Path("/fugiu.jpg").exists()
    [versao] = (tmp_path / "p/tfds/cats_vs_dogs").iterdir()
    for resto in versao.glob("*.json"):
        resto.unlink()
    registra("dados: preparo interrompido pela metade", 1, "o preparo, que se refaz", certo("p") == inteira)
    danos = {troca_bit_do_tfrecord: "danificados", corta_tfrecord: "danificados", esvazia_descricao: "não se deixam abrir"}
    for estraga, mensagem in danos.items():
        shutil.copytree(versao, tmp_path / "intacta")
        estraga(versao)
        execucao = roda("p")
        assert not execucao.termina() and mensagem in execucao.erro() and "Apague" in execucao.erro()
        shutil.rmtree(versao)
        (tmp_path / "intacta").rename(versao)
    shutil.rmtree(versao)
    registra("dados: TFRecord com um bit trocado, cortado, ou sem fotos", len(danos), "nada; recusado, e refeito depois",
             certo("p") == inteira)
    for nome, mensagem in {"só gatos": "duas classes", "página": "não é um zip", "cortado": "não é um zip"}.items():
        execucao = roda(nome, nome)
        assert not execucao.termina() and mensagem in execucao.erro()
        assert not list((tmp_path / nome / "modelos").glob("*-*")), "calculou alguma coisa"
        shutil.rmtree(tmp_path / nome / "tfds", ignore_errors=True)
    registra("dados: zip cortado, HTML no lugar dele, ou sem uma das classes", 3, "nada; recusado antes de calcular",
             certo("só gatos") == inteira)


# Disco

@contextlib.contextmanager
def disco(pasta, megas):
    """Um disco só nosso, de tamanho certo, montado em `pasta`."""
    pasta.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megas}m", "tmpfs", pasta], check=True)
    try:
        yield pasta
    finally:
        subprocess.run(["umount", "-l", pasta], check=True)


so_root = pytest.mark.skipif(os.geteuid() != 0, reason="montar um disco de teste precisa de root")
# Onde encher o disco para que falhe a gravação de cada tipo de arquivo: ao começar a célula que o grava ou a de antes.
ENCHE_EM = {"caracteristicas-": "X, extracao = ", "cabeca-": "treino, validacao, teste = ", "validacao_cruzada-": "p_cv = ",
            "ajuste-": "epocas_ajuste = ", "detector_dogs_cats.keras": "caminho_modelo = ", "predicoes-": "y_teste, (p_te",
            "classificador.npz": "certas = [", "suspeitas.csv": "copias = acha", "detector_dogs_cats.tflite": "exportados = {}",
            "metricas.json": "sob_suspeita = "}


@so_root
def test_disco_cheio_ao_gravar_cada_tipo_de_arquivo(registra, inteira, tmp_path):
    """O disco enche no meio; a mensagem diz o quê e o que fazer; liberado o espaço, continua do mesmo ponto."""
    with disco(tmp_path / "modelos", 200) as modelos:
        tipos = list(ENCHE_EM) if COMPLETA else ["caracteristicas-", "detector_dogs_cats.keras"]
        for tipo in tipos:
            feitos = prontos(modelos)
            execucao = Execucao(tmp_path, EXPORTAR=tipo == "detector_dogs_cats.tflite")
            assert execucao.espera_celula(numero_da_celula(ENCHE_EM[tipo])), execucao.diario.read_text()[-3000:]
            lastro = modelos / "lastro"
            with contextlib.suppress(OSError), open(lastro, "wb", buffering=0) as f:
                while f.write(bytes(1 << 20)):
                    pass
            assert not execucao.termina(), f"{tipo}: coube num disco cheio"
            assert re.search(rf"não consegui gravar .*{tipo}.*Libere espaço", execucao.erro()), execucao.erro()
            lastro.unlink()
            assert not list(modelos.glob("incompleto-*")) and feitos.items() <= prontos(modelos).items()
        execucao = Execucao(tmp_path, EXPORTAR=COMPLETA)
        assert execucao.termina(), execucao.diario.read_text()[-3000:]
        registra("disco cheio, e MODELOS noutro sistema de arquivos", len(tipos), "só o que se gravava",
                 resultados(tmp_path) == resultados(inteira))


def test_modelos_so_de_leitura_e_dito_antes_de_calcular(registra, inteira, tmp_path):
    pasta = copia(inteira, tmp_path)
    antes = prontos(pasta / "modelos")
    for caminho in [*(pasta / "modelos").iterdir(), pasta / "modelos"]:
        caminho.chmod(0o555 if caminho.is_dir() else 0o444)
    execucao = Execucao(pasta, antes=sem_poderes())
    assert not execucao.termina()
    assert "não consigo escrever em modelos" in execucao.erro() and "mude MODELOS" in execucao.erro()
    assert execucao.celula() < numero_da_celula(FASES["extração"]), "gastou tempo antes de avisar"
    (pasta / "modelos").chmod(0o755)
    for caminho in (pasta / "modelos").iterdir():
        caminho.chmod(0o644)
    assert prontos(pasta / "modelos") == antes
    execucao = Execucao(pasta)
    assert execucao.termina(), execucao.diario.read_text()[-3000:]
    registra("MODELOS só de leitura", 1, "nada", resultados(pasta) == resultados(inteira))


def test_duas_execucoes_na_mesma_pasta_uma_recusa(registra, inteira, tmp_path):
    """A segunda diz que a pasta está em uso e não toca em nada; quando a primeira acaba, ela pode rodar."""
    primeira = Execucao(tmp_path)
    assert primeira.espera_celula(numero_da_celula(FASES["extração"]))
    (tmp_path / "segunda").mkdir()
    segunda = Execucao(tmp_path / "segunda", MODELOS=tmp_path / "modelos")
    assert not segunda.termina() and primeira.processo.poll() is None
    assert "outra execução está usando" in segunda.erro() and "mude MODELOS" in segunda.erro()
    assert primeira.termina(), primeira.diario.read_text()[-3000:]
    iguais = resultados(tmp_path) == resultados(inteira)
    segunda = Execucao(tmp_path / "segunda", MODELOS=tmp_path / "modelos")
    assert segunda.termina(), segunda.diario.read_text()[-3000:]
    registra("duas execuções ao mesmo tempo", 2, "nada", iguais and resultados(tmp_path) == resultados(inteira))


# Um kernel vivo: interrupções, células repetidas, uso prolongado

# O que a memória da glibc tem em uso (mallinfo2(3)): um vazamento a faz crescer; pedaços livres entre os usados, não.
EM_USO = """
import ctypes, gc
class Mallinfo2(ctypes.Structure):
    _fields_ = [(campo, ctypes.c_size_t) for campo in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks",
                                                       "fsmblks", "uordblks", "fordblks", "keepcost")]
gc.collect()
mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Mallinfo2
print((mallinfo2().uordblks + mallinfo2().hblkhd) / 1e6)
"""


def anonima(processo):
    """Bytes que são só do processo; não o código das bibliotecas, que ora se divide com outros, ora se relê do disco."""
    memoria = processo.memory_info()
    return memoria.rss - memoria.shared


def abertos(processo, olhadas=20):
    """O que o processo tem aberto, {nome: quantas vezes}: só o que está em todas as `olhadas`, de 0,05 em 0,05 s.

    O IPython grava o histórico numa thread à parte, e abre e fecha o diário do SQLite a cada célula: quem olha uma vez só
    o acha aberto em uma de cada vinte vezes.
    """
    fica = None
    for _ in range(olhadas):
        agora = collections.Counter()
        for fd in pathlib.Path(f"/proc/{processo.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # fechou-se entre a lista e a leitura
                agora[os.readlink(fd).split(":[")[0]] += 1
        fica = agora if fica is None else fica & agora
        time.sleep(0.05)
    return fica


class Nucleo:
    """Um kernel de verdade, como o do Jupyter, em que as células rodam uma a uma."""

    def __init__(self, pasta):
        prepara_pasta(pasta)
        self.gerente, self.cliente = start_new_kernel(kernel_name="python3", cwd=str(pasta), env=ambiente(pasta),
                                                      stderr=subprocess.DEVNULL)
        self.processo = psutil.Process(self.gerente.provisioner.process.pid)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.cliente.stop_channels()
        self.gerente.shutdown_kernel(now=True)

    def roda(self, fonte, interrompe_em=None):
        """Roda a célula e devolve (nome do erro ou None, o que imprimiu); pode ser interrompida no meio (Ctrl-C)."""
        pedido, impresso, erro = self.cliente.execute(fonte), [], None
        relogio = threading.Timer(interrompe_em or 0, self.gerente.interrupt_kernel)
        if interrompe_em is not None:
            relogio.start()
        while True:
            assert self.processo.is_running() and self.processo.status() != psutil.STATUS_ZOMBIE, f"o kernel morreu:\n{fonte}"
            try:
                mensagem = self.cliente.get_iopub_msg(timeout=5)
            except queue.Empty:
                continue
            if mensagem["parent_header"].get("msg_id") != pedido:
                continue
            conteudo = mensagem["content"]
            impresso.append(conteudo.get("text", ""))
            if mensagem["msg_type"] == "error":
                erro = conteudo["ename"]
                impresso.append("\n".join(conteudo["traceback"]))
            if mensagem["msg_type"] == "status" and conteudo["execution_state"] == "idle":
                break
        relogio.cancel()
        while self.cliente.shell_channel.msg_ready():  # a resposta pode não vir, se o Ctrl-C chegou quando ela ia sair
            self.cliente.get_shell_msg(timeout=1)
        return erro, "".join(impresso)

    def certo(self, fonte):
        """Roda a célula, que tem de dar certo, e devolve o que imprimiu."""
        erro, texto = self.roda(fonte)
        assert erro is None, texto[-3000:]
        return texto

    def gasto(self):
        """O que ele gasta: MB de memória, MB que ele pediu e ainda não devolveu, arquivos abertos e quais."""
        em_uso, nomes = float(self.certo(EM_USO)), abertos(self.processo)
        return {"mb": anonima(self.processo) / 1e6, "em_uso": em_uso, "arquivos": nomes.total(), "nomes": nomes}


def celulas_do_kernel(**parametros):
    """As células de código, com os parâmetros do teste logo depois dos da pessoa."""
    ajustes = "\n".join(f"{nome} = {valor!r}" for nome, valor in (CONFIGURACAO | {"EXPORTAR": False} | parametros).items())
    return [fonte + "\n" + ajustes if fonte in celulas("parameters") else fonte for fonte in celulas()]


@pytest.mark.completa
def test_ctrl_c_em_cada_celula_e_cada_celula_duas_vezes(registra, inteira, tmp_path):
    """Cada célula é interrompida em três momentos, rodada de novo e mais uma vez: o resultado é o de quem rodou direto."""
    tempo = {c: t for c, t in zip(celulas(), [duracoes(inteira)[n] for n in numeros_do_codigo()])}
    erros = []
    with Nucleo(tmp_path) as nucleo:
        for fonte, original in zip(celulas_do_kernel(), celulas()):
            for parte in (0.4, 0.2, 0.8) if tempo[original] > 0.2 else ():  # a tempo, ninguém interrompe as mais curtas
                erros.append(nucleo.roda(fonte, interrompe_em=parte * tempo[original])[0])
                print(repr(original.strip().split("\n")[0]), parte, tempo[original], erros[-1], flush=True)
            nucleo.certo(fonte)
            nucleo.certo(fonte)
    # Dentro do TensorFlow o Ctrl-C às vezes chega como outro erro; o que importa é que a célula roda bem depois.
    interrompidas = len(erros) - erros.count(None)
    assert erros.count("KeyboardInterrupt") >= 8 and "ErroClaro" not in erros, erros
    registra("Ctrl-C no meio de cada célula", interrompidas, "a parte ou a época em curso",
             resultados(tmp_path) == resultados(inteira))
    registra("cada célula duas vezes", len(celulas()), "nada", resultados(tmp_path) == resultados(inteira))


def numeros_do_codigo():
    """Números que o papermill dá às células de código."""
    celulas_ = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    primeira = next(i for i, c in enumerate(celulas_) if "parameters" in c["metadata"].get("tags", []))
    return [i + 1 + (i > primeira) for i, c in enumerate(celulas_) if c["cell_type"] == "code"]


def diferenca(antes, depois):
    """Dois gastos do `Nucleo`, lado a lado."""
    return "{mb:.0f} MB ({em_uso:.0f} em uso), {arquivos} arquivos abertos → ".format(**antes) + (
        "{mb:.0f} MB ({em_uso:.0f}), {arquivos}".format(**depois))


def test_uso_prolongado_nao_gasta_memoria_nem_arquivos(registra, tmp_path):
    """Execuções inteiras e `classifica` sem parar, no mesmo kernel: a memória e os arquivos abertos não crescem."""
    (voltas, vezes), gastos, achados = (20, 200) if COMPLETA else (6, 60), [], []
    with Nucleo(tmp_path) as nucleo:
        for _ in range(voltas):  # a primeira calcula tudo; as outras leem
            for fonte in celulas_do_kernel(EPOCAS_AJUSTE_FINO=0):
                nucleo.certo(fonte)
            gastos.append(nucleo.gasto())
            achados.append(resultados(tmp_path))
        for _ in range(voltas):  # as mesmas células, em comentários: o que o próprio kernel guarda do que se digita
            for fonte in celulas():
                nucleo.certo("\n".join(f"# {linha}" for linha in fonte.split("\n")))
        do_kernel = (nucleo.gasto()["em_uso"] - gastos[-1]["em_uso"]) / voltas
        nucleo.certo("primeiros = [dict(classifica(foto)) for foto, _ in exemplos]")
        antes = nucleo.gasto()
        iguais = nucleo.certo(f"print(all(dict(classifica(exemplos[i % 12][0])) == primeiros[i % 12] for i in range({vezes})))")
        depois = nucleo.gasto()
    terceira, ultima = gastos[2], gastos[-1]  # nas duas primeiras as bibliotecas ainda se instalam na memória
    por_volta = (ultima["em_uso"] - terceira["em_uso"]) / (voltas - 3)
    print(*gastos, antes, depois, f"por volta: {por_volta:.2f} MB, {do_kernel:.2f} deles do histórico do kernel", sep="\n")
    registra("execuções inteiras em cache, num kernel só", voltas, f"nada; {diferenca(terceira, ultima)}",
             all(achado == achados[0] for achado in achados))
    registra("classifica, no mesmo kernel", vezes, f"nada; {diferenca(antes, depois)}", iguais.strip() == "True")
    assert not ultima["nomes"] - terceira["nomes"], "as execuções deixaram arquivos abertos"
    assert not depois["nomes"] - antes["nomes"], "classifica deixou arquivos abertos"
    assert por_volta < do_kernel + 4 and depois["em_uso"] < antes["em_uso"] + 5, "vaza memória"
    assert ultima["mb"] < 1.1 * terceira["mb"] + 12 * (voltas - 3) and depois["mb"] < antes["mb"] + 30, "a memória cresce"


# Instalação, relógio, memória, configurações

@pytest.mark.parametrize("pip", ["nenhum", "pela metade"])
def test_make_refaz_o_ambiente_que_se_interrompeu_sem_pip(tmp_path, pip):
    """O computador desligou enquanto o primeiro `make` criava a pasta .venv: o segundo não pode parar para sempre."""
    shutil.copy(RAIZ / "Makefile", tmp_path)
    (tmp_path / "requirements.txt").touch()
    subprocess.run([sys.executable, "-m", "venv", *["--without-pip"] * (pip == "nenhum"), tmp_path / ".venv"], check=True)
    for modulo in (tmp_path / ".venv").glob("lib/*/site-packages/pip/_internal/commands/install.py"):
        modulo.write_text("")  # quando o pip troca a si mesmo e morre no meio
    comando_make = ["make", ".venv/pronto", "VENV=.venv", f"PYTHON={sys.executable}"]  # quem chama pode estar usando outra VENV
    processo = subprocess.run(comando_make, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PIP_NO_INDEX": "1"})
    assert processo.returncode == 0 and (tmp_path / ".venv/pronto").exists(), processo.stderr


RELOGIO = """
import time
_agora, _local, _utc = time.time, time.localtime, time.gmtime
time.time = lambda: _agora() - {atraso}
time.localtime = lambda s=None: _local(time.time() if s is None else s)
time.gmtime = lambda s=None: _utc(time.time() if s is None else s)
"""


@pytest.mark.parametrize("ano", [1970, 2001] if COMPLETA else [1970])
def test_relogio_que_volta_no_tempo(registra, inteira, tmp_path, ano):
    """A bateria do relógio acabou: o computador acorda em 1970. O que já estava pronto vale, o resto se faz."""
    pasta = copia(inteira, tmp_path / "p")
    for arquivo in (pasta / "modelos").glob("validacao_cruzada-*"):
        arquivo.unlink()
    (tmp_path / "sitecustomize.py").write_text(RELOGIO.format(atraso=time.time() - (ano - 1970) * 31557600 - 86400))
    execucao = Execucao(pasta, mais_ambiente={"PYTHONPATH": str(tmp_path)})
    assert execucao.termina(), execucao.diario.read_text()[-3000:]
    assert "já prontas de outra sessão: 600" in saidas(pasta / "executado.ipynb")
    registra(f"relógio em {ano}", 1, "nada", resultados(pasta) == resultados(inteira))


@pytest.mark.completa
def test_configuracao_mudada_e_desfeita_nunca_le_o_que_nao_e_dela(registra, tmp_path):
    """Muda-se uma coisa de cada vez, na mesma pasta: dá o mesmo que numa pasta nova; e a volta não refaz nada."""
    with zipfile.ZipFile(tmp_path / "bom.zip", "w") as z:
        for nome, dados in BOAS.items():
            z.writestr(nome, dados)
    mudancas = [{"MAX_IMAGENS": 560}, {"SEMENTE": 7}, {"REMOVE_SUSPEITAS": False}, {"BACKBONE": "EfficientNetLite1"},
                {"MOTOR": "keras"}, {"EPOCAS_AJUSTE_FINO": 1},
                {"DATASET": "cats_vs_dogs", "ARQUIVO_ZIP": tmp_path / "bom.zip", "MAX_IMAGENS": 60}]

    def certo(pasta, **mudanca):
        execucao = Execucao(tmp_path / pasta, **{"EPOCAS_AJUSTE_FINO": 0} | mudanca)
        assert execucao.termina(), execucao.diario.read_text()[-3000:]
        return resultados(tmp_path / pasta)

    inteira = certo("mesma")
    for i, mudanca in enumerate(mudancas):
        mudada = certo("mesma", **mudanca)
        assert mudada == certo(f"nova{i}", **mudanca) != inteira, mudanca
    feitos = prontos(tmp_path / "mesma/modelos")
    registra("limite, semente, backbone, motor, dataset… mudados e desfeitos", len(mudancas), "nada; a volta não refaz nada",
             certo("mesma") == inteira and prontos(tmp_path / "mesma/modelos") == feitos)


def test_configuracoes_da_maquina_nao_mudam_numero_nenhum(registra, inteira, tmp_path):
    """Noutro projeto a pessoa deixou o Keras em float16, com canais primeiro e JAX, e o Matplotlib pedindo um LaTeX que não há."""
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras/keras.json").write_text(json.dumps(
        {"backend": "jax", "floatx": "float16", "epsilon": 1e-3, "image_data_format": "channels_first"}))
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfigure.dpi: 30\n")
    execucao = Execucao(tmp_path, mais_ambiente={"KERAS_BACKEND": "jax", "TF_USE_LEGACY_KERAS": "1"})
    assert execucao.termina(), execucao.diario.read_text()[-3000:]
    registra("máquina com o Keras e o Matplotlib configurados para outro projeto", 1, "nada",
             resultados(tmp_path) == resultados(inteira))


@contextlib.contextmanager
def limite_de_memoria(bytes_):
    """Função para rodar no filho antes do exec, e o nome do limite: um cgroup onde se pode, ou RLIMIT_DATA."""
    grupo = pathlib.Path("/sys/fs/cgroup/memory") / f"resistencia-{os.getpid()}"
    try:
        grupo.mkdir()
        (grupo / "memory.limit_in_bytes").write_text(str(bytes_))
    except OSError:
        yield lambda: resource.setrlimit(resource.RLIMIT_DATA, (bytes_, bytes_)), "RLIMIT_DATA"
        return
    try:
        yield lambda: (grupo / "cgroup.procs").write_text(str(os.getpid())), "cgroup"
    finally:
        for pid in (grupo / "cgroup.procs").read_text().split():
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(int(pid)).wait(30)
        grupo.rmdir()


@pytest.mark.completa
def test_dois_gigabytes_de_memoria_bastam(registra, tmp_path):
    """A execução inteira, com exportações, num computador de 2 GB (fora o ajuste fino, que é opcional)."""
    parametros = CONFIGURACAO | {"EPOCAS_AJUSTE_FINO": 0, "MAX_IMAGENS": 2000}
    execucao = Execucao(tmp_path / "inteira", **parametros)
    assert execucao.termina(), execucao.diario.read_text()[-3000:]
    pasta, pico = tmp_path / "limitada", 0
    with limite_de_memoria(2_000_000_000) as (limita, como):
        execucao = Execucao(pasta, limita=limita, **parametros, EXPORTAR=True)
        while execucao.processo.poll() is None:
            with contextlib.suppress(psutil.Error):
                filhos = psutil.Process(execucao.processo.pid).children(recursive=True)
                pico = max(pico, sum(map(anonima, filhos)))
            time.sleep(0.1)
        assert execucao.termina(), execucao.diario.read_text()[-3000:]
    assert pico < 2_000_000_000, "o limite não valeu"
    metricas = json.loads((pasta / "modelos/metricas.json").read_text(encoding="utf-8"))
    assert len(metricas["exportados"]) == 3 and not [e for e in metricas["exportados"].values() if "erro" in e]
    registra(f"2 GB de memória ({como})", 1, f"nada; pico do kernel {pico / 1e6:.0f} MB",
             resultados(pasta) == resultados(tmp_path / "inteira"))
