"""Nenhum dos dois: a rede aprendeu 1.000 coisas na ImageNet, e diz se a foto é alguma das outras.

A cabeça da ImageNet, que o detector troca pela sua, ainda lê o vetor da foto. A nota compara a
chance de ser gato ou cachorro com a de ser qualquer outra coisa. Se ela é baixa, vale olhar outra
vez, só o `miolo` da foto; se continua baixa, a resposta é "nenhum dos dois".
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import keras
import numpy as np
from scipy.special import logsumexp, softmax

from detector import backbones, lite
from detector.ambiente import ErroClaro
from detector.dados import LADO

# Na ordem da ILSVRC2012, a dos códigos do WordNet (n01440764, n01443537…), como em toda rede daqui.
CACHORROS = range(151, 269)  # do chihuahua, n02085620, ao pelado mexicano, n02113978
GATOS = range(281, 286)  # do gato malhado, n02123045, ao mau egípcio, n02124075
CONHECIDAS = dict.fromkeys(["cachorro", "cachorros", "dog", "dogs"], CACHORROS)
CONHECIDAS |= dict.fromkeys(["gato", "gatos", "cat", "cats"], GATOS)
LOTE = 1000  # vetores por vez, em `nota`: os logits de 20.000 ocupariam 80 MB
Cabecas = list[tuple[np.ndarray, np.ndarray]]  # de cada rede: kernel (canais, 1000), bias (1000,)


def cabeca(nome: str) -> tuple[np.ndarray, np.ndarray]:
    """A da rede `nome` na ImageNet, em float32: kernel (canais, 1000) e bias (1000,).

    Levanta ErroClaro se ela não veio, ou não é uma única Dense depois da média.
    """
    if nome in lite.LADOS:
        pesos = lite.pesos_do_pip(nome)
        return pesos["fc.weight"].T, pesos["fc.bias"]  # no PyTorch, (1000, 1280)
    rede = backbones.monta_do_keras(nome, weights="imagenet")
    camadas = [c for c in rede.layers if not isinstance(c, keras.layers.Dropout)]
    tipos = [type(camada) for camada in camadas[-2:]]
    if tipos != [keras.layers.GlobalAveragePooling2D, keras.layers.Dense]:
        raise ErroClaro("ela não é uma única camada Dense depois da média.")
    return tuple(camadas[-1].get_weights())


def _logits(vetores: np.ndarray, cabecas: Cabecas) -> np.ndarray:
    """O que cada cabeça diz dos canais da rede dela: float32 (redes, n, 1000)."""
    fins = np.cumsum([len(kernel) for kernel, _ in cabecas])
    logits = []
    for canais, (kernel, bias) in zip(np.split(vetores, fins[:-1], axis=1), cabecas, strict=True):
        logits.append(np.float32(canais) @ kernel + bias)
    return np.stack(logits)


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
    forma, acaso = (LADO, LADO, 3), np.random.default_rng(0)
    lisas = [np.full(forma, cinza) for cinza in np.linspace(0, 1, 5)]
    em_cinza = np.repeat(acaso.random((LADO, LADO, 1)), 3, axis=2)
    return np.stack([*lisas, em_cinza, acaso.random(forma)]).astype("float32")


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
        outras = np.setdiff1d(np.arange(1000), self.indices)
        notas = []
        for inicio in range(0, len(vetores), LOTE):
            logits = _logits(vetores[inicio : inicio + LOTE], self.cabecas)
            dentro = logsumexp(logits[..., self.indices], axis=-1)
            fora = logsumexp(logits[..., outras], axis=-1)
            notas.append((dentro - fora).mean(axis=0))
        return np.concatenate(notas)

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
    """O que as redes `nomes`, como em `backbones.cria`, sabem das `classes`.

    As classes da ImageNet que são gatos e cachorros já se sabem. De outro dataset, são as que as
    fotos lembram: probabilidade média acima de 1/1000, a do acaso, nas fotos de uma das classes. A
    média é de cada classe para a de poucas fotos não sumir na outra. vetores: (n, canais), e y:
    (n, 1), os do treino. Se a cabeça de alguma rede não veio ou não serve, diz isso numa frase, e
    nada será recusado.
    """
    try:
        cabecas = [cabeca(nome) for nome in nomes.split("+")]
    except ErroClaro as erro:  # o detector vive sem ela
        print(f'Sem a cabeça da ImageNet de {nomes}, não haverá "nenhum dos dois": {erro}')
        return Conhecidas([], np.zeros(0, int))
    indices, bichos = set(), {nome.lower() for nome in classes}
    if bichos <= CONHECIDAS.keys():
        indices.update(*(CONHECIDAS[bicho] for bicho in bichos))
    else:
        for classe in (0, 1):
            logits = _logits(vetores[np.ravel(y) == classe], cabecas)
            chances = softmax(logits, axis=-1).mean(axis=(0, 1))
            indices.update(np.flatnonzero(chances > 1 / 1000))
    return Conhecidas(cabecas, np.array(sorted(indices)))
