"""As métricas batem com contas feitas à mão e não inventam número quando não há o que dividir."""

import numpy as np
import pytest


def test_contagens_e_proporcoes(nb):
    y = np.array([0, 0, 0, 1, 1, 1, 1, 0])
    p = np.array([0.1, 0.2, 0.9, 0.8, 0.7, 0.3, 0.6, 0.4])
    m = nb.avalia(y, p)
    assert m["confusao"] == {"gato_como_gato": 3, "gato_como_cachorro": 1, "cachorro_como_gato": 1, "cachorro_como_cachorro": 3}
    assert (m["acuracia"], m["precisao"], m["recall"]) == (6 / 8, 3 / 4, 3 / 4)
    assert m["log_loss"] == pytest.approx(-np.mean(np.log(np.where(y == 1, p, 1 - p))))
    assert m["classe_mais_comum"] == 0.5


def test_intervalo_de_wilson(nb):
    # Wilson, E. B. (1927): para 198 acertos em 200, conta direta da fórmula com z = 1,959964
    n, k, z = 200, 198, 1.959963984540054
    centro, meio = (k + z**2 / 2) / (n + z**2), z / (n + z**2) * np.sqrt(k * (n - k) / n + z**2 / 4)
    assert nb.intervalo(k, n) == pytest.approx([centro - meio, centro + meio])
    assert nb.intervalo(200, 200)[1] == 1.0


def test_sem_nenhum_previsto_a_precisao_e_indefinida(nb, capsys):
    m = nb.avalia(np.array([0, 1]), np.array([0.1, 0.2]))
    assert m["precisao"] is None and m["recall"] == 0.0
    nb.mostra_metricas(m)
    assert "Precisão: indefinida" in capsys.readouterr().out
