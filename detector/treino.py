"""Um `fit` que pode parar a qualquer momento: cada época fica guardada, e o treino segue da última.

Quem decide se uma época guardada serve é tudo o que o `fit` recebeu: o modelo (camadas, pesos,
otimizador, perda), os dados, os pesos das classes e das fotos, a ordem, os callbacks. Mudou
qualquer um, o treino recomeça; só o número de épocas pode crescer sem que nada se perca.
"""

import functools
import hashlib
import inspect
import json
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from detector.arquivos import de_fora, digesto, fontes, guarda_arrays, le_arrays

NAO_MUDAM_O_TREINO = ("epochs", "verbose")


class NaoSeResumeError(Exception):
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

        O que vem de um gerador, de dados sem fim ou de dados que mudam a cada passagem treina sem
        ser guardado, e isto é dito.
        """
        pedido = inspect.signature(self.modelo.fit).bind(*args, **opcoes)
        pedido.apply_defaults()
        pedido = pedido.arguments
        try:
            epocas = self._epocas(pedido)
        except NaoSeResumeError as erro:
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
            raise NaoSeResumeError("o modelo ainda não foi compilado ou não sabe o que recebe")
        if pedido["steps_per_epoch"] or pedido["validation_steps"]:
            raise NaoSeResumeError("com um número de passos por época, os dados podem não ter fim")
        modelo.optimizer.build(modelo.trainable_variables)
        passado = modelo._compile_config.config  # com as próprias funções, e não só os nomes delas
        try:
            rede = _rede(modelo)
        except NotImplementedError as erro:
            raise NaoSeResumeError("há no modelo uma camada sem get_config") from erro
        funcoes = {nome: passado.get(nome) for nome in ("loss", "metrics", "weighted_metrics")}
        resto = {k: v for k, v in pedido.items() if k not in NAO_MUDAM_O_TREINO}
        versoes = [keras.__version__, tf.__version__, *fontes(sys.modules[__name__])]
        variaveis = [*modelo.variables, *modelo.optimizer.variables]
        valores = [variavel.numpy() for variavel in variaveis]
        digest = digesto(rede, _resumo([funcoes, resto]), versoes, valores)
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


@functools.singledispatch
def _resumo(valor: Any) -> Any:
    """O que `digesto` aceita, e que muda quando `valor` muda; NaoSeResumeError se não há."""
    if hasattr(valor, "__array__"):  # tensores, tabelas do pandas
        return _resumo(np.asarray(valor))
    if isinstance(valor, tf.data.Dataset | keras.utils.PyDataset):
        return _dos_dados(valor)
    if callable(valor) and hasattr(valor, "__code__"):
        cercam = dict(inspect.getclosurevars(valor).nonlocals)
        dono = getattr(valor, "__self__", None)  # o objeto de que um método é
        return [_codigo(valor), _resumo([cercam, de_fora(valor), valor.__defaults__, dono])]
    if isinstance(valor, keras.callbacks.Callback):
        return [type(valor).__qualname__, *_do_callback(valor)]
    if hasattr(valor, "get_config"):
        return [type(valor).__qualname__, _codigo(type(valor)), str(valor.get_config())]
    raise NaoSeResumeError(f"não sei resumir {type(valor).__name__}")


@_resumo.register(type(None))
@_resumo.register(bool)
@_resumo.register(int)
@_resumo.register(float)
@_resumo.register(str)
def _(valor):
    return valor


@_resumo.register
def _(valor: np.ndarray):
    return repr(valor.tolist()) if valor.dtype.hasobject else valor


@_resumo.register
def _(valor: dict):
    return [[str(chave), _resumo(item)] for chave, item in valor.items()]


@_resumo.register(list)
@_resumo.register(tuple)
def _(valor):
    return [_resumo(item) for item in valor]


def _do_callback(callback: keras.callbacks.Callback) -> list:
    """As opções com que foi criado; de um que a pessoa escreveu, o código e tudo o que guarda."""
    if codigo := _codigo(type(callback)):
        do_treino = ("validation_data", "_model", "params")  # o Keras os põe ao começar
        return [codigo, _resumo({k: v for k, v in vars(callback).items() if k not in do_treino})]
    nomes = [*inspect.signature(type(callback).__init__).parameters][1:]
    opcoes = {nome: getattr(callback, nome, None) for nome in nomes}
    if opcoes.get("min_delta"):
        opcoes["min_delta"] = abs(opcoes["min_delta"])  # o Keras lhe troca o sinal ao começar
    return [_resumo(opcoes)]


def _dos_dados(dados: tf.data.Dataset | keras.utils.PyDataset) -> str:
    """Resume o que os dados entregam, passando por eles uma vez: só assim um `.map` é percebido."""
    resumos = [_do_lote(lote) for lote in _lotes(dados)]
    if resumos and _do_lote(next(_lotes(dados))) != resumos[0]:
        raise NaoSeResumeError("os dados mudam, ou trocam de ordem, a cada passagem")
    return digesto(resumos)


def _do_lote(lote: Any) -> str:
    resumo = hashlib.blake2b()
    for array in map(np.asarray, keras.tree.flatten(lote)):
        resumo.update(f"{array.dtype.str}{array.shape}".encode())
        resumo.update(np.ascontiguousarray(array))
    return resumo.hexdigest()


def _lotes(dados: tf.data.Dataset | keras.utils.PyDataset) -> Iterator:
    if isinstance(dados, tf.data.Dataset):
        if int(dados.cardinality()) == tf.data.INFINITE_CARDINALITY:
            raise NaoSeResumeError("os dados não têm fim")
        yield from dados.as_numpy_iterator()
    elif dados.num_batches is None:
        raise NaoSeResumeError("os dados não têm fim")
    else:
        yield from (dados[i] for i in range(dados.num_batches))


def _codigo(de_que: Any) -> str:
    """O código de uma função ou de uma classe; o do Keras, a versão dele já diz."""
    if (de_que.__module__ or "").startswith("keras."):
        return ""
    try:
        return inspect.getsource(de_que)
    except (OSError, TypeError) as erro:
        raise NaoSeResumeError(f"não encontro o código de {de_que.__qualname__}") from erro


def _rede(modelo: keras.Model) -> str:
    """Cada rede e camada, com o código e as opções; e quem se liga a quem, a perda e o otimizador.

    Os nomes não contam: o Keras os numera como quer, e "dense_3" hoje é "dense" amanhã.
    """
    descrito = [[_codigo(type(c)), c.trainable, c.get_config()] for c in _camadas(modelo)]
    descrito.append(modelo.get_compile_config())
    texto = json.dumps(descrito, sort_keys=True, default=str)
    texto = re.sub(r'"shared_object_id": \d+', "", texto)
    for i, nome in enumerate(dict.fromkeys(re.findall(r'"name": "(.*?)"', texto))):
        texto = texto.replace(f'"{nome}"', f'"nome {i}"')
    return texto


def _camadas(camada: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    yield camada
    for dentro in getattr(camada, "layers", []):
        yield from _camadas(dentro)
