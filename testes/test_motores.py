"""Qualquer motor faz a conta do Keras, na ordem das fotos; o que não faz não é usado."""

import itertools
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_caracteristicas import rede

from detector import dados, motores
from detector.ambiente import ErroClaro

N = 42  # o último pedido ao OpenVINO não fica cheio


@pytest.fixture(scope="module")
def fotos(amostra):
    """N vezes (foto preparada, número dela), na ordem."""
    # Na memória, e não num `cache()`: parado no meio, o TensorFlow às vezes o dá por completo.
    prontas = np.stack(dados.pega(dados.le, amostra, range(N)))
    numeradas = tf.data.Dataset.from_tensor_slices((prontas, np.arange(N)))
    return numeradas.with_options(dados.SEM_AJUSTE)


def saidas(roda, fotos):
    """Os vetores, na ordem em que as fotos entraram."""
    mapas, vetores, numeros = zip(*roda(fotos), strict=True)
    assert numeros == (*range(N),) and np.array_equal(mapas, vetores)
    return np.stack(vetores)


def test_os_candidatos_vao_do_mais_rapido_ao_que_sempre_funciona(monkeypatch, capsys):
    for motor in ("auto", "openvino"):
        assert motores.candidatos(motor)[-2:] == ["openvino-f32", "keras-float32"]
    assert motores.candidatos("keras") == ["keras-float32"]
    with monkeypatch.context() as com_gpu:
        com_gpu.setattr(tf.config, "list_physical_devices", lambda tipo: [f"{tipo}:0"])
        na_gpu = ["keras-gpu-float32", "keras-float32"]
        assert motores.candidatos("auto") == motores.candidatos("keras") == na_gpu
        assert motores.candidatos("openvino")[-2:] == ["openvino-f32", "keras-float32"]
    assert sys.modules["openvino_telemetry"] is None, "nada é contado ao fabricante"
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert motores.candidatos("auto") == motores.candidatos("openvino") == ["keras-float32"]
    assert capsys.readouterr().out.count("Sigo com o Keras, mais lento.") == 2


def test_parar_no_meio_nao_derruba_o_python(fotos, tmp_path):
    """Um Ctrl-C, ou um arquivo danificado, com fotos ainda dentro do motor."""
    roda = motores.monta("openvino-f32", rede(), None, tmp_path, fotos)
    for quantas in range(N):
        em_curso = roda(fotos)
        vistas = [numero for *_, numero in itertools.islice(em_curso, quantas)]
        em_curso.close()
        assert vistas == [*range(quantas)]


def test_a_rede_convertida_e_aproveitada_e_refeita_se_algo_muda(
    fotos, tmp_path, capsys, monkeypatch
):
    def vetores(de_quem):
        return saidas(motores.monta("openvino-f32", de_quem, None, tmp_path, fotos), fotos)

    uma = rede()
    antes = vetores(uma)
    do_keras = uma.predict(fotos.batch(8), verbose=0)
    np.testing.assert_allclose(antes, do_keras, rtol=1e-3, atol=1e-4)
    [arquivo] = tmp_path.iterdir()
    inteiro, numero = arquivo.read_bytes(), arquivo.stat().st_ino
    assert np.array_equal(antes, vetores(uma)) and arquivo.stat().st_ino == numero
    arquivo.write_bytes(inteiro[:-1])
    assert np.array_equal(antes, vetores(uma)) and "não serve" in capsys.readouterr().out
    outra = rede(1)
    assert not np.allclose(antes, vetores(outra)) and len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(motores, "fontes", lambda *modulos: ["uma linha mudada em quem converte"])
    vetores(outra)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("motor", ["openvino-f32", "keras-gpu-float32"])
def test_motor_que_discorda_do_keras_na_cpu_e_recusado_e_nada_fica(
    motor, fotos, tmp_path, monkeypatch, capsys
):
    assert motores.monta("keras-gpu-float32", rede(), None, tmp_path, fotos), "concorda"
    monkeypatch.setattr(motores, "COSSENO_MINIMO", 1.1)
    assert motores.monta(motor, rede(), None, tmp_path, fotos) is None
    frase = f"O motor {motor} não funcionou aqui (os vetores não são os do Keras: cosseno 1.000"
    assert capsys.readouterr().out.startswith(frase) and not list(tmp_path.iterdir())


def test_rede_que_o_openvino_nao_converte_e_dita_e_um_corte_que_nao_existe_tambem(
    fotos, tmp_path, capsys
):
    foto = keras.Input((224, 224, 3))
    bicubica = keras.Model(foto, rede()(keras.ops.image.resize(foto, (224, 224), "bicubic")))
    assert motores.monta("openvino-f32", bicubica, None, tmp_path, fotos) is None
    assert "ResizeBicubic" in capsys.readouterr().out
    with pytest.raises(ErroClaro, match="não tem a operação 'cotre'"):
        motores.monta("openvino-f32", bicubica, "cotre", tmp_path, fotos)
