"""O ajuste fino de verdade, numa execução pequena: o que treina, o que fica parado e como continua."""

import numpy as np
import pytest

FAIXAS = {"treino": (0, 96), "validacao": (1600, 1664)}


def ajusta(nb, amostra, backbone, cabeca, pasta):
    return nb.ajusta_fino(amostra, backbone, cabeca, FAIXAS, 32, 2, 0, pasta, "r")


class Interrompido(Exception):
    pass


@pytest.fixture(scope="module")
def cabeca(nb, caracteristicas, tmp_path_factory):
    X, y = caracteristicas
    return nb.treina_cabeca(X, y, (0, 1600), (1600, 1800), 32, 100, tmp_path_factory.mktemp("cabeca"), "r")[0]


def test_ajuste_fino_treina_so_o_alto_e_retomado_da_o_mesmo(nb, amostra, backbone, cabeca, tmp_path, monkeypatch):
    antes = [p.copy() for p in backbone.get_weights()]
    novo, nova_cabeca, historico = ajusta(nb, amostra, backbone, cabeca, tmp_path / "inteira")
    assert len(historico) == 2
    assert all(np.array_equal(a, b) for a, b in zip(antes, backbone.get_weights())), "o backbone original não muda"
    mudou = {c.name: any(not np.array_equal(a, b) for a, b in zip(c.get_weights(), backbone.get_layer(c.name).get_weights()))
             for c in novo.layers if c.weights}
    assert mudou["conv_head"] and not mudou["conv_stem"] and not mudou["blocks.1.expand_conv"]
    assert not any(m for nome, m in mudou.items() if "bn" in nome), "BatchNormalization em modo de inferência"
    assert not np.array_equal(nova_cabeca.get_weights()[0], cabeca.get_weights()[0])

    gravadas, grava = [], nb.grava_npz

    def morre_na_segunda(*a, **k):
        if gravadas:
            raise Interrompido
        gravadas.append(grava(*a, **k))
    with monkeypatch.context() as m:
        m.setattr(nb, "grava_npz", morre_na_segunda)
        with pytest.raises(Interrompido):
            ajusta(nb, amostra, backbone, cabeca, tmp_path / "cortada")
    retomado, _, historico_retomado = ajusta(nb, amostra, backbone, cabeca, tmp_path / "cortada")
    assert historico_retomado == historico
    assert all(np.array_equal(a, b) for a, b in zip(novo.get_weights(), retomado.get_weights()))


def test_o_aumento_de_dados_muda_a_foto_e_repete_com_a_mesma_semente(nb, amostra):
    img, label = nb.prepara(next(iter(nb.le_fotos(amostra, (0, 1)))))
    a, b, c = (nb.aumenta(nb.tf.constant([i, 0], "int64"), img, label) for i in (1, 1, 2))
    assert a[0].shape == (224, 224, 3) and a[1].shape == (1,)
    assert np.array_equal(a[0], b[0]) and not np.array_equal(a[0], c[0])


def test_os_backbones_unidos_tambem_descongelam(nb):
    unidos = nb.cria_backbone("EfficientNetLite0+EfficientNetLite1")
    assert not unidos.trainable_weights
    nb.descongela(unidos)
    treinam = {c.name for m in unidos.layers if isinstance(m, nb.keras.Model) for c in m.layers if c.trainable and c.weights}
    assert "conv_head" in treinam and "conv_stem" not in treinam and not any("bn" in nome for nome in treinam)
