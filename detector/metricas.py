"""Acurácia, precisão, recall e o quanto se pode confiar em cada uma; o que se mostra, se anota."""

import time
import unicodedata

import numpy as np

CLASSES = ("classe 0", "classe 1")
ACENTOS = {"copia": "cópia", "copias": "cópias", "epoca": "época", "epocas": "épocas"}
ACENTOS |= {"extracao": "extração", "extraidas": "extraídas", "validacao": "validação"}
ACENTOS |= {"tres": "três", "so": "só"}


class Medidas(dict):
    """O que uma execução mediu: cada linha que se mostra fica anotada aqui, sob o nome dela.

    Começa com `inicio`, em segundos desde 1970; a primeira avaliação anota `segundos_ate_metrica`.
    Com `classes` anotadas, mostra também a precisão e o recall da classe 0.
    """

    def __init__(self):
        super().__init__(inicio=time.time())

    def avalia(self, titulo: str, y: np.ndarray, p: np.ndarray) -> dict:
        """Mostra e anota o que `avalia` diz das probabilidades p diante dos rótulos y."""
        self[_chave(titulo)] = medidas = avalia(y, p)
        self.setdefault("segundos_ate_metrica", time.time() - self["inicio"])
        mostra(titulo, medidas, self.get("classes", CLASSES))
        return medidas

    def compara(self, titulo: str, y: np.ndarray, antes: np.ndarray, depois: np.ndarray) -> dict:
        """Mostra e anota o que `compara` diz de dois modelos diante das mesmas fotos."""
        self[_chave(titulo)] = m = compara(y, antes, depois)
        muda = num(m["log_loss"], sinal=True)
        minimo, maximo = (num(valor, sinal=True) for valor in m["log_loss_ic95"])
        print(
            f"{titulo} ({m['n']} fotos): a log loss muda {muda} "
            f"(intervalo pareado de 95 %: {minimo} a {maximo}); "
            f"{m['passou_a_acertar']} passaram a acertar, {m['passou_a_errar']} a errar"
        )
        return m

    def anota(self, **valores) -> None:
        """Mostra e anota outros valores, como `limiar=0.4`."""
        self.update(valores)
        ditos = []
        for nome, valor in valores.items():
            palavras = [ACENTOS.get(palavra, palavra) for palavra in nome.split("_")]
            casas = 1 if nome.startswith(("segundos", "horas")) else 4
            ditos.append(f"{' '.join(palavras)} {_dito(valor, casas)}")
        print(" · ".join(ditos))


def _dito(valor: object, casas: int) -> str:
    if isinstance(valor, list):
        return "; ".join(_dito(item, casas) for item in valor)
    return num(valor, casas) if isinstance(valor, float) else str(valor)


def _chave(titulo: str) -> str:
    """ "Validação, congelado" vira "validacao_congelado"."""
    simples = unicodedata.normalize("NFKD", titulo).encode("ascii", "ignore").decode().lower()
    return "_".join("".join(c if c.isalnum() else " " for c in simples).split())


def num(valor: float | None, casas: int = 4, sinal: bool = False) -> str:
    """O número em português: 0,9900; com `sinal`, +0,0011; o que não há é "indefinida"."""
    if valor is None:
        return "indefinida"
    return f"{valor:{'+' if sinal else ''}.{casas}f}".replace(".", ",").replace("-", "−")


def intervalo(acertos: int, total: int) -> list[float]:
    """Intervalo de Wilson de 95 % para uma proporção: [mínimo, máximo], entre 0 e 1."""
    from scipy.stats import binomtest

    ic = binomtest(int(acertos), int(total)).proportion_ci(0.95, "wilson")
    return [float(ic.low), float(ic.high)]


def avalia(y: np.ndarray, p: np.ndarray) -> dict:
    """Compara probabilidades p da classe 1 com rótulos y, 0 ou 1; n de cada, e decide em 0,5.

    Devolve `n`, `acuracia`, `precisao` e `recall` da classe 1 e, com `_0` no fim, da classe 0, com
    os intervalos de Wilson de 95 % (`…_ic95`), e `log_loss`. Precisão ou recall é None quando não
    há o que dividir.
    """
    from sklearn.metrics import confusion_matrix, log_loss

    y, p = np.ravel(y), np.ravel(p)
    (vn, fp), (fn, vp) = confusion_matrix(y, p > 0.5, labels=[0, 1]).tolist()
    medidas = {"n": len(y)}
    divisoes = {"acuracia": (vn + vp, len(y)), "precisao": (vp, vp + fp), "recall": (vp, vp + fn)}
    divisoes |= {"precisao_0": (vn, vn + fn), "recall_0": (vn, vn + fp)}
    for nome, (acertos, total) in divisoes.items():
        medidas[nome] = acertos / total if total else None
        medidas[f"{nome}_ic95"] = intervalo(acertos, total) if total else None
    return medidas | {"log_loss": float(log_loss(y, p, labels=[0, 1]))}


def compara(y: np.ndarray, antes: np.ndarray, depois: np.ndarray) -> dict:
    """O que muda nas mesmas fotos, do modelo de antes para o de depois.

    y: (n,) ou (n, 1), 0 ou 1. antes, depois: do mesmo tamanho, as probabilidades que cada um dá.
    Devolve `n`, `log_loss` (a diferença média; negativa se melhorou), `log_loss_ic95` (o intervalo
    pareado, normal, da média das n diferenças), `passou_a_acertar` e `passou_a_errar`.
    """
    from scipy.stats import norm

    y, antes, depois = (np.ravel(valores) for valores in (y, antes, depois))
    perdas = [-np.log(np.clip(np.where(y == 1, p, 1 - p), 1e-7, 1)) for p in (antes, depois)]
    diferencas = perdas[1] - perdas[0]
    media = float(diferencas.mean())
    margem = float(norm.ppf(0.975) * diferencas.std(ddof=1) / np.sqrt(len(y)))
    certas_antes, certas_depois = ((p > 0.5) == (y == 1) for p in (antes, depois))
    return {
        "n": len(y),
        "log_loss": media,
        "log_loss_ic95": [media - margem, media + margem],
        "passou_a_acertar": int(np.sum(certas_depois & ~certas_antes)),
        "passou_a_errar": int(np.sum(certas_antes & ~certas_depois)),
    }


def mostra(titulo: str, medidas: dict, classes: tuple[str, str] = CLASSES) -> None:
    """Imprime o que `avalia` devolveu: as medidas, os intervalos e a outra classe."""
    valores, intervalos = [], []
    for chave, nome in (("acuracia", "acurácia"), ("precisao", "precisão"), ("recall", "recall")):
        valores.append(f"{nome} {num(medidas[chave])}")
        if medidas[f"{chave}_ic95"]:
            minimo, maximo = medidas[f"{chave}_ic95"]
            intervalos.append(f"{nome} {num(minimo)} a {num(maximo)}")
    valores.append(f"log loss {num(medidas['log_loss'])}")
    print(f"{titulo} ({medidas['n']} fotos): {' · '.join(valores)}")
    print(f"  intervalos de 95 %: {' · '.join(intervalos)}")
    print(
        f"  precisão e recall são de {classes[1]}; de {classes[0]}: "
        f"precisão {num(medidas['precisao_0'])} · recall {num(medidas['recall_0'])}"
    )
