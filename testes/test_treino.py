"""O mesmo `fit` não treina duas vezes, outro não recebe os pesos deste, e nada se perde no meio."""

import itertools

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from keras import layers, losses
from keras.callbacks import (
    CSVLogger,
    EarlyStopping,
    LearningRateScheduler,
    ReduceLROnPlateau,
    SwapEMAWeights,
)
from keras.optimizers import LossScaleOptimizer

from detector import treino

ACASO = np.random.default_rng(0)
X = ACASO.normal(size=(64, 8)).astype("float32")
Y = (X[:, :1] + ACASO.normal(size=(64, 1)) > 0).astype("float32")


def em_fila(*camadas):
    return keras.Sequential([keras.Input((8,)), *camadas, layers.Dense(1, "sigmoid")])


def cheia():
    """Uma rede com tudo o que guarda estado."""
    return em_fila(layers.Dense(8), layers.BatchNormalization(), layers.Dropout(0.3))


def cria(faz=em_fila, semente=1, taxa=0.1, **compila):
    """O modelo que `faz` devolve, sem nome: o Keras lhe dá um número, que cresce a cada vez."""
    keras.utils.set_random_seed(semente)
    modelo = faz()
    modelo(X[:1])
    compila = {"loss": "binary_crossentropy", "run_eagerly": True} | compila
    modelo.compile(**{"optimizer": keras.optimizers.Adam(taxa)} | compila)
    return modelo


def ajusta(pasta, modelo=None, **troca):
    """O `fit` de um notebook, com o que o teste troca; sem pasta, o do Keras, que nada guarda."""
    pedido = {"x": X[:48], "y": Y[:48], "batch_size": 16, "shuffle": False, "verbose": 0} | troca
    modelo = modelo or cria()
    return modelo, (treino.Retoma(modelo, pasta) if pasta else modelo).fit(**pedido)


def guardadas(pasta):
    """As épocas no disco; uma que se grave de novo é outro arquivo, mesmo com o mesmo nome."""
    return {(a.name, a.stat().st_ino) for a in pasta.glob("*.npz")}


def iguais(um, outro):
    """Diz se dois pares (modelo, história) terminaram no mesmo, bit a bit."""
    (modelo, historia), (outro_modelo, outra) = um, outro
    pesos = map(np.array_equal, modelo.get_weights(), outro_modelo.get_weights())
    medidas, outras = (
        {nome: np.asarray(valores).tolist() for nome, valores in h.history.items()}
        for h in (historia, outra)
    )
    return all(pesos) and medidas == outras and historia.epoch == outra.epoch


def em_lotes(faz=lambda x, y: (x, y), tamanho=16):
    return tf.data.Dataset.from_tensor_slices((X[:48], Y[:48])).map(faz).batch(tamanho)


def de(x):
    return {"x": x, "y": None, "batch_size": None}


def com(*callbacks):
    return {"callbacks": [*callbacks]}


def no(*faz, **compila):
    return {"modelo": cria(*faz, **compila)}


def ligada(junta):
    """Duas camadas iguais, ligadas por `junta`."""
    entrada = keras.Input((8,))
    saida = layers.Dense(1, "sigmoid")(junta(layers.Dense(4)(entrada), layers.Dense(4)(entrada)))
    return keras.Model(entrada, saida)


def compilada_dentro():
    """Uma cabeça que já tinha o seu otimizador, com o nome que o Keras lhe deu, dentro de outra."""
    cabeca = em_fila()
    cabeca.compile("adam", "mse")
    return keras.Sequential([keras.Input((8,)), layers.Dense(8), cabeca])


def semeia(n):
    keras.utils.set_random_seed(n)
    return {}


def com_outro_otimizador(nesterov):
    modelo = cria(optimizer=keras.optimizers.SGD(momentum=0.9))
    modelo.optimizer = keras.optimizers.SGD(momentum=0.9, nesterov=nesterov)
    return {"modelo": modelo}


def sem_decaimento(nomes):
    otimizador = keras.optimizers.AdamW(weight_decay=0.1)
    otimizador.exclude_from_weight_decay(var_names=nomes)
    return otimizador


def com_o_vies(treina):
    modelo = em_fila()
    modelo.layers[-1].bias.trainable = treina
    return modelo


