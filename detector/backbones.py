"""A rede que aprendeu a ver com a ImageNet, e onde ela se divide para o ajuste fino."""

import difflib
import math
import sys

import keras
import numpy as np
from keras import layers

from detector import lite
from detector.ambiente import ErroClaro
from detector.dados import LADO

MAIOR_MAPA = 110_000  # números por foto: o mapa de uma ResNet50 (7×7×2048) ainda cabe


def cria(nomes: str) -> keras.Model:
    """Backbone com os pesos da ImageNet: fotos (None, 224, 224, 3) em [0, 1] → (None, canais).

    nomes: uma EfficientNet-Lite, qualquer rede de `keras.applications`, ou várias unidas por "+",
    com os vetores lado a lado. Levanta ErroClaro se o nome não existe ou os pesos não vieram.
    """
    confere(nomes)
    redes = []
    for nome in nomes.split("+"):
        redes.append(lite.monta(nome) if nome in lite.LADOS else do_keras(nome))
    if len(redes) == 1 and redes[0].input_shape[1] == LADO:
        return redes[0]
    foto = keras.Input((LADO, LADO, 3))
    vetores = []
    for rede in redes:
        lado = rede.input_shape[1]  # bilinear: o OpenVINO não converte o bicúbico
        entra = foto if lado == LADO else keras.ops.image.resize(foto, (lado, lado), "bilinear")
        vetores.append(rede(entra))
    juntos = layers.Concatenate()(vetores) if len(vetores) > 1 else vetores[0]
    return keras.Model(foto, juntos, name=nomes.replace("+", "_"))


def confere(nomes: str) -> None:
    """Levanta ErroClaro se um dos nomes, unidos por "+", não é de uma rede que `cria` conhece."""
    do_keras_applications = [nome for nome in dir(keras.applications) if nome[0].isupper()]
    conhecidos = {nome.lower(): nome for nome in (*lite.LADOS, *do_keras_applications)}
    for nome in nomes.split("+"):
        if nome not in conhecidos.values():
            parecidos = difflib.get_close_matches(nome.strip().lower(), conhecidos, n=1)
            dica = f"Os que conheço: {', '.join(conhecidos.values())}."
            if parecidos:
                dica = f"Você quis dizer {conhecidos[parecidos[0]]}?"
            raise ErroClaro(f"não conheço o backbone {nome!r}. {dica}")


def do_keras(nome: str, pesos: str | None = "imagenet") -> keras.Model:
    """Uma rede de `keras.applications` que recebe fotos em [0, 1], como as outras daqui.

    Cada família espera uma faixa de pixels (0–255, de −1 a 1, com médias subtraídas); a camada
    `faixa_de_pixels` faz a conta dentro do modelo. Levanta ErroClaro se os pesos não vieram.
    """
    # O preprocess_input de cada família é uma conta linear por pixel. O que ela faz com o preto
    # e com cada cor pura diz a conta inteira, que cabe numa convolução 1×1.
    familia = sys.modules[getattr(keras.applications, nome).__module__]
    cores = np.concatenate([np.zeros((1, 3)), 255 * np.eye(3)]).astype("float32")
    preto, *puras = np.reshape(familia.preprocess_input(cores.reshape(4, 1, 1, 3)), (4, 3))
    foto = keras.Input((LADO, LADO, 3))
    faixa = layers.Conv2D(3, 1, name="faixa_de_pixels")
    # input_shape, porque sem ele algumas avisam que não sabem o tamanho
    entrada = {"input_tensor": faixa(foto), "input_shape": foto.shape[1:]}
    rede = monta_do_keras(nome, weights=pesos, include_top=False, **entrada)
    faixa.set_weights([np.reshape(puras - preto, (1, 1, 3, 3)), preto])
    media = layers.GlobalAveragePooling2D(name="media")
    return keras.Model(foto, media(rede.output), name=nome)


def monta_do_keras(nome: str, **opcoes) -> keras.Model:
    """A rede `nome` de `keras.applications`; ErroClaro, com a causa, se ela não veio."""
    try:
        return getattr(keras.applications, nome)(**opcoes)
    except Exception as erro:  # o Keras levanta Exception pura quando o download falha
        causa = str(erro).rpartition("-- ")[2][:100]  # antes do "--" vem o endereço
        raise ErroClaro(
            f"não consegui os pesos de {nome}, que o Keras baixa da internet ({causa}). Rode uma "
            'vez com rede, ou use BACKBONE = "EfficientNetLite0".'
        ) from erro


def acha_corte(backbone: keras.Model) -> str | None:
    """Nome da operação em que dividir a rede: o ponto mais estreito que tem convoluções acima.

    Um corte é uma operação por cujo resultado passa tudo o que vem depois. Entre os que ainda têm
    acima uma convolução espacial, escolhe o mapa com menos números por foto e, no empate, o mais
    perto da saída. None se não há (redes unidas, NASNet).
    """
    ultimo_uso, ultima_espacial = {}, 0
    for i, operacao in enumerate(backbone.operations):
        for tensor in keras.tree.flatten(operacao.input):
            ultimo_uso[id(tensor)] = i
        if max(getattr(operacao, "kernel_size", (1,))) > 1:
            ultima_espacial = i
    melhor, menor = None, MAIOR_MAPA
    em_uso_ate = 0  # até onde alguém ainda precisa do que saiu antes da operação
    for i, operacao in enumerate(backbone.operations[:ultima_espacial]):
        saidas = keras.tree.flatten(operacao.output)
        tamanho = math.prod(saidas[0].shape[1:])
        passa_tudo = i > 0 and em_uso_ate <= i and len(saidas) == 1
        if passa_tudo and len(saidas[0].shape) == 4 and tamanho <= menor:
            melhor, menor = operacao.name, tamanho
        em_uso_ate = max(em_uso_ate, *(ultimo_uso.get(id(saida), 0) for saida in saidas))
    return melhor


def mapa_do_corte(backbone: keras.Model, corte: str | None) -> keras.KerasTensor:
    """O que sai da operação `corte` e entra no topo; sem corte, o vetor que sai da rede.

    Levanta ErroClaro se o backbone não tem essa operação.
    """
    mapas = {operacao.name: operacao.output for operacao in backbone.operations}
    if corte is not None and corte not in mapas:
        raise ErroClaro(
            f"o backbone não tem a operação {corte!r}. As últimas: {', '.join([*mapas][-8:])}."
        )
    return backbone.output if corte is None else mapas[corte]


def divide(backbone: keras.Model, corte: str | None) -> tuple[keras.Model, keras.Model]:
    """Base congelada (foto → mapa) e cópia do topo (mapa → vetor), divididas na operação `corte`.

    O topo é uma cópia: treiná-lo não muda o backbone. Sem corte, a base é o backbone inteiro e o
    topo devolve o que recebe. Levanta ErroClaro se o backbone não tem essa operação.
    """
    mapa = mapa_do_corte(backbone, corte)
    vetor = layers.Identity()(mapa) if corte is None else backbone.output
    topo = keras.Model(mapa, vetor, name="topo")
    copia = keras.models.clone_model(topo)
    copia.set_weights(topo.get_weights())
    return keras.Model(backbone.input, mapa, name="base"), copia
