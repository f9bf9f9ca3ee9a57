"""Nenhum dos dois: a rede aprendeu 1.000 coisas na ImageNet, e diz se a foto é alguma das outras.

A cabeça da ImageNet, que o detector troca pela sua, ainda lê o vetor da foto. A nota compara a
chance de ser gato ou cachorro com a de ser qualquer outra coisa. Se ela é baixa, vale olhar outra
vez, só o `miolo` da foto; se continua baixa, a resposta é "nenhum dos dois".
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np
from scipy.special import expit, logsumexp, softmax

from detector import backbones
from detector.ambiente import ErroClaro
from detector.pesos import pesos_do_pip

# Na ordem da ILSVRC2012, a dos códigos do WordNet (n01440764, n01443537…), como em toda rede daqui.
CACHORROS = range(151, 269)  # do chihuahua, n02085620, ao pelado mexicano, n02113978
GATOS = range(281, 286)  # do gato malhado, n02123045, ao mau egípcio, n02124075
CONHECIDAS = dict.fromkeys(["cachorro", "cachorros", "dog", "dogs"], CACHORROS)
CONHECIDAS |= dict.fromkeys(["gato", "gatos", "cat", "cats"], GATOS)
LOTE = 1000  # vetores por vez: os logits de 20.000, de uma vez só, ocupariam 80 MB
Cabecas = list[tuple[np.ndarray, np.ndarray]]  # de cada rede: kernel (canais, 1000), bias (1000,)


def cabecas(nomes: str) -> Cabecas:
    """A cabeça da ImageNet de cada rede de `nomes` (ver `backbones.cria`), em float32.

    Vazia, com uma frase, se a de alguma não veio ou não lê o vetor que o backbone devolve.
    """
    try:
        return [_cabeca(nome) for nome in nomes.split("+")]
    except ErroClaro as erro:  # o detector vive sem ela
        print(f'Sem a cabeça da ImageNet de {nomes}, não haverá "nenhum dos dois": {erro}')
        return []


def _cabeca(nome: str) -> tuple[np.ndarray, np.ndarray]:
    """A de uma rede só; ErroClaro se ela não veio ou não é uma única Dense depois da média."""
    if nome in backbones.LITE:
        pesos = pesos_do_pip(nome)
        return pesos["fc.weight"].T, pesos["fc.bias"]  # no PyTorch, (1000, 1280)
    rede = backbones.monta_do_keras(nome, weights="imagenet")
    *_, media, fim = (c for c in rede.layers if not isinstance(c, keras.layers.Dropout))
    if [type(media), type(fim)] != [keras.layers.GlobalAveragePooling2D, keras.layers.Dense]:
        raise ErroClaro("ela não é uma única camada Dense depois da média.")
    return tuple(fim.get_weights())


def indices_das_classes(
    classes: Sequence[str], vetores: np.ndarray, cabecas: Cabecas, y: np.ndarray
) -> np.ndarray:
    """Índices, de 0 a 999, do que na ImageNet são as classes do dataset.

    Os de gatos e cachorros já se sabem. Os de outras são os que as fotos lembram: probabilidade
    média acima de 1/1000, a do acaso, nas fotos de uma das classes. A média é de cada classe para
    a de poucas fotos não sumir na outra. vetores: (n, canais), do treino. y: (n,), 0 ou 1.
    """
    nomes = {nome.lower() for nome in classes}
    if nomes <= CONHECIDAS.keys():
        return np.array(sorted({i for nome in nomes for i in CONHECIDAS[nome]}))
    lembradas = set()
    for classe in np.unique(y):
        destas = vetores[y == classe]
        somas = [softmax(z, axis=-1).mean(axis=0).sum(axis=0) for z in _logits(destas, cabecas)]
        lembradas |= {*np.flatnonzero(sum(somas) / len(destas) > 1 / 1000)}
    return np.array(sorted(lembradas))


def _logits(vetores: np.ndarray, cabecas: Cabecas) -> Iterator[np.ndarray]:
    """De cada LOTE de vetores, os logits float32 (redes, até LOTE, 1000)."""
    fins = np.cumsum([len(kernel) for kernel, _ in cabecas])
    for lote in np.split(vetores, range(LOTE, len(vetores), LOTE)):
        partes = zip(np.split(lote, fins[:-1], axis=1), cabecas, strict=True)
        yield np.stack([np.float32(parte) @ kernel + bias for parte, (kernel, bias) in partes])


def limiar(notas: np.ndarray, nota_do_vazio: float | np.ndarray) -> float:
    """A menor nota que não é "nenhum dos dois": 99 % das `notas`, de treino e validação, passam.

    A menos que uma foto sem nada também passasse: é preciso o dobro da razão entre as chances da
    melhor delas.
    """
    if np.isinf(notas).all():  # sem a cabeça da ImageNet, nada é recusado
        return 0.0
    return float(max(np.quantile(notas, 0.01), np.max(nota_do_vazio) + math.log(2)))


def fotos_vazias() -> np.ndarray:
    """Fotos sem nada, (7, 224, 224, 3) em [0, 1]: cinco tons de cinza e dois chuviscos."""
    forma, acaso = (backbones.LADO, backbones.LADO, 3), np.random.default_rng(0)
    pontos = [*np.linspace(0, 1, 5), acaso.random((*forma[:2], 1)), acaso.random(forma)]
    return np.stack([np.broadcast_to(ponto, forma) for ponto in pontos]).astype("float32")


def miolo(foto: np.ndarray) -> np.ndarray:
    """Os dois terços do meio de uma foto (altura, largura, 3), para o segundo olhar."""
    y, x = (lado // 6 for lado in foto.shape[:2])
    return foto[y : len(foto) - y, x : foto.shape[1] - x]


@dataclasses.dataclass
class Conhecidas:
    """O que a rede sabe reconhecer das classes do dataset.

    cabecas: de cada rede do backbone; vazia, se não vieram. indices: em 0–999, as classes da
    ImageNet que são as do dataset.
    """

    cabecas: Cabecas
    indices: np.ndarray

    def nota(self, vetores: np.ndarray) -> np.ndarray:
        """Logaritmo (n,) da chance de `indices` contra a das outras classes; 0 é meio a meio.

        vetores: (n, canais), do backbone congelado; ValueError se são de outro. De redes unidas, é
        a média das notas de cada uma. Sem cabeças, +∞: nada é recusado.
        """
        if not self.cabecas:
            return np.full(len(vetores), np.inf, "float32")
        outras, lotes = np.setdiff1d(np.arange(1000), self.indices), _logits(vetores, self.cabecas)
        chances = [[logsumexp(z[..., i], axis=-1) for i in (self.indices, outras)] for z in lotes]
        return np.concatenate([(dentro - fora).mean(axis=0) for dentro, fora in chances])

    def arrays(self) -> dict[str, np.ndarray]:
        """Tudo em arrays, para ser guardado."""
        guardados = {"indices": self.indices}
        for i, (kernel, bias) in enumerate(self.cabecas):
            guardados |= {f"kernel{i}": kernel, f"bias{i}": bias}
        return guardados

    @classmethod
    def dos_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Conhecidas":
        """O contrário de `arrays`; o que mais houver neles é ignorado."""
        quantas = sum(nome.startswith("kernel") for nome in arrays)
        cabecas = [(arrays[f"kernel{i}"], arrays[f"bias{i}"]) for i in range(quantas)]
        return cls(cabecas, arrays["indices"])


def aprende(nomes: str, classes: Sequence[str], vetores: np.ndarray, y: np.ndarray) -> Conhecidas:
    """O que as redes `nomes` sabem das `classes`; vetores (n, canais) e y (n, 1), os do treino."""
    achadas = cabecas(nomes)
    indices = indices_das_classes(classes, vetores, achadas, np.ravel(y)) if achadas else []
    return Conhecidas(achadas, np.array(indices, int))


def chance(nota: float) -> float:
    """De 0 a 1, a chance que a nota diz; 1 se não há cabeça da ImageNet."""
    return float(expit(nota))