MUDANCAS = {  # o que muda de n = 1 para n = 2
    "class_weight": lambda n: {"class_weight": {0: 1.0, 1: n}},
    "sample_weight": lambda n: {"sample_weight": np.linspace(0, n, 48)},
    "shuffle": lambda n: {"shuffle": n == 2},
    "os dados": lambda n: {"x": X[:48] * n},
    "os rótulos": lambda n: {"y": Y[:48] if n == 1 else 1 - Y[:48]},
    "o lote": lambda n: {"batch_size": 8 * n},
    "a validação": lambda n: {"validation_data": (X[48:], Y[48:] / n)},
    "a tabela": lambda n: {"x": pd.DataFrame(X[:48] * n)},
    "o map do tf.data": lambda n: de(em_lotes(lambda x, y: (n * x, y))),
    "o lote do tf.data": lambda n: de(em_lotes(tamanho=8 * n)),
    "a paciência": lambda n: com(EarlyStopping("loss", patience=n)),
    "mais um callback": lambda n: com(*[EarlyStopping("loss")] * (n - 1)),
    "a ativação": lambda n: no(lambda: em_fila(layers.Dense(4, ["relu", "tanh"][n - 1]))),
    "o Dropout": lambda n: no(lambda: em_fila(layers.Dropout(0.2 * n))),
    "quem treina": lambda n: no(lambda: em_fila(layers.Dense(4, trainable=n == 1))),
    "quem se liga a quem": lambda n: no(lambda: ligada(lambda a, b: a - b if n < 2 else b - a)),
    "uma conta no meio": lambda n: no(lambda: ligada(lambda a, b: a + n * b)),
    "os primeiros pesos": lambda n: no(semente=n),
    "a taxa": lambda n: no(taxa=0.1 / n),
    "o otimizador": lambda n: no(optimizer=["adam", "sgd"][n - 1]),
    "a semente do shuffle": lambda n: no() | semeia(n) | {"shuffle": True},
    "o otimizador, depois do compile": lambda n: com_outro_otimizador(n == 2),
    "quem perde peso": lambda n: no(optimizer=sem_decaimento(["bias", "kernel"][:n])),
    "um peso congelado": lambda n: no(lambda: com_o_vies(n == 1), optimizer="sgd"),
    "a perda": lambda n: no(loss=losses.BinaryCrossentropy(label_smoothing=n / 10)),
    "o nome da medida": lambda n: no(metrics=[keras.metrics.BinaryAccuracy(f"acuracia_{n}")]),
}


@pytest.mark.parametrize("nome", MUDANCAS)
def test_quem_muda_qualquer_coisa_treina_de_novo(nome, tmp_path, capsys):
    """Dado um treino guardado, quando só isto muda, então recomeça; e o de antes continua lá."""
    vistas = []
    for n in (1, 2):
        keras.backend.clear_session()  # num kernel novo, o Keras dá ao modelo o mesmo nome
        ajusta(tmp_path, **MUDANCAS[nome](n))
        vistas.append(guardadas(tmp_path))
    assert vistas[0] < vistas[1] and [*map(len, vistas)] == [1, 2]
    assert capsys.readouterr().out == ""


IGUAIS = {
    "arrays": lambda: no(cheia, run_eagerly=False) | {"validation_split": 0.2},
    "tf.data": lambda: de(em_lotes()) | {"validation_data": em_lotes()},
    "pesos das classes": lambda: {"verbose": 1, "class_weight": {0: 1, 1: 3}},
    "rede com ramos": lambda: no(lambda: ligada(lambda a, b: a + 2 * b)),
    "rede compilada": lambda: no(compilada_dentro),
    "média dos pesos": lambda: no(optimizer=keras.optimizers.SGD(use_ema=True)),
    "perda escalada": lambda: no(optimizer=LossScaleOptimizer(keras.optimizers.Adam())),
    "medida vigiada, que sobe": lambda: (
        no(metrics=["accuracy"]) | com(EarlyStopping("accuracy"), ReduceLROnPlateau("accuracy"))
    ),
}


@pytest.mark.parametrize("nome", IGUAIS)
def test_o_mesmo_fit_nao_treina_de_novo_e_da_o_que_o_keras_daria(nome, tmp_path):
    """Dado um treino guardado, quando nada muda, tudo vem do disco; os callbacks o veem passar."""
    feitos, vistos, diario = [], [], tmp_path / "diario.csv"
    for pasta in (None, tmp_path, tmp_path):
        antes = guardadas(tmp_path)
        pedido = IGUAIS[nome]()
        callbacks = [*pedido.pop("callbacks", []), EarlyStopping("loss"), CSVLogger(diario)]
        feitos.append(ajusta(pasta, **pedido, callbacks=callbacks, epochs=2))
        vistos.append(diario.read_text())
    assert guardadas(tmp_path) == antes and len(antes) == 2
    assert iguais(feitos[0], feitos[1]) and iguais(feitos[1], feitos[2])
    assert vistos[0] == vistos[1] == vistos[2] and vistos[0].count("\n") == 3


