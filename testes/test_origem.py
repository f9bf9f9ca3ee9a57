"""De onde vêm as fotos, e o que acontece quando o zip, a pasta, o disco ou a rede não ajudam."""

import errno
import hashlib
import os
import re
import time
import zipfile

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from conftest import RAIZ
from servidor_falso import servindo
from tensorflow_datasets.core.download.checksums import UrlInfo
from tensorflow_datasets.image_classification import cats_vs_dogs

from detector import ErroClaro, dados, origem


def jpeg(semente, altura=40):
    foto = np.random.default_rng(semente).integers(0, 256, (altura, 50, 3), dtype="uint8")
    return tf.io.encode_jpeg(foto).numpy()


def faz_zip(caminho, mais=(), classes=("Cat", "Dog")):
    """Doze fotos de cada classe no formato do dataset, e `mais` (nome, conteúdo)."""
    with zipfile.ZipFile(caminho, "w") as z:
        for i in range(12 * len(classes)):
            z.writestr(f"PetImages/{classes[i // 12]}/{i}.jpg", jpeg(i, 30 + i))
        for nome, conteudo in mais:
            comum = "/105." not in nome
            z.writestr(nome, conteudo, zipfile.ZIP_DEFLATED if comum else zipfile.ZIP_LZMA)
            z.filelist[-1].flag_bits |= "/104." in nome  # esta, com senha
            z.filelist[-1].CRC ^= "/106." in nome  # e esta, com a soma errada
    return caminho


def faz_pasta(pasta, classes=("gatos", "lobos"), quantas=11):
    """Fotos lisas, cada uma de um cinza, que diz a classe e o número dela."""
    for c, classe in enumerate(classes):
        (pasta / classe).mkdir(parents=True)
        for i in range(quantas):
            foto = PIL.Image.new("RGB", (40, 30), (20 * i + 10 * c,) * 3)
            foto.save(pasta / classe / f"{i}.png")
    return pasta


