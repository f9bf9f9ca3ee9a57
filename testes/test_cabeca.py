"""A cabeça chega aonde uma regressão logística chega, e interrompida continua igual."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

TREINO, VALIDACAO, TESTE = (0, 1600), (1600, 1800), (1800, 2000)


def treina(nb, X, y, pasta, epocas=100, **k):
    return nb.treina_cabeca(X, y, range(*TREINO), range(*VALIDACAO), k.get("tamanho_lote", 32), epocas, pasta, k.get("receita", "r"))


def test_a_cabeca_chega_aonde_chega_a_regressao_logistica(nb, caracteristicas, tmp_path):
    X, y = caracteristicas
    cabeca, historico = treina(nb, X, y, tmp_path)
    p = cabeca.predict(X[slice(*TESTE)], verbose=0)[:, 0]
    # A regularização do scikit-learn é escolhida como a cabeça escolhe a época: pela log loss da validação.
    modelos = [LogisticRegression(C=C, max_iter=2000).fit(X[:1600], y[:1600]) for C in (0.003, 0.01, 0.03, 0.1, 0.3)]
    melhor = min(modelos, key=lambda m: log_loss(y[slice(*VALIDACAO)], m.predict_proba(X[slice(*VALIDACAO)])[:, 1]))
    referencia = melhor.predict_proba(X[slice(*TESTE)])[:, 1]
    assert log_loss(y[slice(*TESTE)], p) < log_loss(y[slice(*TESTE)], referencia) + 0.01
    assert np.sum((p > 0.5) != (referencia > 0.5)) <= 10, "decidem quase o mesmo em 200 fotos"
    assert len(historico) < 100, "parou sozinha"


def test_fica_com_a_melhor_epoca_da_validacao(nb, caracteristicas, tmp_path):
    X, y = caracteristicas
    cabeca, historico = treina(nb, X, y, tmp_path)
    p = cabeca.predict(X[slice(*VALIDACAO)], verbose=0)[:, 0]
    assert log_loss(y[slice(*VALIDACAO)], p.astype("float64")) == pytest.approx(min(h["val_log_loss"] for h in historico), abs=1e-4)
    assert len(historico) - nb.melhor_epoca(historico) == 5


class Interrompido(Exception):
    pass


def test_interrompida_no_meio_continua_e_da_exatamente_o_mesmo(nb, caracteristicas, tmp_path, monkeypatch):
    X, y = caracteristicas
    inteira, historico = treina(nb, X, y, tmp_path / "inteira", epocas=10)
    gravadas, grava = [], nb.grava_npz

    def morre_na_quarta(*a, **k):
        if len(gravadas) == 3:
            raise Interrompido
        gravadas.append(grava(*a, **k))
    with monkeypatch.context() as m:
        m.setattr(nb, "grava_npz", morre_na_quarta)
        with pytest.raises(Interrompido):
            treina(nb, X, y, tmp_path / "cortada", epocas=10)
    epocas, fit = [], nb.keras.Model.fit
    monkeypatch.setattr(nb.keras.Model, "fit", lambda self, *a, **k: epocas.append(k["initial_epoch"]) or fit(self, *a, **k))
    retomada, historico_retomado = treina(nb, X, y, tmp_path / "cortada", epocas=10)
    assert epocas == list(range(3, 10)), "só as épocas que faltavam"
    assert historico_retomado == historico
    for a, b in zip(inteira.get_weights(), retomada.get_weights()):
        assert np.array_equal(a, b)


def test_treino_pronto_e_lido_sem_treinar(nb, caracteristicas, tmp_path, monkeypatch):
    X, y = caracteristicas
    antes, historico = treina(nb, X, y, tmp_path, epocas=5)
    monkeypatch.setattr(nb.keras.Model, "fit", lambda *a, **k: pytest.fail("treinou de novo"))
    depois, historico_lido = treina(nb, X, y, tmp_path, epocas=5)
    assert historico == historico_lido and np.array_equal(antes.get_weights()[0], depois.get_weights()[0])


@pytest.mark.parametrize("mudanca", [{"epocas": 4}, {"tamanho_lote": 64}, {"receita": "outra"}])
def test_outra_receita_nao_continua_deste_treino(nb, caracteristicas, tmp_path, mudanca):
    X, y = caracteristicas
    treina(nb, X, y, tmp_path, epocas=3)
    _, historico = treina(nb, X, y, tmp_path, **({"epocas": 3} | mudanca))
    assert len(list(tmp_path.iterdir())) == 2 and len(historico) == mudanca.get("epocas", 3)


def test_a_validacao_cruzada_avalia_cada_foto_sem_ela(nb, tmp_path):
    """Com vetores de ruído e rótulos ao acaso, quem espiasse acertaria tudo; quem não espia fica perto de 50 %."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 600)).astype("float32"), rng.integers(0, 2, 300)
    p = nb.validacao_cruzada(X, y, 32, 20, 0, tmp_path, "r")
    assert abs(np.mean((p > 0.5) == y) - 0.5) < 0.12
    cabeca = nb.cria_cabeca(600)
    cabeca.fit(nb.lotes(X, y, 32), epochs=20, verbose=0)
    assert np.mean((cabeca.predict(X, verbose=0)[:, 0] > 0.5) == y) > 0.95
    assert np.array_equal(p, nb.validacao_cruzada(X, y, 32, 20, 0, tmp_path, "r"))


def test_a_validacao_cruzada_interrompida_so_refaz_o_grupo_que_faltava(nb, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(100, 8)).astype("float32"), np.arange(100) % 2
    p = nb.validacao_cruzada(X, y, 32, 3, 0, tmp_path, "r")
    grupos, treinos = sorted(tmp_path.iterdir()), []
    assert len(grupos) == 5
    grupos[2].unlink()
    monkeypatch.setattr(nb.keras.Sequential, "fit", lambda self, *a, f=nb.keras.Sequential.fit, **k: treinos.append(1) or f(self, *a, **k))
    assert np.array_equal(nb.validacao_cruzada(X, y, 32, 3, 0, tmp_path, "r"), p) and len(treinos) == 1
    grupos[1].write_bytes(grupos[3].read_bytes())
    assert np.array_equal(nb.validacao_cruzada(X, y, 32, 3, 0, tmp_path, "r"), p) and len(treinos) == 2, "é de outro grupo"
