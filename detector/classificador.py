"""Gato, cachorro ou nenhum dos dois: o que uma execução do notebook deixou, pronto para usar."""

import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from scipy.special import expit, logit
from tqdm import tqdm

from detector import arquivos, dados, entrega, imagenet
from detector.ambiente import ErroClaro
from detector.fotos import FotoIncompleta, abre_foto
from detector.metricas import num
from detector.pastas import legivel

DE_NOVO = "rode o notebook inteiro de novo"
NENHUM = "nenhum dos dois"
MAIOR_DISTANCIA = 0.5  # de log(p / (1 − p)), escolhida à mão; a medida de cada vez é mostrada
COLUNAS = ["arquivo", "classe", "probabilidade", "parece", "chance_de_ser_um_deles", "erro"]


class Veredito(dict):
    """O que `classifica` responde: um dict que, no Jupyter, aparece como a foto e a resposta.

    classe: uma das classes ou "nenhum dos dois". parece: a mais provável das classes, mesmo quando
    a resposta é "nenhum dos dois". probabilidade: a de `parece`, de 0,5 a 1.
    chance_de_ser_um_deles: de 0 a 1, quanto o backbone acha que há na foto uma das classes. No
    atributo `foto`, a foto aberta.
    """

    def __str__(self) -> str:
        chance = f"chance de ser um deles {self['chance_de_ser_um_deles']:.0%}"
        probabilidade = f"{self['probabilidade']:.1%}".replace(".", ",")
        parece = f"{self['parece']} (probabilidade {probabilidade}, {chance})"
        return f"{NENHUM}; parece {parece}" if self["classe"] == NENHUM else parece

    def _ipython_display_(self) -> None:
        from detector import figuras  # só aqui: o terminal não precisa do Matplotlib

        figuras.mostra_fotos([self.foto], [self["classe"]], colunas=1, lado=4)
        print(self)


def guarda(
    rascunho: pathlib.Path,
    modelo: keras.Model,
    classes: Sequence[str],
    prova: np.ndarray,
    conhecidas: imagenet.Conhecidas,
    limiar: float,
    topo_congelado: keras.Model,
) -> None:
    """Grava em `rascunho` o que `carrega_classificador` precisa saber além do modelo, já gravado.

    prova: de `dados.prova`, com o leitor que treinou. limiar: a menor nota de um gato ou cachorro.
    topo_congelado: o que gera os vetores a que se dá nota, ajustado ou não o do modelo.
    """
    entrega.abre_em_qualquer_keras(rascunho / entrega.MODELO)
    topo = {f"topo{i}": peso for i, peso in enumerate(topo_congelado.get_weights())}
    extras = {"classes": classes, "prova": prova, "limiar": limiar} | conhecidas.arrays() | topo
    digest = arquivos.digesto(modelo.get_weights())
    arquivos.guarda_arrays(rascunho / entrega.DO_CLASSIFICADOR, digest, **extras)


def confere(p_arquivo: np.ndarray, p_mapas: np.ndarray) -> None:
    """Levanta ErroClaro se o modelo gravado não é o que os mapas descrevem.

    p_arquivo: (k,), o que ele disse das primeiras fotos. p_mapas: (n,), n ≥ k, o que o topo disse
    dos mapas delas, que podem vir de um motor menos preciso: por isso se compara a mediana.
    """
    p_mapas = p_mapas[: len(p_arquivo)]
    logits = logit(np.clip([p_arquivo, p_mapas], 1e-6, 1 - 1e-6))
    distancia = float(np.median(np.abs(logits[0] - logits[1])))
    dita = f"{num(distancia)} (o limite é {num(MAIOR_DISTANCIA, 1)})"
    diferentes = np.sum((p_arquivo > 0.5) != (p_mapas > 0.5))
    fotos = f"{diferentes} de {len(p_arquivo)} fotos"
    print(f"arquivo e mapas: decisões diferentes {fotos}; distância mediana {dita}")
    if not distancia <= MAIOR_DISTANCIA:  # escrito assim, recusa também NaN
        raise ErroClaro(
            f"o modelo gravado não dá as respostas que os mapas dão: a distância é {dita}. Ele foi "
            f"mudado depois de gravado, ou o leitor das fotos não é o que treinou; {DE_NOVO}."
        )


class Aberto(NamedTuple):
    """Uma execução lida do disco. rede: foto → [probabilidade (n, 1), vetor congelado]."""

    rede: keras.Model
    conhecidas: imagenet.Conhecidas
    limiar: float
    classes: list[str]


