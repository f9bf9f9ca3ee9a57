"""De onde vêm as fotos, e o que acontece quando o zip, a pasta, o disco ou a rede não ajudam."""

import hashlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import zipfile

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from conftest import RAIZ
from servidor_falso import servindo
from tensorflow_datasets.image_classification import cats_vs_dogs

from detector import ErroClaro, dados, rede

ARQUIVO = bytes(range(256)) * 1000


@pytest.fixture
def sem_rede(monkeypatch):
    """Um proxy que recusa tudo: para o programa, o mesmo que estar sem rede."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")


def jpeg(semente, altura=40):
    foto = np.random.default_rng(semente).integers(0, 256, (altura, 50, 3), dtype="uint8")
    return tf.io.encode_jpeg(foto).numpy()


def faz_zip(caminho, mais=(), classes=("Cat", "Dog")):
    """Doze fotos de cada classe no formato do dataset, e `mais` (nome, conteúdo)."""
    with zipfile.ZipFile(caminho, "w") as z:
        for i in range(12 * len(classes)):
            z.writestr(f"PetImages/{classes[i // 12]}/{i}.jpg", jpeg(i, 30 + i))
        for nome, conteudo in mais:
            z.writestr(nome, conteudo, zipfile.ZIP_DEFLATED)
    return caminho


def le_tudo(builder):
    """{nome: (foto, rótulo)}, na ordem, lidos pelo TFDS sozinho."""
    exemplos = tfds.as_numpy(builder.as_dataset(split="train"))
    return {e["image/filename"].decode(): (e["image"], int(e["label"])) for e in exemplos}


# A amostra e o que já está preparado


def test_a_amostra_e_o_dataset_de_verdade_em_miniatura(amostra):
    verdade = cats_vs_dogs.CatsVsDogs().info
    assert set(amostra.info.features) == set(verdade.features)
    assert amostra.info.supervised_keys == verdade.supervised_keys
    assert dados.classes(amostra) == ["gato", "cachorro"]
    fotos = dados.lista(amostra)
    assert fotos.rotulo.value_counts().to_dict() == {0: 1000, 1: 1000}
    assert fotos.arquivo.is_unique and fotos.sha256.is_unique


def test_pega_da_as_fotos_pedidas_na_ordem_pedida(amostra):
    todas = [foto for foto, _ in le_tudo(amostra).values()]
    pedidas = [7, 1999, 0, 7]
    assert np.array_equal(dados.pega(amostra, pedidas), [todas[i] for i in pedidas])
    assert dados.pega(amostra, []) == []


def test_o_que_ja_esta_preparado_e_usado_sem_rede(tmp_path, sem_rede, capsys):
    dados.abre("cats_vs_dogs", tmp_path / "tfds", faz_zip(tmp_path / "f.zip"))
    builder = dados.abre("cats_vs_dogs", tmp_path / "tfds", tmp_path / "apagado.zip")
    assert len(dados.lista(builder)) == 24
    assert "24 fotos; 0 = gato, 1 = cachorro" in capsys.readouterr().out
    (tmp_path / "tfds/cats_vs_dogs/4.0.1/dataset_info.json").write_text("{")
    with pytest.raises(ErroClaro, match="danificados"):
        dados.abre("cats_vs_dogs", tmp_path / "tfds")


def test_sem_rede_a_amostra_vem_logo_e_diz_por_que(tmp_path, sem_rede, capsys):
    inicio = time.monotonic()
    builder = dados.abre("cats_vs_dogs", tmp_path)
    assert time.monotonic() - inicio < 6 and builder.info.name == "cats_vs_dogs_amostra"
    caixa = capsys.readouterr().out
    assert "AMOSTRA EMBUTIDA" in caixa and "o servidor não respondeu" in caixa


@pytest.mark.parametrize(
    "dataset, data_dir, zip_, mensagem",
    [
        ("imagenet", "tfds", None, 'use "cats_vs_dogs", "amostra" ou uma pasta'),
        ("cats_vs_dogs", "tfds", "nao-existe.zip", "nao-existe.zip não existe"),
        ("cats_vs_dogs", "tfds", RAIZ / "LICENSE", "não é um zip inteiro"),
        ("cats_vs_dogs", RAIZ / "LICENSE/tfds", "f.zip", "não consegui gravar.*mude DATA_DIR"),
    ],
)
def test_parametro_errado_e_recusado(tmp_path, monkeypatch, dataset, data_dir, zip_, mensagem):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ErroClaro, match=mensagem):
        dados.abre(dataset, data_dir, zip_)


# O zip


def test_o_zip_da_o_mesmo_que_o_builder_do_tfds_e_tfds_load_o_serve(tmp_path, capsys):
    ruins = [(f"PetImages/Cat/{1000 + i}.jpg", b"?") for i in range(1738)]  # os que o TFDS exige
    arquivo = faz_zip(tmp_path / "f.zip", ruins)

    class Original(cats_vs_dogs.CatsVsDogs, skip_registration=True):
        name = "cats_vs_dogs"

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(dl_manager.iter_archive(arquivo))}

    original = Original(data_dir=tmp_path / "original")
    original.download_and_prepare()
    nosso = dados.abre("cats_vs_dogs", tmp_path / "nosso", arquivo)
    assert "Ficaram de fora 1738 arquivos" in capsys.readouterr().out
    assert dados.lista(nosso).equals(dados.lista(original))
    servido = tfds.load("cats_vs_dogs", split="train", data_dir=tmp_path / "nosso", download=False)
    assert len(servido) == 24


TAMANHO = (40).to_bytes(2, "big") + (50).to_bytes(2, "big")  # altura e largura, dentro do JPEG
BOMBA = jpeg(0).replace(TAMANHO, (60_000).to_bytes(2, "big") * 2)


@pytest.mark.parametrize(
    "nome, conteudo, motivo",
    [
        ("Cat/100", jpeg(1).replace(b"JFIF", b"XXXX"), "cabeçalho JFIF"),
        ("Cat/101", jpeg(1)[:-200], "danificada"),
        ("Cat/102", BOMBA, "pixels demais"),
        ("Dog/103", bytes(50_000_001), "grande demais"),
        ("Dog/12", jpeg(1), "o nome se repete"),
    ],
)
def test_foto_ruim_do_zip_fica_de_fora_e_e_dita(tmp_path, capsys, nome, conteudo, motivo):
    fora = [("../../PetImages/Cat/7.jpg", jpeg(2)), ("LEIAME.txt", b"oi")]
    arquivo = faz_zip(tmp_path / "f.zip", [(f"PetImages/{nome}.jpg", conteudo), *fora])
    builder = dados.abre("cats_vs_dogs", tmp_path / "tfds", arquivo)
    dito = capsys.readouterr().out
    assert "Ficaram de fora 1 arquivos" in dito and nome in dito and motivo in dito
    assert builder.info.splits["train"].num_examples == 24
    assert {p.name for p in tmp_path.iterdir()} == {"f.zip", "tfds"}


def test_foto_com_senha_fica_de_fora(tmp_path, capsys):
    with zipfile.ZipFile(faz_zip(tmp_path / "f.zip"), "a") as z:
        z.writestr("PetImages/Cat/100.jpg", jpeg(1))
        z.filelist[-1].flag_bits |= 1
    dados.abre("cats_vs_dogs", tmp_path / "tfds", tmp_path / "f.zip")
    assert "Cat/100.jpg: tem senha" in capsys.readouterr().out


def test_zip_sem_as_duas_classes_e_recusado_e_nao_deixa_dataset_pela_metade(tmp_path):
    so_gatos = faz_zip(tmp_path / "f.zip", classes=["Cat"])
    for _ in range(2):
        with pytest.raises(ErroClaro, match="só 0 fotos da classe dog"):
            dados.abre("cats_vs_dogs", tmp_path / "tfds", so_gatos)


def test_restos_de_um_preparo_morto_nao_atrapalham(tmp_path):
    pronta = tmp_path / "tfds/cats_vs_dogs/4.0.1"
    resto = pronta.with_name("incomplete.ABC123_4.0.1")
    for pasta in (pronta, resto):
        pasta.mkdir(parents=True)
        (pasta / "cats_vs_dogs-train.tfrecord-00000-of-00001").write_bytes(b"pela metade")
    os.utime(resto, (0, 0))
    builder = dados.abre("cats_vs_dogs", tmp_path / "tfds", faz_zip(tmp_path / "f.zip"))
    assert len(dados.lista(builder)) == 24 and not resto.exists()


# Ler o que está preparado


def reparte(amostra, pasta, cortes):
    """A amostra gravada em vários arquivos, um por intervalo entre `cortes`."""
    destino = pasta / "cats_vs_dogs_amostra/1.0.0"
    shutil.copytree(amostra.data_path, destino)
    [inteiro] = destino.glob("*.tfrecord*")
    registros = list(tf.data.TFRecordDataset(str(inteiro)).as_numpy_iterator())
    inteiro.unlink()
    for i, (inicio, fim) in enumerate(itertools.pairwise(cortes)):
        nome = inteiro.name.replace("00000-of-00001", f"{i:05d}-of-{len(cortes) - 1:05d}")
        with tf.io.TFRecordWriter(str(destino / nome)) as gravador:
            for registro in registros[inicio:fim]:
                gravador.write(registro)
    info = json.loads((destino / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = np.diff(cortes).tolist()
    (destino / "dataset_info.json").write_text(json.dumps(info))
    return tfds.builder_from_directory(destino)


def test_a_ordem_nao_depende_de_quantos_arquivos_o_dataset_tem(amostra, tmp_path):
    em_tres = reparte(amostra, tmp_path, [0, 40, 80, 120])
    assert dados.lista(em_tres).equals(dados.lista(amostra, 120))
    for fatia in ("train[3:9]", "train[30:100]"):
        pares = zip(dados.le(em_tres, fatia), dados.le(amostra, fatia), strict=True)
        assert all(np.array_equal(a[0], b[0]) and a[1] == b[1] for a, b in pares)


@pytest.mark.parametrize("de, para", [(b"PNG", b"GNP"), (b"IEND", b"")])
def test_dataset_danificado_ou_cortado_e_recusado(amostra, tmp_path, de, para):
    builder = reparte(amostra, tmp_path, [0, 40])
    [arquivo] = builder.info.splits["train"].filepaths
    arquivo.write_bytes(arquivo.read_bytes().replace(de, para, 1))
    with pytest.raises(ErroClaro, match="Apague essa pasta"):
        dados.lista(builder)


def test_poucas_fotos_sao_recusadas(amostra):
    with pytest.raises(ErroClaro, match="pelo menos 20"):
        dados.lista(amostra, 19)


def test_poucas_fotos_de_uma_classe_sao_recusadas(amostra, monkeypatch):
    """Com menos de 5, a validação cruzada não teria uma para cada grupo (aqui, com menos de 15)."""
    monkeypatch.setattr("detector.leitura.MINIMO_POR_CLASSE", 15)
    with pytest.raises(ErroClaro, match=r"\d+ da classe 0 e \d+ da classe 1; .* 15 de cada classe"):
        dados.lista(amostra, 20)


@pytest.mark.parametrize("codificacao", ["utf-8", "utf-8-sig", "cp1252"])
@pytest.mark.parametrize("separador", [",", ";"])
def test_a_lista_de_fotos_fora_serve_mesmo_salva_pelo_excel(tmp_path, codificacao, separador):
    linhas = [["arquivo", "motivo"], ["gatos/vovó 1.jpg", "não é gato"], ["Cat/2.jpg", ""]]
    texto = "\r\n".join(separador.join(linha) for linha in linhas)
    (tmp_path / "f.csv").write_bytes(texto.encode(codificacao))
    assert dados.le_fotos_fora(tmp_path / "f.csv") == ["gatos/vovó 1.jpg", "Cat/2.jpg"]


def test_lista_de_fotos_fora_que_nao_serve_e_recusada_numa_frase(tmp_path):
    assert dados.le_fotos_fora(None) == []
    (tmp_path / "f.csv").write_text("foto\n1.jpg\n")
    with pytest.raises(ErroClaro, match="coluna `arquivo`"):
        dados.le_fotos_fora(tmp_path / "f.csv")
    with pytest.raises(ErroClaro, match="não consegui ler"):
        dados.le_fotos_fora(tmp_path / "nada.csv")


# A pasta


def faz_pasta(pasta, classes=("gatos", "lobos"), quantas=11):
    for c, classe in enumerate(classes):
        (pasta / classe).mkdir(parents=True)
        for i in range(quantas):
            foto = np.full((30, 40, 3), 20 * i + 10 * c, "uint8")
            PIL.Image.fromarray(foto).save(pasta / classe / f"{i}.png")
    return pasta


def test_uma_pasta_vira_dataset_e_muda_com_as_fotos(tmp_path, capsys):
    pasta = faz_pasta(tmp_path / "bichos")
    (pasta / "lobos/lista.txt").write_text("não é foto")
    antes = dados.abre(pasta, tmp_path / "tfds")
    assert dados.classes(antes) == ["gatos", "lobos"]
    assert "Ficaram de fora 1 arquivos: lobos/lista.txt" in capsys.readouterr().out
    for nome, (foto, rotulo) in le_tudo(antes).items():
        classe, i = nome.removesuffix(".png").split("/")
        assert rotulo == ["gatos", "lobos"].index(classe)
        assert np.abs(foto.astype(int) - 20 * int(i) - 10 * rotulo).max() <= 1
    assert len(dados.lista(antes)) == 22
    assert dados.abre(pasta, tmp_path / "tfds").info.name == antes.info.name
    PIL.Image.new("RGB", (40, 30)).save(pasta / "gatos/3.png")
    assert dados.abre(pasta, tmp_path / "tfds").info.name != antes.info.name


@pytest.mark.parametrize(
    "classes, quantas, mensagem",
    [
        (["gatos", "lobos", "ursos"], 1, "encontrei 3: gatos, lobos, ursos"),
        (["gatos", "lobos"], 9, "só 9 fotos da classe gatos"),
    ],
)
def test_pasta_que_nao_serve_e_recusada_numa_frase(tmp_path, classes, quantas, mensagem):
    with pytest.raises(ErroClaro, match=mensagem):
        dados.abre(faz_pasta(tmp_path / "bichos", classes, quantas), tmp_path / "tfds")


# O download


@pytest.fixture
def parcial(tmp_path, monkeypatch):
    """O começo do arquivo, que uma execução morta deixou."""
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "f.zip.parcial").write_bytes(ARQUIVO[:1000])
    return tmp_path / "f.zip.parcial"


def baixa(url, parcial):
    """Completa o que chegou até agora; devolve o conteúdo do arquivo."""
    destino, sha256 = parcial.with_suffix(""), hashlib.sha256(ARQUIVO).hexdigest()
    rede.baixa(url, destino, len(ARQUIVO), sha256, prazo=1, espera=1)
    assert not parcial.exists()
    return destino.read_bytes()


def test_conexao_que_cai_e_retomada_de_onde_parou(parcial):
    with servindo(ARQUIVO, por_conexao=100_000) as servidor:
        assert baixa(servidor.url, parcial) == ARQUIVO
    assert servidor.faixas == ["bytes=1000-", "bytes=101000-", "bytes=201000-"]


def test_o_que_ja_chegou_inteiro_nao_e_baixado_de_novo(parcial):
    parcial.write_bytes(ARQUIVO)
    assert baixa("http://127.0.0.1:9/f.zip", parcial) == ARQUIVO


def test_morto_no_meio_para_de_gravar_e_a_proxima_execucao_continua(parcial):
    parcial.write_bytes(b"")
    codigo = "import pathlib, sys, detector.rede as r; url, destino, tamanho = sys.argv[1:]; "
    codigo += "r.baixa(url, pathlib.Path(destino), int(tamanho), '')"
    with servindo(ARQUIVO, pausa=0.05) as servidor:
        argumentos = [servidor.url, parcial.with_suffix(""), str(len(ARQUIVO))]
        processo = subprocess.Popen([sys.executable, "-c", codigo, *argumentos], cwd=RAIZ)
        while parcial.stat().st_size < 50_000 and processo.poll() is None:
            time.sleep(0.02)
        processo.kill()
        processo.wait()
        chegou = parcial.stat().st_size
        time.sleep(0.3)
        assert 0 < chegou == parcial.stat().st_size < len(ARQUIVO)
        servidor.pausa = 0
        assert baixa(servidor.url, parcial) == ARQUIVO
    assert servidor.faixas == [None, f"bytes={chegou}-"]


@pytest.mark.parametrize(
    "jeito, mensagem",
    [
        ({"tipo": "text/html"}, "não respondeu"),
        ({"por_conexao": 0, "cala": True}, "parou de mandar"),
        ({"por_conexao": 0}, "a conexão caiu"),
    ],
)
def test_servidor_que_nao_entrega_nao_prende_e_o_que_veio_fica(parcial, jeito, mensagem):
    inicio = time.monotonic()
    with servindo(ARQUIVO, **jeito) as servidor, pytest.raises(ConnectionError, match=mensagem):
        baixa(servidor.url, parcial)
    assert time.monotonic() - inicio < 6 and parcial.read_bytes() == ARQUIVO[:1000]


def test_dns_parado_nao_segura_a_decisao(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: time.sleep(3))
    inicio = time.monotonic()
    assert not rede.responde("http://exemplo.invalid/f.zip", prazo=0.2)
    assert time.monotonic() - inicio < 1


def test_conteudo_diferente_do_original_e_apagado(parcial):
    with servindo(ARQUIVO[::-1]) as servidor, pytest.raises(ConnectionError, match="apagado"):
        baixa(servidor.url, parcial)
    assert not list(parcial.parent.iterdir())


def test_sem_curl_recomeca_do_inicio_e_diz(parcial, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    with servindo(ARQUIVO) as servidor:
        assert baixa(servidor.url, parcial) == ARQUIVO
    assert servidor.faixas == [None] and "recomeço do início" in capsys.readouterr().out
