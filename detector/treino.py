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

from detector.arquivos import SIMPLES, de_fora, digesto, fontes, guarda_arrays, le_arrays

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

        O que vem de um gerador, ou de dados sem fim, treina sem ser guardado, e isto é dito.
        """
        pedido = inspect.signature(self.modelo.fit).bind(*args, **opcoes)
        pedido.apply_defaults()
        pedido = pedido.arguments
        try:
            epocas = self._epocas(pedido)
        except NaoSeResumeError as erro:
            print(f"Este treino não fica guardado: {erro}.")
            return self.modelo.fit(*args, **opcoes)
        inicio, fim = pedido["initial_epoch"], pedido["epochs"]
        feitas = epocas.feitas(inicio, fim)
        if feitas:
            print(f"De {self.pasta.name}/ vieram {len(feitas)} épocas deste treino.")
        guarda = _Guarda(epocas, feitas)
        chamados = keras.callbacks.CallbackList(
            [*_lista(pedido["callbacks"]), keras.callbacks.History(), guarda],
            add_history=True,  # quer dizer: deixa em modelo.history a que está na lista
            add_progbar=pedido["verbose"] != 0,
            verbose=0 if pedido["verbose"] == 0 else 1,
            epochs=fim,
            steps=None,
            model=self.modelo,
        )
        guarda.ouvem = chamados.callbacks
        antes = epocas.estado()
        try:
            if len(feitas) == fim - inicio or (feitas and feitas[-1]["parou"]):
                chamados.on_train_begin()
                self.modelo.optimizer.finalize_variable_values(self.modelo.trainable_variables)
                chamados.on_train_end()
            else:
                pedido |= {"callbacks": chamados, "initial_epoch": inicio + len(feitas)}
                self.modelo.fit(**pedido)
        except BaseException:
            epocas.poe(antes)
            raise
        return self.modelo.history

    def _epocas(self, pedido: dict) -> "_Epocas":
        modelo = self.modelo
        if not (modelo.built and modelo.compiled):
            raise NaoSeResumeError("o modelo ainda não foi compilado ou não sabe o que recebe")
        if pedido["steps_per_epoch"] or pedido["validation_steps"]:
            raise NaoSeResumeError("com um número de passos por época, os dados podem não ter fim")
        modelo.optimizer.build(modelo.trainable_variables)
        compilado = modelo.get_compile_config()
        compilado["optimizer"]["config"].pop("name", None)  # "adam_1": o Keras numera como quer
        passado = modelo._compile_config.config  # com as próprias funções, e não só os nomes delas
        funcoes = [_resumo(passado.get(nome)) for nome in ("loss", "metrics", "weighted_metrics")]
        try:
            receita = [_rede(modelo), compilado, funcoes]
        except NotImplementedError as erro:
            raise NaoSeResumeError("há no modelo uma camada sem get_config") from erro
        resto = {k: _resumo(v) for k, v in pedido.items() if k not in NAO_MUDAM_O_TREINO}
        versoes = [keras.__version__, tf.__version__, *fontes(sys.modules[__name__])]
        variaveis = [*modelo.variables, *modelo.optimizer.variables]
        digest = digesto(receita, resto, versoes, [variavel.numpy() for variavel in variaveis])
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
    """O último dos callbacks da pessoa: mostra aos outros as épocas guardadas e guarda as novas."""

    def __init__(self, epocas: _Epocas, feitas: list[dict]):
        super().__init__()
        self.epocas, self.feitas, self.ouvem = epocas, feitas, []

    def on_train_begin(self, logs=None):
        """Repete cada época, com os pesos que o modelo tinha nela.

        Assim o EarlyStopping, por exemplo, lembra qual foi a melhor e há quanto tempo.
        """
        sem_barra = (keras.callbacks.ProgbarLogger, _Guarda)
        ouvem = [callback for callback in self.ouvem if not isinstance(callback, sem_barra)]
        for feita in self.feitas:
            epoca, estado = feita["epoca"], self.epocas.no_fim_de(feita["epoca"])
            for callback in ouvem:
                callback.on_epoch_begin(epoca)
            self.epocas.poe(estado)
            for callback in ouvem:
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
        return [_codigo(valor), _resumo([cercam, de_fora(valor), valor.__defaults__])]
    if isinstance(valor, keras.callbacks.Callback):
        opcoes = inspect.signature(type(valor).__init__).parameters
        opcoes = {nome: _resumo(getattr(valor, nome, None)) for nome in [*opcoes][1:]}
        if codigo := _codigo(type(valor)):  # o da pessoa pode guardar a opção com outro nome
            opcoes |= {k: v for k, v in vars(valor).items() if isinstance(v, SIMPLES)}
        return [type(valor).__qualname__, codigo, opcoes]
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


def _dos_dados(dados: tf.data.Dataset | keras.utils.PyDataset) -> str:
    """Resume o que os dados entregam, passando por eles uma vez: só assim um `.map` é percebido."""
    resumo = hashlib.blake2b()
    for lote in _lotes(dados):
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


def _rede(modelo: keras.Model) -> list:
    """O código e as opções de cada camada, se ela treina, e quem se liga a quem."""
    camadas = [[type(modelo).__name__, _codigo(type(modelo))]]
    for camada in modelo.layers:
        opcoes = {nome: valor for nome, valor in camada.get_config().items() if nome != "name"}
        e_rede = isinstance(camada, keras.Model)
        dentro = _rede(camada) if e_rede else [_codigo(type(camada)), opcoes]
        camadas.append([type(camada).__name__, camada.trainable, dentro])
    config = modelo.get_config()
    ligacoes = json.dumps(config, sort_keys=True, default=str)
    for i, nome in enumerate(_nomes(config)):  # "dense_3": o Keras numera como quer
        ligacoes = ligacoes.replace(f'"{nome}"', f'"nome {i}"')
    return [*camadas, re.sub(r'"shared_object_id": \d+', "", ligacoes)]


def _nomes(config: dict) -> Iterator[str]:
    """O nome de uma rede, o de cada operação dela e os das redes que há dentro."""
    yield config.get("name", "")
    for operacao in config.get("layers", []):
        yield from _nomes(operacao["config"] if isinstance(operacao, dict) else {})
