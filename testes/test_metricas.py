"""As métricas batem com contas feitas por outros, e nada é inventado sem o que dividir."""

import numpy as np
import pytest
from sklearn import metrics

from detector.metricas import avalia, ece, intervalo, mostra


@pytest.mark.parametrize("semente", range(5))
def test_as_medidas_sao_as_do_scikit_learn(semente):
    rng = np.random.default_rng(semente)
    y, p = rng.integers(0, 2, 200), rng.beta(1, 2, 200)  # mais previsões de gato: nada é simétrico
    medidas = avalia(y[:, np.newaxis].astype("float32"), p[:, np.newaxis])
    esperadas = [metrics.accuracy_score, metrics.precision_score, metrics.recall_score]
    obtidas = [medidas["acuracia"], medidas["precisao"], medidas["recall"]]
    assert obtidas == pytest.approx([mede(y, p > 0.5) for mede in esperadas])
    assert medidas["log_loss"] == pytest.approx(metrics.log_loss(y, p)) and medidas["n"] == 200


def test_precisao_e_recall_nao_se_trocam():
    """De 4 cachorros ele achou 1, e não chamou nenhum gato de cachorro."""
    medidas = avalia(np.array([1, 1, 1, 1, 0]), np.array([0.9, 0.1, 0.2, 0.5, 0.3]))
    assert (medidas["precisao"], medidas["recall"], medidas["acuracia"]) == (1, 0.25, 0.4)
    assert medidas["precisao_ic95"] == intervalo(1, 1)
    assert medidas["recall_ic95"] == intervalo(1, 4)
    assert medidas["acuracia_ic95"] == intervalo(2, 5)


@pytest.mark.parametrize(
    ("acertos", "total", "publicado"),
    [
        (8, 10, [0.4901, 0.9433]),
        (81, 263, [0.2553, 0.3662]),  # Newcombe, Statistics in Medicine 17:857 (1998), tabela I
        (0, 20, [0, 0.1611]),
        (1, 29, [0.0061, 0.1718]),
    ],
)
def test_o_intervalo_e_o_de_wilson(acertos, total, publicado):
    assert intervalo(acertos, total) == pytest.approx(publicado, abs=1e-4)


def test_o_que_nao_tem_o_que_dividir_e_indefinido(capsys):
    so_gatos = avalia(np.array([0, 0, 0]), np.array([0.1, 0.2, 0.3]))
    assert so_gatos["precisao"] is so_gatos["recall"] is so_gatos["recall_ic95"] is None
    mostra("Validação", so_gatos)
    dito = capsys.readouterr().out
    assert "Validação (3 fotos): acurácia 1.0000 · precisão indefinida" in dito
    assert dito.count("recall indefinida") == 1 and "None" not in dito


def test_a_calibracao_de_quem_acerta_e_de_quem_exagera():
    y = np.array([0, 0, 0, 1] * 100)
    assert ece(y, np.full(400, 0.25)) == pytest.approx(0)
    assert ece(y, np.full(400, 0.95)) == pytest.approx(0.7)
    assert ece(1 - y, (1 - y).astype("float32")) == 0  # 1,0 também cai numa faixa
    metade = np.where(np.arange(400) < 200, 0.25, 0.95)
    assert ece(y, metade) == pytest.approx(0.35)
