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


def mede(
    divisoes: int, corte: str | None, de_cima: dict, nome_de_cima: str, **parametros: object
) -> tuple:
    """As medidas de um dos CASOS; e os rótulos e as probabilidades de todos os testes, juntos."""
    feitas, provas, modelos, assinado, segundos = [], [], {}, gera.assinatura(), 0.0
    for i in range(divisoes):
        v = roda(i / divisoes, corte, **parametros)
        provas.append(p := preve(v))
        segundos += v["extracao"].segundos  # só a primeira divisão extrai
        perdas = {quem: avalia(p["y"], p[quem])["log_loss"] for quem in ("congelado", "entregue")}
        feitas.append({"aceito": bool(v["aceito"]), "validacao": v["diferenca"]} | perdas)
    p = {quem: np.concatenate([prova[quem] for prova in provas]) for quem in provas[0]}
    pares = {quem: (p["congelado"], p[quem]) for quem in provas[0] if quem != "y"}
    if not v["epocas"]:  # sem fine-tuning, é um modelo só
        pares = {"entregue": pares["entregue"]}
    if de_cima:
        pares[f"entregue, contra o de «{nome_de_cima}»"] = de_cima["entregue"], p["entregue"]
    for quem, (antes, depois) in pares.items():
        modelos[quem] = avalia(p["y"], depois) | {"muda": compara(p["y"], antes, depois)}
    extracao = {"motor": v["extracao"].motor, "segundos_extracao": segundos}
    return extracao | {"divisoes": feitas, "modelos": modelos} | assinado, p


def main(*pedidos: str) -> None:
    medidas = json.loads(ARQUIVO.read_text("utf-8")) if ARQUIVO.exists() else {}
    for pedido, _, data_dir in (pedido.partition("=") for pedido in pedidos):
        onde, p, antes = {"DATA_DIR": data_dir} if data_dir else {"DATASET": pedido}, {}, ""
        for _, nome, divisoes, backbone, corte in (caso for caso in CASOS if caso[0] == pedido):
            with tempfile.TemporaryDirectory() as modelos:
                onde |= {"BACKBONE": backbone, "MODELOS": modelos}
                medidas[nome], p = mede(divisoes, corte, p, antes, **onde)
            antes = nome
    gera.grava({caso[1]: medidas[caso[1]] for caso in CASOS if caso[1] in medidas}, ARQUIVO)
    gera.escreve()


if __name__ == "__main__":
    main(*sys.argv[1:])
