"""Quem roda a parte congelada da rede: o OpenVINO, várias vezes mais rápido na CPU, ou o Keras.

Um motor montado é uma função que recebe um tf.data de pares (foto, outras coisas), com a foto
float32 (224, 224, 3) em [0, 1], e gera na mesma ordem (mapa que entra no topo, vetor, outras
coisas). Onde não há corte, o mapa é o próprio vetor.
"""

import collections
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
FOTOS_POR_PEDIDO = 4  # de uma vez no OpenVINO: 7 % mais rápido que de uma em uma
COSSENO_MINIMO = 0.98  # abaixo disto, o motor não faz a mesma conta que o Keras


def candidatos(motor: str) -> list[str]:
    """Motores a tentar, do melhor para o que sempre funciona, cada um com a precisão que usa.

    motor: "auto" (o Keras onde há GPU, o OpenVINO onde não), "keras" ou "openvino".
    """
    gpu = bool(tf.config.list_physical_devices("GPU"))
    keras_ = "keras-float16" if gpu else "keras-float32"
    if motor == "keras" or (motor == "auto" and gpu):
        return [keras_]
    try:
        rapidas = _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except (ImportError, RuntimeError) as erro:
        print(f"O OpenVINO não está disponível ({erro}). Sigo com o Keras, mais lento.")
        return [keras_]
    return [*(["openvino-bf16"] if "BF16" in rapidas else []), "openvino-f32", keras_]


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
    comparar a rede recém-convertida com o Keras. threads: quantas o OpenVINO usa; 0 é a conta dele.
    """
    mapas = [operacao.output for operacao in backbone.operations if operacao.name == corte]
    rede = keras.Model(backbone.input, [*mapas, backbone.output], name=f"{backbone.name}-{corte}")
    if motor.startswith("keras"):
        return _no_keras(rede, motor)
    try:
        return _no_openvino(rede, motor, pasta, fotos.take(FOTOS_DE_PROVA), threads)
    except (RuntimeError, NameError, ValueError) as erro:
        causa = (str(erro).strip().splitlines() or [type(erro).__name__])[0]
        print(f"O motor {motor} não funcionou aqui ({causa[:100]}). Tento o seguinte.")
        return None


def _no_keras(rede: keras.Model, motor: str) -> Roda:
    """O próprio Keras: float32 na CPU; na GPU, float16 com a política mista dele."""
    politica = "mixed_float16" if motor == "keras-float16" else "float32"

    def com_a_politica(operacao):
        dtype = {"dtype": politica} if isinstance(operacao, keras.Layer) else {}
        return operacao.from_config(operacao.get_config() | dtype)

    copia = keras.models.clone_model(rede, clone_function=com_a_politica, recursive=True)
    copia.set_weights(rede.get_weights())

    @tf.function(input_signature=[tf.TensorSpec((None, LADO, LADO, 3))])
    def passo(lote):
        saidas = keras.tree.flatten(copia(lote, training=False))
        return [tf.cast(saida, tf.float32) for saida in saidas]

    def roda(fotos):
        tamanho = 32 if motor == "keras-float16" else 8  # na CPU, lotes maiores só gastam memória
        for lote, outras in fotos.batch(tamanho).prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
            saidas = [saida.numpy() for saida in passo(lote)]
            yield from zip(saidas[0], saidas[-1], zip(*outras, strict=True), strict=True)

    return roda


def _openvino():
    sys.modules.setdefault("openvino_telemetry", None)  # senão ele conta cada uso ao fabricante
    import openvino

    return openvino


def _no_openvino(
    rede: keras.Model, motor: str, pasta: pathlib.Path, fotos: tf.data.Dataset, threads: int
) -> Roda:
    """O OpenVINO, com várias fotos de uma vez; converte a rede na primeira vez e a guarda."""
    ov = _openvino()

    def compila(xml, pesos):
        opcoes = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": motor[9:]}
        opcoes |= {"INFERENCE_NUM_THREADS": threads} if threads else {}
        lida = ov.Core().read_model(xml.tobytes(), ov.Tensor(pesos))
        return _em_fila(ov.Core().compile_model(lida, "CPU", opcoes))

    def converte():
        with tempfile.TemporaryDirectory() as temporaria:
            # por um arquivo, porque direto da memória o OpenVINO não converte no Python 3.13
            grafo = pathlib.Path(temporaria, "rede.pb")
            grafo.write_bytes(_grafo(rede).SerializeToString())
            convertida = ov.convert_model(grafo)
            ov.save_model(convertida, f"{temporaria}/rede.xml", compress_to_fp16=False)
            xml, pesos = (
                np.fromfile(f"{temporaria}/rede.{tipo}", "uint8") for tipo in ("xml", "bin")
            )
        _compara(rede, compila(xml, pesos), fotos)
        return {"xml": xml, "pesos": pesos}

    codigo = fontes(backbones, sys.modules[__name__])
    digest = digesto(motor, versoes(motor), rede.name, digesto(rede.get_weights()), codigo)
    arquivo = pasta / f"motor-{digest}.npz"
    convertida = le_arrays(arquivo, digest)
    if convertida is None:
        convertida = converte()
        guarda_arrays(arquivo, digest, **convertida)
    return compila(**convertida)


def _grafo(rede: keras.Model) -> tf.compat.v1.GraphDef:
    """As contas da rede para um pedido, com os pesos dentro, como o TensorFlow as escreve."""
    contas = tf.function(
        lambda lote: rede(lote, training=False),
        input_signature=[tf.TensorSpec((FOTOS_POR_PEDIDO, LADO, LADO, 3))],
    )
    return convert_variables_to_constants_v2(contas.get_concrete_function()).graph.as_graph_def()


def _em_fila(compilada) -> Roda:
    """Função que mantém vários pedidos em andamento e devolve as respostas em ordem.

    Sem a AsyncInferQueue, cujo callback em Python às vezes trava o processo ao ser destruída.
    """
    quantos = compilada.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") + 1

    def roda(fotos):
        livres = [compilada.create_infer_request() for _ in range(quantos)]
        em_curso = collections.deque()  # (pedido, as fotos e as outras coisas), o mais antigo antes
        lotes = fotos.batch(FOTOS_POR_PEDIDO).prefetch(2 * quantos)
        try:
            for lote, outras in lotes.as_numpy_iterator():
                if not livres:
                    pedido, respostas = _espera(*em_curso.popleft())
                    livres.append(pedido)
                    yield from respostas
                if len(lote) < FOTOS_POR_PEDIDO:  # o último: repete fotos até encher
                    lote = np.resize(lote, (FOTOS_POR_PEDIDO, *lote.shape[1:]))
                pedido = livres.pop()
                pedido.start_async([lote], share_inputs=True)
                em_curso.append((pedido, lote, outras))
            while em_curso:
                yield from _espera(*em_curso.popleft())[1]
        finally:  # também num Ctrl-C: destruir um pedido em andamento derruba o Python
            for pedido, *_ in em_curso:
                pedido.wait()

    return roda


def _espera(pedido, lote: np.ndarray, outras: tuple):
    """O pedido, livre de novo, e (mapa, vetor, outras coisas) de cada foto do `lote`.

    O pedido lê as fotos do próprio `lote`, sem copiá-lo: quem espera o mantém na memória.
    """
    pedido.wait()
    saidas = [pedido.get_output_tensor(i).data.copy() for i in range(len(pedido.results))]
    return pedido, zip(saidas[0], saidas[-1], zip(*outras, strict=True), strict=False)


def _compara(rede: keras.Model, motor: Roda, fotos: tf.data.Dataset) -> None:
    """Levanta ValueError se o motor não gera os vetores que o Keras gera."""
    certos = [  # de duas em duas: as 16 de uma vez pediriam mais de 1 GB
        vetor
        for lote, _ in fotos.batch(2)
        for vetor in keras.tree.flatten(rede(lote, training=False))[-1].numpy()
    ]
    for a, (_, b, _) in zip(certos, motor(fotos), strict=True):
        cosseno = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
        if not cosseno >= COSSENO_MINIMO:
            raise ValueError(f"os vetores não são os do Keras: cosseno {cosseno:.3f}")
