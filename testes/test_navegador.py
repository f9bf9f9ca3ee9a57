"""O notebook em um navegador de verdade: JupyterLab, Chromium, todas as células e o botão."""

import base64
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest
from conftest import NOTEBOOK, RAIZ, SEM_REDE
from playwright.sync_api import expect, sync_playwright
from roda_notebook import celulas

import detector

PREFERENCIAS = {
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},  # desenha tudo
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
}
ERROS = "[data-mime-type$='jupyter.error'], [data-mime-type$='jupyter.stderr']"
FIGURAS = NOTEBOOK.read_text(encoding="utf-8").count('"image/png"') - 1  # uma vira botões
DO_MAKE = shlex.split(re.search("--ServerApp.*", (RAIZ / "Makefile").read_text("utf-8"))[0])
MINUTO = 60_000  # o Playwright conta em milissegundos


@pytest.fixture(scope="module")
def chromium():
    """O navegador do sistema. Sem nenhum, o teste é pulado e isso é dito; no CI, falha."""
    nomes = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    if caminho := next(filter(None, map(shutil.which, nomes)), None):
        return caminho
    aviso = "SEM NAVEGADOR: não achei o Chromium nem o Chrome (sudo apt-get install chromium)"
    pytest.fail(aviso) if os.environ.get("CI") else pytest.skip(aviso)


@pytest.fixture(scope="module")
def pasta(tmp_path_factory):
    """O que a pessoa tem ao começar: o projeto, com o notebook sem saídas e 60 fotos."""
    pasta = tmp_path_factory.mktemp("jupyterlab")
    (pasta / "detector").symlink_to(RAIZ / "detector")
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    for celula in (c for c in notebook["cells"] if c["cell_type"] == "code"):
        celula |= {"outputs": [], "execution_count": None}
        if "parameters" in celula["metadata"].get("tags", []):
            celula["source"] += ['\nDATASET, MAX_IMAGENS = "amostra", 60']
    (pasta / NOTEBOOK.name).write_text(json.dumps(notebook), encoding="utf-8")
    return pasta


@pytest.fixture(scope="module")
def servidor(chromium, pasta):
    """Um JupyterLab sem rede e alheio às configurações de quem testa; no fim, nada dele fica."""
    (preferencias := pasta / "config/labconfig").mkdir(parents=True)
    (preferencias / "default_setting_overrides.json").write_text(json.dumps(PREFERENCIAS))
    proprio = {f"JUPYTER_{n.upper()}_DIR": pasta / n for n in ("config", "data", "runtime")}
    ambiente = {**os.environ, **SEM_REDE, **proprio, "no_proxy": "127.0.0.1,localhost"}
    comando = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    with open(pasta / "servidor.log", "w") as log:
        ditos = {"stdout": log, "stderr": subprocess.STDOUT, "start_new_session": True}
        processo = subprocess.Popen(comando + DO_MAKE, cwd=pasta, env=ambiente, **ditos)
    try:
        prazo = time.monotonic() + 180
        while not list((pasta / "runtime").glob("jpserver-*-open.html")):  # achou uma porta livre
            relato = (pasta / "servidor.log").read_text()[-3000:]
            assert processo.poll() is None and time.monotonic() < prazo, relato
            time.sleep(0.2)
        yield
    finally:
        processo.terminate()
        try:
            processo.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(processo.pid, signal.SIGKILL)


def celula(pagina, etiqueta):
    """O lugar, na página, da célula de código que tem esta etiqueta."""
    return pagina.locator(".jp-CodeCell").nth([*celulas()].index(etiqueta))


@pytest.fixture(scope="module")
def pagina(chromium, servidor, pasta):
    """O notebook aberto no navegador, depois de Run > Run All Cells."""
    anuncio = json.loads(next((pasta / "runtime").glob("jpserver-*.json")).read_text())
    endereco = f"{anuncio['url']}lab/tree/{NOTEBOOK.name}?token={anuncio['token']}"
    with sync_playwright() as playwright:
        opcoes = ["--no-proxy-server", "--no-sandbox"]
        navegador = playwright.chromium.launch(executable_path=chromium, args=opcoes)
        pagina = navegador.new_page(viewport={"width": 1100, "height": 1500})
        pagina.goto(endereco, timeout=3 * MINUTO)
        ocioso = pagina.get_by_text(re.compile(r"^Python 3.* \| Idle$"))
        expect(ocioso).to_be_visible(timeout=3 * MINUTO)
        pagina.keyboard.press("Control+b")  # fecha a barra lateral
        escolhe(pagina, "Run", "Run All Cells")
        ate_o_fim(pagina)
        yield pagina


