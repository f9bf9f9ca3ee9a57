"""De onde vêm os dados, como são divididos e o que acontece quando o zip ou a rede não ajudam."""

import contextlib
import http.server
import io
import json
import os
import pathlib
import re
import socket
import threading
import time
import tracemalloc
import zipfile

import desempenho
import numpy as np
import pytest
from conftest import celulas


def jpeg(nb, semente, jfif=True):
    foto = np.random.default_rng(semente).integers(0, 256, (40, 50, 3), dtype="uint8")
    dados = nb.tf.io.encode_jpeg(foto).numpy()
    return dados if jfif else dados.replace(b"JFIF", b"XXXX")


def faz_zip(caminho, conteudo):
    with zipfile.ZipFile(caminho, "w") as z:
        for nome, dados in conteudo.items():
            z.writestr(nome, dados)
    return caminho


def fotos_boas(nb, quantas=6):
    return {f"PetImages/{classe}/{i}.jpg": jpeg(nb, i) for classe in ("Cat", "Dog") for i in range(quantas)}


def test_a_amostra_tem_as_features_do_dataset_de_verdade(nb, amostra):
    verdade = nb.tfds.builder("cats_vs_dogs").info.features
    assert set(amostra.info.features) == set(verdade)
    assert amostra.info.features["label"].names == verdade["label"].names == ["cat", "dog"]
    rotulos, arquivos = nb.le_rotulos(amostra, 2000)
    assert np.bincount(rotulos).tolist() == [1000, 1000] and len(set(arquivos)) == 2000
    assert sum(f.stat().st_size for f in pathlib.Path(amostra.data_dir).iterdir()) < 6_000_000


def test_ler_os_rotulos_nao_guarda_as_fotos_na_memoria(nb, amostra):
    tracemalloc.start()
    nb.le_rotulos(amostra, 2000)
    _, pico = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pico < 2_000_000, "as 2.000 fotos codificadas ocupam 4,7 MB"


@pytest.mark.parametrize("n", [20, 101, 2000, 23262])
def test_as_partes_sao_disjuntas_e_cobrem_tudo(nb, n):
    faixas = nb.divide(n)
    indices = [i for inicio, fim in faixas.values() for i in range(inicio, fim)]
    assert indices == list(range(n))
    treino, validacao, teste = (fim - inicio for inicio, fim in faixas.values())
    assert abs(treino - 0.8 * n) <= 1 and abs(validacao - 0.1 * n) <= 1 and abs(teste - 0.1 * n) <= 1


def test_poucas_fotos_sao_recusadas(nb):
    with pytest.raises(nb.ErroClaro, match="pelo menos 20"):
        nb.divide(19)


def test_num_dataset_de_varios_arquivos_as_faixas_seguem_a_ordem(nb, amostra):
    """O dataset inteiro vem em vários TFRecords; a fatia [a:b] tem de ser o pedaço a:b da leitura inteira."""
    repetida = desempenho.repete(nb, amostra, 5000)
    assert repetida.info.splits["train"].num_examples == 6000 and len(repetida.info.splits["train"].filepaths) == 3
    _, todos = nb.le_rotulos(repetida, 6000)
    _, uma = nb.le_rotulos(amostra, 2000)
    assert np.array_equal(todos, np.tile(uma, 3))
    pedaco = [e["image/filename"].decode() for e in nb.le_fotos(repetida, (1990, 2010), (3995, 4005)).as_numpy_iterator()]
    assert pedaco == [*todos[1990:2010], *todos[3995:4005]]


def test_ler_por_faixas_da_as_mesmas_fotos_na_mesma_ordem(nb, amostra):
    _, todos = nb.le_rotulos(amostra, 2000)
    pedacos = [e["image/filename"].decode() for e in nb.le_fotos(amostra, (1800, 1810), (3, 5)).as_numpy_iterator()]
    assert pedacos == [*todos[1800:1810], *todos[3:5]]


