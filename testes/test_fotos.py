"""Abrir fotos: de onde quer que venham, em qualquer formato, boas ou feitas para atrapalhar."""

import contextlib
import io
import struct
import zlib

import numpy as np
import PIL.Image
import pillow_heif
import pytest
import tensorflow as tf

from detector.acervo import caminhos
from detector.ambiente import ErroClaro
from detector.fotos import FORMATOS, FotoIncompleta, abre_foto

MODOS = {"JPEG": "RGB L CMYK", "MPO": "RGB", "PNG": "RGB L 1 P RGBA LA I;16", "GIF": "P L"}
MODOS |= {"WEBP": "RGB RGBA", "BMP": "RGB L 1", "TIFF": "RGB L CMYK RGBA I;16 F"}
MODOS |= {"HEIF": "RGB RGBA", "AVIF": "RGB RGBA"}


def cena(largura=80, altura=60):
    """Uma foto colorida, suave e sem nenhuma simetria: qualquer giro ou troca de canais aparece."""
    y, x = np.indices((altura, largura)) / [[[altura]], [[largura]]]
    return PIL.Image.fromarray((255 * np.stack([x, y**2, (1 - x) * y], 2)).astype("uint8"))


def codifica(imagem, formato="PNG", **opcoes):
    arquivo = io.BytesIO()
    if formato != "TIFF":
        opcoes |= {"quality": 95, "lossless": formato == "WEBP"}
    if formato == "HEIF":
        pillow_heif.from_pillow(imagem).save(arquivo, **opcoes)
    else:
        imagem.save(arquivo, formato, **opcoes)
    return arquivo.getvalue()


def no_modo(modo):
    """A cena num modo do PIL (no transparente, a metade esquerda some) e como ela deve sair."""
    if modo in ("I;16", "F"):
        cinza = np.asarray(cena().convert("L"))
        valores = cinza.astype("uint16") * 257 if modo == "I;16" else cinza.astype("float32") / 255
        return PIL.Image.fromarray(valores), PIL.Image.fromarray(cinza).convert("RGB")
    imagem = cena().convert(modo.replace("A", "")).convert(modo)
    esperada = imagem.convert("RGB")
    if modo.endswith("A"):
        direita = np.tile(np.repeat([0, 255], 40).astype("uint8"), (60, 1))
        imagem.putalpha(PIL.Image.fromarray(direita))
        esperada.paste("white", (0, 0, 40, 60))
    return imagem, esperada


def com_orientacao(valor):
    exif = PIL.Image.Exif()
    exif[274] = valor
    return exif.tobytes()


def diferenca(foto, esperada):
    """Diferença média por pixel, em níveis de 0 a 255."""
    assert foto.dtype == "uint8" and foto.shape == np.shape(esperada)
    return np.abs(foto.astype(int) - np.asarray(esperada, int)).mean()


@pytest.mark.parametrize(("formato", "modo"), [(f, m) for f in MODOS for m in MODOS[f].split()])
def test_cada_formato_e_modo_sai_como_se_ve(formato, modo):
    if formato == "AVIF" not in FORMATOS:
        pytest.skip("este Pillow não tem AVIF")
    imagem, esperada = no_modo(modo)
    animada = {"save_all": True, "append_images": [imagem.rotate(180)]}  # vale o primeiro quadro
    dados = codifica(imagem, formato, **animada if formato in ("GIF", "WEBP", "TIFF") else {})
    com_perdas = formato in ("JPEG", "MPO", "HEIF", "AVIF")
    assert diferenca(abre_foto(dados), esperada) <= (4 if com_perdas else 0)


@pytest.mark.parametrize("formato", ["PNG", "TIFF", "WEBP", "HEIF"])
def test_a_orientacao_da_camera_poe_a_foto_em_pe(formato):
    mais = {"subsampling": "4:4:4"} if formato == "HEIF" else {}  # o padrão muda com a versão
    for orientacao, graus in ((3, 180), (6, 90), (8, 270)):
        girada = cena().rotate(graus, expand=True)
        foto = abre_foto(codifica(girada, formato, exif=com_orientacao(orientacao), **mais))
        assert diferenca(foto, cena()) <= (1 if formato == "HEIF" else 0)


def bloco(tipo, conteudo, crc=None):
    """Um bloco de PNG, com a soma certa ou com a que se pede."""
    soma = zlib.crc32(tipo + conteudo) if crc is None else crc
    return struct.pack(">I", len(conteudo)) + tipo + conteudo + struct.pack(">I", soma)


def com_bloco(*dados):
    png = codifica(cena())
    return png[:33] + bloco(*dados) + png[33:]  # logo depois do cabeçalho