def test_mais_epocas_continuam_e_menos_usam_as_primeiras(tmp_path, capsys):
    def com_um_vetor():  # a medida dá dois números por época
        return cria(cheia, metrics=[keras.metrics.Precision([0.2, 0.5], name="precisao")])

    ajusta(tmp_path, com_um_vetor(), epochs=3)
    antes = guardadas(tmp_path)
    mais = ajusta(tmp_path, com_um_vetor(), epochs=5, verbose=2)
    assert iguais(mais, ajusta(None, com_um_vetor(), epochs=5)) and antes < guardadas(tmp_path)
    dito = capsys.readouterr().out
    assert "Epoch 4/5\n3/3" in dito and "Epoch 3/5" not in dito, "o que o Keras diz das que faltam"
    menos = ajusta(tmp_path, com_um_vetor(), epochs=2)
    assert iguais(menos, ajusta(None, com_um_vetor(), epochs=2)) and len(guardadas(tmp_path)) == 5


CALLBACKS = {
    "EarlyStopping": lambda: EarlyStopping(patience=1, restore_best_weights=True),
    "ReduceLROnPlateau": lambda: ReduceLROnPlateau(factor=0.5, patience=1, min_delta=1),
}


@pytest.mark.parametrize("nome", CALLBACKS)
def test_morto_entre_duas_epocas_termina_como_se_nada_fosse(nome, tmp_path):
    """Dadas só as primeiras épocas no disco, sejam quantas forem, o fim é o mesmo, bit a bit."""

    def treina(pasta):
        outros = com(CALLBACKS[nome]()) | {"validation_data": (X[48:], Y[48:]), "batch_size": 48}
        modelo = cria(lambda: em_fila(layers.Dropout(0.3)), taxa=0.5)
        return ajusta(pasta, modelo, epochs=4, **outros)

    inteiro = treina(None)
    feitas = len(inteiro[1].epoch)
    assert (feitas < 4) == (nome == "EarlyStopping"), "ou este teste não testa nada"
    for sobram in range(feitas):
        for epoca in range(sobram, feitas if sobram else 0):
            next(tmp_path.glob(f"*-{epoca:03}.npz")).unlink()
        antes = guardadas(tmp_path)
        assert iguais(treina(tmp_path), inteiro) and antes < guardadas(tmp_path)
        assert len(guardadas(tmp_path)) == feitas
    antes = guardadas(tmp_path)
    assert iguais(treina(tmp_path), inteiro) and antes == guardadas(tmp_path), "já tinha parado"


@pytest.mark.parametrize("run_eagerly", [True, False])
def test_depois_de_um_ctrl_c_basta_rodar_a_celula_de_novo(tmp_path, monkeypatch, run_eagerly):
    """Dados dois Ctrl-C, no meio de uma época ou do que o Keras monta antes, o `fit` continua."""
    passo, lotes = keras.Sequential.train_step, itertools.count()
    quando = (4, 9) if run_eagerly else (0, 1)

    def com_ctrl_c(modelo, dados):
        pedido = passo(modelo, dados)
        if next(lotes) in quando:
            raise KeyboardInterrupt
        return pedido

    def feito():  # a medida só cria as suas variáveis no primeiro lote
        return cria(cheia, run_eagerly=run_eagerly, metrics=["accuracy"])

    modelo, callbacks = feito(), com(EarlyStopping("loss", patience=9))
    primeiros = modelo.get_weights()
    monkeypatch.setattr(keras.Sequential, "train_step", com_ctrl_c)
    for epocas in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            ajusta(tmp_path, modelo, epochs=4, **callbacks)
        assert all(map(np.array_equal, modelo.get_weights(), primeiros))
        assert len(guardadas(tmp_path)) == epocas * run_eagerly
    continuado = ajusta(tmp_path, modelo, epochs=4, **callbacks)
    assert iguais(continuado, ajusta(None, feito(), epochs=4))


