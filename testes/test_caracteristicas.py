"""Cada foto passa pela rede uma vez: o feito é lido, o que mudou é refeito, o estragado é dito."""

import functools
import importlib
import inspect
import itertools
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers

from detector import arquivos, backbones, caracteristicas, dados, motores
from detector.ambiente import ErroClaro

N, POR_PARTE = 30, 10


@pytest.fixture(scope="module")
def fotos(amostra):
    """A tabela das N primeiras fotos da amostra."""
    return dados.lista(amostra, N)


@pytest.fixture(scope="module")
def lidas(amostra):
    """As mesmas fotos, como a rede as recebe."""
    return np.stack(dados.pega(dados.le, amostra, range(N)))


def rede(semente=0, media=layers.GlobalAveragePooling2D):
    """Um backbone de brinquedo: em milissegundos, e com tudo o que um de verdade tem."""
    keras.utils.set_random_seed(semente)
    foto = keras.Input((224, 224, 3))
    x = layers.Conv2D(8, 5, 16, activation="relu", name="corte")(foto)
    x = layers.Conv2D(16, 3, activation="relu", name="depois")(x)
    return keras.Model(foto, media(name="media")(x), name="brinquedo")


@pytest.fixture(scope="module")
def prontas(amostra, fotos, tmp_path_factory):
    """Uma pasta com as N fotos extraídas, em três partes; as partes são pequenas neste arquivo."""
    pasta = tmp_path_factory.mktemp("modelos")
    with pytest.MonkeyPatch.context() as troca:
        troca.setattr(caracteristicas, "FOTOS_POR_PARTE", POR_PARTE)
        primeira = caracteristicas.extrai(amostra, fotos, dados.le, rede(), "corte", "keras", pasta)
        assert (primeira.extraidas, primeira.motor) == (N, "keras-float32") and primeira.segundos
        yield pasta


@pytest.fixture
def extrai(amostra, fotos, prontas, tmp_path):
    """`extrai` com os valores de sempre, menos os que o teste troca; já está tudo pronto."""
    shutil.copytree(prontas, tmp_path / "modelos")

    def chama(**outros):
        valores = {"builder": amostra, "fotos": fotos, "leitor": dados.le, "backbone": rede()}
        valores |= {"corte": "corte", "motor": "keras", "pasta": tmp_path / "modelos"}
        return caracteristicas.extrai(**valores | outros)

    return chama


def test_no_motor_desta_maquina_tudo_e_o_da_rede(extrai, backbone, lidas, fotos):
    corte = backbones.acha_corte(backbone)
    extracao = extrai(backbone=backbone, corte=corte, motor="auto")
    assert extracao.motor == motores.candidatos("auto")[0]
    base, topo = backbones.divide(backbone, corte)
    vetores, mapas = backbone.predict(lidas, verbose=0), extracao.mapas_de(range(N))
    folga = 0.2 if extracao.motor == "openvino-bf16" else 0.01
    assert np.abs(extracao.vetores - vetores).max() < folga * vetores.max()
    assert np.abs(mapas - base.predict(lidas, verbose=0)).max() < folga * mapas.max()
    assert np.abs(topo.predict(mapas, verbose=0) - vetores).mean() < folga * vetores.mean()
    assert extracao.rotulos.ravel().tolist() == fotos["rotulo"].tolist()
    cinzas = (lidas @ [0.2989, 0.587, 0.114]).reshape(N, 16, 14, 16, 14).mean((2, 4))
    assert np.abs(extracao.miniaturas - cinzas).max() < 2 / 255
    assert np.array_equal(extracao.prova, dados.prova(dados.le))


def test_os_mapas_vem_na_ordem_com_o_rotulo_de_cada_um(extrai, lidas):
    extracao, (base, _) = extrai(), backbones.divide(rede(), "corte")
    todos = base.predict(lidas, verbose=0)
    extracao.rotulos = np.arange(N, dtype="float32")[:, np.newaxis]  # cada foto, um rótulo só dela
    for indices in ([*range(N)], [3, 15], [0, 1, 9, 10, 29]):
        pares = extracao.mapas(indices)
        mapas, rotulos = zip(*pares.as_numpy_iterator(), strict=True)
        np.testing.assert_allclose(mapas, todos[indices], rtol=2e-3, atol=2e-3)
        assert np.ravel(rotulos).tolist() == indices and len(pares) == len(indices)
    poucos = [25, 3, 11, 3]  # como vierem
    np.testing.assert_allclose(extracao.mapas_de(poucos), todos[poucos], rtol=2e-3, atol=2e-3)
    sem_corte = extrai(corte=None)
    assert np.array_equal(sem_corte.mapas_de([7, 15]), sem_corte.vetores[[7, 15]])


