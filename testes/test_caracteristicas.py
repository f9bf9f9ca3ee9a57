"""Cada foto passa pela rede uma vez: o feito é lido, o que mudou é refeito, o estragado é dito."""

import importlib
import inspect
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers

from detector import backbones, caracteristicas, dados, gravacao, motores
from detector.erros import ErroClaro
from detector.preparo import redimensiona_img

N = 60
CORTE = "corte"


@pytest.fixture(scope="module")
def fotos(amostra):
    """A tabela das N primeiras fotos da amostra."""
    return dados.lista(amostra, N)


@pytest.fixture(autouse=True)
def partes_pequenas(monkeypatch):
    monkeypatch.setattr(caracteristicas, "FOTOS_POR_PARTE", 20)


def rede(semente=0):
    """Um backbone de brinquedo: em milissegundos, e com tudo o que um de verdade tem."""
    keras.utils.set_random_seed(semente)
    foto = keras.Input((224, 224, 3))
    x = layers.Conv2D(8, 5, 16, activation="relu", name=CORTE)(foto)
    x = layers.Conv2D(16, 3, activation="relu", name="depois")(x)
    return keras.Model(foto, layers.GlobalAveragePooling2D(name="media")(x), name="brinquedo")


@pytest.fixture
def extrai(amostra, fotos, tmp_path):
    """`extrai` com valores de sempre, menos os que o teste troca."""

    def chama(**outros):
        valores = {"builder": amostra, "fotos": fotos, "preparo_": redimensiona_img}
        valores |= {"backbone": rede(), "corte": CORTE, "motor": "keras", "pasta": tmp_path}
        return caracteristicas.extrai(**valores | outros)

    return chama


@pytest.fixture
def antes(extrai):
    """A primeira extração, das N fotos, em três partes."""
    primeira = extrai()
    assert primeira.extraidas == N and primeira.motor == "keras-float32" and primeira.segundos > 0
    return primeira


def iguais(uma, outra):
    assert np.array_equal(uma.vetores, outra.vetores)
    assert np.array_equal(uma.miniaturas, outra.miniaturas)
    assert np.array_equal(uma.mapas_de(range(N)), outra.mapas_de(range(N)))
    return uma.digest == outra.digest


# O que sai é o que a rede vê


def test_no_motor_desta_maquina_os_vetores_e_os_mapas_sao_os_da_rede(extrai, backbone, amostra):
    corte = backbones.acha_corte(backbone)
    extracao = extrai(backbone=backbone, corte=corte, motor="auto")
    assert extracao.motor == motores.candidatos("auto")[0]
    lote = np.stack([redimensiona_img(foto, 0)[0] for foto in dados.pega(amostra, range(N))])
    base, topo = backbones.divide(backbone, corte)
    vetores, mapas = backbone.predict(lote, verbose=0), extracao.mapas_de(range(N))
    folga = 0.2 if extracao.motor == "openvino-bf16" else 0.01
    assert np.abs(extracao.vetores - vetores).max() < folga * vetores.max()
    assert np.abs(mapas - base.predict(lote, verbose=0)).max() < folga * mapas.max()
    assert np.abs(topo.predict(mapas, verbose=0) - vetores).mean() < folga * vetores.mean()


def test_as_miniaturas_sao_as_fotos_em_cinza(antes, amostra):
    assert antes.miniaturas.shape == (N, 16, 16) and antes.miniaturas.dtype == np.uint8
    cinzas = [foto @ [0.2989, 0.587, 0.114] for foto in dados.pega(amostra, range(N))]
    em_quadros = np.stack(cinzas).reshape(N, 16, 2, 16, 2).mean((2, 4))  # a amostra tem 32×32
    assert np.abs(antes.miniaturas - em_quadros).max() < 2


