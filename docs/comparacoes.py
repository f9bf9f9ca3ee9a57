"""O que o fine-tuning dá, medido em fotos que não decidiram nada, em divisões diferentes.

    python docs/comparacoes.py DATA_DIR_2000 DATA_DIR_20000   mede e grava docs/comparacoes.json

Roda as próprias células do notebook, da primeira até a que prevê o teste; só muda quais fotos são
de treino, de validação e de teste: a divisão do notebook anda em volta das fotos, e os testes de
duas divisões não têm nenhuma foto em comum.
"""

import contextlib
import io
import json
import pathlib
import sys
import tempfile
import time

import numpy as np
from IPython.core.inputtransformer2 import TransformerManager
from scipy.stats import binomtest, norm
from sklearn.metrics import log_loss

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import detector
from detector.metricas import avalia

RAIZ = pathlib.Path(__file__).resolve().parent.parent
ARQUIVO = RAIZ / "docs/comparacoes.json"
DIVIDE = 'fotos["parte"] = np.repeat('
SEM = ("figuras.", "do_arquivo =", "do_arquivo[", "!git")  # desenhos e conferências
CORTE_FUNDO = "blocks.8.bn2"
ULTIMA = "p_teste, do_teste = "


def celulas() -> list[str]:
    """O código das células do notebook até a previsão do teste, sem as que só mostram."""
    notebook = json.loads((RAIZ / "detector_dogs_cats.ipynb").read_text(encoding="utf-8"))
    fontes = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    [ultima] = [i for i, fonte in enumerate(fontes) if ULTIMA in fonte]
    return [f for f in fontes[: ultima + 1] if not any(trecho in f for trecho in SEM)]


def roda(parametros: dict, volta: float, corte: str | None = None) -> dict:
    """As variáveis do notebook depois de rodado com a divisão deslocada de `volta`, de 0 a 1."""
    nomes = {"INICIO": time.time(), "pathlib": pathlib, "sys": sys, "time": time}
    for fonte in celulas():
        if DIVIDE in fonte:
            fonte += f'\nfotos["parte"] = np.roll(fotos["parte"], int({volta} * n))'
        if corte:
            fonte = fonte.replace("detector.backbones.acha_corte(backbone)", repr(corte))
        if "ajustado.fit(" in fonte:
            nomes["inicio_do_ajuste"] = time.perf_counter()
            fonte += "\nsegundos_ajuste = time.perf_counter() - inicio_do_ajuste"
        with contextlib.redirect_stdout(io.StringIO()):
            exec(TransformerManager().transform_cell(fonte), nomes)
        if fonte.startswith("DATASET"):
            nomes |= parametros
    return nomes


def compara(parametros: dict, divisoes: int, corte: str | None = None) -> tuple[dict, dict]:
    """O modelo congelado, o ajustado sem mistura e o escolhido, no teste de cada divisão.

    Os três rodam no Keras, sobre os mesmos mapas. Devolve as medidas, e as probabilidades e os
    rótulos de todos os testes juntos.
    """
    juntos = {nome: [] for nome in ("y", "congelado", "sem_mistura", "escolhido")}
    partes, segundos = [], []
    for i in range(divisoes):
        v = roda(parametros, i / divisoes, corte)
        mapas = v["extracao"].mapas(v["i_teste"]).batch(128)
        for nome, parte in (("congelado", 0), ("sem_mistura", 1), ("escolhido", v["parte"])):
            v["detector"].treino.mistura(v["ajustado"], v["antes"], v["depois"], parte)
            juntos[nome].append(v["ajustado"].predict(mapas, verbose=0).ravel())
        juntos["y"].append(v["rotulos_teste"])
        print(f"{v['builder'].name}, corte {v['corte']}, divisão {i + 1} de {divisoes}", flush=True)
        partes.append(v["parte"])
        segundos.append(v["segundos_ajuste"])
    por_divisao = [
        dict(zip(juntos, valores, strict=True)) for valores in zip(*juntos.values(), strict=True)
    ]
    juntos = {nome: np.concatenate(valores) for nome, valores in juntos.items()}
    medidas = {
        "n_treino": len(v["i_treino"]),
        "n_teste": len(juntos["y"]),
        "motor": v["extracao"].motor,
        "corte": v["corte"],
        "segundos_ajuste": float(np.median(segundos)),  # com a máquina só para isto
        "parte_nova": partes,
        "log_loss": [{n: log_loss(d["y"], d[n]) for n in d if n != "y"} for d in por_divisao],
        "todos": {n: avalia(juntos["y"], juntos[n]) for n in juntos if n != "y"},
        "ganho": pareada(juntos["y"], juntos["congelado"], juntos["escolhido"]),
    }
    return medidas, juntos


def pareada(y: np.ndarray, antes: np.ndarray, depois: np.ndarray) -> dict:
    """A diferença de log loss com o intervalo pareado de 95 %, e o teste de McNemar.

    y: (n,), 0 ou 1. antes, depois: (n,), as probabilidades que dois modelos dão às mesmas fotos.
    O intervalo é o normal da média das n diferenças; McNemar, o exato, compara só as fotos que um
    acertou e o outro errou.
    """
    perdas = [-np.log(np.clip(np.where(y == 1, p, 1 - p), 1e-7, 1)) for p in (antes, depois)]
    diferencas = perdas[1] - perdas[0]
    margem = norm.ppf(0.975) * diferencas.std(ddof=1) / np.sqrt(len(y))
    certas = [(p > 0.5) == (y == 1) for p in (antes, depois)]
    ganhou, perdeu = (int((certas[a] & ~certas[b]).sum()) for a, b in ((1, 0), (0, 1)))
    discordam = ganhou + perdeu
    return {
        "log_loss": float(diferencas.mean()),
        "log_loss_ic95": [float(diferencas.mean() - margem), float(diferencas.mean() + margem)],
        "passou_a_acertar": ganhou,
        "passou_a_errar": perdeu,
        "mcnemar_p": binomtest(ganhou, discordam).pvalue if discordam else 1.0,
    }


def main() -> None:
    dois_mil, vinte_mil = sys.argv[1:]
    detector.carrega_tensorflow()
    with tempfile.TemporaryDirectory() as pasta:
        modelos = {"MODELOS": pasta}
        medidas = {"amostra": {}}
        medidas["2000"], _ = compara({"DATA_DIR": dois_mil} | modelos, 5)
        amostra = {"DATASET": "amostra"} | modelos
        medidas["amostra"]["padrao"], raso = compara(amostra, 5)
        medidas["amostra"]["fundo"], fundo = compara(amostra, 5, CORTE_FUNDO)
        ganho = pareada(raso["y"], raso["escolhido"], fundo["escolhido"])
        medidas["amostra"]["padrao_para_fundo"] = ganho
        medidas["20000"], _ = compara({"DATA_DIR": vinte_mil} | modelos, 3)
    ARQUIVO.write_text(json.dumps(medidas, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