def test_nada_espera_a_thread_do_ajuste_automatico_do_tf_data(extrai, amostra):
    """Com ele ligado, o fim de cada passagem trava, às vezes, tanto quanto ela demorou."""
    lotes = extrai().mapas(range(N)).batch(32).prefetch(tf.data.AUTOTUNE)
    da_pessoa = dados.com_miniaturas(
        de_outra_rede, amostra, [parte.linhas for parte in extrai().partes]
    )
    for dataset in (lotes, da_pessoa, dados.le(amostra, "train[:9]").batch(2)):
        assert dataset.options().autotune.enabled is False


def test_outro_numero_no_nome_ou_quem_treina_nao_refazem_nada(extrai):
    """O Keras e o TensorFlow numeram o que criam: numa sessão nova, os números são outros."""
    for treina in (True, False):
        outra = rede()
        outra.trainable = treina
        assert extrai(leitor=dados.le, backbone=outra).extraidas == 0
    leitor = usa_a([0.5])
    extrai(leitor=leitor)
    for _ in range(12):
        dados.prova(leitor)
    assert extrai(leitor=leitor).extraidas == 0


@pytest.mark.parametrize("estrago", ["apaga", "troca um bit", "põe outra parte no lugar"])
def test_so_a_parte_que_nao_serve_e_refeita(extrai, estrago):
    antes = extrai()
    assert antes.extraidas == antes.segundos == 0
    outra, parte, _ = (parte.arquivo for parte in antes.partes)
    inteiro = parte.read_bytes()
    if estrago == "apaga":
        parte.unlink()
    elif estrago == "troca um bit":
        parte.write_bytes(inteiro[:999] + bytes([inteiro[999] ^ 1]) + inteiro[1000:])
    else:
        parte.write_bytes(outra.read_bytes())
    depois = extrai()
    assert depois.extraidas == POR_PARTE and depois.partes == antes.partes
    for nome in ("vetores", "rotulos", "miniaturas"):
        assert np.array_equal(getattr(depois, nome), getattr(antes, nome))
    assert parte.read_bytes() == inteiro


def test_menos_ou_mais_fotos_aproveitam_as_partes_comuns(extrai, fotos, amostra):
    antes, menos = extrai(), extrai(fotos=fotos[:25])
    assert menos.extraidas == 5 and np.array_equal(menos.vetores, antes.vetores[:25])
    assert extrai(fotos=fotos[:20]).extraidas == 0
    mais = extrai(fotos=dados.lista(amostra, 35))
    assert mais.extraidas == 5 and np.array_equal(mais.vetores[:N], antes.vetores)
    outras = fotos.copy()
    outras.loc[15, "sha256"] = "0" * 64
    assert extrai(fotos=outras).extraidas == POR_PARTE, "só a parte em que está a foto que mudou"


def de_outra_rede(builder, fatia):
    return dados.le(builder, fatia).map(lambda img, label: (img * 2 - 1, label))


def clareia(quanto):
    """Um leitor que clareia os gatos, e só eles; a foto de prova é de um cachorro."""
    return lambda builder, fatia: dados.le(builder, fatia).map(
        lambda img, label: (img + quanto * (1 - label), label)
    )


def usa_a(lista):
    """Como `clareia`, mas o valor está numa lista, e quem a usa é uma função que ele chama."""
    return functools.partial(
        dados.le, prepara=lambda img, y: clareado(*dados.redimensiona_img(img, y), lista)
    )


def clareado(img, label, lista):
    return img + lista[0] * (1 - label), label


def troca_os_rotulos(builder, fatia):
    return dados.le(builder, fatia).map(lambda img, label: (img, 1 - label))


def preto(img, label):
    return 0 * dados.redimensiona_img(img, label)[0], tf.cast(label, tf.float32)


MUDANCAS = {  # antes, depois
    "o leitor": ({}, {"leitor": de_outra_rede}),
    "o que o leitor traz consigo": ({"leitor": clareia(0)}, {"leitor": clareia(0.5)}),
    "os rótulos que ele dá": ({}, {"leitor": troca_os_rotulos}),
    "a preparação": ({}, {"leitor": functools.partial(dados.le, prepara=preto)}),
    "uma lista que a preparação usa": ({"leitor": usa_a([0.0])}, {"leitor": usa_a([0.5])}),
    "os pesos": ({}, {"backbone": rede(1)}),
    "uma camada sem pesos": ({}, {"backbone": rede(media=layers.GlobalMaxPooling2D)}),
    "o corte": ({}, {"corte": "depois"}),
    "o motor": ({}, {"motor": "openvino"}),
}


@pytest.mark.parametrize("mudanca", MUDANCAS)
def test_o_que_mudou_e_calculado_de_novo(extrai, mudanca):
    de, para = MUDANCAS[mudanca]
    antes, depois = extrai(**de), extrai(**para)
    assert depois.extraidas == N and not {*depois.partes} & {*antes.partes}
    assert extrai(**de).extraidas == 0, "o que havia continua valendo"
    if mudanca == "os rótulos que ele dá":
        assert np.array_equal(depois.rotulos, 1 - antes.rotulos)
        assert np.array_equal(depois.vetores, antes.vetores)


