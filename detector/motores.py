"""Quem roda a parte congelada da rede: o OpenVINO, mais rápido na CPU, ou o Keras.

Um motor montado é uma função que recebe um tf.data de (foto, …), com a foto float32 (224, 224, 3)
em [0, 1], e gera na mesma ordem (mapa que entra no topo, vetor, …). Sem corte, o mapa é o vetor.
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

from detector import backbones, lite
from detector.arquivos import digesto, fontes, guarda_arrays, le_arrays
from detector.dados import LADO

Roda = Callable[[tf.data.Dataset], Iterator[tuple[np.ndarray, ...]]]
FOTOS_DE_PROVA = 16
FOTOS_POR_PEDIDO = 4  # de uma vez no OpenVINO
FOTOS_POR_LOTE = 8  # de uma vez no Keras: mais, na CPU, só gasta memória
COSSENO_MINIMO = 0.98  # escolhido à mão: abaixo dele, já não é a conta do Keras na CPU


def candidatos(motor: str) -> list[str]:
    """Motores a tentar, do melhor para o que sempre funciona, cada um com a precisão que usa.

    motor: "auto" (o Keras onde há GPU, o OpenVINO onde não), "keras" ou "openvino".
    """
    if motor != "openvino" and tf.config.list_physical_devices("GPU"):
        return ["keras-gpu-float32", "keras-float32"]
    if motor == "keras":
        return ["keras-float32"]
    try:
        rapidas = _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except (ImportError, RuntimeError) as erro:
        print(f"O OpenVINO não está disponível ({erro}). Sigo com o Keras, mais lento.")
        return ["keras-float32"]
    do_openvino = ["openvino-bf16", "openvino-f32"] if "BF16" in rapidas else ["openvino-f32"]
    return [*do_openvino, "keras-float32"]


def versoes(motor: str) -> list[str]:
    """Versões das bibliotecas de que dependem os números deste motor."""
    do_openvino = [_openvino().__version__] if motor.startswith("openvino") else []
    return [tf.__version__, keras.__version__, *do_openvino]


def monta(
    motor: str,
    backbone: keras.Model,
    corte: str | None,
    pasta: pathlib.Path,
    fotos: tf.data.Dataset,
    threads: int = 0,
) -> Roda | None:
    """Monta um dos `candidatos`; se ele não funciona nesta máquina, diz por quê e devolve None.

    pasta: onde a rede convertida fica guardada. fotos: como as que o motor vai receber, para
    comparar com o Keras na CPU. threads: quantas o OpenVINO usa; 0 é a conta dele. Levanta
    ErroClaro se o backbone não tem a operação `corte`.
    """
    saidas = [backbones.mapa_do_corte(backbone, corte), backbone.output]
    rede = keras.Model(backbone.input, saidas, name=f"{backbone.name}-{corte}")
    fotos = fotos.take(FOTOS_DE_PROVA)
    try:
        if motor.startswith("openvino"):
            return _no_openvino(rede, motor, pasta, fotos, threads)
        na_cpu = _contas(rede, "CPU:0")
        if motor == "keras-float32":
            return _no_keras(na_cpu)
        # senão as placas mais novas multiplicam em TF32, de 10 bits
        tf.config.experimental.enable_tensor_float_32_execution(False)
        roda = _no_keras(_contas(rede, "GPU:0"))
        _compara(_no_keras(na_cpu), roda, fotos)
        return roda
    except (RuntimeError, ValueError) as erro:
        causa = " ".join(str(erro).split())[:250]
        print(f"O motor {motor} não funcionou aqui ({causa}). Tento o seguinte.")
        return None


def _compara(do_keras: Roda, roda: Roda, fotos: tf.data.Dataset) -> None:
    """Levanta ValueError se o motor não gera os vetores que o Keras gera na CPU."""
    for (_, a, *_), (_, b, *_) in zip(do_keras(fotos), roda(fotos), strict=True):
        cosseno = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
        if not cosseno >= COSSENO_MINIMO:
            raise ValueError(f"os vetores não são os do Keras: cosseno {cosseno:.3f}")


def _contas(rede: keras.Model, aparelho: str) -> Callable:
    """O tf.function que, de um lote de fotos, faz as contas da rede nesse aparelho."""

    @tf.function(input_signature=[tf.TensorSpec((None, LADO, LADO, 3))])
    def contas(lote):
        with tf.device(aparelho):
            return rede(lote, training=False)

    return contas


def _no_keras(contas: Callable) -> Roda:
    """O próprio Keras, em float32."""

    def roda(fotos):
        lotes = fotos.batch(FOTOS_POR_LOTE).prefetch(tf.data.AUTOTUNE)
        for lote, *resto in lotes.as_numpy_iterator():
            mapas, vetores = contas(lote)
            yield from zip(mapas.numpy(), vetores.numpy(), *resto, strict=True)

    return roda


def _openvino():
    sys.modules.setdefault("openvino_telemetry", None)  # senão ele conta cada uso ao fabricante
    import openvino

    return openvino


def _no_openvino(
    rede: keras.Model, motor: str, pasta: pathlib.Path, fotos: tf.data.Dataset, threads: int
) -> Roda:
    """O OpenVINO; converte a rede na primeira vez, compara com o Keras, e a guarda."""
    codigo = fontes(backbones, lite, sys.modules[__name__])
    digest = digesto(motor, versoes(motor), rede.name, digesto(rede.get_weights()), codigo)
    arquivo = pasta / f"motor-{digest}.npz"
    guardada = le_arrays(arquivo, digest)
    contas = _contas(rede, "CPU:0")
    convertida = guardada or _converte(contas)
    ov = _openvino()
    opcoes = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": motor.removeprefix("openvino-"),
        "INFERENCE_NUM_THREADS": threads,
    }
    lida = ov.Core().read_model(convertida["xml"].tobytes(), ov.Tensor(convertida["pesos"]))
    roda = _em_fila(ov.Core().compile_model(lida, "CPU", opcoes))
    if not guardada:
        _compara(_no_keras(contas), roda, fotos)
        guarda_arrays(arquivo, digest, **convertida)
    return roda


def _converte(contas: Callable) -> dict[str, np.ndarray]:
    """Os dois arquivos que o OpenVINO lê, em bytes: as contas (`xml`) e os `pesos`."""
    ov = _openvino()
    grafo = convert_variables_to_constants_v2(contas.get_concrete_function()).graph
    with tempfile.TemporaryDirectory() as nome:
        # por um arquivo, porque direto da memória o OpenVINO não converte no Python 3.13
        pasta = pathlib.Path(nome)
        (pasta / "rede.pb").write_bytes(grafo.as_graph_def().SerializeToString())
        try:
            modelo = ov.convert_model(pasta / "rede.pb", input=[FOTOS_POR_PEDIDO, LADO, LADO, 3])
        except Exception as erro:  # as falhas dele não têm uma classe em comum
            raise ValueError(str(erro)) from erro
        ov.save_model(modelo, pasta / "rede.xml", compress_to_fp16=False)
        return {
            "xml": np.fromfile(pasta / "rede.xml", "uint8"),
            "pesos": np.fromfile(pasta / "rede.bin", "uint8"),
        }


def _em_fila(compilada) -> Roda:
    """Função que mantém vários pedidos em andamento e devolve as respostas em ordem.

    Sem a AsyncInferQueue, cujo callback em Python às vezes trava o processo ao ser destruída.
    """
    quantos = compilada.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") + 1

    def respostas(pedido, lote, resto):
        pedido.wait()
        mapas, vetores = (pedido.get_output_tensor(i).data.copy() for i in (0, 1))
        return zip(mapas, vetores, *resto, strict=False)

    def roda(fotos):
        pedidos = itertools.cycle([compilada.create_infer_request() for _ in range(quantos)])
        em_curso = collections.deque()  # o mais antigo, que é o próximo do ciclo, na frente
        try:
            lotes = fotos.batch(FOTOS_POR_PEDIDO).prefetch(2 * quantos)
            for lote, *resto in lotes.as_numpy_iterator():
                if len(em_curso) == quantos:
                    yield from respostas(*em_curso.popleft())
                if len(lote) < FOTOS_POR_PEDIDO:  # o último: repete fotos até encher
                    lote = np.resize(lote, (FOTOS_POR_PEDIDO, *lote.shape[1:]))
                pedido = next(pedidos)
                pedido.start_async([lote], share_inputs=True)
                em_curso.append((pedido, lote, resto))  # o lote, que o pedido lê sem copiar
            while em_curso:
                yield from respostas(*em_curso.popleft())
        finally:  # também num Ctrl-C: destruir um pedido em andamento derruba o Python
            for pedido, *_ in em_curso:
                pedido.wait()

    return roda
