"""Treinar podendo parar a qualquer momento, misturar pesos e validar com todas as fotos."""

import json
import pathlib
import sys

import keras
import numpy as np
import sklearn
import tensorflow as tf
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedKFold,
    StratifiedShuffleSplit,
    cross_val_predict,
)
from threadpoolctl import threadpool_limits

from detector.gravacao import digesto, fontes, guarda_arrays, le_arrays, uma_vez

FORCAS = (0.1, 0.3, 1.0)  # valores de C, o inverso da regularização, entre os quais se escolhe


class Retoma(keras.callbacks.Callback):
    """Callback que guarda cada época num arquivo inteiro e continua da última.

    No fim do treino, deixa no modelo os pesos da época com a menor log loss de validação; para
    antes, se ela passa `paciencia` épocas sem melhorar. Use `fit(initial_epoch=retoma.epoca)` e
    dados sempre na mesma ordem (`shuffle=False`): um treino interrompido, mesmo por um Ctrl-C e um
    novo `fit`, termina com os mesmos pesos que teria sem a interrupção. O BackupAndRestore do Keras
    não basta: guarda em dois arquivos, e uma morte entre eles repete uma época calada.

    modelo: compilado, com a métrica `log_loss`. depende_de: o que determina os dados do treino, do
    que `gravacao.digesto` aceita; os pesos iniciais, as camadas e o otimizador já contam.
    """

    def __init__(
        self,
        pasta: pathlib.Path,
        nome: str,
        modelo: keras.Model,
        depende_de: list,
        paciencia: int = sys.maxsize,
    ):
        super().__init__()
        modelo.optimizer.build(modelo.trainable_variables)
        self.paciencia = paciencia
        self.historico: list[dict[str, float]] = []
        self._melhor = modelo.get_weights()
        self._variaveis = [*modelo.variables, *modelo.optimizer.variables]
        self._estado = self._valores()
        compilado = modelo.get_compile_config()
        compilado["optimizer"]["config"].pop("name", None)  # "adam_1": o Keras numera como quer
        receita = [_camadas(modelo), compilado, digesto(modelo.get_weights())]
        versoes = [keras.__version__, tf.__version__, *fontes(sys.modules[__name__])]
        self._digest = digesto(nome, receita, depende_de, versoes)
        self._arquivo = pasta / f"{nome}-{self._digest}.dados"
        self._le()

    @property
    def melhor_epoca(self) -> int:
        """Número (1 = primeira) da época com a menor log loss de validação; 0 se não há nenhuma."""
        return _melhor_epoca(self.historico)

    @property
    def epoca(self) -> int:
        """Em que época recomeçar: a seguinte à última guardada, ou nenhuma se o treino já parou."""
        feitas = len(self.historico)
        return sys.maxsize if feitas - self.melhor_epoca >= self.paciencia else feitas

    def on_train_begin(self, logs=None):
        """Volta ao fim da última época completa: um Ctrl-C deixa o modelo no meio da seguinte."""
        for variavel, valor in zip(self._variaveis, self._estado, strict=True):
            variavel.assign(valor)

    def on_epoch_end(self, epoch, logs=None):
        historico = [*self.historico, {chave: float(valor) for chave, valor in logs.items()}]
        estado, melhor = self._valores(), self._melhor
        if _melhor_epoca(historico) == len(historico):
            melhor = self.model.get_weights()
        arrays = {f"melhor{i}": peso for i, peso in enumerate(melhor)}
        arrays |= {f"variavel{i}": valor for i, valor in enumerate(estado)}
        guarda_arrays(self._arquivo, self._digest, historico=json.dumps(historico), **arrays)
        self.historico, self._estado, self._melhor = historico, estado, melhor  # ou tudo, ou nada
        self.model.stop_training = self.epoca == sys.maxsize

    def on_train_end(self, logs=None):
        self.model.set_weights(self._melhor)

    def _valores(self) -> list[np.ndarray]:
        return [variavel.numpy() for variavel in self._variaveis]

    def _le(self) -> None:
        """Lembra como o modelo e o otimizador estavam na última época guardada, se há uma."""
        if arrays := le_arrays(self._arquivo, self._digest):
            self.historico = json.loads(str(arrays["historico"]))
            self._melhor = [arrays[f"melhor{i}"] for i in range(len(self._melhor))]
            self._estado = [arrays[f"variavel{i}"] for i in range(len(self._variaveis))]


def _melhor_epoca(historico: list[dict[str, float]]) -> int:
    perdas = [epoca["val_log_loss"] for epoca in historico]
    return int(np.argmin(np.nan_to_num(perdas, nan=np.inf))) + 1 if perdas else 0


def _camadas(modelo: keras.Model) -> list:
    """As opções de cada camada, e se ela treina; sem os nomes, que o Keras numera como quer."""
    resumo = []
    for camada in modelo.layers:
        if isinstance(camada, keras.Model):
            resumo.append(_camadas(camada))
        else:
            opcoes = {nome: valor for nome, valor in camada.get_config().items() if nome != "name"}
            resumo.append([type(camada).__name__, opcoes, camada.trainable])
    return resumo


def mistura(
    modelo: keras.Model, antes: list[np.ndarray], depois: list[np.ndarray], parte: float
) -> None:
    """Põe no modelo (1 − parte) dos pesos de antes e parte dos de depois, de 0 a 1.

    É o WiSE-FT de Wortsman et al., arXiv:2109.01903.
    """
    modelo.set_weights([(1 - parte) * a + parte * d for a, d in zip(antes, depois, strict=True)])


def validacao_cruzada(
    X: np.ndarray, y: np.ndarray, semente: int, pasta: pathlib.Path, grupos: int = 5
) -> np.ndarray:
    """Probabilidade (n,) da classe 1 para cada foto, por quem nunca a viu.

    X: vetores (n, canais). y: rótulos (n,), 0 ou 1. A cabeça é a regressão logística do
    scikit-learn: a mesma conta da `Dense(1, sigmoid)`, levada até convergir. A regularização é
    escolhida dentro de cada grupo, entre três valores, sem olhar as fotos que ele vai avaliar.
    pasta: onde o resultado fica guardado.
    """
    divide = StratifiedKFold(grupos, shuffle=True, random_state=semente)
    dentro = StratifiedShuffleSplit(1, test_size=0.2, random_state=semente)
    cabeca = LogisticRegression(max_iter=1000)
    escolhe = GridSearchCV(cabeca, {"C": FORCAS}, scoring="neg_log_loss", cv=dentro)

    def calcula():
        with threadpool_limits(1):  # com duas threads, nestas contas pequenas, levou 20 vezes mais
            p = cross_val_predict(escolhe, X, y, cv=divide, method="predict_proba")
        return {"p": p[:, 1]}

    depende_de = [X, y, semente, grupos, sklearn.__version__, fontes(sys.modules[__name__])]
    return uma_vez(pasta, "validacao_cruzada", depende_de, calcula)["p"]
