"""`classifica` diante de tudo o que podem lhe dar: fotos de todo tipo, o que não é foto, e fotos de outras coisas.

Sozinho (`python testes/test_classifica.py`), mostra a tabela "entrada → o que deu".
"""

import contextlib
import csv
import dataclasses
import io
import json
import pathlib
import re
import struct
import subprocess
import sys
import time
import tracemalloc
import typing
import warnings
import zipfile
import zlib

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import PIL.EpsImagePlugin
import PIL.Image
import pillow_heif
import pytest
import tensorflow as tf
from conftest import celulas
from PIL import ImageDraw
from sklearn.metrics import roc_auc_score


def faz_modelos(nb, backbone, X, y, pasta):
    """Deixa em `pasta` o que o notebook deixa em MODELOS; quem grava são as células do próprio notebook."""
    faixas = nb.divide(len(y))
    cabeca, _ = nb.treina_cabeca(X, y, range(*faixas["treino"]), range(*faixas["validacao"]), 32, 100, pasta, "r")
    estado = {**vars(nb), "X_final": X, "backbone_final": backbone, "cabeca_final": cabeca, "faixas": faixas, "pasta": pasta,
              "teste": range(*faixas["teste"]), "vetores_teste": X[slice(*faixas["teste"])], "CLASSES": ["gato", "cachorro"]}
    for arquivo in ("detector_dogs_cats.keras", "classificador.npz"):
        [fonte] = [c for c in celulas() if f'"{arquivo}"' in c and "grava" in c and "def " not in c]
        exec(fonte, estado)
    return pasta


@pytest.fixture(scope="module")
def modelos(nb, backbone, caracteristicas, tmp_path_factory):
    """Pasta MODELOS pronta, feita com a amostra."""
    return faz_modelos(nb, backbone, *caracteristicas, tmp_path_factory.mktemp("modelos"))


@pytest.fixture(scope="module")
def classifica(nb, modelos):
    """A função `classifica` do modelo da amostra."""
    return nb.carrega_classificador(modelos)


@pytest.fixture(scope="module")
def foto(nb, amostra):
    """Uma foto de teste da amostra, aumentada para 240×180: colorida, parecida com as do treino, e longe dos 100 %."""
    return PIL.Image.fromarray(nb.pega_fotos(amostra, [1972])[0]).resize((240, 180))


# As entradas

def codifica(foto, formato="PNG", **opcoes):
    arquivo = io.BytesIO()
    foto.save(arquivo, formato, **opcoes)
    return arquivo.getvalue()


def em_disco(pasta, nome, dados):
    (pasta / nome).write_bytes(dados)
    return pasta / nome


def heic(foto, **opcoes):
    """Em HEIC, sem ensinar o PIL a abri-lo: isso é com o notebook."""
    arquivo = io.BytesIO()
    pillow_heif.from_pillow(foto).save(arquivo, **opcoes)
    return arquivo.getvalue()


def ja_lido(foto):
    arquivo = io.BytesIO(codifica(foto))
    arquivo.read()
    return arquivo


def animada(foto, formato, **opcoes):
    return codifica(foto, formato, save_all=True, append_images=[foto.rotate(180)], **opcoes)


