"""Qualquer motor faz a conta do Keras, na ordem das fotos; o que não faz não é usado."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from detector import backbones, dados, motores
from detector.erros import ErroClaro

N = 42  # o último pedido ao OpenVINO não fica cheio


@pytest.fixture(scope="module")
def fotos(amostra):
    """N pares (foto preparada, (número dela, outra coisa)), na ordem."""
    numeradas = tf.data.Dataset.zip(dados.le(amostra, f"train[:{N}]"), tf.data.Dataset.range(N))
    return numeradas.map(lambda par, numero: (par[0], (numero, par[1]))).cache()


@pytest.fixture(scope="module")
def lote(fotos):
    return np.stack([foto for foto, _ in fotos.as_numpy_iterator()])


def pequena(faz=lambda x: x):
    """Uma rede de brinquedo; `faz` é o que ela faz antes de tudo com a foto."""
    keras.utils.set_random_seed(0)
    foto = keras.Input((224, 224, 3))
    x = layers.Conv2D(8, 5, 16, activation="relu", name="corte")(faz(foto))
    x = layers.Conv2D(16, 3, name="depois")(x)
    return keras.Model(foto, layers.GlobalAveragePooling2D(name="media")(x), name="pequena")


def saidas(roda, fotos):
    mapas, vetores, outras = zip(*roda(fotos), strict=True)
    numeros, _ = zip(*outras, strict=True)
    assert list(numeros) == list(range(len(numeros))), "na ordem em que entraram"
    return np.stack(mapas), np.stack(vetores)


def menor_cosseno(a, b):
    a, b = (x.reshape(len(x), -1) for x in (a, b))
    return (np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min()


def test_os_candidatos_vao_do_mais_rapido_ao_que_sempre_funciona(monkeypatch, capsys):
    for motor in ("auto", "openvino"):
        assert motores.candidatos(motor)[-2:] == ["openvino-f32", "keras-float32"]
    assert motores.candidatos("keras") == ["keras-float32"]
    with monkeypatch.context() as com_gpu:
        com_gpu.setattr(tf.config, "list_physical_devices", lambda tipo: [f"{tipo}:0"])
        na_gpu = ["keras-gpu-float32", "keras-float32"]
        assert motores.candidatos("auto") == motores.candidatos("keras") == na_gpu
        assert motores.candidatos("openvino")[-2:] == ["openvino-f32", "keras-float32"]
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert motores.candidatos("auto") == motores.candidatos("openvino") == ["keras-float32"]
    assert capsys.readouterr().out.count("Sigo com o Keras, mais lento.") == 2


def test_o_motor_desta_maquina_concorda_com_o_keras(backbone, fotos, lote, tmp_path):
    base, _ = backbones.divide(backbone, "blocks.14.add")
    do_keras = base.predict(lote, verbose=0), backbone.predict(lote, verbose=0)
    motor = motores.candidatos("openvino")[0]
    do_motor = saidas(motores.monta(motor, backbone, "blocks.14.add", tmp_path, fotos), fotos)
    minimo = 0.98 if motor == "openvino-bf16" else 0.9999
    for dele, certo in zip(do_motor, do_keras, strict=True):
        assert menor_cosseno(dele, certo) > minimo and dele.dtype == "float32"
    assert sys.modules["openvino_telemetry"] is None, "nada é contado ao fabricante"


def test_parar_no_meio_nao_derruba_o_python(fotos, tmp_path):
    """Um Ctrl-C, ou um arquivo danificado, com fotos ainda dentro do motor."""
    roda = motores.monta("openvino-f32", pequena(), None, tmp_path, fotos)
    for quantas in range(N):
        em_curso = roda(fotos)
        vistas = [outras[0] for _, (*_, outras) in zip(range(quantas), em_curso, strict=False)]
        em_curso.close()
        assert vistas == list(range(quantas))


def test_a_rede_convertida_e_aproveitada_e_refeita_se_algo_muda(
    fotos, tmp_path, capsys, monkeypatch
):
    def vetores(rede):
        return saidas(motores.monta("openvino-f32", rede, None, tmp_path, fotos), fotos)[1]

    rede = pequena()
    antes = vetores(rede)
    [arquivo] = tmp_path.iterdir()
    inteiro, numero = arquivo.read_bytes(), arquivo.stat().st_ino
    assert np.array_equal(antes, vetores(rede)) and arquivo.stat().st_ino == numero
    arquivo.write_bytes(inteiro[:-1])
    assert np.array_equal(antes, vetores(rede)) and "não serve" in capsys.readouterr().out
    rede.set_weights([peso * 2 for peso in rede.get_weights()])
    assert not np.allclose(antes, vetores(rede)) and len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(motores, "fontes", lambda *modulos: ["uma linha mudada em quem converte"])
    vetores(rede)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("motor", ["openvino-f32", "keras-gpu-float32"])
def test_motor_que_discorda_do_keras_na_cpu_e_recusado_e_nada_fica(
    motor, fotos, tmp_path, monkeypatch, capsys
):
    assert motores.monta("keras-gpu-float32", pequena(), None, tmp_path, fotos), "concorda"
    monkeypatch.setattr(motores, "COSSENO_MINIMO", 1.1)
    assert motores.monta(motor, pequena(), None, tmp_path, fotos) is None
    frase = f"O motor {motor} não funcionou aqui (os vetores não são os do Keras: cosseno 1.000"
    assert capsys.readouterr().out.startswith(frase) and not list(tmp_path.iterdir())


def test_rede_que_o_openvino_nao_converte_e_dita_e_um_corte_que_nao_existe_tambem(
    fotos, tmp_path, capsys
):
    bicubica = pequena(lambda foto: keras.ops.image.resize(foto, (224, 224), "bicubic"))
    assert motores.monta("openvino-f32", bicubica, None, tmp_path, fotos) is None
    assert "ResizeBicubic" in capsys.readouterr().out
    with pytest.raises(ErroClaro, match="não tem a operação 'cotre'"):
        motores.monta("openvino-f32", bicubica, "cotre", tmp_path, fotos)
