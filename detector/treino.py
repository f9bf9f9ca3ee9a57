"""Um `fit` que pode parar a qualquer momento: cada época fica guardada, e o treino segue da última.

Quem decide se uma época guardada serve é tudo o que o `fit` recebeu: o modelo (camadas, pesos,
otimizador, perda), os dados, os pesos das classes e das fotos, a ordem, os callbacks. Mudou um, o
treino recomeça; só o número de épocas pode ser outro. Onde uma mudança não se perceberia (uma
função ou uma camada da pessoa), o treino não fica guardado.
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

from detector.arquivos import SIMPLES, digesto, fontes, guarda_arrays, le_arrays


class NaoSeGuardaError(Exception):
    """Há no `fit` algo cuja mudança não se perceberia."""


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

        O que usa um gerador, dados sem fim ou que mudam a cada passagem, uma função ou uma classe
        da pessoa treina sem ser guardado, e isto é dito.
        """
        pedido = inspect.signature(self.modelo.fit).bind(*args, **opcoes)
        pedido.apply_defaults()
        pedido = pedido.arguments
        try:
            nome = _nome(self.modelo, pedido)
        except NaoSeGuardaError as erro:
            print(f"Este treino não fica guardado: {erro}.")
            return self.modelo.fit(*args, **opcoes)
        callbacks = [*keras.tree.flatten(pedido["callbacks"] or []), keras.callbacks.History()]
        guarda = _Guarda(self.modelo, self.pasta, nome, callbacks)
        feitas = guarda.procura(pedido["initial_epoch"], pedido["epochs"])
        if feitas:
            print(f"De {self.pasta.name}/ vieram {len(feitas)} épocas deste treino.")
            pedido["initial_epoch"] += len(feitas)
            if feitas[-1]["parou"]:
                pedido["epochs"] = pedido["initial_epoch"]
        pedido["callbacks"] = [*callbacks, guarda]
        antes = guarda.estado()
        try:
            return self.modelo.fit(**pedido)
        except BaseException:
            guarda.poe(antes)
            # Um tf.function interrompido enquanto era montado não serve mais: o Keras faz outro.
            self.modelo.train_function = self.modelo.test_function = None
            raise


class _Guarda(keras.callbacks.Callback):
    """O último dos callbacks: mostra aos outros as épocas guardadas e guarda as novas."""

    def __init__(self, modelo: keras.Model, pasta: pathlib.Path, nome: str, outros: list):
        super().__init__()
        self.variaveis = [*modelo.variables, *modelo.optimizer.variables]
        self.pasta, self.nome, self.outros = pasta, nome, outros
        self.feitas = []  # o que aconteceu em cada época guardada

    def procura(self, inicio: int, fim: int) -> list[dict]:
        """As épocas guardadas, da primeira à última que não falta."""
        for epoca in range(inicio, fim):
            arrays = le_arrays(*self._arquivo(epoca))
            if arrays is None:
                break
            self.feitas.append(json.loads(str(arrays["historia"])))
        return self.feitas

    def on_train_begin(self, logs=None):
        """Repete cada época, com os pesos dela: o EarlyStopping fica sabendo qual foi a melhor."""
        for feita in self.feitas:
            arrays = le_arrays(*self._arquivo(feita["epoca"]))
            estado = [arrays[f"variavel{i}"] for i in range(len(self.variaveis))]
            for callback in self.outros:
                callback.on_epoch_begin(feita["epoca"])
            self.poe(estado)
            for callback in self.outros:
                callback.on_epoch_end(feita["epoca"], dict(feita["logs"]))
            self.poe(estado)  # um callback, como o que muda a taxa, já está contado nele

    def on_epoch_end(self, epoch, logs=None):
        medidas = {nome: float(valor) for nome, valor in logs.items()}
        historia = {"epoca": epoch, "logs": medidas, "parou": bool(self.model.stop_training)}
        arrays = {f"variavel{i}": valor for i, valor in enumerate(self.estado())}
        guarda_arrays(*self._arquivo(epoch), historia=json.dumps(historia), **arrays)

    def estado(self) -> list[np.ndarray]:
        """Os pesos e o otimizador, como estão agora."""
        return [variavel.numpy() for variavel in self.variaveis]

    def poe(self, estado: list[np.ndarray]) -> None:
        for variavel, valor in zip(self.variaveis, estado, strict=True):
            variavel.assign(valor)

    def _arquivo(self, epoca: int) -> tuple[pathlib.Path, str]:
        return self.pasta / f"{self.nome}-{epoca:03}.npz", f"{self.nome} {epoca}"