def abre(modelos: str | os.PathLike) -> Aberto:
    """O que `guarda` deixou na pasta `modelos`, junto com o modelo.

    Levanta ErroClaro se não há um modelo, se ele está danificado, misturado com o de outra
    execução, ou se foi treinado com outra preparação.
    """
    arquivo, extras = entrega.acha_modelo(modelos)
    try:
        modelo = keras.models.load_model(arquivo, compile=False, safe_mode=True)
        foto = keras.Input((dados.LADO, dados.LADO, 3), dtype="float32", name="foto")
        mapa, topo = modelo.get_layer("base")(foto), modelo.get_layer("topo")
        p = modelo.get_layer("cabeca")(topo(mapa))
        copia = keras.models.clone_model(topo)  # a nota vem do topo como era, mesmo ajustado
        congelado = keras.Model(copia.input, copia.output, name="topo_congelado")
    except (PermissionError, MemoryError) as erro:
        raise ErroClaro(f"não consegui ler {arquivo} ({type(erro).__name__}: {erro}).") from erro
    except Exception as erro:  # o Keras levanta de tudo diante do que está danificado ou tem código
        raise ErroClaro(f"{arquivo} está danificado ou não é daqui; {DE_NOVO}.") from erro
    try:
        salvo = arquivos.abre_arrays(extras, arquivos.digesto(modelo.get_weights()))
    except (OSError, ValueError) as erro:
        raise ErroClaro(f"{extras} está danificado ou não é deste modelo; {DE_NOVO}.") from erro
    agora, antes = dados.prova(dados.le), salvo["prova"]
    if antes.shape != agora.shape or not np.allclose(antes, agora, atol=1e-3):
        raise ErroClaro(
            f"o modelo de {modelos} foi treinado com um leitor diferente de `detector.dados.le`; "
            f"volte a usar `le` na extração e {DE_NOVO}."
        )
    congelado.set_weights([salvo[f"topo{i}"] for i in range(len(congelado.weights))])
    rede = keras.Model(foto, [p, congelado(mapa)])
    conhecidas = imagenet.Conhecidas.dos_arrays(salvo)
    return Aberto(rede, conhecidas, float(salvo["limiar"]), salvo["classes"].tolist())


def carrega_classificador(modelos: str | os.PathLike) -> Callable[..., Veredito]:
    """A função `classifica`, feita com o que o notebook deixou na pasta `modelos`.

    classifica(foto, nome="a foto") aceita o que `fotos.abre_foto` aceita e devolve um Veredito.
    Levanta ErroClaro quando `abre` o levanta.
    """
    rede, conhecidas, limiar, classes = abre(modelos)
    calcula = tf.function(lambda lote: rede(lote, training=False))

    def olha(imagem: np.ndarray) -> tuple[float, float]:
        """A probabilidade da classe 1 e a nota de uma imagem uint8 (altura, largura, 3)."""
        p, vetor = calcula(dados.redimensiona_img(imagem, 0)[0][tf.newaxis])
        return float(p[0, 0]), float(conhecidas.nota(vetor.numpy())[0])

    def classifica(foto: Any, nome: str = "a foto") -> Veredito:
        """O Veredito sobre uma foto; ErroClaro se ela não pôde ser lida."""
        try:
            imagem = abre_foto(foto, nome)
        except FotoIncompleta as erro:  # ainda se vê a maior parte dela
            print(f"atenção: {erro}", file=sys.stderr)
            imagem = erro.foto
        p, nota = olha(imagem)
        if nota < limiar:  # o bicho pode estar pequeno, ou cercado de barras: mais de perto
            de_perto = olha(imagenet.miolo(imagem))
            p, nota = de_perto if de_perto[1] >= limiar else (p, nota)
        parece = classes[int(p > 0.5)]
        veredito = Veredito(
            classe=parece if nota >= limiar else NENHUM,
            probabilidade=max(p, 1 - p),
            parece=parece,
            chance_de_ser_um_deles=float(expit(nota)),
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
        linha = {"arquivo": legivel(caminho), "erro": "", "classe": ""}
        try:
            linha |= classifica(caminho)
        except ErroClaro as erro:
            linha["erro"] = legivel(str(erro))  # pode conter o nome
        linhas.append(linha)
    return pd.DataFrame(linhas, columns=COLUNAS)
