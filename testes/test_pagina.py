"""A página, num navegador de verdade, responde o que `classifica` responde.

O onnxruntime-web, de 14 MB, não vem do pip: aqui, um programa de mentira, que a página confere e
carrega como o outro, entrega cada foto ao ONNX Runtime do Python.
"""

import base64
import hashlib
import io
import re

import numpy as np
import onnxruntime
import PIL.Image
import pytest
from playwright.sync_api import expect, sync_playwright
from test_exporta import entrega
from test_navegador import chromium  # noqa: F401

import detector
from detector import exporta, pagina
from detector.ambiente import ErroClaro
from detector.imagenet import miolo

PROGRAMA = b"""
export const env = { wasm: {} };
export class Tensor { constructor(tipo, data, dims) { Object.assign(this, { tipo, data, dims }); } }
const run = async ({ foto }) => {
  const [p, nota] = await roda(foto.tipo, [...foto.data], foto.dims);
  return { probabilidade: { data: [p] }, ...(nota === null ? {} : { nota: { data: [nota] } }) };
};
export const InferenceSession = { create: async () => ({ run }) };
"""
ARQUIVOS = dict(zip(pagina.RUNTIME, (PROGRAMA, b"wasm"), strict=True))


def foto(semente, alfa=None, **opcoes):
    """O PNG de uma foto de 90 × 60 com quatro cores; alfa: o canal de uma transparente."""
    cores = np.random.default_rng(semente).integers(0, 256, (2, 2, 3)).astype("uint8")
    imagem = PIL.Image.fromarray(cores).resize((90, 60), PIL.Image.Resampling.BICUBIC)
    if alfa:
        imagem.putalpha(alfa)
    imagem.save(arquivo := io.BytesIO(), "PNG", **opcoes)
    return arquivo.getvalue()


DEITADA = PIL.Image.Exif()
DEITADA[0x0112] = 6
LISTRAS = PIL.Image.linear_gradient("L").resize((90, 60)).point(lambda a: a & 128)
FOTOS = {f"{i}.png": foto(i) for i in range(6)}
FOTOS |= {"deitada.png": foto(6, exif=DEITADA), "transparente.png": foto(9, alfa=LISTRAS)}


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    """Uma pasta `dist` com o programa de mentira, e a página à espera dele."""
    pasta = tmp_path / "dist"
    pasta.mkdir()
    for nome, conteudo in ARQUIVOS.items():
        (pasta / nome).write_bytes(conteudo)
        sha256 = base64.b64encode(hashlib.sha256(conteudo).digest()).decode()
        monkeypatch.setitem(pagina.RUNTIME, nome, f"sha256-{sha256}")
    return pasta


@pytest.fixture
def abre(chromium):  # noqa: F811
    """abre(html, CDN) → a página, aberta do disco numa tela de celular, e o que ela olhou."""
    with sync_playwright() as playwright:
        navegador = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])

        def abre(html, cdn):
            modelo = re.search(rb'id="modelo">([^<]+)', html.read_bytes())[1]
            sessao, olhadas = onnxruntime.InferenceSession(base64.b64decode(modelo)), []

            def roda(tipo, dados, forma):
                olhadas.append(np.array(dados, tipo).reshape(forma))
                saidas = sessao.run(None, {"foto": olhadas[-1]})
                nomes = [saida.name for saida in sessao.get_outputs()]
                ditas = dict(zip(nomes, np.ravel(saidas).tolist(), strict=True))
                return [ditas["probabilidade"], ditas.get("nota")]

            celular = navegador.new_page(viewport={"width": 360, "height": 640})
            celular.expose_function("roda", roda)
            celular.route(f"{pagina.CDN}*", lambda rota: _responde(rota, cdn))
            celular.goto(html.as_uri())
            return celular, olhadas

        yield abre
        navegador.close()


def _responde(rota, cdn):
    conteudo = cdn.get(rota.request.url.removeprefix(pagina.CDN))
    aceita = {"Access-Control-Allow-Origin": "*", "Content-Type": "text/javascript"}
    rota.fulfill(body=conteudo, headers=aceita) if conteudo else rota.abort()