FAZEM_A_CONTA = ["backbones", "caracteristicas", "dados", "lite", "motores"]
NAO_FAZEM = ["auditoria", "classificador", "entrega", "exporta", "figuras", "metricas", "treino"]


@pytest.mark.parametrize("nomes", [*([nome] for nome in FAZEM_A_CONTA), NAO_FAZEM], ids=str)
def test_uma_linha_mudada_em_quem_faz_a_conta_e_so_nela_refaz_tudo(extrai, monkeypatch, nomes):
    """Dada uma linha a mais em cada módulo, e um Python que acaba de começar."""
    modulos = [importlib.import_module(f"detector.{nome}") for nome in nomes]
    le, vazio = inspect.getsource, functools.cache(arquivos._fonte.__wrapped__)
    monkeypatch.setattr(arquivos, "_fonte", vazio)
    monkeypatch.setattr(inspect, "getsource", lambda o: le(o) + "\n#" * (o in modulos))
    assert extrai().extraidas == (0 if nomes == NAO_FAZEM else N)


RUINS = {
    "fica só com os cachorros": lambda lidas: lidas.filter(lambda img, y: y == 1),
    "repete as fotos": lambda lidas: lidas.repeat(2),
    "dá dois rótulos": lambda lidas: lidas.map(lambda img, y: (img, tf.stack([y, 1 - y]))),
    "não dá o rótulo": lambda lidas: lidas.map(lambda img, y: img),
    "dá outro tamanho": lambda lidas: lidas.map(lambda img, y: (img[:200], y)),
    "falha com os gatos": lambda lidas: lidas.map(
        lambda img, y: (tf.ensure_shape(img[: tf.cast(1 + 223 * y, tf.int32)], (224, 224, 3)), y)
    ),
    "dá um dict": lambda lidas: lidas.map(lambda img, y: {"foto": img, "rotulo": y}),
    "dá três coisas": lambda lidas: lidas.map(lambda img, y: (img, y, y)),
    "dá inteiros": lambda lidas: lidas.map(lambda img, y: (tf.cast(img, tf.uint8), y)),
}


@pytest.mark.parametrize("nome", RUINS)
def test_leitor_que_nao_da_uma_foto_por_linha_e_recusado_numa_frase(extrai, tmp_path, nome):
    with pytest.raises(ErroClaro, match="leitor") as recusa:
        extrai(leitor=lambda b, f: RUINS[nome](dados.le(b, f)), pasta=tmp_path / "outra")
    assert "\n" not in str(recusa.value) and "Apague" not in str(recusa.value)
    assert not list(tmp_path.glob("outra/*")), "nada que outra execução aproveite"


@pytest.mark.parametrize(("motor", "parte"), [("keras", 0.75), ("openvino", 0.75), ("openvino", 0)])
def test_dataset_danificado_e_dito_e_o_que_estava_pronto_fica(
    extrai, amostra, tmp_path, motor, parte
):
    copia = shutil.copytree(amostra.data_path, tmp_path / "amostra")
    [arquivo] = copia.glob("*tfrecord*")
    inteiro, novos = arquivo.read_bytes(), {"motor": motor, "pasta": tmp_path / "outra"}
    aqui = int(len(inteiro) * parte * N / amostra.info.splits["train"].num_examples) + 200
    arquivo.write_bytes(inteiro[:aqui] + b"estrago" + inteiro[aqui + 7 :])
    with pytest.raises(ErroClaro, match=r"danificados ou incompletos. Apague essa pasta"):
        extrai(builder=tfds.builder_from_directory(copia), **novos)
    if motor == "keras":  # o OpenVINO tem muitas fotos em andamento quando o estrago aparece
        assert extrai(**novos).extraidas < N


def test_um_motor_que_perde_uma_foto_nao_guarda_a_parte_dela(extrai, monkeypatch, tmp_path):
    monta = motores.monta

    def perde(*pedido):
        roda = monta(*pedido)
        return lambda fotos: itertools.islice(roda(fotos), N - 1)

    monkeypatch.setattr(motores, "monta", perde)
    with pytest.raises(ErroClaro, match="o motor perdeu fotos: rode de novo"):
        extrai(pasta=tmp_path / "outra")
    assert len([*tmp_path.glob("outra/vetores-*")]) == N / POR_PARTE - 1


def test_o_motor_que_falha_da_lugar_ao_seguinte_e_nao_ao_mais_lento(extrai, monkeypatch):
    tres, monta = ["openvino-bf16", "openvino-f32", "keras-float32"], motores.monta
    monkeypatch.setattr(motores, "candidatos", lambda motor: tres)
    monkeypatch.setattr(motores, "monta", lambda nome, *a: nome != tres[0] and monta(nome, *a))
    outra = extrai(backbone=rede(1))
    assert outra.motor == "openvino-f32" and outra.extraidas == N
