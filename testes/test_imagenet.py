"""A nota é a da rede inteira, o limiar recusa o que não tem nada, e sem a cabeça tudo continua."""

import keras
import numpy as np
import pytest
import tensorflow_datasets as tfds
from keras import layers
from sklearn.metrics import roc_auc_score

from detector import dados, imagenet
from detector.ambiente import ErroClaro

PETS = np.array([*imagenet.CACHORROS, *imagenet.GATOS])


def conta(logits, indices):
    """A nota, sem pressa: em float64, da soma das exponenciais."""
    p = np.exp(logits.astype("float64"))
    dentro = p[:, indices].sum(axis=1)
    return np.log(dentro / (p.sum(axis=1) - dentro))


def rede_do_keras(meio):
    """Uma de keras.applications, com a camada `meio` entre a média e a Dense da ImageNet."""
    mapa = keras.Input((2, 2, 8))
    vetor = layers.GlobalAveragePooling2D()(mapa)
    return keras.Model(mapa, layers.Dense(1000)(meio(vetor)))


def test_a_nota_e_a_conta_feita_sem_pressa_e_nas_unidas_a_media():
    cabecas = [imagenet.cabeca(nome) for nome in ("EfficientNetLite0", "EfficientNetLite1")]
    vetores = np.random.default_rng(0).random((3, 2560), dtype="float32")
    logits = [v @ k + b for v, (k, b) in zip(np.split(vetores, 2, axis=1), cabecas, strict=True)]
    for n in (1, 2):
        obtidas = imagenet.Conhecidas(cabecas[:n], PETS).nota(vetores[:, : n * 1280])
        esperadas = np.mean([conta(z, PETS) for z in logits[:n]], axis=0)
        np.testing.assert_allclose(obtidas, esperadas, atol=1e-3)


def test_a_nota_de_uma_rede_do_keras_e_a_que_a_rede_inteira_daria_a_foto(monkeypatch):
    rede, mapas = rede_do_keras(layers.Dropout(0.5)), np.random.default_rng(0).random((3, 2, 2, 8))
    monkeypatch.setattr(keras.applications, "Xception", lambda weights: rede)
    sabe = imagenet.Conhecidas([imagenet.cabeca("Xception")], PETS)
    esperadas = conta(rede.predict(mapas, verbose=0), PETS)
    np.testing.assert_allclose(sabe.nota(mapas.mean(axis=(1, 2))), esperadas, atol=1e-4)


def test_os_indices_de_gatos_e_de_cachorros_sao_os_deles(amostra, backbone):
    fotos, y = zip(*dados.le(amostra, "train[0:60]").as_numpy_iterator(), strict=True)
    X = backbone.predict(np.stack(fotos), verbose=0)
    gatos, cachorros, os_dois = (
        imagenet.aprende("EfficientNetLite0", classes, X, y)
        for classes in (["Cat"], ["dogs"], ["gato", "cachorro"])
    )
    assert set(os_dois.indices) == {*gatos.indices, *cachorros.indices} == set(PETS)
    codigos = tfds.core.tfds_path("datasets/imagenet2012/labels.txt").read_text().split()
    pontas = [(codigos[i[0]], codigos[i[-1]], len(i)) for i in (gatos.indices, cachorros.indices)]
    assert pontas == [("n02123045", "n02124075", 5), ("n02085620", "n02113978", 118)]
    assert roc_auc_score(y, cachorros.nota(X) - gatos.nota(X)) > 0.85


def test_as_classes_de_outro_dataset_sao_as_que_as_fotos_lembram_ate_na_classe_menor(monkeypatch):
    """1.500 fotos que são da classe 7, e 15 em que a 9 mal aparece, espalhadas entre elas."""
    y = np.arange(1515) % 101 == 50
    logits = np.full((1515, 1000), -20, "float32")
    logits[:, 500] = np.log(0.9)
    logits[~y, 7], logits[y, 9] = np.log(0.1), np.log(0.01)
    logits[:, 11] = np.log(0.0005)
    direta = np.eye(1000, dtype="float32"), np.zeros(1000, "float32")  # o vetor é os logits
    monkeypatch.setattr(imagenet, "cabeca", lambda nome: direta)
    sabe = imagenet.aprende("EfficientNetLite0", ["rosa", "gato"], logits, y.astype(int))
    assert sabe.indices.tolist() == [7, 9, 500]
    np.testing.assert_allclose(sabe.nota(logits), conta(logits, sabe.indices), atol=1e-3)


def test_o_limiar_deixa_passar_99_por_cento_das_fotos_e_nunca_uma_sem_nada(backbone):
    """Por piores que sejam as fotos do treino; e as vazias não são as únicas sem nada."""
    notas = np.random.default_rng(0).permutation(np.linspace(1, 5, 1000))
    passam = np.mean(notas >= imagenet.limiar(notas, nota_do_vazio=[-3, -2]))
    assert passam == pytest.approx(0.99, abs=0.002)
    lisas = np.random.default_rng(0).random((8, 1, 1, 3)) * np.ones((1, 224, 224, 1))
    vetores = backbone.predict(np.concatenate([imagenet.fotos_vazias(), lisas]), verbose=0)
    sem_nada = imagenet.Conhecidas([imagenet.cabeca("EfficientNetLite0")], PETS).nota(vetores)
    assert (sem_nada < imagenet.limiar(np.full(100, -9.0), sem_nada[:-8])).all()


@pytest.mark.parametrize("motivo", ["sem rede", "não é uma única camada Dense"])
def test_a_cabeca_que_nao_veio_e_dita_numa_frase_e_nada_e_recusado(motivo, monkeypatch, capsys):
    def nao_serve(weights):
        if motivo == "sem rede":
            raise ErroClaro("URL fetch failure on https://…: None -- sem rede")
        return rede_do_keras(layers.LayerNormalization())

    monkeypatch.setattr(keras.applications, "Xception", nao_serve)
    nomes, vetores = "EfficientNetLite0+Xception", np.zeros((2, 8), "float32")
    sabe = imagenet.aprende(nomes, ["Cat", "Dog"], vetores, np.array([[0], [1]]))
    [frase] = capsys.readouterr().out.splitlines()
    assert nomes in frase and motivo in frase and '"nenhum dos dois"' in frase
    notas = sabe.nota(vetores)
    assert (notas >= imagenet.limiar(notas, notas)).all()