def envia(celular, fotos):
    arquivos = [{"name": n, "mimeType": "", "buffer": conteudo} for n, conteudo in fotos.items()]
    celular.locator("#das-fotos").set_input_files(arquivos)
    expect(celular.locator("#respostas > li")).to_have_count(len(fotos), timeout=30_000)


@pytest.mark.parametrize("onde", ["dentro", "CDN"])
def test_a_pagina_responde_o_que_classifica_responde(onde, tmp_path, runtime, abre):
    """Vê os mesmos pixels, recusa as mesmas fotos e, antes de recusar, olha o meio delas."""
    entrega(tmp_path)
    html = exporta.escreve_pagina(tmp_path, runtime if onde == "dentro" else None)
    celular, olhadas = abre(html, {} if onde == "dentro" else ARQUIVOS)
    expect(celular.get_by_role("heading", name="maçã ou pera<?")).to_be_visible()
    envia(celular, FOTOS | {"texto.jpg": b"nem uma nem outra"})
    classifica, esperadas, classes = detector.carrega_classificador(tmp_path), [], set()
    for nome, conteudo in FOTOS.items():
        visto = classifica(conteudo)
        classe = visto["classe"].replace("nenhum dos dois", "nem maçã nem pera<")
        resposta = celular.locator("li").filter(has_text=re.compile(f"{nome}:"))
        expect(resposta.locator(".resposta")).to_have_text(classe)
        p = float(resposta.get_attribute("data-probabilidade"))
        assert abs(p - visto["probabilidade"]) < 1e-3
        esperadas.append(visto.foto)
        if classe.startswith("nem") or nome == "1.png":  # esta só passa no segundo olhar
            esperadas.append(miolo(visto.foto))
        classes.add(classe)
    assert classes == {"pera<", "nem maçã nem pera<"}
    assert all(np.array_equal(a, b) for a, b in zip(olhadas, esperadas, strict=True))
    expect(celular.get_by_text("texto.jpg não é uma foto que este navegador abra")).to_be_visible()


def test_so_com_o_teclado_numa_tela_estreita_e_sem_recusar(tmp_path, runtime, abre):
    """Um modelo sem a cabeça da ImageNet não recusa nada."""
    entrega(tmp_path, com_cabeca=False)
    celular, _ = abre(exporta.escreve_pagina(tmp_path, runtime), {})
    expect(celular.get_by_role("status")).to_have_text("Pronto: escolha uma foto.")
    with celular.expect_file_chooser() as janela:
        celular.keyboard.press("Tab")
        # Também espera a página saber que o diálogo é do teste: sem isto, o Enter chega antes.
        expect(celular.get_by_role("button", name="Escolher fotos")).to_be_focused()
        celular.keyboard.press("Enter")
    janela.value.set_files([{"name": "a.png", "mimeType": "image/png", "buffer": FOTOS["0.png"]}])
    expect(celular.get_by_role("img", name="a foto a.png")).to_be_visible()
    expect(celular.locator(".resposta")).to_have_text(re.compile("^(maçã|pera<)$"))
    assert celular.evaluate("document.documentElement.scrollWidth") <= 360


def test_um_programa_que_nao_e_o_esperado_nao_roda_e_isso_e_dito(tmp_path, runtime, abre):
    entrega(tmp_path)
    trocado = {nome: conteudo + b"//" for nome, conteudo in ARQUIVOS.items()}
    celular, _ = abre(exporta.escreve_pagina(tmp_path), trocado)
    expect(celular.get_by_role("status")).to_contain_text("Não consegui trazer o programa")
    for estrago, frase in ((b"outro", "é de outra versão"), (b"", "não existe")):
        (runtime / "ort.wasm.bundle.min.mjs").write_bytes(estrago)
        with pytest.raises(ErroClaro, match=f"ort.wasm.bundle.min.mjs {frase}"):
            exporta.escreve_pagina(tmp_path, runtime)
