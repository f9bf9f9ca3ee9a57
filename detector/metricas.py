"""Acurácia, precisão, recall e o quanto se pode confiar em cada uma."""

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, log_loss


def intervalo(acertos: int, total: int) -> list[float]:
    """Intervalo de Wilson de 95 % para uma proporção: [mínimo, máximo], entre 0 e 1."""
    ic = binomtest(int(acertos), int(total)).proportion_ci(0.95, "wilson")
    return [float(ic.low), float(ic.high)]


def avalia(y: np.ndarray, p: np.ndarray) -> dict:
    """Compara probabilidades p da classe 1 com rótulos y, 0 ou 1; n de cada, e o corte é 0,5.

    Devolve `n`, `acuracia`, `precisao` e `recall` com os intervalos de Wilson de 95 % (`…_ic95`),
    `log_loss` e `ece`. Precisão ou recall é None quando não há o que dividir.
    """
    y, p = np.ravel(y), np.ravel(p)
    (vn, fp), (fn, vp) = confusion_matrix(y, p > 0.5, labels=[0, 1]).tolist()
    medidas = {"n": len(y)}
    divisoes = {"acuracia": (vn + vp, len(y)), "precisao": (vp, vp + fp), "recall": (vp, vp + fn)}
    for nome, (acertos, total) in divisoes.items():
        medidas[nome] = acertos / total if total else None
        medidas[f"{nome}_ic95"] = intervalo(acertos, total) if total else None
    return medidas | {"log_loss": float(log_loss(y, p, labels=[0, 1])), "ece": ece(y, p)}


def ece(y: np.ndarray, p: np.ndarray, faixas: int = 10) -> float:
    """Erro de calibração esperado, de 0 a 1: a distância média entre o previsto e o que se viu.

    Ponderada pelas fotos de cada faixa de probabilidade (Naeini et al., AAAI 2015).
    """
    faixa = np.minimum((p * faixas).astype(int), faixas - 1)
    erros = [abs(p[faixa == i].sum() - y[faixa == i].sum()) for i in range(faixas)]
    return float(sum(erros) / len(y))


def mostra(titulo: str, medidas: dict) -> None:
    """Imprime numa linha, e os intervalos na outra, o que `avalia` devolveu."""
    nomes = {"acuracia": "acurácia", "precisao": "precisão", "recall": "recall"}
    valores, intervalos = [], []
    for chave, nome in nomes.items():
        if medidas[chave] is None:
            valores.append(f"{nome} indefinida")
            continue
        valores.append(f"{nome} {medidas[chave]:.4f}")
        intervalos.append("{} {:.4f} a {:.4f}".format(nome, *medidas[f"{chave}_ic95"]))
    print(f"{titulo} ({medidas['n']} fotos): {' · '.join(valores)}", end="")
    print(f" · log loss {medidas['log_loss']:.4f}")
    print(f"  intervalos de 95 %: {' · '.join(intervalos)}")