@pytest.mark.parametrize("estraga", [lambda b: b[:-9], lambda b: b[:900] + b[901:], lambda b: b""])
def test_uma_epoca_danificada_e_percebida_e_refeita(tmp_path, capsys, estraga):
    inteiro, antes = ajusta(tmp_path, epochs=3), guardadas(tmp_path)
    [arquivo] = tmp_path.glob("*-001.npz")
    arquivo.write_bytes(estraga(arquivo.read_bytes()))
    assert iguais(ajusta(tmp_path, epochs=3), inteiro)
    assert f"{arquivo.name} não serve" in capsys.readouterr().out
    assert len(guardadas(tmp_path) & antes) == 1, "a primeira serviu; as outras vêm depois"


def perda(y, p):
    return losses.binary_crossentropy(y, p)


class Perda(losses.BinaryCrossentropy):
    def call(self, y, p):
        return 2 * super().call(y, p)


def relu(x):
    """Não é a do Keras, que também só se conhece pelo nome."""
    return tf.maximum(x, -1)


class Camada(layers.Layer):
    def call(self, x):
        return 2 * x


class Rede(keras.Model):
    def __init__(self):
        super().__init__()
        self.cabeca = layers.Dense(1, "sigmoid")

    def call(self, x):
        return self.cabeca(x)


class Lotes(keras.utils.PyDataset):
    num_batches = 3

    def __getitem__(self, i):
        return X[16 * i : 16 * (i + 1)], Y[16 * i : 16 * (i + 1)]


def gerador():
    for _ in range(3):
        yield X[:16], Y[:16]


class Ritmo(keras.optimizers.schedules.LearningRateSchedule):
    __module__ = "__main__"  # como numa célula

    def __call__(self, passo):
        return 0.1

    def get_config(self):
        return {}


def para_na_segunda():
    callback = keras.callbacks.Callback()
    callback.on_epoch_begin = lambda epoca, logs=None: setattr(callback.model, "stop_training", 1)
    return callback


NAO_FICAM = {
    "um gerador": lambda: de(gerador()),
    "um PyDataset": lambda: de(Lotes()),
    "um tf.data sem fim": lambda: de(em_lotes().repeat()) | {"steps_per_epoch": 2},
    "épocas que continuam a anterior": lambda: de(em_lotes()) | {"steps_per_epoch": 2},
    "uma função que muda a taxa": lambda: com(LearningRateScheduler(lambda e, taxa: taxa / 2)),
    "um callback da pessoa": lambda: com(type("Anota", (keras.callbacks.Callback,), {})()),
    "um callback com um método trocado": lambda: com(para_na_segunda()),
    "quem faz outra coisa na última época": lambda: (
        no(optimizer=keras.optimizers.SGD(use_ema=True)) | com(SwapEMAWeights(swap_on_epoch=True))
    ),
    "um ritmo da pessoa": lambda: no(optimizer=LossScaleOptimizer(keras.optimizers.Adam(Ritmo()))),
    "uma perda da pessoa": lambda: no(loss=perda),
    "a perda do Keras, mudada": lambda: no(loss=Perda()),
    "uma medida da pessoa": lambda: no(metrics=[keras.metrics.MeanMetricWrapper(perda, "dela")]),
    "uma ativação da pessoa": lambda: no(lambda: em_fila(layers.Dense(4, relu))),
    "uma camada da pessoa": lambda: no(lambda: em_fila(Camada())),
    "um modelo da pessoa": lambda: no(Rede),
}


@pytest.mark.parametrize("nome", NAO_FICAM)
def test_o_que_mudaria_sem_se_perceber_treina_sem_ser_guardado_e_isto_e_dito(
    nome, tmp_path, capsys
):
    feito = ajusta(tmp_path, **NAO_FICAM[nome]())
    dito = capsys.readouterr().out
    assert dito.startswith("Este treino não fica guardado: ") and dito.count("\n") == 1
    assert not guardadas(tmp_path) and iguais(feito, ajusta(None, **NAO_FICAM[nome]()))


def test_dados_que_trocam_de_ordem_a_cada_passagem_nao_ficam_guardados(tmp_path, capsys):
    """Outra passagem daria outro treino: o guardado não seria o mesmo que o Keras faz."""
    for sempre_outra, ficam in ((True, 0), (False, 1)):
        lotes = em_lotes(tamanho=48).unbatch()
        lotes = lotes.shuffle(48, seed=1, reshuffle_each_iteration=sempre_outra)
        ajusta(tmp_path, **de(lotes.batch(16)))
        assert len(guardadas(tmp_path)) == ficam
        assert ("trocam de ordem" in capsys.readouterr().out) == sempre_outra
