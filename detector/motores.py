"""Quem roda a parte congelada da rede: o OpenVINO, mais rápido na CPU, ou o Keras.

Um motor montado é uma função que recebe um tf.data de pares (foto, outras coisas), com a foto
float32 (224, 224, 3) em [0, 1], e gera na mesma ordem (mapa que entra no topo, vetor, outras
coisas). Onde não há corte, o mapa é o próprio vetor.
"""

import collections
import itertools
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from detector import backbones
from detector.arquivos import digesto, fontes, guarda_arrays, le_arrays
from detector.dados import LADO

Roda = Callable[[tf.data.Dataset], Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]]

FOTOS_DE_PROVA = 16
FOTOS_POR_PEDIDO = 4  # de uma vez no OpenVINO
FOTOS_POR_LOTE = 8  # de uma vez no Keras: mais, na CPU, só gasta memória
COSSENO_MINIMO = 0.98  # escolhido à mão: abaixo dele, já não é a conta do Keras na CPU


def candidatos(motor: str) -> list[str]:
    """Motores a tentar, do melhor para o que sempre funciona, cada um com a precisão que usa.

    motor: "auto" (o Keras onde há GPU, o OpenVINO onde não), "keras" ou "openvino".
    """
    gpu = bool(tf.config.list_physical_devices("GPU"))
    if motor == "keras" or (motor == "auto" and gpu):
        return [*(["keras-gpu-float32"] if gpu else []), "keras-float32"]
    try:
        rapidas = _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except (ImportError, RuntimeError) as erro:
        print(f"O OpenVINO não está disponível ({erro}). Sigo com o Keras, mais lento.")
        return ["keras-float32"]
    return [*(["openvino-bf16"] if "BF16" in rapidas else []), "openvino-f32", "keras-float32"]


def versoes(motor: str) -> list[str]:
    """Versões das bibliotecas de que dependem os números deste motor."""
    outra = [_openvino().__version__] if motor.startswith("openvino") else []
    return [tf.__version__, keras.__version__, *outra]


def monta(
    motor: str,
    backbone: keras.Model,
    corte: str | None,
    pasta: pathlib.Path,
    fotos: tf.data.Dataset,
    threads: int = 0,
) -> Roda | None:
    """Monta um dos `candidatos`; se ele não funciona nesta máquina, diz por quê e devolve None.

    pasta: onde a rede convertida fica guardada. fotos: pares como os que o motor vai receber, para
    comparar com o Keras na CPU. threads: quantas o OpenVINO usa; 0 é a conta dele. Levanta
    ErroClaro se o backbone não tem a operação `corte`.
    """
    saidas = [backbones.mapa_do_corte(backbone, corte), backbone.output]
    rede = keras.Model(backbone.input, saidas, name=f"{backbone.name}-{corte}")
    fotos = fotos.take(FOTOS_DE_PROVA)
    try:
        if motor.startswith("openvino"):
            return _no_openvino(rede, motor, pasta, fotos, threads)
        roda = _no_keras(rede, "GPU:0" if "gpu" in motor else "CPU:0")
        if "gpu" in motor:
            _compara(rede, roda, fotos)
        return roda
    except (RuntimeError, ValueError) as erro:
        causa = " ".join(str(erro).split())[:250]
        print(f"O motor {motor} não funcionou aqui ({causa}). Tento o seguinte.")
        return None


def _no_keras(rede: keras.Model, aparelho: str) -> Roda:
    """O próprio Keras, em float32."""
    if aparelho.startswith("GPU"):  # senão as mais novas multiplicam em TF32, de 10 bits
        tf.config.experimental.enable_tensor_float_32_execution(False)

    @tf.function(input_signature=[tf.TensorSpec((None, LADO, LADO, 3))])
    def passo(lote):
        with tf.device(aparelho):
            return rede(lote, training=False)

    def roda(fotos):
        lotes = fotos.batch(FOTOS_POR_LOTE).prefetch(tf.data.AUTOTUNE)
        for lote, outras in lotes.as_numpy_iterator():
            mapas, vetores = (saida.numpy() for saida in passo(lote))
            yield from zip(mapas, vetores, zip(*outras, strict=True), strict=True)

    return roda


def _openvino():
    sys.modules.setdefault("openvino_telemetry", None)  # senão ele conta cada uso ao fabricante
    import openvino

    return openvino