@pytest.mark.parametrize("indices", [range(N), [3, 25], [0, 1, 19, 20, 59], [45]])
def test_os_mapas_vem_na_ordem_com_o_rotulo_de_cada_um(antes, fotos, amostra, indices):
    base, _ = backbones.divide(rede(), CORTE)
    lote = np.stack([redimensiona_img(foto, 0)[0] for foto in dados.pega(amostra, indices)])
    esperados = base.predict(lote, verbose=0)
    y = np.arange(N, dtype="float32")[:, np.newaxis]  # cada foto, um rótulo só dela
    pares = antes.mapas(indices, y)
    mapas, rotulos = zip(*pares.as_numpy_iterator(), strict=True)
    np.testing.assert_allclose(mapas, esperados, rtol=2e-3, atol=2e-3)
    assert np.ravel(rotulos).tolist() == list(indices) and len(pares) == len(indices)
    assert np.array_equal(mapas, np.stack(list(antes.mapas(indices).as_numpy_iterator())))


def test_nada_espera_a_thread_do_ajuste_automatico_do_tf_data(antes, amostra):
    """Com ele ligado, o fim de cada passagem trava, às vezes, tanto quanto ela demorou."""
    lotes = antes.mapas(range(N)).batch(32).prefetch(tf.data.AUTOTUNE)
    for dataset in (lotes, caracteristicas.pares(amostra, antes.partes, redimensiona_img)):
        assert dataset.options().autotune.enabled is False
    assert dados.le(amostra, "train[:9]").batch(2).options().autotune.enabled is False


def test_poucos_mapas_vem_em_qualquer_ordem_e_repetidos(antes):
    todos = antes.mapas_de(range(N))
    for indices in ([50, 3, 21, 3], np.array([59]), np.array([20, 0])):
        assert np.array_equal(antes.mapas_de(indices), todos[indices])


def test_sem_corte_os_mapas_sao_os_vetores(extrai):
    extracao = extrai(corte=None)
    assert np.array_equal(extracao.mapas_de([7, 30]), extracao.vetores[[7, 30]])


# O que já foi feito é aproveitado


def test_a_segunda_vez_le_tudo_e_nao_calcula_nada(antes, extrai, monkeypatch):
    monkeypatch.setattr(motores, "monta", lambda *a: pytest.fail("rodou a rede de novo"))
    depois = extrai()
    assert depois.extraidas == depois.segundos == 0 and iguais(antes, depois)


@pytest.mark.parametrize("tipo", ["vetores", "mapas"])
@pytest.mark.parametrize("estrago", ["apaga", "troca um bit", "põe outra parte no lugar"])
def test_so_a_parte_que_nao_serve_e_refeita(antes, extrai, tmp_path, estrago, tipo):
    outra, parte, _ = sorted(tmp_path.glob(f"{tipo}-*"))
    inteiro = parte.read_bytes()
    if estrago == "apaga":
        parte.unlink()
    elif estrago == "troca um bit":
        parte.write_bytes(inteiro[:999] + bytes([inteiro[999] ^ 1]) + inteiro[1000:])
    else:
        parte.write_bytes(outra.read_bytes())
    depois = extrai()
    assert depois.extraidas == 20 and iguais(antes, depois) and parte.read_bytes() == inteiro


def test_menos_ou_mais_fotos_aproveitam_as_partes_comuns(antes, extrai, fotos, amostra):
    menos = extrai(fotos=fotos[:50])
    assert menos.extraidas == 10 and np.array_equal(menos.vetores, antes.vetores[:50])
    assert extrai(fotos=fotos[:40]).extraidas == 0
    mais = extrai(fotos=dados.lista(amostra, 70))
    assert mais.extraidas == 10 and np.array_equal(mais.vetores[:N], antes.vetores)


# O que muda nunca é confundido


def de_outra_rede(img, label):
    img, label = redimensiona_img(img, label)
    return img * 2 - 1, label


MUDANCAS = {
    "preparação": {"preparo_": de_outra_rede},
    "pesos": {"backbone": rede(1)},
    "corte": {"corte": "depois"},
    "sem corte": {"corte": None},
    "motor": {"motor": "openvino"},
}