def ate_o_fim(pagina):
    fim = celula(pagina, "publica").get_by_text("Teste (6 fotos): acurácia")
    expect(fim.or_(pagina.locator(ERROS).first)).to_be_visible(timeout=5 * MINUTO)


@pytest.fixture(scope="module")
def fotos(amostra):
    """Três fotos do teste, ampliadas até 5 MB cada uma: {nome: bytes}."""
    arquivos = {}
    for foto, _ in detector.dados.le(amostra, "train[54:57]", prepara=None).as_numpy_iterator():
        PIL.Image.fromarray(foto).resize((1300, 1300)).save(arquivo := io.BytesIO(), "BMP")
        arquivos[f"foto{len(arquivos) + 1}.bmp"] = arquivo.getvalue()
    return arquivos


def de_png(conteudo):
    return np.asarray(PIL.Image.open(io.BytesIO(conteudo)).convert("RGB"))


def figuras_nao_brancas(lugar):
    fontes = (figura.get_attribute("src") for figura in lugar.locator("img[src^=data]").all())
    return sum(de_png(base64.b64decode(f.split(",")[1])).std() > 10 for f in fontes)


def escolhe(pagina, menu, opcao):
    pagina.get_by_role("menuitem", name=menu, exact=True).click()
    pagina.get_by_role("menuitem", name=opcao, exact=True).click()


def envia(pagina, arquivos):
    """Escolhe os arquivos {nome: bytes} pelo botão; devolve o lugar em que a resposta aparece."""
    with pagina.expect_file_chooser() as janela:
        celula(pagina, "botao").get_by_role("button", name="Escolher fotos").click()
    janela.value.set_files([{"name": n, "mimeType": "", "buffer": b} for n, b in arquivos.items()])
    return celula(pagina, "botao").locator(".widget-output")


def grava_tela(nome, captura):
    """Vê se há algo na tela; com GRAVA_TELAS, grava em imagens/ o que se vê."""
    tela = de_png(captura)
    assert min(tela.shape[:2]) > 900 and tela.std() > 10
    if os.environ.get("GRAVA_TELAS"):
        PIL.Image.fromarray(tela).save(RAIZ / "imagens" / nome, optimize=True)


def test_todas_as_celulas_rodam_sem_erro_nem_aviso(pagina):
    assert pagina.locator(ERROS).all_inner_texts() == []
    assert figuras_nao_brancas(pagina.locator(".jp-OutputArea-output")) == FIGURAS
    versoes = celula(pagina, "versoes")
    expect(versoes.locator(".jp-OutputArea")).to_contain_text(re.compile(r"tensorflow +2\.\d+"))


def test_seis_fotos_marcadas_saem_do_treino_depois_de_reiniciado_o_kernel(pagina):
    em_duvida = celula(pagina, "mostra_suspeitas")
    cartoes = em_duvida.locator(".widget-vbox:has(> .widget-image)")
    do_treino = cartoes.filter(has_text="treino;")
    for i in range(6):
        do_treino.get_by_role("button", name="tirar do treino").nth(i).click()
    expect(em_duvida).to_contain_text("para tirar do treino, 6 (da")
    grava_tela("sessao_visualizacao.png", em_duvida.screenshot())
    escolhe(pagina, "Kernel", "Restart Kernel and Run All Cells…")
    pagina.locator(".jp-Dialog .jp-mod-accept").click()
    expect(celula(pagina, "publica").locator(".jp-OutputArea-output")).to_have_count(0)
    ate_o_fim(pagina)
    expect(em_duvida.locator(".mod-active", has_text="tirar do treino")).to_have_count(6)
    fora = cartoes.filter(has_text="fora do treino;")
    expect(fora.locator(".mod-active")).to_have_text(["tirar do treino"] * 6)
    expect(celula(pagina, "primeiro_resultado")).to_contain_text(f"n treino {48 - 6} ")


def test_fotos_de_5_mb_pelo_botao_um_arquivo_qualquer_e_depois_uma_so(pagina, pasta, fotos):
    """Todos recebem resposta, a mesma de `classifica`, e nenhuma foto sai em branco."""
    classifica = detector.carrega_classificador(pasta / "modelos")
    resposta = envia(pagina, {"texto.jpg": b"nem gato nem cachorro"} | fotos)
    for nome, foto in fotos.items():
        for dito in (f"{nome}:", str(classifica(foto))):
            expect(resposta).to_contain_text(dito, timeout=MINUTO)
    expect(resposta).to_contain_text("texto.jpg não é uma foto")
    assert figuras_nao_brancas(resposta) == len(fotos)
    resposta = envia(pagina, {"minha_foto.png": fotos["foto1.bmp"]})
    expect(resposta.locator("img")).to_have_count(1, timeout=MINUTO)
