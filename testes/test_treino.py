"""O mesmo `fit` não treina duas vezes, outro não recebe os pesos deste, e nada se perde no meio."""

import inspect
import itertools
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras.callbacks import EarlyStopping, LearningRateScheduler, ReduceLROnPlateau

from detector import treino

ACASO = np.random.default_rng(0)
X = ACASO.normal(size=(64, 8)).astype("float32")
Y = (X[:, :1] + ACASO.normal(size=(64, 1)) > 0).astype("float32")
TAXA = 0.1


def em_fila(*camadas):
    return keras.Sequential([keras.Input((8,)), *camadas, layers.Dense(1, "sigmoid")])


def cheia():
    """Uma rede com tudo o que guarda estado."""
    return em_fila(layers.Dense(8), layers.BatchNormalization(), layers.Dropout(0.3))


def cria(faz=em_fila, semente=1, taxa=TAXA, **compila):
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
    return all(pesos) and historia.history == outra.history and historia.epoch == outra.epoch


class Lotes(keras.utils.PyDataset):
    """Três lotes de 16 fotos, ou lotes sem fim."""

    def __init__(self, x=X, fim=3):
        super().__init__()
        self.x, self.fim = x, fim

    num_batches = property(lambda self: self.fim)

    def __getitem__(self, i):
        fatia = slice(16 * (i % 3), 16 * (i % 3 + 1))
        return self.x[fatia], Y[fatia]


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


def ritmo(epoca):
    return TAXA


def perda(y, p):
    return keras.losses.binary_crossentropy(y, p)


class Camada(layers.Layer):
    def call(self, x):
        return 2 * x


class Rede(keras.Model):
    def __init__(self):
        super().__init__()
        self.cabeca = layers.Dense(1, "sigmoid")

    def call(self, x):
        return self.cabeca(x)


class Esconde(keras.callbacks.Callback):
    def __init__(self, opcao):
        super().__init__()
        self._a_opcao = opcao

    def ritmo(self, epoca):
        return TAXA / self._a_opcao[0]


def compilada_dentro():
    """Uma cabeça que já tinha o seu otimizador, com o nome que o Keras lhe deu, dentro de outra."""
    cabeca = em_fila()
    cabeca.compile("adam", "mse")
    return keras.Sequential([keras.Input((8,)), layers.Dense(8), cabeca])