# Uma lista de etiquetas cortada no meio; e em pé (orientação 6), com a resolução −1/0.
EXIF_CORTADO = b"Exif\0\0II*\0\x08\0\0\0\2\0\x12\1\3"
EXIF_MENOS_UM = struct.pack(
    "<6s2sHIHHHIIHHIIIiI", b"Exif\0\0", b"II", 42, 8, 2, 274, 3, 1, 6, 282, 10, 1, 38, 0, -1, 0
)
RISCOS = {
    "EXIF cortado, PNG": lambda: codifica(cena(), exif=EXIF_CORTADO),
    "EXIF cortado, JPEG": lambda: codifica(cena(), "JPEG", exif=EXIF_CORTADO, dpi=(72, 72)),
    "EXIF com −1/0": lambda: codifica(
        cena().rotate(90, expand=True), "JPEG", exif=EXIF_MENOS_UM, dpi=(72, 72)
    ),
    "sem os 2 últimos bytes": lambda: codifica(cena(), "JPEG")[:-2],
    "sem eles, em camadas": lambda: codifica(cena(), "JPEG", progressive=True)[:-2],
    "texto com a soma errada": lambda: com_bloco(b"tEXt", b"a\0b", 1),
    "texto enorme": lambda: com_bloco(b"zTXt", b"a\0\0" + zlib.compress(bytes(3 << 20))),
    "bloco curto": lambda: com_bloco(b"pHYs", b"ab"),
}


@pytest.mark.parametrize("risco", RISCOS)
def test_um_risco_na_moldura_nao_estraga_a_foto(risco):
    assert diferenca(abre_foto(RISCOS[risco]()), cena()) <= 4


