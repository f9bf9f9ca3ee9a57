"""Gato, cachorro ou nenhum dos dois: o que uma execução do notebook deixou, pronto para usar."""

import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from tqdm import tqdm

from detector import gravacao
from detector.erros import ErroClaro
from detector.fotos import abre_foto
from detector.preparo import LADO, Preparo, prova, redimensiona_img
from detector.semelhanca import semelhanca, unitarios

DE_NOVO = "rode o notebook inteiro de novo"
COLUNAS = ["arquivo", "classe", "probabilidade", "similaridade", "erro"]


class Veredito(dict):
    """O que `classifica` responde: um dict que, no Jupyter, aparece como a foto e a resposta.

    classe: uma das classes ou "nenhum dos dois". probabilidade: da mais provável das classes, de
    0,5 a 1. similaridade: cosseno com as fotos mais parecidas do treino, de −1 a 1.
    probabilidades: {classe: probabilidade}. No atributo `foto`, a foto aberta.
    """

    def __str__(self) -> str:
        semelhanca = f"semelhança {self['similaridade']:.2f}"
        if self["classe"] == "nenhum dos dois":
            return f"nenhum dos dois ({semelhanca})"
        return f"{self['classe']} (probabilidade {self['probabilidade']:.1%}, {semelhanca})"

    def _ipython_display_(self) -> None:
        from detector import figuras  # só aqui: o terminal não precisa do Matplotlib

        figuras.mostra_fotos([self.foto], [self["classe"]], colunas=1, lado=4)
        print(self)


def guarda(
    rascunho: pathlib.Path,
    modelo: keras.Model,
    referencia: np.ndarray,
    limiar: float,
    classes: Sequence[str],
    preparo: Preparo,
) -> None:
    """Grava em `rascunho` o que `carrega_classificador` precisa saber além do modelo.

    referencia: (m, canais), vetores do treino. limiar: a menor semelhança de um gato ou cachorro.
    """
    arrays = {"limiar": limiar, "classes": classes, "prova": prova(preparo)}
    arrays["referencia"] = unitarios(referencia).astype("float16")
    gravacao.guarda_arrays(
        rascunho / gravacao.DO_CLASSIFICADOR, gravacao.digesto(modelo.get_weights()), **arrays
    )


def preve_do_arquivo(
    rascunho: pathlib.Path, lotes: tf.data.Dataset, pasta: pathlib.Path, depende_de: list
) -> dict[str, np.ndarray]:
    """O que diz o `.keras` de `rascunho`, rodado no Keras desde a foto, sem nada do já calculado.

    lotes: pares (fotos (b, 224, 224, 3) em [0, 1], rótulos). Devolve p, (n,), a probabilidade da
    classe 1, e fotos_por_segundo, em que entram ler e preparar cada foto. O resultado fica em
    `pasta`: um modelo com os mesmos pesos e as mesmas fotos, `depende_de`, só é rodado uma vez.
    """

    def calcula():
        lido = keras.models.load_model(rascunho / gravacao.MODELO, compile=False)
        lido.predict(lotes.take(1), verbose=0)  # a primeira vez inclui preparar-se, e não é medida
        inicio = time.perf_counter()
        p = lido.predict(lotes, verbose=0).ravel()
        return {"p": p, "fotos_por_segundo": len(p) / (time.perf_counter() - inicio)}

    codigo = gravacao.fontes(sys.modules[__name__])
    return gravacao.uma_vez(pasta, "do_arquivo", [depende_de, codigo], calcula)