def test_zip_sem_as_fotos_sem_cabecalho_e_aceito(nb, tmp_path):
    construtor = nb.escolhe_dados("cats_vs_dogs", str(tmp_path / "tfds"), faz_zip(tmp_path / "f.zip", fotos_boas(nb)))
    assert construtor.info.splits["train"].num_examples == 12
    assert sorted(nb.le_rotulos(construtor, 12)[0]) == [0] * 6 + [1] * 6


def test_fotos_ruins_do_zip_ficam_de_fora_e_sao_contadas(nb, tmp_path, capsys):
    ruins = {"PetImages/Cat/100.jpg": jpeg(nb, 1, jfif=False), "PetImages/Cat/101.jpg": jpeg(nb, 1)[:400],
             "PetImages/Dog/102.jpg": b"", "PetImages/Dog/103.jpg": b"JFIF isto nao e foto", "PetImages/Dog/Thumbs.db": b"x",
             "../../fora/PetImages/Cat/1.jpg": jpeg(nb, 2), "LEIAME.txt": b"oi"}
    construtor = nb.escolhe_dados("cats_vs_dogs", str(tmp_path / "tfds"), faz_zip(tmp_path / "f.zip", fotos_boas(nb) | ruins))
    assert construtor.info.splits["train"].num_examples == 12
    assert "4 arquivos do zip ficaram de fora" in capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {"f.zip", "tfds"}


def test_fotos_de_tamanhos_absurdos_mas_inteiras_sao_fotos(nb, tmp_path):
    """De 1×1 a muito compridas: entram no dataset, e a rede as recebe como às outras."""
    tamanhos = [(1, 1), (1, 3000), (3000, 1), (4000, 4000)]
    estranhas = {f"PetImages/Dog/{900 + i}.jpg": nb.tf.io.encode_jpeg(np.full((*t, 3), 90, "uint8")).numpy()
                 for i, t in enumerate(tamanhos)}
    construtor = nb.escolhe_dados("cats_vs_dogs", str(tmp_path / "tfds"), faz_zip(tmp_path / "f.zip", fotos_boas(nb) | estranhas))
    fotos = [foto for foto, _ in nb.le_fotos(construtor, (0, 16)).map(nb.prepara).as_numpy_iterator()]
    assert len(fotos) == 16 and {foto.shape for foto in fotos} == {(224, 224, 3)}
    assert all(np.isfinite(foto).all() and 0 <= foto.min() <= foto.max() <= 1 for foto in fotos)


@pytest.mark.parametrize("errado, mensagem", [
    ({"MOTOR": "turbo"}, "use um destes: auto, keras"), ({"MOTOR": None}, "entre aspas"), ({"FOTOS": "nao/existe.jpg"}, "não existe"),
    ({"EPOCAS": 0}, "precisa ser um número inteiro, no mínimo 1"), ({"SEMENTE": 1.5}, "inteiro"), ({"SEMENTE": 2 ** 32}, "menor que"),
    ({"MAX_IMAGENS": True}, "inteiro"), ({"MAX_IMAGENS": 0}, "no mínimo 20"), ({"TAMANHO_LOTE": "32"}, "inteiro"),
    ({"TAMANHO_LOTE": None}, "inteiro"), ({"EPOCAS_AJUSTE_FINO": "3"}, "inteiro"), ({"REMOVE_SUSPEITAS": "não"}, "True ou False"),
    ({"EXPORTAR": None}, "True ou False"), ({"MODELOS": 2024}, "entre aspas"), ({"MODELOS": ""}, "entre aspas"),
    ({"BACKBONE": ["EfficientNetLite0"]}, "entre aspas"), ({"DATASET": None}, "entre aspas"), ({"DATA_DIR": 5}, "entre aspas"),
    ({"ARQUIVO_ZIP": True}, "entre aspas"), ({"FOTOS": ["a.jpg"]}, "entre aspas")], ids=str)
