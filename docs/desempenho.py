"""Quanto levam a rede e o notebook: python docs/desempenho.py DATA_DIR DATA_DIR_GRANDE

As pastas têm o `cats_vs_dogs` preparado; a segunda, mais fotos. Grava desempenho.json e a página.
"""

import os
import pathlib
import re
import sys
import tempfile
import time
from timeit import timeit
from unittest import mock

import gera
import pandas as pd

import detector

VEZES, TAMANHOS = 3, (500, 2000, 20_000)
PAGINA = """# Quanto tempo leva, e o que o fine-tuning dá

Página escrita por `docs/desempenho.py`. Tempos de {data}, código `{codigo}`, em {onde}.

## Passar as fotos pela rede congelada

**P** é o que `Model.predict` leva para ler as 2.000 fotos reais e passá-las pela rede. A *passagem*
de um motor também grava vetores e mapas; *tudo* conta ainda montar o motor e, o que só a primeira
sessão faz, converter a rede para ele. Medianas de 3 medidas alternadas.

{passagens}

## O notebook, seção a seção

As duas sessões são com as 2.000 fotos reais (medianas de 3); a segunda usa o que a primeira deixou
em `modelos/`. As outras, com fotos de 200×200 (uma execução de cada); para as 20.000, P é
{p_grande:.0f} s. Tudo em segundos, menos a memória; uma lição não conta na seção em que está.

{sessoes}

## O que o fine-tuning dá

`docs/comparacoes.py` roda as células do notebook em divisões diferentes das mesmas fotos e junta os
testes. *Candidato* é o meio do caminho entre os pesos velhos e os novos; *entregue*, ele ou o
congelado, conforme a validação; *controle*, a cabeça sozinha, com as mesmas épocas a mais.

{ganho}
"""


def pagina(m: dict[str, dict]) -> str:
    d = {nome: gera.quadro(v) if isinstance(v, dict) else v for nome, v in m["desempenho"].items()}
    return PAGINA.format(**d, ganho=gera.ganho(m, menos=()))


def passagens(data_dir: str, vezes: int, motores: list[str]) -> pd.Series:
    """Segundos de cada jeito de passar as fotos pela rede; medianas de medidas alternadas."""
    builder, le = detector.origem.abre("cats_vs_dogs", data_dir), detector.dados.le
    fotos, rede = detector.dados.lista(builder), detector.backbones.cria("EfficientNetLite0")
    corte, lotes = detector.backbones.acha_corte(rede), le(builder, "train").batch(32).prefetch(2)
    rede.predict(lotes.take(1), verbose=0)  # a primeira vez inclui preparar-se
    voltas = [{} for _ in range(vezes)]
    for volta in voltas:
        volta["Model.predict"] = timeit(lambda: rede.predict(lotes, verbose=0), number=1)
        volta["só ler as fotos"] = timeit(lambda: lotes.reduce(0, lambda n, _: n), number=1)
        for motor in motores:
            inicio = time.perf_counter()
            so_este = mock.patch.object(detector.motores, "candidatos", return_value=[motor])
            with so_este, tempfile.TemporaryDirectory() as pasta:
                pedido = builder, fotos, le, rede, corte, motor, pathlib.Path(pasta)
                volta[f"{motor}, a passagem"] = detector.caracteristicas.extrai(*pedido).segundos
                volta[f"{motor}, tudo"] = time.perf_counter() - inicio
    return pd.DataFrame(voltas).median()


def notebook(vezes: int, *sessoes: str, **parametros: object) -> pd.DataFrame:
    """Os tempos de sessões seguidas do notebook na mesma pasta de modelos; medianas."""
    voltas = []
    for _ in range(vezes):
        with tempfile.TemporaryDirectory() as pasta:
            tempos = {nome: gera.executa(pasta, **parametros)[1]["tempos"] for nome in sessoes}
        voltas.append(pd.DataFrame(tempos))
    return pd.concat(voltas).groupby(level=0, sort=False).median()


def mede(data_dir: str, grande: str) -> None:
    """Mede tudo e grava desempenho.json."""
    detector.prepara(42)
    medidas = gera.assinatura()
    tempos = passagens(data_dir, VEZES, detector.motores.candidatos("openvino"))
    sessoes = [notebook(VEZES, "primeira", "segunda", DATA_DIR=data_dir)]
    sessoes += [notebook(1, f"{n} fotos", DATA_DIR=grande, MAX_IMAGENS=n) for n in TAMANHOS]
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())[1]
    medidas |= {
        "onde": f"{os.cpu_count()} núcleos de CPU ({cpu}), sem GPU",
        "p_grande": passagens(grande, 1, [])["Model.predict"],
        "passagens": {"segundos": dict(tempos), "P / isto": dict(tempos["Model.predict"] / tempos)},
        "sessoes": pd.concat(sessoes, axis=1).to_dict(),
    }
    gera.grava(medidas, gera.RAIZ / "docs/desempenho.json")


if __name__ == "__main__":
    mede(*sys.argv[1:])
    gera.escreve()
