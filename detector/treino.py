"""Um `fit` que pode parar a qualquer momento: cada época fica guardada, e o treino segue da última.

Quem decide se uma época guardada serve é tudo o que o `fit` recebeu: o modelo (camadas, pesos,
otimizador, perda), os dados, os pesos das classes e das fotos, a ordem, os callbacks. Mudou
qualquer um, o treino recomeça; só o número de épocas pode crescer sem que nada se perca.
"""

import inspect
import json
import pathlib
import re
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from detector import resumo
from detector.arquivos import digesto, fontes, guarda_arrays, le_arrays

NAO_MUDAM_O_TREINO = ("epochs", "verbose")


class Retoma:
    """O mesmo modelo, com um `fit` que guarda cada época em `pasta` e continua da última.

    modelo: já compilado. Um treino interrompido, mesmo por um kill -9, termina com os pesos que
    teria sem a interrupção, desde que os dados venham sempre na mesma ordem (`shuffle=False`). Um
    Ctrl-C deixa o modelo como estava antes do `fit`: rodar a célula de novo continua o treino. O
    BackupAndRestore do Keras não basta: não vê os argumentos do `fit`, nem conta ao EarlyStopping
    o que aconteceu antes.
    """

    def __init__(self, modelo: keras.Model, pasta: pathlib.Path):
        self.modelo, self.pasta = modelo, pasta

    def fit(self, *args, **opcoes) -> keras.callbacks.History:
        """O `modelo.fit`, com os mesmos argumentos; devolve a história de todas as épocas.

        O que vem de um gerador, de dados sem fim ou de dados que mudam a cada passagem treina sem
        ser guardado, e isto é dito.
        """
        pedido = inspect.signature(self.modelo.fit).bind(*args, **opcoes)
        pedido.apply_defaults()
        pedido = pedido.arguments
        try:
            epocas = self._epocas(pedido)
        except resumo.NaoSeResumeError as erro:
            print(f"Este treino não fica guardado: {erro}.")
            return self.modelo.fit(*args, **opcoes)
        feitas = epocas.feitas(pedido["initial_epoch"], pedido["epochs"])
        if feitas:
            print(f"De {self.pasta.name}/ vieram {len(feitas)} épocas deste treino.")
            pedido["initial_epoch"] += len(feitas)
            if feitas[-1]["parou"]:
                pedido["epochs"] = pedido["initial_epoch"]
        chamados = [*_lista(pedido["callbacks"]), keras.callbacks.History()]
        pedido["callbacks"] = [*chamados, _Guarda(epocas, feitas, chamados)]
        antes = epocas.estado()
        try:
            return self.modelo.fit(**pedido)
        except BaseException:
            epocas.poe(antes)
            # Um tf.function interrompido enquanto era montado não serve mais: o Keras faz outro.
            self.modelo.train_function = self.modelo.test_function = None
            raise

    def _epocas(self, pedido: dict) -> "_Epocas":
        modelo = self.modelo
        if not (modelo.built and modelo.compiled):
            raise resumo.NaoSeResumeError(
                "o modelo ainda não foi compilado ou não sabe o que recebe"
            )
        if pedido["steps_per_epoch"] or pedido["validation_steps"]:
            raise resumo.NaoSeResumeError(
                "com um número de passos por época, os dados podem não ter fim"
            )
        modelo.optimizer.build(modelo.trainable_variables)
        passado = modelo._compile_config.config  # com as próprias funções, e não só os nomes delas
        try:
            rede = resumo.da_rede(modelo)
        except NotImplementedError as erro:
            raise resumo.NaoSeResumeError("há no modelo uma camada sem get_config") from erro
        funcoes = {nome: passado.get(nome) for nome in ("loss", "metrics", "weighted_metrics")}
        resto = {k: v for k, v in pedido.items() if k not in NAO_MUDAM_O_TREINO}
        versoes = [keras.__version__, tf.__version__, *fontes(sys.modules[__name__], resumo)]
        variaveis = [*modelo.variables, *modelo.optimizer.variables]
        valores = [variavel.numpy() for variavel in variaveis]
        digest = digesto(rede, resumo.resume([funcoes, resto]), versoes, valores)
        nome = re.sub(r"\W", "_", re.sub(r"_\d+$", "", modelo.name))  # "sequential_4" conta modelos
        return _Epocas(self.pasta, f"{nome}-{digest}", variaveis)


class _Epocas:
    """As épocas guardadas de um treino, uma em cada arquivo."""

    def __init__(self, pasta: pathlib.Path, nome: str, variaveis: list):
        self.pasta, self.nome, self.variaveis = pasta, nome, variaveis

    def _arquivo(self, epoca: int) -> tuple[pathlib.Path, str]:
        return self.pasta / f"{self.nome}-{epoca:03}.npz", f"{self.nome} {epoca}"

    def feitas(self, inicio: int, fim: int) -> list[dict]:
        """O que aconteceu em cada época guardada, da primeira à última que não falta."""
        feitas = []
        for epoca in range(inicio, fim):
            if (arrays := le_arrays(*self._arquivo(epoca))) is None:
                break
            feitas.append({"epoca": epoca, **json.loads(str(arrays["historia"]))})
        return feitas

    def estado(self) -> list[np.ndarray]:
        """Os pesos e o otimizador, como estão agora."""
        return [variavel.numpy() for variavel in self.variaveis]

    def poe(self, estado: list[np.ndarray]) -> None:
        for variavel, valor in zip(self.variaveis, estado, strict=True):
            variavel.assign(valor)

    def guarda(self, epoca: int, logs: dict, parou: bool) -> None:
        historia = {"logs": {nome: float(v) for nome, v in logs.items()}, "parou": parou}
        arrays = {f"variavel{i}": valor for i, valor in enumerate(self.estado())}
        guarda_arrays(*self._arquivo(epoca), historia=json.dumps(historia), **arrays)

    def no_fim_de(self, epoca: int) -> list[np.ndarray]:
        """Os pesos e o otimizador, como estavam no fim dessa época."""
        arrays = le_arrays(*self._arquivo(epoca))
        return [arrays[f"variavel{i}"] for i in range(len(self.variaveis))]


class _Guarda(keras.callbacks.Callback):
    """O último dos callbacks: mostra aos outros as épocas guardadas e guarda as novas."""

    def __init__(self, epocas: _Epocas, feitas: list[dict], ouvem: list):
        super().__init__()
        self.epocas, self.feitas, self.ouvem = epocas, feitas, ouvem

    def on_train_begin(self, logs=None):
        """Repete cada época, com os pesos que o modelo tinha nela.

        Assim o EarlyStopping, por exemplo, lembra qual foi a melhor e há quanto tempo.
        """
        for feita in self.feitas:
            epoca, estado = feita["epoca"], self.epocas.no_fim_de(feita["epoca"])
            for callback in self.ouvem:
                callback.on_epoch_begin(epoca)
            self.epocas.poe(estado)
            for callback in self.ouvem:
                callback.on_epoch_end(epoca, dict(feita["logs"]))
            self.epocas.poe(estado)  # um callback, como o que muda a taxa, já está contado nele

    def on_epoch_end(self, epoch, logs=None):
        self.epocas.guarda(epoch, logs, bool(self.model.stop_training))


def _lista(callbacks: Any) -> list:
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return list(callbacks.callbacks)
    return list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks] * bool(callbacks)