def _no_openvino(
    rede: keras.Model, motor: str, pasta: pathlib.Path, fotos: tf.data.Dataset, threads: int
) -> Roda:
    """O OpenVINO, com várias fotos de uma vez; converte a rede na primeira vez e a guarda."""
    codigo = fontes(backbones, sys.modules[__name__])
    digest = digesto(motor, versoes(motor), rede.name, digesto(rede.get_weights()), codigo)
    arquivo = pasta / f"motor-{digest}.npz"

    def compila(xml, pesos):
        ov = _openvino()
        opcoes = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": motor[9:]}
        opcoes |= {"INFERENCE_NUM_THREADS": threads} if threads else {}
        lida = ov.Core().read_model(xml.tobytes(), ov.Tensor(pesos))
        return _em_fila(ov.Core().compile_model(lida, "CPU", opcoes))

    if convertida := le_arrays(arquivo, digest):
        return compila(**convertida)
    convertida = _converte(rede)
    roda = compila(**convertida)
    _compara(rede, roda, fotos)
    guarda_arrays(arquivo, digest, **convertida)
    return roda


def _converte(rede: keras.Model) -> dict[str, np.ndarray]:
    """Os dois arquivos que o OpenVINO lê, em bytes: as contas (`xml`) e os `pesos`."""
    ov = _openvino()
    contas = tf.function(
        lambda lote: rede(lote, training=False),
        input_signature=[tf.TensorSpec((FOTOS_POR_PEDIDO, LADO, LADO, 3))],
    )
    grafo = convert_variables_to_constants_v2(contas.get_concrete_function()).graph
    with tempfile.TemporaryDirectory() as nome:
        # por um arquivo, porque direto da memória o OpenVINO não converte no Python 3.13
        pasta = pathlib.Path(nome)
        (pasta / "rede.pb").write_bytes(grafo.as_graph_def().SerializeToString())
        try:
            convertida = ov.convert_model(pasta / "rede.pb")
        except Exception as erro:  # as falhas dele não têm uma classe em comum
            raise ValueError(str(erro)) from erro
        ov.save_model(convertida, pasta / "rede.xml", compress_to_fp16=False)
        xml, pesos = (np.fromfile(pasta / f"rede.{tipo}", "uint8") for tipo in ("xml", "bin"))
    return {"xml": xml, "pesos": pesos}


def _em_fila(compilada) -> Roda:
    """Função que mantém vários pedidos em andamento e devolve as respostas em ordem.

    Sem a AsyncInferQueue, cujo callback em Python às vezes trava o processo ao ser destruída.
    """
    quantos = compilada.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") + 1

    def roda(fotos):
        pedidos = itertools.cycle([compilada.create_infer_request() for _ in range(quantos)])
        em_curso = collections.deque()  # (pedido, as fotos e as outras coisas), o mais antigo antes
        lotes = fotos.batch(FOTOS_POR_PEDIDO).prefetch(2 * quantos)
        try:
            for lote, outras in lotes.as_numpy_iterator():
                if len(em_curso) == quantos:  # o mais antigo é o próximo pedido do ciclo
                    yield from _respostas(*em_curso.popleft())
                if len(lote) < FOTOS_POR_PEDIDO:  # o último: repete fotos até encher
                    lote = np.resize(lote, (FOTOS_POR_PEDIDO, *lote.shape[1:]))
                pedido = next(pedidos)
                pedido.start_async([lote], share_inputs=True)
                em_curso.append((pedido, lote, outras))
            while em_curso:
                yield from _respostas(*em_curso.popleft())
        finally:  # também num Ctrl-C: destruir um pedido em andamento derruba o Python
            for pedido, *_ in em_curso:
                pedido.wait()

    return roda


def _respostas(pedido, lote: np.ndarray, outras: tuple) -> Iterator[tuple]:
    """(mapa, vetor, outras coisas) de cada foto do `lote`, que o pedido lê sem copiar."""
    pedido.wait()
    mapas, vetores = (pedido.get_output_tensor(i).data.copy() for i in (0, 1))
    return zip(mapas, vetores, zip(*outras, strict=True), strict=False)


def _compara(rede: keras.Model, motor: Roda, fotos: tf.data.Dataset) -> None:
    """Levanta ValueError se o motor não gera os vetores que o Keras gera na CPU."""
    with tf.device("CPU:0"):  # de duas em duas, para gastar pouca memória
        certos = [v for lote, _ in fotos.batch(2) for v in rede(lote, training=False)[1].numpy()]
    for a, (_, b, _) in zip(certos, motor(fotos), strict=True):
        cosseno = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
        if not cosseno >= COSSENO_MINIMO:
            raise ValueError(f"os vetores não são os do Keras: cosseno {cosseno:.3f}")
