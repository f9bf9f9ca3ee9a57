"""O que o fine-tuning dá, medido em fotos que não decidiram nada, em divisões diferentes.

    python docs/comparacoes.py [2000=DATA_DIR] [20000=DATA_DIR] [amostra]   o resto fica como está

Roda as células do notebook até a que decide se o fine-tuning fica. Só muda quais fotos são de que
conjunto: a divisão anda em volta delas, e os testes de duas divisões não têm fotos em comum.
"""

import json
import sys
import tempfile
from unittest import mock

import gera
import numpy as np

import detector
from detector.metricas import avalia, compara

ARQUIVO = gera.RAIZ / "docs/comparacoes.json"
CASOS = (  # o que se pede, o nome, quantas divisões, o backbone e, se não é o do notebook, o corte
    ("2000", "2.000 reais", 5, "EfficientNetLite0", None),
    ("2000", "2.000 reais, duas redes unidas", 5, "EfficientNetLite0+EfficientNetLite1", None),
    ("20000", "20.000 pequenas", 3, "EfficientNetLite0", None),
    ("amostra", "amostra", 5, "EfficientNetLite0", None),
    ("amostra", "amostra, corte mais perto da entrada", 5, "EfficientNetLite0", "blocks.8.bn2"),
)
PULA = ("lotes", "copias", "curvas", "licao_lote", "licao_horas", "licao_normalizacao")


def roda(volta: float, corte: str | None, **parametros: object) -> dict:
    """As variáveis do notebook depois de `decisao`, com a divisão deslocada de `volta` (0 a 1)."""
    v, acha_corte = {}, (lambda _: corte) if corte else detector.backbones.acha_corte
    for nome, fonte in gera.celulas().items():
        with mock.patch.object(detector.backbones, "acha_corte", acha_corte):
            exec("" if nome in PULA else fonte, v)
        if nome == "parameters":
            v |= parametros
        if nome == "divisao":
            v["tabela"]["conjunto"] = np.roll(v["tabela"]["conjunto"], round(volta * v["n"]))
        if nome == "decisao":
            return v


def preve(v: dict) -> dict[str, np.ndarray]:
    """Os rótulos do teste e o que cada modelo diz dele, todos a partir dos mesmos mapas."""
    ajustado, cabeca, treino = v["ajustado"], v["cabeca_nova"], v["i_treino"]
    meio = [(a + b) / 2 for a, b in zip(v["pesos_antes"], v["pesos_novos"], strict=True)]
    pesos = {"congelado": v["pesos_antes"], "candidato": meio, "entregue": ajustado.get_weights()}
    ajustado.set_weights(v["pesos_antes"])  # controle: só a cabeça, com o mesmo otimizador e ritmo
    otimizador = type(ajustado.optimizer).from_config(ajustado.optimizer.get_config())
    cabeca.compile(otimizador, "binary_crossentropy")
    dados = v["X"][treino], v["y"][treino], v["TAMANHO_LOTE"], v["epocas"]
    cabeca.fit(*dados, shuffle=False, verbose=0)
    pesos["controle"] = ajustado.get_weights()
    mapas = v["extracao"].mapas(v["i_teste"]).batch(128)
    p = {"y": v["y"][v["i_teste"]].ravel()}
    for modelo, destes in pesos.items():
        ajustado.set_weights(destes)
        p[modelo] = ajustado.predict(mapas, verbose=0).ravel()
    return p


def contra(y: np.ndarray, antes: np.ndarray, depois: np.ndarray) -> dict:
    return avalia(y, depois) | {"muda": compara(y, antes, depois)}


def mede(divisoes: int, corte: str | None, **parametros: object) -> tuple[dict, dict]:
    """As medidas de um dos CASOS; e os rótulos e as probabilidades de todos os testes, juntos."""
    medidas, provas = {"divisoes": [], "segundos_extracao": 0.0} | gera.assinatura(), []
    for i in range(divisoes):
        v = roda(i / divisoes, corte, **parametros)
        provas.append(preve(v))
        medidas["divisoes"].append({"aceito": bool(v["aceito"])})
        medidas["segundos_extracao"] += v["extracao"].segundos  # só a primeira divisão extrai
    p = {quem: np.concatenate([prova[quem] for prova in provas]) for quem in provas[0]}
    quais = [quem for quem in p if quem != "y"] if v["epocas"] else ["entregue"]
    medidas["modelos"] = {quem: contra(p["y"], p["congelado"], p[quem]) for quem in quais}
    return medidas, p


def main(*pedidos: str) -> None:
    medidas = json.loads(ARQUIVO.read_text("utf-8")) if ARQUIVO.exists() else {}
    for pedido, _, data_dir in (pedido.partition("=") for pedido in pedidos):
        onde = {"DATA_DIR": data_dir} if data_dir else {"DATASET": pedido}
        antes = {}
        for _, nome, divisoes, backbone, corte in (caso for caso in CASOS if caso[0] == pedido):
            with tempfile.TemporaryDirectory() as modelos:
                medidas[nome], p = mede(divisoes, corte, BACKBONE=backbone, MODELOS=modelos, **onde)
            for outro, p_dele in antes.items():
                comparado = contra(p["y"], p_dele, p["entregue"])
                medidas[nome]["modelos"][f"entregue, contra o de «{outro}»"] = comparado
            antes = {nome: p["entregue"]}
    gera.grava({caso[1]: medidas[caso[1]] for caso in CASOS if caso[1] in medidas}, ARQUIVO)
    gera.escreve()


if __name__ == "__main__":
    main(*sys.argv[1:])
