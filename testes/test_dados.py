"""O leitor: toda foto sai pronta para a rede, igual à que o PIL abre, e na mesma ordem."""

import itertools
import json
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from sklearn.datasets import load_sample_image

from detector import dados, fotos, origem
from detector.ambiente import ErroClaro
from detector.dados import LADO, redimensiona_img

ACASO = np.random.default_rng(0)


@pytest.mark.parametrize("formato", [(375, 500, 3), (1, 1, 3), (3, 900, 3), (224, 224, 3)])
def test_a_saida_tem_sempre_o_mesmo_formato_tipo_e_faixa(formato):
    xadrez = ACASO.choice([0, 255], formato).astype("uint8")  # o bicúbico passaria de 0 e de 255
    img, label = redimensiona_img(xadrez, 1)
    assert img.shape == (LADO, LADO, 3) and img.dtype == tf.float32
    assert tf.reduce_min(img) >= 0 and tf.reduce_max(img) <= 1
    assert label.dtype == tf.float32 and label == 1


def test_a_conta_e_a_bicubica_do_pil():
    for lado in (32, LADO):
        foto = ACASO.integers(60, 200, (lado, lado, 3), dtype="uint8")
        pelo_pil = PIL.Image.fromarray(foto).resize((LADO, LADO), PIL.Image.Resampling.BICUBIC)
        diferenca = np.abs(redimensiona_img(foto, 0)[0] * 255 - np.asarray(pelo_pil, "float32"))
        assert diferenca.max() < 2  # o PIL arredonda duas vezes; o bilinear passaria de 20


@pytest.mark.parametrize("formato", [(50, 60), (50, 60, 1), (50, 60, 4), (1, 50, 60, 3)])
def test_o_que_nao_e_uma_foto_colorida_e_recusado(formato):
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        redimensiona_img(np.zeros(formato, "uint8"), 0)


def pelo_tfds(builder, fatia):
    """[(arquivo da foto, rótulo)] de uma fatia, lida pelo TFDS sozinho."""
    exemplos = builder.as_dataset(fatia, decoders={"image": tfds.decode.SkipDecoding()})
    return [(e["image"], e["label"]) for e in tfds.as_numpy(exemplos)]


def test_o_leitor_da_as_fotos_na_ordem_iguais_as_que_o_pil_abre_ou_prontas(amostra, tmp_path):
    """Dados PNGs, e JPEGs: no que toca às cores, o TensorFlow e o PIL os decodificam iguais."""
    for classe, nome in (("a", "china.jpg"), ("b", "flower.jpg")):
        (tmp_path / classe).mkdir()
        for i in range(10):
            recorte = load_sample_image(nome)[20 * i : 20 * i + 101, 30 * i : 30 * i + 77]
            PIL.Image.fromarray(recorte).save(tmp_path / classe / f"{i}.png")
    jpegs = origem.abre(tmp_path, tmp_path / ".tfds")
    for builder, folga in ((amostra, 0), (jpegs, 1)):
        como_vieram = dados.le(builder, "train[:20]", prepara=None).as_numpy_iterator()
        trios = (pelo_tfds(builder, "train[:20]"), como_vieram, dados.le(builder, "train[:20]"))
        for (arquivo, y), (foto, rotulo), pronta in zip(*trios, strict=True):
            assert np.abs(fotos.abre_foto(arquivo).astype(int) - foto).max() <= folga
            assert rotulo == y and all(map(np.array_equal, redimensiona_img(foto, y), pronta))


def test_pega_da_as_fotos_pedidas_na_ordem_pedida(amostra):
    certas, pedidas = pelo_tfds(amostra, "train"), [7, 1999, 0, 7]
    lidas = dados.pega(dados.le, amostra, pedidas, prepara=None)
    esperadas = [fotos.abre_foto(certas[i][0]) for i in pedidas]
    assert all(map(np.array_equal, lidas, esperadas)) and len(lidas) == 4
    assert [foto.shape for foto in dados.pega(dados.le, amostra, np.array([3]))] == [(224, 224, 3)]
    assert len(dados.pega(dados.le, amostra, [])) == 0


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


def test_a_lista_tem_o_nome_o_rotulo_e_um_resumo_de_cada_foto(amostra):
    tabela = dados.lista(amostra)
    assert tabela["arquivo"].is_unique and tabela["sha256"].is_unique
    assert tabela["rotulo"].tolist() == [rotulo for _, rotulo in pelo_tfds(amostra, "train")]
    assert tabela["rotulo"].mean() == 0.5 and dados.lista(amostra, 50).equals(tabela[:50])


def test_dataset_danificado_cortado_ou_pequeno_e_recusado(amostra, tmp_path, monkeypatch):
    """Com menos de 5 de cada, a validação cruzada não daria uma a cada grupo (aqui, de 15)."""
    for i, (de, para) in enumerate([(b"PNG", b"GNP"), (b"IEND", b"")]):
        builder = reparte(amostra, tmp_path / str(i), [0, 40])
        [arquivo] = builder.info.splits["train"].filepaths
        arquivo.write_bytes(arquivo.read_bytes().replace(de, para, 1))
        with pytest.raises(ErroClaro, match="Apague essa pasta"):
            dados.lista(builder)
    info = pathlib.Path(reparte(amostra, tmp_path / "2", [0, 40]).data_path) / "dataset_info.json"
    info.write_text(info.read_text().replace("[40]", "[41]"))  # cortado no fim de um registro
    with pytest.raises(ErroClaro, match="Apague essa pasta"):
        dados.lista(tfds.builder_from_directory(info.parent))
    for n, dito in {1: "fotos lidas: 1, ", 19: "fotos lidas: 19, .* pelo menos 20"}.items():
        with pytest.raises(ErroClaro, match=dito):
            dados.lista(amostra, n)
    monkeypatch.setattr(dados, "MINIMO_POR_CLASSE", 15)
    with pytest.raises(ErroClaro, match=r"\d+ da classe 0 e \d+ da classe 1; .* 15 de cada classe"):
        dados.lista(amostra, 20)


def test_a_prova_distingue_um_leitor_do_outro():
    outros = [
        lambda img, label: (redimensiona_img(img, 0)[0] * 2 - 1, label),
        lambda img, label: (tf.image.resize(img, (LADO, LADO)) / 255, label),
        lambda img, label: redimensiona_img(img, 1 - label),
    ]
    esta = dados.prova(dados.le)
    assert np.array_equal(esta, dados.prova(lambda builder, fatia: dados.le(builder, fatia)))
    for outro in outros:
        prova = dados.prova(lambda builder, fatia, outro=outro: dados.le(builder, fatia, outro))
        assert not np.allclose(esta, prova, atol=0.02)