def test_parametro_errado_e_recusado_antes_de_tudo(nb, errado, mensagem):
    """O que o Python tomaria por outra coisa ("não" vale True, 0 vale "todas"), ou que só falharia adiante."""
    certos = {}
    exec(celulas("parameters")[0], {}, certos)
    nb.confere_parametros(**certos)
    nb.confere_parametros(**certos | {"MODELOS": pathlib.Path("m"), "MAX_IMAGENS": 20, "SEMENTE": 2 ** 32 - 1})
    [(nome, valor)] = errado.items()
    with pytest.raises(nb.ErroClaro, match=rf"{nome} = {re.escape(repr(valor))}: .*{mensagem}"):
        nb.confere_parametros(**certos | errado)


def test_keras_ja_carregado_com_outro_backend_pede_outro_kernel(nb, monkeypatch):
    monkeypatch.setattr(nb.keras.config, "backend", lambda: "jax")
    with pytest.raises(nb.ErroClaro, match="usando o jax. Reinicie o kernel"):
        nb.padroniza_bibliotecas()


@pytest.mark.parametrize("prepara,mensagem", [
    (lambda p: None, "não existe"),
    (lambda p: p.write_bytes(b"<html>pagina de erro</html>"), "não é um zip"),
    (lambda p: faz_zip(p, {"fotos/gato.jpg": b"JFIF"}), "não tem o que cats_vs_dogs precisa"),
])
def test_zip_que_nao_serve_e_explicado_e_nao_deixa_dataset_pela_metade(nb, tmp_path, prepara, mensagem):
    zip_ = tmp_path / "f.zip"
    prepara(zip_)
    with pytest.raises(nb.ErroClaro, match=mensagem):
        nb.escolhe_dados("cats_vs_dogs", str(tmp_path / "tfds"), str(zip_))
    assert not nb.tfds.builder("cats_vs_dogs", data_dir=str(tmp_path / "tfds")).is_prepared()


def test_disco_cheio_ao_preparar_nao_e_culpa_do_zip(nb, tmp_path, monkeypatch):
    def sem_espaco(self, *a, **k):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(nb.cats_vs_dogs.CatsVsDogs, "download_and_prepare", sem_espaco)
    with pytest.raises(nb.ErroClaro, match="o disco está cheio.*mude DATA_DIR"):
        nb.escolhe_dados("cats_vs_dogs", str(tmp_path / "tfds"), faz_zip(tmp_path / "f.zip", fotos_boas(nb)))


def test_o_que_ja_esta_preparado_vem_antes_do_zip(nb, tmp_path):
    data_dir = str(tmp_path / "tfds")
    nb.escolhe_dados("cats_vs_dogs", data_dir, faz_zip(tmp_path / "f.zip", fotos_boas(nb)))
    construtor = nb.escolhe_dados("cats_vs_dogs", data_dir, tmp_path / "nao-existe.zip")
    assert construtor.info.splits["train"].num_examples == 12


def test_dataset_desconhecido_e_recusado(nb):
    with pytest.raises(nb.ErroClaro, match="cats_vs_dogs"):
        nb.escolhe_dados("imagenet", None, None)


def test_classe_que_falta_e_recusada(nb, tmp_path):
    so_gatos = {nome: dados for nome, dados in fotos_boas(nb).items() if "Cat" in nome}
    construtor = nb.escolhe_dados("cats_vs_dogs", str(tmp_path / "tfds"), faz_zip(tmp_path / "f.zip", so_gatos))
    with pytest.raises(nb.ErroClaro, match="duas classes"):
        nb.le_rotulos(construtor, 6)