def com_exif_estragado(foto):
    return codifica(foto, "JPEG", quality=95, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\xff\xff" * 4)


def vazada(foto):
    """A mesma foto em RGBA, com uma faixa transparente à esquerda."""
    alfa = PIL.Image.new("L", foto.size, 255)
    alfa.paste(0, (0, 0, foto.width // 6, foto.height))
    foto = foto.convert("RGBA")
    foto.putalpha(alfa)
    return foto


def no_branco(foto):
    foto = foto.copy()
    foto.paste("white", (0, 0, foto.width // 6, foto.height))
    return foto


def paleta(foto):
    return foto.quantize(255)


def paleta_transparente(foto, formato):
    """Em paleta, com uma cor a mais: a transparente, que ocupa uma faixa à esquerda."""
    foto = paleta(foto)
    nova = len(foto.getpalette()) // 3
    foto.putpalette([*foto.getpalette(), 0, 0, 0])
    foto.paste(nova, (0, 0, foto.width // 6, foto.height))
    return codifica(foto, formato, transparency=nova)


def em_16_bits(foto):
    return PIL.Image.fromarray(np.asarray(foto.convert("L"), "uint16") * 257)


def em_float(foto, maximo):
    return PIL.Image.fromarray(np.asarray(foto.convert("L"), "float32") / 255 * maximo)


def normal(foto):
    return foto


def cinza(foto):
    return foto.convert("L")


def preto_e_branco(foto):
    return foto.convert("1")


def cinza_no_branco(foto):
    return no_branco(cinza(foto))


def paleta_no_branco(foto):
    return no_branco(paleta(foto).convert("RGB"))


@dataclasses.dataclass
class Entrada:
    """O que se dá a `classifica` e como a foto tem de sair de lá.

    cria: função de (foto, pasta). aparencia: função que dá a foto que se deve ver. pixels: a diferença média tolerada,
    em níveis de 0 a 255; p: a diferença de probabilidade tolerada.
    """
    cria: typing.Callable
    aparencia: typing.Callable = normal
    pixels: float = 0
    p: float = 1e-5


COM_PERDAS = {"pixels": 1.5, "p": 0.1}  # o que a compressão muda: poucos níveis por pixel, e pouco na resposta
ENTRADAS = {
    "caminho em texto": Entrada(lambda f, d: str(em_disco(d, "foto.png", codifica(f)))),
    "caminho como Path": Entrada(lambda f, d: em_disco(d, "foto.png", codifica(f))),
    "caminho com acentos e espaços": Entrada(lambda f, d: em_disco(d, "meu cão é bonito.png", codifica(f))),
    "extensão errada": Entrada(lambda f, d: em_disco(d, "png.jpg", codifica(f))),
    "sem extensão": Entrada(lambda f, d: em_disco(d, "foto", codifica(f))),
    "bytes": Entrada(lambda f, d: codifica(f)),
    "bytearray": Entrada(lambda f, d: bytearray(codifica(f))),
    "BytesIO": Entrada(lambda f, d: io.BytesIO(codifica(f))),
    "BytesIO lido até o fim": Entrada(lambda f, d: ja_lido(f)),
    "arquivo aberto": Entrada(lambda f, d: open(em_disco(d, "aberto.png", codifica(f)), "rb")),
    "imagem do PIL": Entrada(lambda f, d: f),
    "imagem do PIL em HSV": Entrada(lambda f, d: f.convert("HSV"), pixels=1, p=0.02),
    "array uint8": Entrada(lambda f, d: np.asarray(f)),
    "array uint16": Entrada(lambda f, d: np.asarray(f).astype("uint16") * 257),
    "array float16 em [0, 1]": Entrada(lambda f, d: (np.asarray(f) / 255).astype("float16")),
    "array float32 em [0, 1]": Entrada(lambda f, d: (np.asarray(f) / 255).astype("float32")),
    "array float64 em [0, 1]": Entrada(lambda f, d: np.asarray(f) / 255),
    "array em ordem de Fortran": Entrada(lambda f, d: np.asfortranarray(f)),
    "array (h, w)": Entrada(lambda f, d: np.asarray(cinza(f)), cinza),
    "array (h, w, 1)": Entrada(lambda f, d: np.asarray(cinza(f))[..., None], cinza),
    "array (h, w, 4)": Entrada(lambda f, d: np.asarray(vazada(f)), no_branco),
    "array (1, h, w, 3)": Entrada(lambda f, d: np.asarray(f)[None]),
    "tensor uint8": Entrada(lambda f, d: tf.constant(np.asarray(f))),
    "tensor float32 em [0, 1]": Entrada(lambda f, d: tf.image.convert_image_dtype(np.asarray(f), "float32")),
    "JPEG": Entrada(lambda f, d: codifica(f, "JPEG", quality=95), **COM_PERDAS),
    "JPEG progressivo": Entrada(lambda f, d: codifica(f, "JPEG", quality=95, progressive=True), **COM_PERDAS),
    "JPEG em tons de cinza": Entrada(lambda f, d: codifica(cinza(f), "JPEG", quality=95), cinza, **COM_PERDAS),
    "JPEG em CMYK": Entrada(lambda f, d: codifica(f.convert("CMYK"), "JPEG", quality=95), **COM_PERDAS),
    "JPEG com EXIF estragado": Entrada(lambda f, d: com_exif_estragado(f), **COM_PERDAS),
    "JPEG com lixo no fim": Entrada(lambda f, d: codifica(f, "JPEG", quality=95) + b"lixo" * 99, **COM_PERDAS),
    "MPO (celular de duas câmeras)": Entrada(lambda f, d: animada(f, "MPO", quality=95), **COM_PERDAS),
    "PNG em tons de cinza": Entrada(lambda f, d: codifica(cinza(f)), cinza),
    "PNG de 1 bit": Entrada(lambda f, d: codifica(preto_e_branco(f)), preto_e_branco),
    "PNG de 16 bits": Entrada(lambda f, d: codifica(em_16_bits(f)), cinza),
    "PNG em paleta": Entrada(lambda f, d: codifica(paleta(f)), paleta),
    "PNG RGBA transparente": Entrada(lambda f, d: codifica(vazada(f)), no_branco),
    "PNG LA transparente": Entrada(lambda f, d: codifica(vazada(f).convert("LA")), cinza_no_branco),
    "PNG em paleta transparente": Entrada(lambda f, d: paleta_transparente(f, "PNG"), paleta_no_branco),
    "PNG animado": Entrada(lambda f, d: animada(f, "PNG")),
    "GIF": Entrada(lambda f, d: codifica(paleta(f), "GIF"), paleta),
    "GIF animado": Entrada(lambda f, d: animada(paleta(f), "GIF"), paleta),
    "GIF transparente": Entrada(lambda f, d: paleta_transparente(f, "GIF"), paleta_no_branco),
    "WebP": Entrada(lambda f, d: codifica(f, "WEBP", quality=95), **COM_PERDAS),
    "WebP sem perdas": Entrada(lambda f, d: codifica(f, "WEBP", lossless=True)),
    "WebP animado": Entrada(lambda f, d: animada(f, "WEBP", lossless=True)),
    "WebP transparente": Entrada(lambda f, d: codifica(vazada(f), "WEBP", lossless=True), no_branco),
    "BMP": Entrada(lambda f, d: codifica(f, "BMP")),
    "TIFF": Entrada(lambda f, d: codifica(f, "TIFF")),
    "TIFF comprimido": Entrada(lambda f, d: codifica(f, "TIFF", compression="tiff_lzw")),
    "TIFF de várias páginas": Entrada(lambda f, d: animada(f, "TIFF")),
    "TIFF em CMYK": Entrada(lambda f, d: codifica(f.convert("CMYK"), "TIFF")),
    "TIFF de 16 bits": Entrada(lambda f, d: codifica(em_16_bits(f), "TIFF"), cinza),
    "TIFF float32 em [0, 1]": Entrada(lambda f, d: codifica(em_float(f, 1), "TIFF"), cinza, pixels=1, p=0.02),
    "TIFF float32 em 0–255": Entrada(lambda f, d: codifica(em_float(f, 255), "TIFF"), cinza, pixels=1, p=0.02),
    "TIFF float32 em 0–65535": Entrada(lambda f, d: codifica(em_float(f, 65535), "TIFF"), cinza, pixels=1, p=0.02),
    "HEIC": Entrada(lambda f, d: heic(f, quality=95), **COM_PERDAS),
    "HEIC transparente": Entrada(lambda f, d: heic(vazada(f), quality=95), no_branco, **COM_PERDAS),
    "HEIC chamado .jpg": Entrada(lambda f, d: em_disco(d, "i.jpg", heic(f, quality=95)), **COM_PERDAS),
    "AVIF": Entrada(lambda f, d: codifica(f, "AVIF", quality=95), **COM_PERDAS),
}


def png_que_se_diz(largura, altura):
    """PNG de poucos bytes cujo cabeçalho anuncia uma imagem de largura × altura."""
    cabecalho = struct.pack(">IIBBBBB", largura, altura, 8, 2, 0, 0, 0)
    pedacos = {b"IHDR": cabecalho, b"IDAT": zlib.compress(bytes(999)), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(dados)) + tipo + dados + struct.pack(">I", zlib.crc32(tipo + dados))
        for tipo, dados in pedacos.items())


def zipado(foto):
    arquivo = io.BytesIO()
    with zipfile.ZipFile(arquivo, "w") as z:
        z.writestr("foto.png", codifica(foto))
    return arquivo.getvalue()


def com_nan(foto):
    foto = np.asarray(foto) / 255
    foto[0, 0, 0] = np.nan
    return foto


def metade(dados):
    return dados[:len(dados) // 2]


# nome: (o que se dá, função de (foto, pasta); o que a mensagem tem de dizer)
RECUSADAS = {
    "bytes que não são imagem": (lambda f, d: bytes(range(256)) * 9, "foto"),
    "bytes vazios": (lambda f, d: b"", "foto"),
    "arquivo vazio": (lambda f, d: em_disco(d, "vazia.jpg", b""), "vazia.jpg"),
    "texto chamado .jpg": (lambda f, d: em_disco(d, "texto.jpg", b"isto nao e uma foto\n" * 50), "texto.jpg"),
    "página de erro da internet": (lambda f, d: em_disco(d, "g.jpg", b"<!DOCTYPE html><html>404</html>"), "g.jpg"),
    "PDF": (lambda f, d: em_disco(d, "f.pdf", codifica(f, "PDF")), "f.pdf"),
    "SVG": (lambda f, d: b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>', "foto"),
    "zip": (lambda f, d: em_disco(d, "fotos.zip", zipado(f)), "fotos.zip"),
    "EPS": (lambda f, d: em_disco(d, "f.eps", codifica(f, "EPS")), "f.eps"),
    "EPS chamado .jpg": (lambda f, d: em_disco(d, "e.jpg", codifica(f, "EPS")), "e.jpg"),
    "vídeo MP4": (lambda f, d: b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(900), "foto"),
    "JPEG truncado": (lambda f, d: em_disco(d, "t.jpg", metade(codifica(f, "JPEG"))), "t.jpg.*danificad"),
    "PNG truncado": (lambda f, d: em_disco(d, "t.png", metade(codifica(f))), "t.png.*danificad"),
    "GIF truncado": (lambda f, d: metade(codifica(paleta(f), "GIF")), "danificad"),
    "WebP truncado": (lambda f, d: metade(codifica(f, "WEBP")), "danificad"),
    "BMP truncado": (lambda f, d: metade(codifica(f, "BMP")), "danificad"),
    "TIFF truncado": (lambda f, d: metade(codifica(f, "TIFF")), "danificad"),
    "HEIC truncado": (lambda f, d: metade(heic(f)), "danificad"),
    "JPEG só com o cabeçalho": (lambda f, d: codifica(f, "JPEG")[:300], "danificad"),
    "bomba de 1.600 megapixels": (lambda f, d: png_que_se_diz(40000, 40000), "grande|pixels"),
    "bomba de 144 megapixels": (lambda f, d: png_que_se_diz(12000, 12000), "12000×12000 pixels"),
    "pasta": (lambda f, d: d, "pasta"),
    "caminho que não existe": (lambda f, d: d / "nada.jpg", "nada.jpg.*não existe"),
    "texto vazio": (lambda f, d: "", "foto|existe"),
    "None": (lambda f, d: None, "foto"),
    "número": (lambda f, d: 7, "foto"),
    "lista": (lambda f, d: np.asarray(f).tolist(), "foto"),
    "lista de caminhos": (lambda f, d: [em_disco(d, "1.png", codifica(f))], "foto"),
    "arquivo aberto como texto": (lambda f, d: open(em_disco(d, "t.txt", b"oi" * 99), encoding="utf-8"), "foto"),
    "array float em 0–255": (lambda f, d: np.asarray(f, "float32"), r"float32 de \d.* em \[0, 1\]"),
    "array float negativo": (lambda f, d: np.asarray(f) / 127.5 - 1, r"float64 de -.* em \[0, 1\]"),
    "array int64": (lambda f, d: np.asarray(f, "int64"), "int64.*uint8 em 0–255"),
    "array com NaN": (lambda f, d: com_nan(f), "nan"),
    "array de texto": (lambda f, d: np.full((9, 9), "gato"), "foto"),
    "array (h, w, 2)": (lambda f, d: np.asarray(f)[..., :2], r"\(180, 240, 2\)"),
    "array (h,)": (lambda f, d: np.zeros(9, "uint8"), r"\(9,\)"),
    "array (3, h, w)": (lambda f, d: np.moveaxis(np.asarray(f), 2, 0), r"\(3, 180, 240\)"),
    "lote de várias fotos": (lambda f, d: np.stack([f] * 4), r"\(4, 180, 240, 3\)"),
    "array de 5 eixos": (lambda f, d: np.asarray(f)[None, None], r"\(1, 1, 180, 240, 3\)"),
    "array vazio": (lambda f, d: np.zeros((0, 9, 3), "uint8"), r"\(0, 9, 3\)"),
}
TAMANHOS = {"1×1": (1, 1), "2000×2": (2000, 2), "2×2000": (2, 2000), "10000×10": (10000, 10)}


# Fotos aceitas

def cria(nb, nome, foto, pasta):
    if nome.startswith("AVIF") and "AVIF" not in nb.formatos_de_foto():
        pytest.skip("este Pillow não tem AVIF")
    return ENTRADAS[nome].cria(foto, pasta)


@pytest.mark.parametrize("nome", ENTRADAS)
def test_toda_entrada_da_a_foto_e_a_resposta_esperadas(nb, classifica, foto, tmp_path, nome):
    aparencia, pixels, p = (getattr(ENTRADAS[nome], campo) for campo in ("aparencia", "pixels", "p"))
    esperada = aparencia(foto).convert("RGB")
    referencia, veredito = classifica(esperada), classifica(cria(nb, nome, foto, tmp_path))
    assert veredito.foto.shape == (180, 240, 3) and veredito.foto.dtype == "uint8"
    assert np.abs(veredito.foto.astype(int) - esperada).mean() <= pixels
    assert veredito["classe"] == referencia["classe"]
    assert veredito["probabilidades"] == pytest.approx(referencia["probabilidades"], abs=p)


# Onde ficam, na imagem gravada, o topo e a esquerda da foto em pé (norma EXIF 2.3, tag 274)
GIRA = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a.swapaxes(0, 1), 2), 8: lambda a: np.rot90(a, -1)}


@pytest.mark.parametrize("orientacao", GIRA)
def test_a_orientacao_exif_poe_a_foto_em_pe(classifica, foto, orientacao):
    exif = PIL.Image.Exif()
    exif[274] = orientacao
    gravada = PIL.Image.fromarray(np.ascontiguousarray(GIRA[orientacao](np.asarray(foto))))
    em_pe = classifica(foto)
    for formato, opcoes in {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}.items():
        veredito = classifica(codifica(gravada, formato, exif=exif, **opcoes))
        assert np.array_equal(veredito.foto, em_pe.foto), formato
        assert veredito["probabilidade"] == pytest.approx(em_pe["probabilidade"], abs=1e-5)
    veredito = classifica(codifica(gravada, "JPEG", exif=exif, quality=95, subsampling=0))
    assert np.abs(veredito.foto.astype(int) - em_pe.foto).mean() < 1.5, "um ou dois níveis, da compressão"
    assert veredito["classe"] == em_pe["classe"]
    assert veredito["probabilidade"] == pytest.approx(em_pe["probabilidade"], abs=0.05)


def test_a_orientacao_do_heic_e_aplicada_uma_vez_so(classifica, foto):
    exif = PIL.Image.Exif()
    exif[274] = 6
    veredito = classifica(heic(foto.rotate(90, expand=True), quality=95, exif=exif.tobytes()))
    assert veredito.foto.shape == (180, 240, 3)
    assert np.abs(veredito.foto.astype(int) - foto).mean() < COM_PERDAS["pixels"]


@pytest.mark.parametrize("tamanho", TAMANHOS.values(), ids=TAMANHOS)
def test_tamanhos_extremos_sao_aceitos(nb, classifica, foto, tamanho):
    veredito = classifica(codifica(foto.resize(tamanho)))
    assert max(veredito.foto.shape) <= 512 and veredito.foto.shape[2] == 3
    assert veredito["classe"] in ("gato", "cachorro", "nenhum dos dois") and 0.5 <= veredito["probabilidade"] <= 1


@pytest.fixture(scope="module")
def de_60_megapixels(foto):
    """A foto ampliada a 10000×6000: {formato: bytes}."""
    grande = foto.resize((10000, 6000), PIL.Image.Resampling.NEAREST)
    return {"PNG": codifica(grande, compress_level=1), "JPEG": codifica(grande, "JPEG", quality=80)}


@pytest.mark.parametrize("formato", ["PNG", "JPEG"])
def test_60_megapixels_saem_em_poucos_segundos(classifica, foto, de_60_megapixels, formato):
    inicio = time.perf_counter()
    veredito = classifica(de_60_megapixels[formato])
    assert time.perf_counter() - inicio < 10
    # Ampliada sem suavizar e reduzida de novo, a foto volta quase igual: as bordas dos blocos é que mudam.
    volta = PIL.Image.fromarray(veredito.foto).resize(foto.size, PIL.Image.Resampling.BOX)
    assert np.abs(np.asarray(volta, int) - foto).mean() < 4
    assert veredito["classe"] == classifica(foto)["classe"]
    assert veredito["probabilidade"] == pytest.approx(classifica(foto)["probabilidade"], abs=0.15)


def test_um_array_grande_nao_multiplica_a_memoria(nb):
    """12 megapixels em uint8 são 36 MB; algumas cópias cabem, uma dúzia não (num celular ou no Colab)."""
    grande = np.zeros((3000, 4000, 3), "uint8")
    tracemalloc.start()
    nb.abre_foto(grande)
    _, pico = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pico < 5 * grande.nbytes


def test_um_array_grande_demais_e_recusado_antes_de_ser_copiado(nb, monkeypatch):
    monkeypatch.setattr(nb, "LIMITE_PIXELS", 1_000_000)
    grande = np.zeros((1000, 2000, 3), "uint8")
    tracemalloc.start()
    with pytest.raises(nb.ErroClaro, match="2000×1000 pixels"):
        nb.abre_foto(grande)
    _, pico = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pico < grande.nbytes


def test_a_imagem_do_pil_de_quem_chama_nao_muda(classifica, foto):
    grande = PIL.Image.open(io.BytesIO(codifica(foto.resize((4000, 3000)), "JPEG")))
    veredito = classifica(grande)
    assert grande.size == (4000, 3000) and grande.load() and max(veredito.foto.shape) <= 512


def test_o_arquivo_aberto_de_quem_chama_continua_aberto(classifica, foto, tmp_path):
    with open(em_disco(tmp_path, "foto.png", codifica(foto)), "rb") as arquivo:
        classifica(arquivo)
        assert not arquivo.closed and arquivo.seek(0) == 0


def test_o_til_e_a_pasta_do_usuario(classifica, foto, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    em_disco(tmp_path, "foto.png", codifica(foto))
    assert classifica("~/foto.png") == classifica(foto)


# Fotos recusadas

JARGAO = re.compile(r"Error|Exception|Traceback|0x[0-9a-f]|[<>]|\b(object|attribute|cannot|image|file|truncated)\b")


def numa_frase(erro):
    """A mensagem, conferida: uma linha, em português, curta, sem os nomes que só o Python conhece."""
    mensagem = str(erro)
    assert not JARGAO.findall(mensagem), mensagem
    assert re.fullmatch(r"[^:\s][^\n]{15,250}\.", mensagem), mensagem
    return mensagem


@pytest.mark.parametrize("nome", RECUSADAS)
def test_o_que_nao_serve_e_recusado_numa_frase(nb, classifica, foto, tmp_path, nome):
    entrada, dito = RECUSADAS[nome]
    with pytest.raises(nb.ErroClaro) as recusa:
        classifica(entrada(foto, tmp_path))
    assert re.search(dito, numa_frase(recusa.value), re.IGNORECASE), recusa.value


def test_o_nome_dado_aparece_na_recusa(nb, classifica):
    with pytest.raises(nb.ErroClaro, match=r"^rex\.jpg\b"):
        classifica(b"isto nao e uma foto", "rex.jpg")


def test_uma_foto_grande_nao_assusta_com_avisos(nb, classifica):
    """95 megapixels é menos que o limite do notebook e mais que o de aviso do Pillow, que é em inglês."""
    with warnings.catch_warnings(record=True) as avisos, pytest.raises(nb.ErroClaro, match="danificad"):
        warnings.simplefilter("always")
        classifica(png_que_se_diz(9500, 10000))
    assert not [str(a.message) for a in avisos if issubclass(a.category, PIL.Image.DecompressionBombWarning)]


def test_um_eps_nunca_chama_o_ghostscript(nb, classifica, foto, tmp_path, monkeypatch):
    """Um `gs` que só deixa um rastro: o Pillow sozinho o chama; `classifica`, não."""
    rastro = tmp_path / "rastro"
    gs = em_disco(tmp_path, "gs", f"#!/bin/sh\necho $@ >> {rastro}\n".encode())
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(PIL.EpsImagePlugin, "gs_binary", None)
    eps = em_disco(tmp_path, "foto.jpg", codifica(foto, "EPS"))
    for entrada in (eps, eps.read_bytes(), open(eps, "rb")):
        with pytest.raises(nb.ErroClaro):
            classifica(entrada)
    assert not rastro.exists()
    with contextlib.suppress(OSError):
        PIL.Image.open(eps).load()
    assert rastro.exists(), "a armadilha precisa funcionar"


def test_tabela(nb, classifica, foto, de_60_megapixels, tmp_path):
    """Toda entrada dá um veredito ou um ErroClaro; a tabela é a dos relatórios."""
    entradas = {nome: (lambda nome=nome: cria(nb, nome, foto, tmp_path)) for nome in ENTRADAS
                if nome != "AVIF" or "AVIF" in nb.formatos_de_foto()}
    entradas |= {nome: (lambda t=t: codifica(foto.resize(t))) for nome, t in TAMANHOS.items()}
    entradas |= {f"{formato} de 60 megapixels": (lambda d=d: d) for formato, d in de_60_megapixels.items()}
    entradas |= {nome: (lambda e=e: e(foto, tmp_path)) for nome, (e, _) in RECUSADAS.items()}
    print(f"\n{'entrada':<32} o que deu")
    for nome, entrada in entradas.items():
        try:
            print(f"{nome:<32} {classifica(entrada())}")
        except nb.ErroClaro as erro:
            print(f"{nome:<32} recusada: {str(erro).replace(str(tmp_path), '…')}")
    assert len(entradas) >= 100


# O que `classifica` promete

def test_o_veredito_tem_as_quatro_chaves_nos_seus_tipos(classifica, foto):
    veredito = classifica(foto)
    assert set(veredito) == {"classe", "probabilidade", "similaridade", "probabilidades"}
    assert veredito["classe"] in ("gato", "cachorro", "nenhum dos dois") and type(veredito["classe"]) is str
    assert type(veredito["probabilidade"]) is float and 0.5 <= veredito["probabilidade"] <= 1
    assert type(veredito["similaridade"]) is float and -1 <= veredito["similaridade"] <= 1
    assert list(veredito["probabilidades"]) == ["gato", "cachorro"]
    assert sum(veredito["probabilidades"].values()) == pytest.approx(1)
    assert veredito["probabilidade"] == max(veredito["probabilidades"].values())
    assert json.loads(json.dumps(veredito)) == veredito


def test_a_mesma_foto_da_sempre_o_mesmo_veredito(classifica, foto):
    assert classifica(foto) == classifica(foto)


def test_concorda_com_o_modelo_gravado_e_com_as_fotos_do_dataset(nb, amostra, modelos, classifica):
    """A probabilidade é a que `predict` dá à foto preparada como no treino; a classe segue dela e da semelhança."""
    exemplos = list(nb.le_fotos(amostra, (1800, 1840)).as_numpy_iterator())
    preparadas = np.stack([nb.prepara(e)[0] for e in exemplos])
    p = nb.keras.models.load_model(modelos / "detector_dogs_cats.keras").predict(preparadas, verbose=0)[:, 0]
    vereditos = [classifica(e["image"]) for e in exemplos]
    assert [v["probabilidades"]["cachorro"] for v in vereditos] == pytest.approx(p, abs=1e-3)
    respondidas = [(v["classe"], "cachorro" if certo > 0.5 else "gato") for v, certo in zip(vereditos, p)
                   if v["classe"] != "nenhum dos dois"]
    assert len(respondidas) >= 36 and all(disse == certo for disse, certo in respondidas)


def test_um_jpeg_e_visto_como_no_treino(nb, foto):
    """Quem treina e quem classifica decodificam a foto igual; o JPEG admite atalhos, que mudam os pixels."""
    dados = codifica(foto, "JPEG", quality=85)
    assert np.array_equal(nb.abre_foto(dados), nb.decodifica({"image": dados, "label": 0})[0])


PROGRAMA = """
import json, pathlib, sys, types
notebook = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
for celula in notebook["cells"]:
    if "definicoes" in celula["metadata"].get("tags", []):
        exec("".join(celula["source"]))
print(json.dumps(carrega_classificador(sys.argv[2])(sys.argv[3])))
"""


def test_um_processo_novo_so_com_as_definicoes_classifica(classifica, modelos, foto, tmp_path):
    caminho = em_disco(tmp_path, "foto.heic", heic(foto))
    notebook = pathlib.Path(__file__).parent.parent / "detector_dogs_cats.ipynb"
    processo = subprocess.run([sys.executable, "-c", PROGRAMA, notebook, modelos, caminho], cwd=tmp_path,
                              capture_output=True, text=True)
    assert processo.returncode == 0, processo.stderr[-3000:]
    obtido, esperado = json.loads(processo.stdout), classifica(caminho)
    assert obtido["classe"] == esperado["classe"]
    assert obtido["probabilidade"] == pytest.approx(esperado["probabilidade"], abs=1e-4)


def de_outro_modelo(nb, modelos, pasta):
    """Um modelo com a mesma forma e outros pesos, no lugar do que o classificador conhece."""
    modelo = nb.keras.models.load_model(modelos / "detector_dogs_cats.keras")
    modelo.layers[-1].set_weights([peso + 1 for peso in modelo.layers[-1].get_weights()])
    modelo.save(pasta / "detector_dogs_cats.keras")


def apaga(nome):
    return lambda nb, modelos, pasta: (pasta / nome).unlink()


def corta(nome):
    return lambda nb, modelos, pasta: (pasta / nome).write_bytes(metade((pasta / nome).read_bytes()))


def troca(nome, dados):
    return lambda nb, modelos, pasta: (pasta / nome).write_bytes(dados)


def esvazia(nb, modelos, pasta):
    for nome in ARQUIVOS:
        (pasta / nome).unlink()
    pasta.rmdir()


ARQUIVOS = ("detector_dogs_cats.keras", "classificador.npz")
ESTRAGOS = {"pasta que não existe": esvazia, "sem o .keras": apaga(ARQUIVOS[0]), "sem o .npz": apaga(ARQUIVOS[1]),
            ".keras truncado": corta(ARQUIVOS[0]), ".npz truncado": corta(ARQUIVOS[1]),
            ".keras que é texto": troca(ARQUIVOS[0], b"oi"), ".npz que é texto": troca(ARQUIVOS[1], b"oi"),
            ".npz vazio": troca(ARQUIVOS[1], b""), "outro modelo": de_outro_modelo}


@pytest.mark.parametrize("nome", ESTRAGOS)
def test_sem_um_modelo_inteiro_ele_nao_abre_e_diz_o_que_fazer(nb, modelos, tmp_path, capsys, nome):
    pasta = tmp_path / "modelos"
    pasta.mkdir()
    for arquivo in ARQUIVOS:
        (pasta / arquivo).write_bytes((modelos / arquivo).read_bytes())
    ESTRAGOS[nome](nb, modelos, pasta)
    capsys.readouterr()
    with pytest.raises(nb.ErroClaro, match="Rode o notebook inteiro") as recusa:
        nb.carrega_classificador(pasta)
    assert str(pasta) in str(recusa.value) and "\n" not in str(recusa.value)
    assert "vai ser refeito" not in capsys.readouterr().out, "aqui ninguém vai refazer nada"


def test_a_pasta_pode_vir_como_texto_e_com_til(nb, modelos, foto, monkeypatch):
    monkeypatch.setenv("HOME", str(modelos.parent))
    assert nb.carrega_classificador(f"~/{modelos.name}")(foto)["classe"]


# "Nem gato nem cachorro", com as fotos reais

def grafico(desenha, **projecao):
    figura, eixo = plt.subplots(figsize=(4, 3), subplot_kw=projecao)
    desenha(eixo)
    tela = io.BytesIO()
    figura.savefig(tela)
    plt.close(figura)
    return tela.getvalue()


def graficos(rng):
    x = np.linspace(0, 10, 100)
    onda = np.outer(np.sin(x), np.cos(x))
    planos = {"barras": lambda e: e.bar(["a", "b", "c"], [3, 5, 2]), "linha": lambda e: e.plot(x, np.sin(x)),
              "pizza": lambda e: e.pie([3, 5, 2]), "pontos": lambda e: e.scatter(*rng.normal(size=(2, 200))),
              "calor": lambda e: e.imshow(rng.random((12, 12))), "degraus": lambda e: e.step(x, np.cos(x)),
              "histograma": lambda e: e.hist(rng.normal(size=1000), 30), "curvas de nível": lambda e: e.contourf(onda),
              "caixas": lambda e: e.boxplot(rng.normal(size=(50, 4))), "áreas": lambda e: e.stackplot(x, x, x ** 0.5),
              "hexágonos": lambda e: e.hexbin(*rng.normal(size=(2, 2000)), gridsize=20),
              "violinos": lambda e: e.violinplot(rng.normal(size=(50, 3)))}
    return {**{f"gráfico: {nome}": grafico(desenha) for nome, desenha in planos.items()},
            "gráfico: polar": grafico(lambda e: e.plot(x, x), projection="polar"),
            "gráfico: superfície": grafico(lambda e: e.plot_surface(*np.meshgrid(x, x), onda, cmap="viridis"),
                                           projection="3d")}


def texturas(rng, lado=300):
    i, j = np.indices((lado, lado))
    raio = np.hypot(i - lado / 2, j - lado / 2)
    suave = PIL.Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype="uint8")).resize((lado, lado))
    desenhos = {"gradiente": i * 255 // lado, "gradiente diagonal": (i + j) * 255 // (2 * lado), "radial": raio,
                "listras verticais": j // 15 % 2 * 255, "listras horizontais": i // 15 % 2 * 255,
                "diagonais": (i + j) // 20 % 2 * 255, "xadrez": (i // 30 + j // 30) % 2 * 255,
                "anéis": raio // 15 % 2 * 255, "bolas": (np.hypot(i % 50 - 25, j % 50 - 25) < 17) * 255,
                "ondas": 127 + 127 * np.sin(i / 9) * np.sin(j / 13), "ruído": rng.integers(0, 256, (lado, lado)),
                "ruído colorido": rng.integers(0, 256, (lado, lado, 3)), "ruído suave": suave,
                "ruído normal": rng.normal(128, 40, (lado, lado, 3))}
    for cor in ("white", "black", "gray", "red", "blue", "yellow"):
        desenhos[cor] = PIL.Image.new("RGB", (lado, lado), cor)
    return {f"textura: {nome}": np.clip(desenho, 0, 255).astype("uint8") for nome, desenho in desenhos.items()}


def textos():
    paginas = {"uma linha": ("nem gato nem cachorro", 24), "uma letra": ("A", 250), "um número": ("42", 120),
               "uma página": ("o rato roeu a roupa do rei\n" * 16, 14)}
    feitos = {}
    for nome, (texto, tamanho) in paginas.items():
        feitos[f"texto: {nome}"] = PIL.Image.new("RGB", (300, 300), "white")
        ImageDraw.Draw(feitos[f"texto: {nome}"]).text((20, 20), texto, fill="black", font_size=tamanho)
    return feitos


def de_pacotes():
    """Fotos que acompanham o Matplotlib e o scikit-image, menos as repetidas e Chelsea, que é uma gata."""
    skimage = pytest.importorskip("skimage")
    pastas = [pathlib.Path(matplotlib.get_data_path()) / "sample_data", pathlib.Path(skimage.__file__).parent / "data"]
    arquivos = [p for pasta in pastas for p in sorted(pasta.iterdir()) if p.suffix in (".png", ".jpg")]
    fora = ("chelsea", "grace_hopper", "motorcycle_right", "chessboard_RGB")
    return {p.name: p for p in arquivos if p.stem not in fora}


@pytest.fixture(scope="module")
def reais(nb, dados_reais, backbone, tmp_path_factory):
    """MODELOS feita com as 2.000 fotos reais, e os vereditos das 200 de teste."""
    pasta = tmp_path_factory.mktemp("modelos_reais")
    construtor = nb.tfds.builder("cats_vs_dogs", data_dir=str(dados_reais))
    X, _ = nb.extrai_caracteristicas(construtor, 2000, backbone, nb.escolhe_motor("auto"), pasta)
    faz_modelos(nb, backbone, X, nb.le_rotulos(construtor, 2000)[0], pasta)
    classifica = nb.carrega_classificador(pasta)
    return classifica, [classifica(e["image"]) for e in nb.le_fotos(construtor, (1800, 2000)).as_numpy_iterator()]


def test_gatos_e_cachorros_de_verdade_quase_nunca_sao_recusados(reais):
    _, vereditos = reais
    recusadas = [v["similaridade"] for v in vereditos if v["classe"] == "nenhum dos dois"]
    print(f"{len(recusadas)} de 200 fotos de teste recusadas: semelhanças {np.round(recusadas, 3)}")
    assert len(recusadas) <= 0.02 * len(vereditos)


def test_quase_nada_que_seja_outra_coisa_passa(nb, reais):
    classifica, de_teste = reais
    rng = np.random.default_rng(0)
    coisas = de_pacotes() | graficos(rng) | texturas(rng) | textos() | nb.outras_coisas()
    vereditos = {nome: classifica(coisa) for nome, coisa in coisas.items()}
    passaram = {nome: str(v) for nome, v in vereditos.items() if v["classe"] != "nenhum dos dois"}
    print(f"{len(coisas)} outras coisas; passaram {len(passaram)}: {passaram}")
    for chave in ("similaridade", "probabilidade"):
        notas = [v[chave] for v in [*de_teste, *vereditos.values()]]
        print(f"AUROC de {chave}: {roc_auc_score([1] * len(de_teste) + [0] * len(coisas), notas):.4f}")
    assert len(coisas) >= 60 and len(passaram) <= 0.05 * len(coisas)


def test_a_gata_do_scikit_image_e_um_gato(reais):
    skimage = pytest.importorskip("skimage")
    classifica, _ = reais
    assert classifica(pathlib.Path(skimage.__file__).parent / "data/chelsea.png")["classe"] == "gato"


# Uma pasta inteira e o botão

def test_uma_pasta_vira_uma_tabela(nb, classifica, foto, tmp_path, capsys):
    pasta = tmp_path / "minhas fotos"
    (pasta / "férias").mkdir(parents=True)
    for nome in ("a.png", "férias/b.png", ".oculta.png"):
        em_disco(pasta, nome, codifica(foto))
    em_disco(pasta, "leia-me.txt", b"nao sou uma foto")
    linhas = nb.classifica_pasta(classifica, str(pasta), tmp_path / "tabela.csv")
    gravadas = list(csv.DictReader((tmp_path / "tabela.csv").open(encoding="utf-8")))
    assert list(gravadas[0]) == ["arquivo", "classe", "probabilidade", "similaridade", "erro"]
    assert [pathlib.Path(g["arquivo"]).name for g in gravadas] == ["a.png", "b.png", "leia-me.txt"]
    assert [pathlib.Path(linha["arquivo"]).name for linha in linhas] == ["a.png", "b.png", "leia-me.txt"]
    esperado = classifica(foto)
    for gravada in gravadas[:2]:
        assert gravada["classe"] == esperado["classe"] and gravada["erro"] == ""
        assert float(gravada["probabilidade"]) == pytest.approx(esperado["probabilidade"])
        assert float(gravada["similaridade"]) == pytest.approx(esperado["similaridade"])
    assert gravadas[2]["classe"] == "" and gravadas[2]["erro"].startswith("leia-me.txt")
    assert "3 arquivos, 1 que não" in capsys.readouterr().out


def test_pastas_ocultas_nao_sao_classificadas(nb, classifica, foto, tmp_path):
    for oculta in (".ipynb_checkpoints", "__MACOSX"):
        (tmp_path / "fotos" / oculta).mkdir(parents=True)
        em_disco(tmp_path / "fotos" / oculta, "a.png", codifica(foto))
    em_disco(tmp_path / "fotos", "a.png", codifica(foto))
    assert len(nb.classifica_pasta(classifica, tmp_path / "fotos", tmp_path / "t.csv")) == 1


@pytest.mark.parametrize("existe", [True, False], ids=["vazia", "que não existe"])
def test_uma_pasta_sem_fotos_e_recusada(nb, classifica, tmp_path, existe):
    if existe:
        (tmp_path / "fotos").mkdir()
    with pytest.raises(nb.ErroClaro, match="não tem nenhuma foto|não existe"):
        nb.classifica_pasta(classifica, tmp_path / "fotos", tmp_path / "t.csv")
    assert not (tmp_path / "t.csv").exists()


def pelo_navegador_8(seletor, nome, dados):
    """A mensagem que o navegador manda com o ipywidgets 8, pela mesma porta."""
    seletor.set_state({"value": [{"name": nome, "type": "image/png", "size": len(dados), "last_modified": 0,
                                  "content": memoryview(dados)}]})


def pelo_navegador_7(seletor, nome, dados):
    """O aviso de mudança com o valor do ipywidgets 7, um dict por nome, aos mesmos observadores."""
    valor = {nome: {"metadata": {"name": nome, "type": "image/png", "size": len(dados)}, "content": dados}}
    seletor.notify_change({"name": "value", "old": {}, "new": valor, "owner": seletor, "type": "change"})


@pytest.mark.parametrize("envia", [pelo_navegador_8, pelo_navegador_7], ids=["ipywidgets 8", "ipywidgets 7"])
def test_o_botao_mostra_o_veredito_de_cada_foto(nb, classifica, foto, capsys, envia):
    seletor, _ = nb.botao_de_fotos(classifica).children
    envia(seletor, "rex.png", codifica(foto))
    saida = capsys.readouterr().out
    assert "rex.png" in saida and str(classifica(foto)) in saida
    envia(seletor, "leia-me.txt", b"nao sou uma foto")
    assert re.search(r"leia-me\.txt\b.*foto", capsys.readouterr().out)


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-s", "-k", "test_tabela", "--durations=0", "--no-header"]))
