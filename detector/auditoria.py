"""O que merece um segundo olhar no dataset: rótulos em dúvida, cópias, fotos sem igual."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from detector.semelhanca import unitarios

COLUNAS = ["arquivo", "rotulo", "probabilidade_cachorro", "motivo"]

# Medido em 2.000 fotos reais: mesmo espelhada, reduzida à metade e regravada em JPEG 30, a cópia
# tem correlação de 0,99 ou mais com a original; duas fotos diferentes não passam de 0,90.
CORRELACAO = 0.97
COSSENO = 0.4  # entre estranhas, 0,28 é o comum; de 702 cópias nas três coisas, a menor deu 0,43
VOLTAS, VIZINHAS, BITS_DIFERENTES = 12, 3, 6  # de 2.000 cópias entre 200 mil fotos, achou todas


def discordancias(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Índices das fotos em que rótulo e modelo discordam, o modelo mais convicto primeiro.

    y: (n,), 0 ou 1. p: (n,), a probabilidade da classe 1 segundo um modelo que não viu a foto.
    """
    y, p = np.asarray(y), np.asarray(p)
    quais = np.flatnonzero((p > 0.5) != (y == 1))
    return quais[np.argsort(-np.abs(p - y)[quais], kind="stable")]


def copias(miniaturas: np.ndarray, vetores: np.ndarray) -> list[tuple[int, int]]:
    """Pares (i, j), i < j, de fotos que são a mesma, mesmo espelhada, reduzida ou regravada.

    miniaturas: uint8 (n, 16, 16), em tons de cinza. vetores: (n, canais), um por foto.
    O tempo e a memória crescem em linha quase reta com n: só se comparam os `_candidatos`. De
    dezenas de fotos iguais saem pares que as ligam, não todos os pares.
    """
    pares = [np.empty((0, 2), int)]
    for i, j in _candidatos(miniaturas):
        uma, outra, espelho = map(_normais, (miniaturas[i], miniaturas[j], miniaturas[i, :, ::-1]))
        pixels = np.maximum((uma * outra).sum(axis=1), (espelho * outra).sum(axis=1))
        i, j = i[pixels > CORRELACAO], j[pixels > CORRELACAO]
        cossenos = (unitarios(vetores[i]) * unitarios(vetores[j])).sum(axis=1)
        pares.append(np.sort(np.column_stack([i, j])[cossenos > COSSENO], axis=1))
    return [(int(i), int(j)) for i, j in np.unique(np.concatenate(pares), axis=0)]


def _candidatos(miniaturas: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pares (i, j) que podem ser cópias, em 36 levas de até n, seja qual for n.

    Cada volta resume a foto em 64 bits: o lado em que ela está de 64 planos sorteados (Charikar,
    STOC 2002). Nas fotos em ordem de resumo, cópias caem quase sempre lado a lado. O resumo é da
    miniatura somada ao seu espelho, e por isso o mesmo para as duas.
    """
    planos = np.random.default_rng(0).standard_normal((256, 64 * VOLTAS), dtype="float32")
    resumos = [np.empty((0, VOLTAS), "uint64")]
    for inicio in range(0, len(miniaturas), 5000):
        bloco = miniaturas[inicio : inicio + 5000].astype("float32")
        lados = _normais(bloco + bloco[:, :, ::-1]) @ planos > 0
        resumos.append(np.packbits(lados, axis=1).view("uint64"))
    for resumo in np.concatenate(resumos).T:
        ordem = np.argsort(resumo, kind="stable")
        for passo in range(1, VIZINHAS + 1):
            i, j = ordem[:-passo], ordem[passo:]
            perto = np.bitwise_count(resumo[i] ^ resumo[j]) <= BITS_DIFERENTES
            yield i[perto], j[perto]


def _normais(miniaturas: np.ndarray) -> np.ndarray:
    """Cada miniatura em linha, com média 0 e norma 1: o produto de duas é a correlação delas."""
    linhas = miniaturas.reshape(-1, 256).astype("float32")
    return unitarios(linhas - linhas.mean(axis=1, keepdims=True))


def distantes(similaridades: np.ndarray) -> np.ndarray:
    """Índices das fotos muito menos parecidas com as outras que o comum, a pior primeiro.

    similaridades: (n,), de `semelhanca`. "Muito", na regra de Tukey: 3·(q3 − q1) abaixo de q1.
    """
    q1, q3 = np.quantile(similaridades, [0.25, 0.75])
    ordem = np.argsort(similaridades, kind="stable")
    return ordem[np.asarray(similaridades)[ordem] < q1 - 3 * (q3 - q1)]


def suspeitas(
    fotos: pd.DataFrame, classes: list[str], p: np.ndarray, pares: list, longe: np.ndarray
) -> pd.DataFrame:
    """A tabela das fotos que merecem um segundo olhar, a mais duvidosa primeiro.

    fotos: de `dados.lista`. classes: o nome da 0 e o da 1. p: (n,), de quem não viu a foto.
    pares: de `copias`. longe: de `distantes`. O índice da tabela é a linha da foto no dataset.
    """
    y, arquivos = fotos["rotulo"].to_numpy(), fotos["arquivo"].tolist()
    motivos = {i: ["rótulo e modelo discordam"] for i in discordancias(y, p).tolist()}
    for i, j in pares:
        motivos.setdefault(i, []).append(f"cópia de {arquivos[j]}")
        motivos.setdefault(j, []).append(f"cópia de {arquivos[i]}")
    for i in np.asarray(longe, int).tolist():
        motivos.setdefault(i, []).append("não se parece com as outras")
    linhas = [
        (arquivos[i], classes[y[i]], round(float(p[i]), 4), "; ".join(motivo))
        for i, motivo in motivos.items()
    ]
    return pd.DataFrame(linhas, columns=COLUNAS, index=list(motivos))
