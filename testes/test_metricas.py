"""As medidas batem com contas feitas por outros, e o que se mostra fica anotado."""

import time

import numpy as np
import pytest
from sklearn import metrics

from detector.metricas import Medidas, avalia, compara, intervalo, mostra, num

ACASO = np.random.default_rng(0)


@pytest.mark.parametrize("semente", range(3))
def test_as_medidas_das_duas_classes_sao_as_do_scikit_learn(semente):
    acaso = np.random.default_rng(semente)
    y, p = acaso.integers(0, 2, 200), acaso.beta(1, 2, 200)  # mais gatos: nada é simétrico
    medidas = avalia(y[:, np.newaxis].astype("float32"), p[:, np.newaxis])
    disse = p > 0.5
    esperadas = {
        "acuracia": metrics.accuracy_score(y, disse),
        "precisao": metrics.precision_score(y, disse),
        "recall": metrics.recall_score(y, disse),
        "precisao_0": metrics.precision_score(y, disse, pos_label=0),
        "recall_0": metrics.recall_score(y, disse, pos_label=0),
        "log_loss": metrics.log_loss(y, p),
    }
    assert {nome: medidas[nome] for nome in esperadas} == pytest.approx(esperadas)
    assert medidas["n"] == 200
    assert medidas["recall_ic95"] == intervalo((disse & (y == 1)).sum(), y.sum())
    assert medidas["precisao_0_ic95"] == intervalo((~disse & (y == 0)).sum(), (~disse).sum())


def test_o_intervalo_e_o_de_wilson():
    """Os de Newcombe, Statistics in Medicine 17:857 (1998), tabela I, e um de livro."""
    publicados = {(81, 263): [0.2553, 0.3662], (0, 20): [0, 0.1611], (1, 29): [0.0061, 0.1718]}
    for (acertos, total), publicado in ({(8, 10): [0.4901, 0.9433]} | publicados).items():
        assert intervalo(acertos, total) == pytest.approx(publicado, abs=1e-4)


def test_o_que_nao_tem_o_que_dividir_e_indefinido(capsys):
    so_gatos = avalia(np.array([0, 0, 0]), np.array([0.1, 0.2, 0.3]))
    assert so_gatos["precisao"] is so_gatos["recall"] is so_gatos["recall_ic95"] is None
    mostra("Validação", so_gatos, ["gato", "cachorro"])
    dito = capsys.readouterr().out
    assert "Validação (3 fotos): acurácia 1,0000 · precisão indefinida" in dito
    assert "de gato: precisão 1,0000 · recall 1,0000" in dito and "None" not in dito


def test_a_diferenca_pareada_e_a_conta_de_sempre():
    """O t pareado de qualquer livro, com a normal."""
    y = ACASO.integers(0, 2, 300)
    antes, depois = (np.clip(ACASO.beta(2, 2, 300) * 0.5 + y * 0.4, 0.01, 0.99) for _ in range(2))
    dito = compara(y[:, np.newaxis], antes, depois)
    perdas = [
        [metrics.log_loss([r], [p], labels=[0, 1]) for r, p in zip(y, quais, strict=True)]
        for quais in (antes, depois)
    ]
    diferencas = np.subtract(*perdas[::-1])
    erro = np.sqrt(np.sum((diferencas - diferencas.mean()) ** 2) / 299 / 300)
    esperado = [diferencas.mean() - 1.959964 * erro, diferencas.mean() + 1.959964 * erro]
    assert dito["n"] == 300 and dito["log_loss"] == pytest.approx(diferencas.mean())
    assert dito["log_loss_ic95"] == pytest.approx(esperado, abs=1e-7)
    certas = [(p > 0.5) == y for p in (antes, depois)]
    ganhou, perdeu = (certas[1] & ~certas[0]).sum(), (certas[0] & ~certas[1]).sum()
    assert (dito["passou_a_acertar"], dito["passou_a_errar"]) == (ganhou, perdeu)


def test_quem_nao_muda_nao_tem_diferenca_e_quem_erra_com_certeza_nao_da_infinito():
    y, p = np.array([1, 1, 0, 0]), np.array([0.9, 0.4, 0.2, 0.6])
    assert compara(y, p, p)["log_loss_ic95"] == [0, 0]
    assert 0 > compara(y, 1.0 - y, p)["log_loss"] == -compara(y, p, 1.0 - y)["log_loss"] > -np.inf


def test_cada_linha_que_se_mostra_fica_anotada_sob_o_nome_dela(capsys):
    inicio, medidas = time.time(), Medidas()
    y, p = np.array([0, 1, 1, 0]), np.array([0.2, 0.9, 0.4, 0.1])
    medidas.anota(classes=["gato", "cachorro"], n_treino=1600, limiar=-1.5, segundos_extracao=3.21)
    validacao = medidas.avalia("Validação, congelado", y, p)
    quando = medidas["segundos_ate_metrica"]
    diferenca = medidas.compara("Teste, fine-tuning", y, p, np.array([0.2, 0.9, 0.8, 0.1]))
    medidas.avalia("Teste", y, p)
    assert medidas["validacao_congelado"] == validacao and medidas["teste"] == validacao
    assert medidas["teste_fine_tuning"] == diferenca and medidas["n_treino"] == 1600
    assert inicio <= medidas["inicio"] <= time.time() and medidas["segundos_ate_metrica"] == quando
    dito = capsys.readouterr().out
    assert "n treino 1600 · limiar −1,5000 · segundos extração 3,2" in dito
    assert "Validação, congelado (4 fotos): acurácia 0,7500" in dito
    assert "precisão e recall são de cachorro; de gato: precisão 0,6667 · recall 1,0000" in dito
    assert "Teste, fine-tuning (4 fotos): a log loss muda −0,1733" in dito
    assert "1 passaram a acertar, 0 a errar" in dito
    assert num(0.00114, sinal=True) == "+0,0011" and "." not in dito