class Anota(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.__dict__.setdefault("visto", []).append((epoch, logs, self.model.get_weights()))


@pytest.fixture
def edita(monkeypatch):
    """Função: a `n`-ésima edição de uma função, de uma classe ou da constante TAXA."""
    edicoes, le = {}, inspect.getsource
    monkeypatch.setattr(inspect, "getsource", lambda o: f"{le(o)}#{edicoes.get(o)}")

    def faz(o, n):
        edicoes[o] = n
        monkeypatch.setattr(sys.modules[__name__], "TAXA", TAXA / n if o is ritmo else TAXA)
        return o

    return faz


MUDANCAS = {  # o que muda de n = 1 para n = 2
    "class_weight": lambda n, ed: {"class_weight": {0: 1.0, 1: n}},
    "sample_weight": lambda n, ed: {"sample_weight": np.linspace(0, n, 48)},
    "shuffle": lambda n, ed: {"shuffle": n == 2},
    "os dados": lambda n, ed: {"x": X[:48] * n},
    "os rótulos": lambda n, ed: {"y": Y[:48] if n == 1 else 1 - Y[:48]},
    "o lote": lambda n, ed: {"batch_size": 8 * n},
    "a validação": lambda n, ed: {"validation_data": (X[48:], Y[48:] / n)},
    "o map do tf.data": lambda n, ed: de(em_lotes(lambda x, y: (n * x, y))),
    "o lote do tf.data": lambda n, ed: de(em_lotes(tamanho=8 * n)),
    "o PyDataset": lambda n, ed: de(Lotes(n * X)),
    "a paciência": lambda n, ed: com(EarlyStopping("loss", patience=n)),
    "mais um callback": lambda n, ed: com(*[EarlyStopping("loss")] * (n - 1)),
    "o código do callback": lambda n, ed: com(ed(Anota, n)()),
    "a opção que o callback esconde": lambda n, ed: com(Esconde([n])),
    "o objeto de que um método é": lambda n, ed: com(LearningRateScheduler(Esconde([n]).ritmo)),
    "o que a função traz consigo": lambda n, ed: com(LearningRateScheduler(lambda e, lr: lr / n)),
    "o padrão de um argumento": lambda n, ed: com(LearningRateScheduler(lambda e, lr=0.1 / n: lr)),
    "a constante que a função usa": lambda n, ed: com(LearningRateScheduler(ed(ritmo, n))),
    "o código da perda": lambda n, ed: no(loss=ed(perda, n)),
    "o código da medida": lambda n, ed: no(metrics=[ed(perda, n)]),
    "o código da camada": lambda n, ed: no(lambda: em_fila(ed(Camada, n)())),
    "o código do modelo": lambda n, ed: no(ed(Rede, n)),
    "o Dropout": lambda n, ed: no(lambda: em_fila(layers.Dropout(0.2 * n))),
    "quem treina": lambda n, ed: no(lambda: em_fila(layers.Dense(4, trainable=n == 1))),
    "quem se liga a quem": lambda n, ed: no(lambda: ligada(lambda a, b: a - b if n < 2 else b - a)),
    "uma conta no meio": lambda n, ed: no(lambda: ligada(lambda a, b: a + n * b)),
    "os primeiros pesos": lambda n, ed: no(semente=n),
    "a taxa": lambda n, ed: no(taxa=0.1 / n),
    "o otimizador": lambda n, ed: no(optimizer=["adam", "sgd"][n - 1]),
}


@pytest.mark.parametrize("nome", MUDANCAS)
def test_quem_muda_qualquer_coisa_treina_de_novo(nome, tmp_path, capsys, edita):
    """Dado um treino guardado, quando só isto muda, então recomeça; e o de antes continua lá."""
    vistas = [set()]
    for n in (1, 2):
        keras.backend.clear_session()  # num kernel novo, o Keras dá ao modelo o mesmo nome
        ajusta(tmp_path, **MUDANCAS[nome](n, edita))
        vistas.append(guardadas(tmp_path))
    dito = capsys.readouterr().out
    assert vistas[1] <= vistas[2] and "vieram" not in dito
    assert [*map(len, vistas)] == [0, 1, 2] or dito.count("não fica guardado") == 2


IGUAIS = {
    "arrays": lambda: no(cheia, run_eagerly=False) | {"validation_split": 0.2},
    "tf.data": lambda: de(em_lotes()) | {"validation_data": em_lotes()} | no(Rede),
    "PyDataset": lambda: de(Lotes()) | {"verbose": 1, "class_weight": {0: 1, 1: 3}},
    "código da pessoa": lambda: no(lambda: em_fila(Camada()), loss=perda),
    "rede compilada": lambda: no(compilada_dentro),
    "média dos pesos": lambda: no(optimizer=keras.optimizers.SGD(use_ema=True)),
}


@pytest.mark.parametrize("nome", IGUAIS)
def test_o_mesmo_fit_nao_treina_de_novo_e_da_o_que_o_keras_daria(nome, tmp_path):
    """Dado um treino guardado, quando nada muda, tudo vem do disco; os callbacks o veem passar."""
    feitos, vistos = [], []
    for pasta in (None, tmp_path, tmp_path):
        antes, anota = guardadas(tmp_path), Anota()
        feitos.append(ajusta(pasta, **IGUAIS[nome]() | com(EarlyStopping("loss"), anota), epochs=2))
        vistos.append(keras.tree.map_structure(np.array, anota.visto))
    assert guardadas(tmp_path) == antes and len(antes) == 2
    assert iguais(feitos[0], feitos[1]) and iguais(feitos[1], feitos[2])
    for visto in vistos[1:]:
        keras.tree.map_structure(np.testing.assert_array_equal, visto, vistos[0])


def test_mais_epocas_continuam_e_menos_usam_as_primeiras(tmp_path, capsys):
    ajusta(tmp_path, cria(cheia), epochs=3)
    antes = guardadas(tmp_path)
    mais = ajusta(tmp_path, cria(cheia), epochs=5, verbose=2)
    assert iguais(mais, ajusta(None, cria(cheia), epochs=5)) and antes < guardadas(tmp_path)
    dito = capsys.readouterr().out
    assert "Epoch 4/5\n3/3" in dito and "Epoch 3/5" not in dito, "o que o Keras diz das que faltam"
    menos = ajusta(tmp_path, cria(cheia), epochs=2)
    assert iguais(menos, ajusta(None, cria(cheia), epochs=2)) and len(guardadas(tmp_path)) == 5


CALLBACKS = {
    "EarlyStopping": lambda: EarlyStopping(patience=1, restore_best_weights=True),
    "ReduceLROnPlateau": lambda: ReduceLROnPlateau(factor=0.5, patience=1, min_delta=1),
    "LearningRateScheduler": lambda: LearningRateScheduler(lambda epoca, taxa: taxa * 0.7),
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

    def feito():  # a medida só cria as suas variáveis no primeiro lote
        return cria(cheia, run_eagerly=run_eagerly, metrics=["accuracy"])

    modelo, lotes = feito(), itertools.count()
    primeiros, passo, callback = (
        modelo.get_weights(),
        modelo.train_step,
        EarlyStopping("loss", min_delta=0.1, patience=9),
    )

    def com_ctrl_c(dados):
        pedido = passo(dados)
        if next(lotes) in ((4, 9) if run_eagerly else (0, 1)):
            raise KeyboardInterrupt
        return pedido

    monkeypatch.setattr(modelo, "train_step", com_ctrl_c)
    for epocas in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            ajusta(tmp_path, modelo, epochs=4, callbacks=[callback])
        assert all(map(np.array_equal, modelo.get_weights(), primeiros))
        assert len(guardadas(tmp_path)) == epocas * run_eagerly
    assert iguais(
        ajusta(tmp_path, modelo, epochs=4, callbacks=[callback]), ajusta(None, feito(), epochs=4)
    )


@pytest.mark.parametrize("estraga", [lambda b: b[:-9], lambda b: b[:900] + b[901:], lambda b: b""])
def test_uma_epoca_danificada_e_percebida_e_refeita(tmp_path, capsys, estraga):
    inteiro, antes = ajusta(tmp_path, epochs=3), guardadas(tmp_path)
    [arquivo] = tmp_path.glob("*-001.npz")
    arquivo.write_bytes(estraga(arquivo.read_bytes()))
    assert iguais(ajusta(tmp_path, epochs=3), inteiro)
    assert f"{arquivo.name} não serve" in capsys.readouterr().out
    assert len(guardadas(tmp_path) & antes) == 1, "a primeira serviu; as outras vêm depois"


def sem_fim():
    while True:
        yield X[:16], Y[:16]


FORMATO = (tf.TensorSpec((16, 8)), tf.TensorSpec((16, 1)))
NAO_FICAM = {
    "um gerador": sem_fim,
    "um tf.data sem fim": lambda: em_lotes().repeat(),
    "outro": lambda: tf.data.Dataset.from_generator(sem_fim, output_signature=FORMATO),
    "um PyDataset sem fim": lambda: Lotes(fim=None),
    "épocas que continuam a anterior": em_lotes,
}


@pytest.mark.parametrize("nome", NAO_FICAM)
def test_o_que_nao_se_pode_retomar_treina_sem_ser_guardado_e_isto_e_dito(nome, tmp_path, capsys):
    passos = {"steps_per_epoch": 2, "epochs": 2}
    feito = ajusta(tmp_path, **de(NAO_FICAM[nome]()) | passos)
    dito = capsys.readouterr().out
    assert dito.startswith("Este treino não fica guardado: ") and dito.count("\n") == 1
    assert not guardadas(tmp_path) and iguais(feito, ajusta(None, **de(NAO_FICAM[nome]()) | passos))


def test_dados_que_trocam_de_ordem_a_cada_passagem_nao_ficam_guardados(tmp_path, capsys):
    """Outra passagem daria outro treino: o guardado não seria o mesmo que o Keras faz."""
    for sempre_outra, ficam in ((True, 0), (False, 1)):
        lotes = em_lotes(tamanho=48).unbatch()
        lotes = lotes.shuffle(48, seed=1, reshuffle_each_iteration=sempre_outra)
        ajusta(tmp_path, **de(lotes.batch(16)))
        assert len(guardadas(tmp_path)) == ficam
        assert ("trocam de ordem" in capsys.readouterr().out) == sempre_outra