def _nome(modelo: keras.Model, pedido: dict) -> str:
    """O nome do modelo e o digest de tudo de que o treino depende; ou NaoSeGuardaError."""
    if not (modelo.built and modelo.compiled):
        raise NaoSeGuardaError("o modelo ainda não foi compilado ou não sabe o que recebe")
    if pedido["steps_per_epoch"] or pedido["validation_steps"]:
        raise NaoSeGuardaError("com um número de passos por época, os dados podem não ter fim")
    modelo.optimizer.build(modelo.trainable_variables)
    resto = {nome: valor for nome, valor in pedido.items() if nome not in ("epochs", "verbose")}
    valores = [v.numpy() for v in (*modelo.variables, *modelo.optimizer.variables)]
    versoes = [keras.__version__, tf.__version__, *fontes(sys.modules[__name__])]
    nome = re.sub(r"\W", "_", _sem_numero(modelo.name))
    return f"{nome}-{digesto(_do_modelo(modelo), _descreve(resto), valores, versoes)}"


def _sem_numero(nome: str) -> str:
    """O nome sem os números do Keras: "dense_3" e "keras_tensor_9CLONE" são outros amanhã."""
    return re.sub(r"_\d+", "", nome)


def _do_modelo(modelo: keras.Model) -> list:
    """As camadas e as opções delas, como se ligam, a perda, as medidas e o otimizador."""
    objetos = [*modelo._flatten_layers(), *keras.tree.flatten(modelo._compile_config.config)]
    for objeto in [*objetos, *_guardados(objetos)]:
        modulo = getattr(objeto, "__module__", None) or "builtins"
        if modulo.partition(".")[0] not in ("keras", "builtins"):
            nome = getattr(objeto, "__name__", type(objeto).__name__)
            raise NaoSeGuardaError(f"uma mudança em {nome} não se perceberia")
    try:
        rede = keras.saving.serialize_keras_object(modelo)
    except (NotImplementedError, TypeError) as erro:
        raise NaoSeGuardaError("o Keras não sabe descrever este modelo") from erro
    compilado = rede.pop("compile_config")
    compilado["optimizer"]["config"].pop("name")  # "adam_2"
    texto = json.dumps(rede, sort_keys=True)
    if re.search(r'"module": "(?!keras\b)|"__lambda__"', texto + json.dumps(compilado)):
        raise NaoSeGuardaError("há no modelo código que não é do Keras")
    for i, nome in enumerate(dict.fromkeys(re.findall(r'"name": "(.*?)"', texto))):
        texto = texto.replace(f'"{nome}"', f'"{_sem_numero(nome)} {i}"')
    return [texto, compilado]


def _guardados(objetos: list) -> list:
    """As funções e os objetos que eles guardam: de uma camada, a ativação e a regularização."""
    valores = [valor for objeto in objetos for valor in getattr(objeto, "__dict__", {}).values()]
    return [valor for valor in valores if callable(valor) or hasattr(valor, "get_config")]


def _descreve(valor: Any) -> Any:
    """O que `digesto` aceita, e que muda quando `valor` muda. Levanta NaoSeGuardaError."""
    if valor is None or isinstance(valor, SIMPLES):
        return valor
    if isinstance(valor, dict):
        return [[str(chave), _descreve(item)] for chave, item in valor.items()]
    if isinstance(valor, list | tuple):
        return [_descreve(item) for item in valor]
    if isinstance(valor, tf.data.Dataset):
        return _dos_dados(valor)
    if hasattr(valor, "__array__") and not np.asarray(valor).dtype.hasobject:
        return np.asarray(valor)  # também os tensores e as tabelas do pandas
    tipo = type(valor)
    if isinstance(valor, keras.callbacks.Callback) and tipo.__module__.startswith("keras."):
        opcoes = {nome: getattr(valor, nome, None) for nome in inspect.signature(tipo).parameters}
        return [tipo.__name__, _descreve(opcoes)]
    nome = getattr(valor, "__name__", tipo.__name__)
    raise NaoSeGuardaError(f"uma mudança em {nome} não se perceberia")


def _dos_dados(dados: tf.data.Dataset) -> list[str]:
    """O digest de cada lote, passando por todos uma vez: só assim um `.map` é percebido."""
    if dados.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise NaoSeGuardaError("os dados não têm fim")
    lotes = [_do_lote(lote) for lote in dados.as_numpy_iterator()]
    if lotes and _do_lote(next(dados.as_numpy_iterator())) != lotes[0]:
        raise NaoSeGuardaError("os dados mudam, ou trocam de ordem, a cada passagem")
    return lotes


def _do_lote(lote: Any) -> str:
    return digesto(_descreve(keras.tree.flatten(lote)))