@pytest.mark.parametrize("em_camadas", [False, True])
def test_a_foto_cortada_nos_90_por_cento_e_recusada_mas_se_ve(em_camadas):
    """Quem classifica a mostra e avisa; quem treina a deixa de fora."""
    ruido = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300), "uint8"))
    inteira = codifica(ruido, "JPEG", progressive=em_camadas)
    with pytest.raises(FotoIncompleta, match=r"incompleta: falta o fim") as recusa:
        abre_foto(inteira[: len(inteira) * 9 // 10])
    assert diferenca(recusa.value.foto[:200], abre_foto(inteira)[:200]) < 4
    with pytest.raises(ErroClaro, match="danificada"):
        abre_foto(inteira[: len(inteira) // 9])


def test_um_jpeg_de_muitos_megapixels_abre_reduzido_e_um_que_ficaria_inteiro_nao():
    enorme = PIL.Image.new("L", (12_000, 10_000), 99)
    assert diferenca(abre_foto(codifica(enorme, "JPEG")), np.full((427, 512, 3), 99)) < 1
    with pytest.raises(ErroClaro, match="pixels"):
        abre_foto(codifica(enorme, "JPEG", progressive=True))


def test_a_foto_grande_sai_em_pe_e_na_mesma_proporcao():
    deitada = codifica(cena(900, 1200).rotate(90, expand=True), "JPEG", exif=com_orientacao(6))
    foto, de_quem_chama = abre_foto(deitada), PIL.Image.open(io.BytesIO(deitada))
    assert diferenca(foto, cena(384, 512)) < 2 and diferenca(abre_foto(de_quem_chama), foto) < 2
    assert de_quem_chama.size == (1200, 900), "continua inteira"
    assert abre_foto(cena(512, 300)).shape == (300, 512, 3), "as outras ficam como estão"
    assert abre_foto(cena(3000, 2)).shape == (1, 512, 3)


def em_disco(pasta, nome, dados):
    (pasta / nome).write_bytes(dados)
    return pasta / nome


CENA = np.asarray(cena())
ORIGENS = {
    "caminho": lambda p: em_disco(p, "meu cão é bonito.png", codifica(cena())),
    "texto, com a extensão errada": lambda p: str(em_disco(p, "foto.jpg", codifica(cena()))),
    "bytes": lambda p: codifica(cena()),
    "arquivo binário": lambda p: io.BytesIO(codifica(cena())),
    "arquivo já lido até o fim": lambda p: em_disco(p, "f", codifica(cena())).open("ab+"),
    "imagem do PIL": lambda p: cena(),
    "PIL ainda não lida": lambda p: PIL.Image.open(io.BytesIO(codifica(cena()))),
    "array uint8": lambda p: CENA,
    "array uint16": lambda p: CENA.astype("uint16") * 257,
    "array float64": lambda p: CENA / 255,
    "tensor": lambda p: tf.constant(CENA),
}


@pytest.mark.parametrize("origem", ORIGENS)
def test_a_mesma_foto_da_o_mesmo_array_venha_de_onde_vier(origem, tmp_path):
    assert np.array_equal(abre_foto(ORIGENS[origem](tmp_path)), CENA)


class DiscoRuim(io.BytesIO):
    def read(self, n=-1):
        raise OSError(5, "Input/output error")


def metade(formato):
    dados = codifica(cena(), formato)
    return dados[: len(dados) // 2]


def enorme(pasta):
    with open(pasta / "g.jpg", "wb") as arquivo:
        arquivo.truncate(1 << 33)
    return pasta / "g.jpg"


RECUSADAS = {  # o que se dá: o que a frase precisa dizer
    "caminho que não existe": (lambda p: p / "nada.jpg", r"nada\.jpg não existe"),
    "pasta": (lambda p: p, "é uma pasta"),
    "arquivo enorme": (enorme, r"g\.jpg é grande demais para uma foto"),
    "aparelho": (lambda p: "/dev/null", "/dev/null não é um arquivo comum"),
    "nome comprido demais": (lambda p: f"{'a' * 300}.jpg", r"não pôde ser lido \(File name too"),
    "arquivo de texto aberto": (lambda p: io.StringIO("oi"), "arquivo binário"),
    "texto com nome de foto": (lambda p: em_disco(p, "t.jpg", b"oi"), r"t\.jpg não é uma foto"),
    "página da internet": (lambda p: b"<!DOCTYPE html><html>404</html>", "não é uma foto"),
    "arquivo vazio": (lambda p: em_disco(p, "v.jpg", b""), r"v\.jpg está vazia"),
    "zip": (lambda p: b"PK\3\4...", "é um zip; descompacte-o"),
    "EPS, que roda um programa": (lambda p: codifica(cena(), "EPS"), "não é uma foto"),
    "JPEG pela metade": (lambda p: metade("JPEG"), "danificada"),
    "PNG pela metade": (lambda p: metade("PNG"), "danificada"),
    "HEIC pela metade": (lambda p: metade("HEIF"), "danificada"),
    "bomba de 144 megapixels": (lambda p: codifica(PIL.Image.new("1", (12_000, 12_000))), "pixels"),
    "array float em 0–255": (lambda p: CENA.astype("float32"), r"float32 de 0.* em \[0, 1\]"),
    "array em [−1, 1]": (lambda p: CENA / 127.5 - 1, r"float64 de -1.* em \[0, 1\]"),
    "array de um eixo só": (lambda p: np.zeros(9, "uint8"), r"tem a forma \(9,\)"),
    "array vazio": (lambda p: CENA[:0], r"tem a forma \(0, "),
    "array com NaN": (lambda p: CENA / 255 * np.nan, "nan"),
    "array int64": (lambda p: CENA.astype("int64"), "int64.* uint8"),
    "um disco que falha": (lambda p: DiscoRuim(codifica(cena())), r"lida \(Input/output error\)"),
    "canais na frente": (lambda p: np.moveaxis(CENA, 2, 0), r"\(3, 60, 80\)"),
}


@pytest.mark.parametrize("nome", RECUSADAS)
def test_o_que_nao_serve_e_recusado_numa_frase(nome, tmp_path, recwarn):
    cria, dito = RECUSADAS[nome]
    with pytest.raises(ErroClaro, match=dito) as recusa:
        abre_foto(cria(tmp_path))
    assert str(recusa.value).endswith(".") and "\n" not in str(recusa.value)
    assert not [a for a in recwarn if "bomb" in str(a.message)], "nem um aviso em inglês"


def test_mil_estragos_ao_acaso_dao_uma_foto_ou_uma_frase():
    acaso, abertas = np.random.default_rng(0), 0
    boas = [codifica(cena(), formato) for formato in ("JPEG", "PNG")]
    for i in range(1000):
        ruim = bytearray(boas[i % 2])
        for onde in acaso.integers(len(ruim), size=acaso.integers(1, 9)):
            ruim[onde : onde + int(acaso.integers(1, 5))] = acaso.bytes(int(acaso.integers(5)))
        with contextlib.suppress(ErroClaro):
            foto = abre_foto(bytes(ruim))
            assert foto.dtype == "uint8" and foto.shape[2] == 3 and max(foto.shape) <= 512
            abertas += 1
    assert 20 < abertas < 980, "ou o teste só teria visto um dos dois"


def test_da_pasta_saem_as_fotos_em_ordem_e_se_diz_o_que_ficou(tmp_path, capsys):
    for nome in ("b.png", "a/z.png", "a/leia-me.txt", ".oculta.png", "Thumbs.db", "a/IMG_1.AAE"):
        (tmp_path / nome).parent.mkdir(exist_ok=True)
        em_disco(tmp_path, nome, b"")
    em_disco(tmp_path, "sem extensão", codifica(cena(), "WEBP"))
    (tmp_path / "vazia").mkdir()
    na_pasta = [tmp_path / "a/z.png", tmp_path / "b.png", tmp_path / "sem extensão"]
    assert caminhos([tmp_path]) == na_pasta
    assert "deixei de lado 2 arquivos que não são fotos" in capsys.readouterr().err
    assert caminhos([str(tmp_path / "b.png"), tmp_path]) == [na_pasta[1], na_pasta[0], na_pasta[2]]
    assert caminhos([tmp_path / ".oculta.png"]) == [tmp_path / ".oculta.png"], "pedida pelo nome"
    assert caminhos([f'"{tmp_path}/b*.png"']) == [tmp_path / "b.png"], "nem todo terminal expande"
    assert caminhos([tmp_path / "[a-b]"]) == [tmp_path / "a/z.png"], "nem se o que casa é pasta"
    for ruins, dito in {
        (tmp_path / "a/leia-me.txt",): "vazia",
        (tmp_path, "n*a.jpg"): "não existe",
        (tmp_path / "vazia",): "nenh",
    }.items():
        with pytest.raises(ErroClaro, match=dito):
            caminhos(ruins)