def carrega_classificador(modelos: str | os.PathLike) -> Callable[..., Veredito]:
    """A função `classifica`, feita com o que o notebook deixou na pasta `modelos`.

    classifica(foto, nome="a foto") aceita o que `fotos.abre_foto` aceita e devolve um Veredito.
    Levanta ErroClaro se não há um modelo, se ele está danificado, misturado com o de outra
    execução, ou se foi treinado com outra preparação.
    """
    arquivo, dados = gravacao.acha_modelo(modelos)
    try:
        modelo = keras.models.load_model(arquivo, compile=False, safe_mode=True)
        foto = keras.Input((LADO, LADO, 3), dtype="float32")
        vetor = modelo.get_layer("topo")(modelo.get_layer("base")(foto))
        rede = keras.Model(foto, [modelo.get_layer("cabeca")(vetor), vetor])
    except Exception as erro:  # o Keras levanta de tudo diante do que está danificado ou tem código
        raise ErroClaro(f"{arquivo} está danificado ou não é daqui; {DE_NOVO}.") from erro
    try:
        salvo = gravacao.abre_arrays(dados, gravacao.digesto(modelo.get_weights()))
    except (OSError, ValueError) as erro:
        raise ErroClaro(f"{dados} está danificado ou não é deste modelo; {DE_NOVO}.") from erro
    agora, antes = prova(redimensiona_img), salvo["prova"]
    if antes.shape != agora.shape or not np.allclose(antes, agora, atol=1e-3):
        outra = "uma preparação diferente de `detector.redimensiona_img`"
        raise ErroClaro(f"o modelo de {modelos} foi treinado com {outra}; {DE_NOVO}.")
    referencia, limiar = unitarios(salvo["referencia"]), float(salvo["limiar"])
    classes = salvo["classes"].tolist()
    calcula = tf.function(lambda lote: rede(lote, training=False))

    def classifica(foto: Any, nome: str = "a foto") -> Veredito:
        """O Veredito sobre uma foto; ErroClaro se ela não pôde ser lida."""
        imagem = abre_foto(foto, nome)
        p, vetor = calcula(redimensiona_img(imagem, 0)[0][tf.newaxis])
        p, parecida = float(p[0, 0]), semelhanca(vetor.numpy(), referencia)[0]
        veredito = Veredito(
            classe=classes[int(p > 0.5)] if parecida >= limiar else "nenhum dos dois",
            probabilidade=max(p, 1 - p),
            similaridade=float(np.clip(parecida, -1, 1)),
            probabilidades={classes[0]: 1 - p, classes[1]: p},
        )
        veredito.foto = imagem
        return veredito

    return classifica


def classifica_varias(
    classifica: Callable[..., Veredito], caminhos: Sequence[os.PathLike]
) -> pd.DataFrame:
    """Uma linha por arquivo; o que não pôde ser lido tem a frase em `erro`, e o resto continua."""
    linhas = []
    for caminho in tqdm(caminhos, "Classificando", unit=" fotos", disable=len(caminhos) <= 5):
        try:
            linhas.append({"arquivo": str(caminho), "erro": "", **classifica(caminho)})
        except ErroClaro as erro:
            linhas.append({"arquivo": str(caminho), "erro": str(erro), "classe": ""})
    return pd.DataFrame(linhas, columns=COLUNAS)


def botao(classifica: Callable[..., Veredito]) -> Any:
    """Botão do Jupyter e do Colab para escolher fotos; cada uma aparece embaixo, com a resposta."""
    import ipywidgets
    from IPython.display import display

    seletor = ipywidgets.FileUpload(
        accept="image/*,.heic", multiple=True, description="Escolher fotos"
    )
    saida = ipywidgets.Output()

    def mostra(mudanca: dict) -> None:
        novas = mudanca["new"]  # tupla de dicts no ipywidgets 8; dict de dicts no 7, o do Colab
        if isinstance(novas, dict):
            novas = [{"name": nome, **nova} for nome, nova in novas.items()]
        saida.clear_output()
        with saida:
            for nova in novas:
                print(f"{nova['name']}:")
                try:
                    display(classifica(bytes(nova["content"]), nova["name"]))
                except ErroClaro as erro:
                    print(erro)

    seletor.observe(mostra, "value")
    return ipywidgets.VBox([seletor, saida])