def test_tfrecord_danificado_e_recusado_com_o_que_fazer(nb, tmp_path):
    construtor = nb.escolhe_dados("cats_vs_dogs", str(tmp_path / "tfds"), faz_zip(tmp_path / "f.zip", fotos_boas(nb)))
    [arquivo] = construtor.info.splits["train"].filepaths
    dados = bytearray(arquivo.read_bytes())
    dados[len(dados) // 2] ^= 1
    arquivo.write_bytes(bytes(dados))
    with pytest.raises(nb.ErroClaro, match="Apague essa pasta"):
        nb.le_rotulos(construtor, 12)


@contextlib.contextmanager
def servidor(tipo):
    class Resposta(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(404 if tipo == "404" else 200)
            self.send_header("Content-Type", tipo)
            self.end_headers()

        def log_message(self, *a):
            pass

    s = http.server.HTTPServer(("127.0.0.1", 0), Resposta)
    threading.Thread(target=s.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{s.server_port}/f.zip"
    s.shutdown()


@pytest.mark.parametrize("tipo,esperado", [("application/zip", True), ("text/html", False), ("404", False)])
def test_so_um_servidor_que_entrega_arquivo_conta_como_resposta(nb, tipo, esperado):
    with servidor(tipo) as url:
        assert nb.servidor_responde(url) is esperado


def test_servidor_mudo_ou_dns_parado_nao_seguram_a_decisao(nb, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as mudo:
        inicio = time.monotonic()
        assert not nb.servidor_responde(f"http://127.0.0.1:{mudo.getsockname()[1]}/f.zip", segundos=1)
        assert time.monotonic() - inicio < 3
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: time.sleep(30))
    inicio = time.monotonic()
    assert not nb.servidor_responde("http://exemplo.invalid/f.zip", segundos=1)
    assert time.monotonic() - inicio < 3


def test_sem_rede_a_amostra_e_escolhida_e_anunciada(nb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(pathlib.Path(__file__).parent.parent)
    monkeypatch.setattr(nb, "servidor_responde", lambda url: False)
    construtor = nb.escolhe_dados("cats_vs_dogs", str(tmp_path), None)
    caixa = capsys.readouterr().out
    assert construtor.info.name == "cats_vs_dogs_amostra"
    assert "AMOSTRA EMBUTIDA" in caixa and "ARQUIVO_ZIP" in caixa and "não respondeu" in caixa
    assert len({len(linha) for linha in caixa.strip().splitlines()}) == 1, "a caixa tem de fechar"


def test_sem_nada_a_mensagem_diz_o_que_fazer(nb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(nb.ErroClaro, match="pasta amostra/ não está"):
        nb.escolhe_dados("amostra", None, None)


def test_a_amostra_versionada_e_a_que_o_script_gera(nb, amostra):
    """Decodifica sem perdas: os pixels são os inteiros que o pacote npm traz."""
    fotos = list(nb.le_fotos(amostra, (0, 50)).map(nb.decodifica).as_numpy_iterator())
    assert {f.shape for f, _ in fotos} == {(32, 32, 3)} and {f.dtype.name for f, _ in fotos} == {"uint8"}
    assert all(io.BytesIO(e["image"]).read(4) == b"\x89PNG" for e in nb.le_fotos(amostra, (0, 50)).as_numpy_iterator())


# O que uma preparação interrompida, um disco ruim ou outra ferramenta podem deixar em DATA_DIR

@pytest.fixture
def preparado(nb, tmp_path):
    """(DATA_DIR com 24 fotos preparadas, a pasta da versão, o zip de onde vieram)."""
    zip_ = faz_zip(tmp_path / "f.zip", fotos_boas(nb, 12))
    construtor = nb.escolhe_dados("cats_vs_dogs", str(tmp_path / "tfds"), zip_)
    return str(tmp_path / "tfds"), pathlib.Path(construtor.data_path), zip_


def test_preparo_interrompido_e_refeito_por_cima(nb, preparado):
    """Sem a descrição, a pasta não é um dataset: o TFDS a tomaria por pronta e não leria nada."""
    data_dir, pasta, zip_ = preparado
    for arquivo in pasta.glob("*.json"):
        arquivo.unlink()
    construtor = nb.escolhe_dados("cats_vs_dogs", data_dir, zip_)
    assert construtor.info.splits["train"].num_examples == 24 and len(nb.le_rotulos(construtor, 24)[0]) == 24


def test_restos_de_preparos_mortos_sao_apagados_e_os_de_agora_nao(nb, preparado):
    data_dir, pasta, zip_ = preparado
    velho, novo = pasta.parent / "incomplete.ABC123_4.0.1", pasta.parent / "incomplete.DEF456_4.0.1"
    for resto in (velho, novo):
        resto.mkdir()
    os.utime(velho, (time.time() - 7200,) * 2)
    (pasta / "dataset_info.json").unlink()
    nb.escolhe_dados("cats_vs_dogs", data_dir, zip_)
    assert not velho.exists() and novo.exists()


@pytest.mark.parametrize("estraga", [
    lambda p: (p / "dataset_info.json").write_text("{"), lambda p: (p / "dataset_info.json").write_bytes(b""),
    lambda p: sem_split(p / "dataset_info.json"),
    lambda p: com_tamanho(p / "dataset_info.json", []), lambda p: com_tamanho(p / "dataset_info.json", ["0"]),
], ids=["json aberto", "vazio", "sem o split train", "split vazio", "zero fotos"])
def test_descricao_estragada_ou_vazia_e_recusada_com_o_que_fazer(nb, preparado, estraga):
    data_dir, pasta, _ = preparado
    estraga(pasta)
    with pytest.raises(nb.ErroClaro, match="Apague a"):
        nb.escolhe_dados("cats_vs_dogs", data_dir, None)


def sem_split(caminho):
    caminho.write_text(json.dumps(json.loads(caminho.read_text()) | {"splits": []}))


def com_tamanho(caminho, partes):
    info = json.loads(caminho.read_text())
    info["splits"][0]["shardLengths"] = partes
    caminho.write_text(json.dumps(info))


def test_tfrecord_ausente_ou_cortado_entre_duas_fotos_e_recusado(nb, preparado):
    data_dir, pasta, _ = preparado
    [arquivo] = pasta.glob("*.tfrecord*")
    inteiro = arquivo.read_bytes()
    registro = 16 + int.from_bytes(inteiro[:8], "little")
    for dados in (inteiro[:registro], b"", None):
        arquivo.unlink() if dados is None else arquivo.write_bytes(dados)
        construtor = nb.escolhe_dados("cats_vs_dogs", data_dir, None)
        with pytest.raises(nb.ErroClaro, match="Apague essa pasta"):
            nb.le_rotulos(construtor, 24)


def dataset_a_mao(nb, pasta, fotos, classes=2):
    """Um dataset que outra ferramenta preparou, com os mesmos campos e o que ela bem quis dentro."""
    atributos = nb.tfds.features.FeaturesDict({
        "image": nb.tfds.features.Image(), "image/filename": nb.tfds.features.Text(),
        "label": nb.tfds.features.ClassLabel(num_classes=classes)})
    exemplos = [(i, {"image": io.BytesIO(foto), "image/filename": f"{i}.jpg", "label": i % classes})
                for i, foto in enumerate(fotos)]
    nb.tfds.dataset_builders.store_as_tfds_dataset(name="a_mao", version="1.0.0", data_dir=pasta, features=atributos,
                                                   split_datasets={"train": exemplos})
    return nb.tfds.builder_from_directory(pasta / "a_mao/1.0.0")


def test_rotulos_que_nao_sao_0_e_1_sao_recusados(nb, tmp_path):
    construtor = dataset_a_mao(nb, tmp_path, [jpeg(nb, i) for i in range(24)], classes=3)
    with pytest.raises(nb.ErroClaro, match=r"rótulos \[0, 1, 2\]"):
        nb.le_rotulos(construtor, 24)


def test_foto_que_nao_se_decodifica_e_dita_e_nao_vira_numero(nb, backbone, tmp_path):
    """O TFRecord está inteiro, mas dentro dele uma foto veio cortada ao meio."""
    fotos = [jpeg(nb, i) for i in range(24)]
    fotos[17] = fotos[17][:len(fotos[17]) // 2]
    construtor = dataset_a_mao(nb, tmp_path, fotos)
    with pytest.raises(nb.ErroClaro, match="danificados"):
        nb.extrai_caracteristicas(construtor, 24, backbone, "keras", tmp_path / "modelos")
    assert not list((tmp_path / "modelos").glob("*"))
