"""O notebook num navegador de verdade: o JupyterLab, o Chromium do sistema, todas as células e o botão de fotos."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import psutil
import pytest
from conftest import NOTEBOOK, RAIZ, ambiente, prepara_pasta
from playwright.sync_api import expect, sync_playwright

NAVEGADORES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PREFERENCIAS = {"notebook-extension/tracker": {"windowingMode": "none"},  # mesmo as células longe da vista, na página
                "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False}}
ERROS = "[data-mime-type$='jupyter.error'], [data-mime-type$='jupyter.stderr']"
MINUTO = 60_000  # o Playwright conta em milissegundos


@pytest.fixture(scope="module")
def chromium():
    """O navegador do sistema. Sem nenhum, o teste não se aplica; no CI, falha."""
    if caminho := next(filter(None, map(shutil.which, NAVEGADORES)), None):
        return caminho
    aviso = "não achei o Chromium nem o Chrome. No Debian: sudo apt-get install chromium"
    pytest.fail(aviso) if os.environ.get("CI") else pytest.skip(aviso)


@pytest.fixture(scope="module")
def pasta(tmp_path_factory):
    """O que a pessoa tem ao começar: o notebook, ainda sem saídas, e a amostra. Sem as exportações, que levam minutos."""
    pasta = prepara_pasta(tmp_path_factory.mktemp("jupyterlab"))
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    for celula in notebook["cells"]:
        if "parameters" in celula["metadata"].get("tags", []):
            celula["source"] = [linha.replace("EXPORTAR = True", "EXPORTAR = False") for linha in celula["source"]]
            assert any("EXPORTAR = False" in linha for linha in celula["source"])
        celula |= {"outputs": [], "execution_count": None} if celula["cell_type"] == "code" else {}
    (pasta / NOTEBOOK.name).write_text(json.dumps(notebook), encoding="utf-8")
    return pasta


@pytest.fixture(scope="module")
def servidor(chromium, pasta):
    """Um JupyterLab sem rede e alheio às configurações de quem testa; no fim, nem ele nem os seus kernels ficam."""
    for nome, valores in PREFERENCIAS.items():
        arquivo = pasta / f"config/lab/user-settings/@jupyterlab/{nome}.jupyterlab-settings"
        arquivo.parent.mkdir(parents=True)
        arquivo.write_text(json.dumps(valores))
    proprio = {f"JUPYTER_{nome.upper()}_DIR": pasta / nome for nome in ("config", "data", "runtime")} | {
        "no_proxy": "127.0.0.1,localhost", "NO_PROXY": "127.0.0.1,localhost",
        "JUPYTERLAB_SETTINGS_DIR": pasta / "config/lab/user-settings",
        "JUPYTERLAB_WORKSPACES_DIR": pasta / "config/lab/workspaces"}
    with open(pasta / "servidor.log", "w") as log:
        comando = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
        processo = psutil.Popen(comando, cwd=pasta, env=ambiente(pasta) | proprio, stdout=log, stderr=subprocess.STDOUT)
    try:
        prazo = time.monotonic() + 180
        while not any((pasta / "runtime").glob("jpserver-*-open.html")):  # o que ele grava ao achar uma porta livre
            assert processo.poll() is None and time.monotonic() < prazo, (pasta / "servidor.log").read_text()[-3000:]
            time.sleep(0.2)
        yield processo
    finally:
        if processo.poll() is None:
            familia = [processo, *processo.children(recursive=True)]
            processo.terminate()
            for resistente in psutil.wait_procs(familia, timeout=30)[1]:
                resistente.kill()


@pytest.fixture(scope="module")
def pagina(chromium, servidor, pasta):
    """O notebook aberto no navegador, depois de Run > Run All Cells."""
    [anuncio] = (pasta / "runtime").glob("jpserver-*.json")
    endereco = "{url}lab/tree/{}?token={token}".format(NOTEBOOK.name, **json.loads(anuncio.read_text()))
    with sync_playwright() as playwright:
        navegador = playwright.chromium.launch(executable_path=chromium, args=["--no-proxy-server"])
        pagina = navegador.new_page(viewport={"width": 1100, "height": 900})
        pagina.goto(endereco, timeout=3 * MINUTO)
        expect(pagina.get_by_text(re.compile(r"^Python 3.* \| Idle$"))).to_be_visible(timeout=3 * MINUTO)
        assert [kernel.cmdline()[0] for kernel in servidor.children()] == [sys.executable]
        pagina.keyboard.press("Control+b")  # fecha a barra lateral
        escolhe(pagina, "Run", "Run All Cells")
        fim = pagina.locator(".jp-OutputArea-output", has_text=re.compile(r"acurácia 0\.\d+ · precisão "))
        expect(fim.or_(pagina.locator(ERROS)).first).to_be_visible(timeout=10 * MINUTO)
        yield pagina


@pytest.fixture(scope="module")
def classifica(nb, pagina, pasta):
    """O classificador que a execução no navegador deixou em `modelos/`."""
    return nb.carrega_classificador(pasta / "modelos")


@pytest.fixture(scope="module")
def fotos(nb, amostra):
    """Quatro fotos do teste, que o modelo nunca viu, ampliadas para se verem bem na tela: {nome: bytes}."""
    arquivos = {}
    for foto in nb.pega_fotos(amostra, [1826, 1845, 1857, 1858]):
        PIL.Image.fromarray(foto).resize((400, 400)).save(arquivo := io.BytesIO(), "PNG")
        arquivos[f"foto{len(arquivos) + 1}.png"] = arquivo.getvalue()
    return arquivos


def de_png(conteudo):
    return np.asarray(PIL.Image.open(io.BytesIO(conteudo)).convert("RGB"))


def escolhe(pagina, menu, opcao):
    pagina.get_by_role("menuitem", name=menu, exact=True).click()
    pagina.get_by_role("menuitem", name=opcao, exact=True).click()


def envia(pagina, arquivos):
    """Escolhe os arquivos {nome: bytes} pelo botão, como a pessoa faria; devolve o lugar em que a resposta aparece."""
    with pagina.expect_file_chooser() as janela:
        pagina.get_by_role("button", name="Escolher fotos").click()
    janela.value.set_files([{"name": nome, "mimeType": "image/*", "buffer": b} for nome, b in arquivos.items()])
    return pagina.locator(".widget-output")


def grava_tela(nome, *pedacos):
    """Grava em imagens/ os pedaços de tela (PNG), um embaixo do outro, e confere que se vê algo neles."""
    tela, arquivo = np.vstack([de_png(pedaco) for pedaco in pedacos]), RAIZ / "imagens" / nome
    PIL.Image.fromarray(tela).save(arquivo, optimize=True)
    altura, largura, _ = de_png(arquivo.read_bytes()).shape
    assert 300 <= altura <= 1200 and 900 <= largura <= 1200 and tela.std() > 10
    assert arquivo.stat().st_size < 300_000


def test_todas_as_celulas_rodam_sem_erro(pagina):
    assert pagina.locator(ERROS).all_inner_texts() == []


def test_as_bibliotecas_e_as_suas_versoes_aparecem(pagina):
    importa = pagina.locator(".jp-CodeCell .jp-InputArea", has_text="import tensorflow as tf")
    versoes = pagina.locator(".jp-OutputArea", has_text=re.compile(r"tensorflow +2\.\d+\.\d+"))
    grava_tela("bibliotecas_usadas.png", importa.screenshot(), versoes.screenshot())


def test_a_foto_enviada_recebe_o_veredito_do_classificador(pagina, classifica, fotos):
    resposta = envia(pagina, {"foto1.png": fotos["foto1.png"]})
    expect(resposta).to_have_text(f"foto1.png: {classifica(fotos['foto1.png'])}", timeout=MINUTO)
    escolhe(pagina, "View", "Collapse All Code")  # para que a seção caiba na janela
    pagina.get_by_role("heading", name="Classifique a sua foto").evaluate("titulo => titulo.scrollIntoView()")
    grava_tela("sessao_visualizacao.png", pagina.screenshot())


def test_varias_fotos_de_uma_vez_e_um_arquivo_que_nao_e_foto(pagina, classifica, fotos):
    """Todos recebem resposta, e toda foto aparece: nenhuma se perde nem sai em branco."""
    resposta = envia(pagina, {"texto.jpg": b"nem gato nem cachorro"} | fotos)
    for nome, foto in fotos.items():
        expect(resposta).to_contain_text(f"{nome}: {classifica(foto)}", timeout=MINUTO)
    expect(resposta).to_contain_text("texto.jpg não é uma foto que eu saiba ler")
    figuras = [de_png(base64.b64decode(f.get_attribute("src").split(",")[1])) for f in resposta.locator("img").all()]
    em_branco = [i for i, figura in enumerate(figuras) if figura.std() < 10]
    assert len(figuras) == len(fotos) and not em_branco