@pytest.mark.parametrize("mudanca", MUDANCAS)
def test_o_que_mudou_e_calculado_de_novo(antes, extrai, mudanca):
    outra = extrai(**MUDANCAS[mudanca])
    assert outra.extraidas == N and outra.digest != antes.digest
    assert extrai().extraidas == 0, "o que havia continua valendo"


def test_uma_foto_diferente_muda_so_a_parte_dela(antes, extrai, fotos):
    outras = fotos.copy()
    outras.loc[30, "sha256"] = "0" * 64
    outra = extrai(fotos=outras)
    assert outra.extraidas == 20 and outra.digest != antes.digest


@pytest.fixture
def muda_o_codigo(monkeypatch):
    """Função: `detector/<nome>.py` ganha uma linha, e o Python que o lê acaba de começar."""

    def muda(nome):
        modulo, le = importlib.import_module(f"detector.{nome}"), inspect.getsource
        gravacao._fonte.cache_clear()
        monkeypatch.setattr(inspect, "getsource", lambda o: le(o) + "\n#" * (o is modulo))

    yield muda
    gravacao._fonte.cache_clear()


@pytest.mark.parametrize("nome", ["backbones", "caracteristicas", "leitura", "motores", "preparo"])
def test_uma_linha_mudada_em_quem_faz_a_conta_refaz_a_conta(antes, extrai, muda_o_codigo, nome):
    muda_o_codigo(nome)
    outra = extrai()
    assert outra.extraidas == N and outra.digest != antes.digest


@pytest.mark.parametrize("nome", ["auditoria", "classificador", "exporta", "figuras", "metricas"])
def test_uma_linha_mudada_em_quem_nao_faz_a_conta_nao_refaz_nada(
    antes, extrai, muda_o_codigo, nome
):
    muda_o_codigo(nome)
    assert extrai().extraidas == 0


# O que dá errado


@pytest.mark.parametrize(("motor", "parte"), [("keras", 0.75), ("openvino", 0.75), ("openvino", 0)])
def test_dataset_danificado_e_dito_e_o_que_estava_pronto_fica(
    extrai, amostra, tmp_path, motor, parte
):
    copia = shutil.copytree(amostra.data_path, tmp_path / "amostra")
    [arquivo] = copia.glob("*tfrecord*")
    inteiro = arquivo.read_bytes()
    aqui = int(len(inteiro) * parte * N / amostra.info.splits["train"].num_examples) + 200
    arquivo.write_bytes(inteiro[:aqui] + b"estrago" + inteiro[aqui + 7 :])
    danificado = tfds.builder_from_directory(copia)
    with pytest.raises(ErroClaro, match=r"danificados ou incompletos. Apague essa pasta"):
        extrai(builder=danificado, motor=motor)
    if motor == "keras":  # o OpenVINO tem muitas fotos em andamento quando o estrago aparece
        assert extrai().extraidas == 20


def test_se_o_melhor_motor_falha_vem_o_segundo_e_nao_o_mais_lento(extrai, monkeypatch):
    tres, monta = ["openvino-bf16", "openvino-f32", "keras-float32"], motores.monta
    monkeypatch.setattr(motores, "candidatos", lambda motor: tres)
    monkeypatch.setattr(motores, "monta", lambda nome, *a: nome != tres[0] and monta(nome, *a))
    assert extrai(motor="auto").motor == "openvino-f32"


def test_o_motor_que_falha_da_lugar_ao_seguinte(extrai, monkeypatch, capsys):
    monkeypatch.setattr(motores, "COSSENO_MINIMO", 1.1)  # nenhum motor concorda tanto com o Keras
    extracao = extrai(motor="openvino")
    assert extracao.motor == "keras-float32" and extracao.extraidas == N
    assert "O motor openvino-f32 não funcionou aqui" in capsys.readouterr().out