def test_sem_rede_a_amostra_vem_logo_e_diz_por_que(tmp_path, monkeypatch, capsys):
    """E ela é o dataset de verdade em miniatura."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    inicio = time.monotonic()
    builder = origem.abre("cats_vs_dogs", tmp_path)
    assert time.monotonic() - inicio < 6 and builder.info.name == "cats_vs_dogs_amostra"
    caixa = capsys.readouterr().out
    assert "AMOSTRA EMBUTIDA" in caixa and "o proxy da rede recusou a conexão" in caixa
    assert "2000 fotos; 0 = gato, 1 = cachorro" in caixa
    verdade = cats_vs_dogs.CatsVsDogs().info
    assert set(builder.info.features) == set(verdade.features)
    assert builder.info.supervised_keys == verdade.supervised_keys


def test_com_internet_as_fotos_sao_baixadas_uma_vez_e_o_zip_sai_do_disco(tmp_path, monkeypatch):
    zip_ = faz_zip(tmp_path / "f.zip").read_bytes()
    monkeypatch.setenv("no_proxy", "*")
    with servindo(zip_) as servidor:
        da_vez = UrlInfo(len(zip_), hashlib.sha256(zip_).hexdigest(), "f.zip")
        monkeypatch.setattr(cats_vs_dogs, "_URL", servidor.url)
        monkeypatch.setitem(cats_vs_dogs.CatsVsDogs.url_infos, servidor.url, da_vez)
        for _ in range(2):
            assert len(dados.lista(origem.abre("cats_vs_dogs", tmp_path / "tfds"))) == 24
    assert servidor.pedidos == ["GET", "GET"], "a sonda e o download"
    assert not [*tmp_path.glob("tfds/downloads/f.zip*")]


def test_o_que_a_pessoa_passou_e_nao_se_usou_e_dito(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(faz_pasta(tmp_path / "amostra").parent)
    origem.abre("amostra", tmp_path / "tfds", "f.zip")
    dito = capsys.readouterr().out
    assert f"não usei DATA_DIR = {tmp_path}/tfds" in dito and "não usei ARQUIVO_ZIP = f.zip" in dito
    assert 'não li a pasta amostra; se é ela que você quer, DATASET = "./amostra"' in dito
    origem.abre("./amostra", tmp_path / "tfds")
    assert "li amostra/: 11 gatos, 11 lobos, pela pasta\n" in capsys.readouterr().out


def test_o_que_ja_esta_preparado_e_usado_e_restos_de_um_preparo_morto_nao(tmp_path, capsys):
    pronta = tmp_path / "tfds/cats_vs_dogs/4.0.1"
    resto = pronta.with_name("incomplete.ABC123_4.0.1")
    for pasta in (pronta, resto):
        pasta.mkdir(parents=True)
        (pasta / "cats_vs_dogs-train.tfrecord-00000-of-00001").write_bytes(b"pela metade")
    (resto / "dataset_info.json").write_text("{")
    os.utime(resto, (0, 0))
    zip_, perto = faz_zip(tmp_path / "f.zip"), "o cats_vs_dogs preparado está em"
    for dataset, data_dir, arquivo, dito in [
        ("cats_vs_dogs", tmp_path / "tfds", zip_, "li PetImages/: 12 gatos, 12 cachorros"),
        ("cats_vs_dogs", tmp_path / "tfds", tmp_path / "apagado.zip", "não usei .*apagado.zip"),
        ("cats_vs_dogs", pronta.parent, None, perto),
        (pronta, tmp_path / "outra", None, perto),
    ]:
        builder = origem.abre(dataset, data_dir, arquivo)
        assert len(dados.lista(builder)) == 24 and not resto.exists()
        saida = capsys.readouterr().out
        assert re.search(dito, saida) and "24 fotos; 0 = gato, 1 = cachorro" in saida
    (pronta / "dataset_info.json").write_text("{")
    with pytest.raises(ErroClaro, match="danificados"):
        origem.abre("cats_vs_dogs", tmp_path / "tfds")


@pytest.mark.parametrize(
    "dataset, data_dir, zip_, mensagem",
    [
        ("imagenet", "tfds", None, 'use "cats_vs_dogs", "amostra" ou uma pasta'),
        ("cats_vs_dogs", "tfds", "nao-existe.zip", "nao-existe.zip não existe"),
        ("cats_vs_dogs", "tfds", "tres", "é uma pasta; o lugar dela é em DATASET"),
        ("dois.zip", "tfds", None, "há train.zip: descompacte dois.zip e aponte para ele"),
        ("cats_vs_dogs", "tfds", RAIZ / "LICENSE", "LICENSE não é um zip: aponte para a pasta"),
        ("cats_vs_dogs", RAIZ / "LICENSE/tfds", "bom.zip", "Confira o caminho ou mude DATA_DIR"),
        ("cats_vs_dogs", RAIZ / "LICENSE", "bom.zip", "DATA_DIR = .*LICENSE é um arquivo"),
        ("cortado.zip", "tfds", None, "está vazio, incompleto ou danificado: use outra cópia"),
        ("cats_vs_dogs", "tfds", "so_gatos.zip", "não duas classes"),
        ("tres", "tfds", None, "encontrei 3 classes"),
        (RAIZ / "docs", "tfds", None, r"não há fotos em .*docs\.$"),
        ("poucas", "tfds", None, r"gatos tem só 9 fotos, e são precisas 10\.$"),
    ],
)
def test_o_que_nao_serve_e_recusado_e_nao_deixa_dataset_pela_metade(
    tmp_path, monkeypatch, dataset, data_dir, zip_, mensagem
):
    monkeypatch.chdir(tmp_path)
    faz_zip(tmp_path / "so_gatos.zip", classes=["Cat"])
    faz_zip(tmp_path / "bom.zip")
    (tmp_path / "cortado.zip").write_bytes((tmp_path / "bom.zip").read_bytes()[:-200])
    faz_zip(tmp_path / "dois.zip", [("train.zip", b"PK")], classes=[])
    faz_pasta(tmp_path / "tres", ["gatos", "lobos", "ursos"], 1)
    faz_pasta(tmp_path / "poucas", quantas=9)
    for _ in range(2):
        with pytest.raises(ErroClaro, match=mensagem):
            origem.abre(dataset, data_dir, zip_)


@pytest.mark.parametrize(
    "numero, conselho",
    [(errno.ENOSPC, "Libere espaço"), (errno.EACCES, "Acerte a permissão"), (errno.EIO, "Confira")],
)
def test_do_que_nao_se_grava_nem_se_le_o_conselho_e_pela_causa(
    tmp_path, monkeypatch, numero, conselho
):
    def nao_le(pasta):
        raise OSError(numero, os.strerror(numero), str(pasta))

    def falha(*_, **__):
        raise RuntimeError(f"{tmp_path}/x.tfrecord; {os.strerror(numero)}")

    monkeypatch.setattr(origem.Copia, "download_and_prepare", falha)
    dito = re.escape(f"({os.strerror(numero)}). {conselho}")
    with pytest.raises(ErroClaro, match=f"não consegui gravar em .* {dito}.* ou mude DATA_DIR"):
        origem.abre("cats_vs_dogs", tmp_path / "tfds", faz_zip(tmp_path / "f.zip"))
    monkeypatch.setattr(tfds, "builder_from_directory", nao_le)
    with pytest.raises(ErroClaro, match=f"não consegui ler .*amostra.* {dito}.* ou aponte"):
        origem.abre("amostra")


def test_o_zip_da_o_mesmo_que_o_builder_do_tfds_e_tfds_load_o_serve(tmp_path, capsys):
    ruins = [(f"PetImages/Cat/{1000 + i}.jpg", b"?") for i in range(1738)]  # os que o TFDS exige
    arquivo = faz_zip(tmp_path / "f.zip", ruins)

    class Original(cats_vs_dogs.CatsVsDogs, skip_registration=True):
        name = "cats_vs_dogs"

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(dl_manager.iter_archive(arquivo))}

    original = Original(data_dir=tmp_path / "original")
    original.download_and_prepare()
    nosso = origem.abre("cats_vs_dogs", tmp_path / "nosso", arquivo)
    assert "Deixei de fora 1738 arquivos" in capsys.readouterr().out
    assert dados.lista(nosso).equals(dados.lista(original))
    servido = tfds.load("cats_vs_dogs", split="train", data_dir=tmp_path / "nosso", download=False)
    assert len(servido) == 24


TAMANHO = (40).to_bytes(2, "big") + (50).to_bytes(2, "big")  # altura e largura, dentro do JPEG
RUINS = {  # (conteúdo, motivo)
    "Cat/100": (jpeg(1).replace(b"JFIF", b"XXXX"), "não tem o cabeçalho JFIF"),
    "Cat/101": (jpeg(1)[:-200], "está danificada"),
    "Cat/102": (jpeg(0).replace(TAMANHO, (60_000).to_bytes(2, "big") * 2), "tem pixels demais"),
    "Dog/103": (bytes(50_000_001), "é grande demais"),
    "Dog/12": (jpeg(1), "o nome se repete"),
    "Dog/104": (jpeg(1), "tem senha"),
    "Dog/105": (jpeg(1), "a compressão é incomum"),
    "Dog/106": (jpeg(1), "está danificada"),
}


def test_foto_ruim_do_zip_fica_de_fora_e_e_dita(tmp_path, capfd):
    """E o que está fora do lugar nem é olhado; e o libjpeg, de uma que abre bem, não diz nada."""
    fora = [("../../PetImages/Cat/7.jpg", jpeg(2)), ("LEIAME.txt", b"oi")]
    fora += [("PetImages/Cat/110.jpg", jpeg(106)[:-2] + bytes(99) + b"\xff\xd9")]
    for metade in (list(RUINS)[:3], list(RUINS)[3:]):  # só se dizem as cinco primeiras
        ruins = [(f"PetImages/{nome}.jpg", RUINS[nome][0]) for nome in metade]
        arquivo = faz_zip(tmp_path / "f.zip", [*ruins, *fora])
        builder = origem.abre("cats_vs_dogs", tmp_path / metade[0][:3], arquivo)
        dito, vermelho = capfd.readouterr()
        assert f"Deixei de fora {len(metade)} arquivos" in dito and "Corrupt JPEG" not in vermelho
        assert "deixei de lado 1 arquivo que não é foto" in dito
        assert builder.info.splits["train"].num_examples == 25
        for nome in metade:
            assert f"{nome}.jpg: {RUINS[nome][1]}" in dito
    assert {p.name for p in tmp_path.iterdir()} == {"f.zip", "Cat", "Dog"}


def test_uma_pasta_vira_dataset_e_muda_com_as_fotos(tmp_path, capsys):
    """O que não é foto não conta nem é lido inteiro, e um nome que não é UTF-8 não atrapalha."""
    pasta = faz_pasta(tmp_path / "bichos")
    with open(pasta / "lobos/video.mov", "wb") as video:
        video.truncate(1 << 40)  # um disco inteiro, que lido levaria horas
    (pasta / "gatos/10.png").rename(pasta / "gatos" / os.fsdecode(b"\xe7\xe3.png"))
    antes = origem.abre(pasta, tmp_path / "tfds", "sobrou.zip")
    dito = capsys.readouterr().out
    assert "li bichos/: 11 gatos, 11 lobos, pela pasta; deixei de lado 1 arquivo que não é" in dito
    assert "não usei ARQUIVO_ZIP = sobrou.zip" in dito
    fotos, lidas = dados.lista(antes), dados.pega(dados.le, antes, range(22), prepara=None)
    assert dados.classes(antes) == ["gatos", "lobos"]
    for nome, rotulo, foto in zip(fotos["arquivo"], fotos["rotulo"], lidas, strict=True):
        classe, i = nome.removesuffix(".png").split("/")
        assert rotulo == ["gatos", "lobos"].index(classe)
        assert (
            np.abs(foto.astype(int) - 20 * int(i if i.isdigit() else 10) - 10 * rotulo).max() <= 1
        )
    assert origem.abre(pasta, tmp_path / "tfds").info.name == antes.info.name
    PIL.Image.new("RGB", (40, 30)).save(pasta / "gatos/3.png")
    (pasta / "gatos/v.png").touch()
    assert origem.abre(pasta, tmp_path / "tfds").info.name != antes.info.name
    assert "Deixei de fora 1 arquivo: gatos/v.png: está vazia\n" in capsys.readouterr().out


def test_um_zip_qualquer_serve_em_dataset_e_em_arquivo_zip(tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "colega.zip", "w") as z:
        z.writestr("train/", b"")
        for i in range(24):
            z.writestr(f"train\\{('cat', 'dog')[i % 2]}.{i}.jpg", jpeg(i))
        for i in range(3):
            z.writestr(f"test1\\{i}.jpg", jpeg(99 + i))
    zip_ = f'"{tmp_path / "colega.zip"}"'
    builders = [origem.abre(zip_, tmp_path), origem.abre("cats_vs_dogs", tmp_path, zip_)]
    dito = capsys.readouterr().out
    frase = "li train/: 12 gatos, 12 cachorros, pelo nome do arquivo; "
    frase += "deixei de lado 3 fotos sem classe, de test1\n"
    assert dito.count(frase) == 2 and builders[0].info.name == builders[1].info.name
    for builder in builders:
        assert builder.info.splits["train"].num_examples == 24
        assert dados.classes(builder) == ["gato", "cachorro"]
