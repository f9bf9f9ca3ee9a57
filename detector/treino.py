"""Um `fit` que pode parar a qualquer momento: cada época fica guardada, e o treino segue da última.

Uma época guardada só serve ao mesmo `fit`: mudou o modelo (camadas, pesos, otimizador, perda), um
dado, o peso de uma classe ou foto, a ordem ou um callback, o treino recomeça; só o número de épocas
pode ser outro. Onde uma mudança não se perceberia (como numa função da pessoa), nada fica guardado.
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

    modelo: já compilado. Um treino interrompido, mesmo por um kill -9, acaba com os pesos que teria
    sem a interrupção. Um Ctrl-C deixa o modelo como estava: basta rodar a célula de novo.
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
            if feitas and any(getattr(callback, "mode", "") == "auto" for callback in callbacks):
                # Só depois de um lote o Keras sabe se a medida vigiada deve subir ou descer.
                self.modelo.evaluate(pedido["x"], pedido["y"], steps=1, verbose=0)
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
        variaveis = [*modelo.variables, *modelo.optimizer.variables]
        self.variaveis = {f"variavel{i}": variavel for i, variavel in enumerate(variaveis)}
        self.pasta, self.nome, self.outros = pasta, nome, outros
        self.feitas = []  # o que aconteceu em cada época guardada

    def procura(self, inicio: int, fim: int) -> list[dict]:
        """As épocas guardadas, da primeira à última que não falta."""
        for epoca in range(inicio, fim):
            if (arrays := le_arrays(*self._arquivo(epoca))) is None:
                break
            self.feitas.append(json.loads(str(arrays["historia"])))
        return self.feitas

    def on_train_begin(self, logs=None):
        """Repete cada época, com os pesos dela: o EarlyStopping fica sabendo qual foi a melhor."""
        for feita in self.feitas:
            arrays = le_arrays(*self._arquivo(feita["epoca"]))
            for callback in self.outros:
                callback.on_epoch_begin(feita["epoca"])
            self.poe(arrays)
            for callback in self.outros:
                callback.on_epoch_end(feita["epoca"], dict(feita["logs"]))
            self.poe(arrays)  # um callback, como o que muda a taxa, já está contado nele

    def on_epoch_end(self, epoch, logs=None):
        medidas = {nome: np.asarray(valor).tolist() for nome, valor in logs.items()}
        historia = {"epoca": epoch, "logs": medidas, "parou": bool(self.model.stop_training)}
        guarda_arrays(*self._arquivo(epoch), historia=json.dumps(historia), **self.estado())

    def estado(self) -> dict[str, np.ndarray]:
        """Os pesos e o otimizador, como estão agora."""
        return {nome: variavel.numpy() for nome, variavel in self.variaveis.items()}

    def poe(self, estado: dict[str, np.ndarray]) -> None:
        for nome, variavel in self.variaveis.items():
            variavel.assign(estado[nome])

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
    semente = tf.compat.v1.get_seed(0) if pedido["shuffle"] else None  # a ordem vem dela
    versoes = [keras.__version__, tf.__version__, *fontes(sys.modules[__name__])]
    nome = re.sub(r"\W", "_", _sem_numero(modelo.name))
    return f"{nome}-{digesto(_do_modelo(modelo), _descreve(resto), valores, semente, versoes)}"


def _sem_numero(nome: str) -> str:
    """O nome sem os números do Keras: "dense_3" e "keras_tensor_9CLONE" são outros amanhã."""
    return re.sub(r"_\d+", "", nome)


def _do_modelo(modelo: keras.Model) -> list:
    """As camadas e as opções delas, como se ligam, a perda, as medidas e o otimizador."""
    opcoes = keras.tree.flatten(modelo._compile_config.config)
    _so_do_keras([*modelo._flatten_layers(), modelo.optimizer, *opcoes])
    rede = keras.saving.serialize_keras_object(modelo)
    compilado = rede.pop("compile_config")
    del compilado["optimizer"]  # depois do compile, pode ter sido trocado
    partes = [rede, compilado, keras.saving.serialize_keras_object(modelo.optimizer)]
    texto, compilado, otimizador = [json.dumps(parte, sort_keys=True) for parte in partes]
    if re.search(r'"module": (?!"keras\b)|"__lambda__"', texto + compilado + otimizador):
        raise NaoSeGuardaError("há no modelo código que não é do Keras")
    de_dentro = getattr(modelo.optimizer, "inner_optimizer", modelo.optimizer)
    treinam = [v.trainable and de_dentro._use_weight_decay(v) for v in modelo.variables]
    for i, nome in enumerate(dict.fromkeys(re.findall(r'"name": "(.*?)"', texto))):
        texto = texto.replace(f'"{nome}"', f'"{_sem_numero(nome)} {i}"')
    return [texto, compilado, _sem_numero(otimizador), treinam]


def _so_do_keras(objetos: list) -> None:
    """Recusa o que não é do Keras, neles ou no que guardam: de uma camada, a ativação."""
    valores = [valor for objeto in objetos for valor in getattr(objeto, "__dict__", {}).values()]
    guardados = [valor for valor in valores if callable(valor) or hasattr(valor, "get_config")]
    for objeto in [*objetos, *guardados]:
        modulo = getattr(objeto, "__module__", None) or "builtins"
        if modulo.partition(".")[0] not in ("keras", "builtins"):
            nome = getattr(objeto, "__name__", type(objeto).__name__)
            raise NaoSeGuardaError(f"uma mudança em {nome} não se perceberia")


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
    if isinstance(valor, keras.callbacks.Callback):
        _so_do_keras([valor])
        if tipo is keras.callbacks.SwapEMAWeights:
            raise NaoSeGuardaError("SwapEMAWeights faz outra coisa na última época")
        opcoes = {nome: getattr(valor, nome, None) for nome in inspect.signature(tipo).parameters}
        return [tipo.__name__, _descreve(opcoes)]
    nome = getattr(valor, "__name__", tipo.__name__)
    raise NaoSeGuardaError(f"uma mudança em {nome} não se perceberia")


def _dos_dados(dados: tf.data.Dataset) -> list[str]:
    """O digest de cada lote, passando por todos uma vez: só assim um `.map` é percebido."""
    if dados.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise NaoSeGuardaError("os dados não têm fim")
    todos, de_novo = (
        [digesto(_descreve(keras.tree.flatten(lote))) for lote in lotes.as_numpy_iterator()]
        for lotes in (dados, dados.take(10))  # só o primeiro, às vezes, se repete por acaso
    )
    if de_novo != todos[:10]:
        raise NaoSeGuardaError("os dados mudam, ou trocam de ordem, a cada passagem")
    return todos
