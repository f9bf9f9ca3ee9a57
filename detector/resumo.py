"""O que muda quando algo muda: cada argumento de um `fit` em valores que `digesto` resume.

Vale para arrays, tf.data e PyDataset (pelo que entregam), funções (código, o que as cerca e as
constantes que usam), callbacks e redes. O que não se sabe resumir é dito, e nunca adivinhado.
"""

import functools
import hashlib
import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from detector.arquivos import de_fora, digesto


class NaoSeResumeError(Exception):
    """Há no `fit` algo cuja mudança não se perceberia."""


@functools.singledispatch
def resume(valor: Any) -> Any:
    """O que `digesto` aceita, e que muda quando `valor` muda; NaoSeResumeError se não há."""
    if hasattr(valor, "__array__"):  # tensores, tabelas do pandas
        return resume(np.asarray(valor))
    if isinstance(valor, tf.data.Dataset | keras.utils.PyDataset):
        return _dos_dados(valor)
    if callable(valor) and hasattr(valor, "__code__"):
        cercam = dict(inspect.getclosurevars(valor).nonlocals)
        dono = getattr(valor, "__self__", None)  # o objeto de que um método é
        return [_codigo(valor), resume([cercam, de_fora(valor), valor.__defaults__, dono])]
    if isinstance(valor, keras.callbacks.Callback):
        return [type(valor).__qualname__, *_do_callback(valor)]
    if hasattr(valor, "get_config"):
        return [type(valor).__qualname__, _codigo(type(valor)), str(valor.get_config())]
    raise NaoSeResumeError(f"não sei resumir {type(valor).__name__}")


@resume.register(type(None))
@resume.register(bool)
@resume.register(int)
@resume.register(float)
@resume.register(str)
def _(valor):
    return valor


@resume.register
def _(valor: np.ndarray):
    return repr(valor.tolist()) if valor.dtype.hasobject else valor


@resume.register
def _(valor: dict):
    return [[str(chave), resume(item)] for chave, item in valor.items()]


@resume.register(list)
@resume.register(tuple)
def _(valor):
    return [resume(item) for item in valor]


def _do_callback(callback: keras.callbacks.Callback) -> list:
    """As opções com que foi criado; de um que a pessoa escreveu, o código e tudo o que guarda."""
    if codigo := _codigo(type(callback)):
        do_treino = ("validation_data", "_model", "params")  # o Keras os põe ao começar
        return [codigo, resume({k: v for k, v in vars(callback).items() if k not in do_treino})]
    nomes = [*inspect.signature(type(callback).__init__).parameters][1:]
    opcoes = {nome: getattr(callback, nome, None) for nome in nomes}
    if opcoes.get("min_delta"):
        opcoes["min_delta"] = abs(opcoes["min_delta"])  # o Keras lhe troca o sinal ao começar
    return [resume(opcoes)]


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


def da_rede(modelo: keras.Model) -> str:
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
