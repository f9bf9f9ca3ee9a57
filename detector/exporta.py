"""O modelo sem o TensorFlow: em LiteRT, para celulares, e em ONNX, que quase toda linguagem lê."""

import contextlib
import io
import os
import pathlib
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from detector.ambiente import ErroClaro
from detector.arquivos import grava
from detector.dados import LADO

# Sem isto o ONNX Runtime abre conexões para contar ao fabricante que foi usado.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

MAIOR_DIFERENCA = 1e-3  # na probabilidade; o comum, em float32, é ficar abaixo de 1e-5
THREADS = os.cpu_count() or 1  # as mesmas para os dois formatos, ou as velocidades enganariam

Fotos = np.ndarray | tf.data.Dataset
Roda = Callable[[np.ndarray], np.ndarray]  # fotos (n, 224, 224, 3) → probabilidades (n, 1)


def exporta(
    modelo: keras.Model, rascunho: pathlib.Path, fotos: Fotos, p_keras: np.ndarray, y: np.ndarray
) -> pd.DataFrame:
    """Grava `detector_dogs_cats.tflite` e `.onnx` em `rascunho`, depois de comparados com o Keras.

    fotos: as de teste, (224, 224, 3), em [0, 1]. p_keras: (n,), o que o Keras diz delas. y: (n,),
    o que o dataset diz, 0 ou 1. Devolve uma linha por arquivo. Levanta ErroClaro, e não grava o
    arquivo, se falta um pacote, se o conversor não aceita a rede ou se alguma probabilidade se
    afasta da do Keras mais que 0,001.
    """
    if faltam := [nome for nome in ("tf2onnx", "onnx", "onnxruntime") if not find_spec(nome)]:
        raise ErroClaro(f"para exportar, rode: python -m pip install {' '.join(faltam)}")
    linhas = []
    for sufixo, converte, lote in ((".tflite", _litert, 1), (".onnx", _onnx, 32)):
        arquivo = rascunho / f"detector_dogs_cats{sufixo}"
        arquivo.unlink(missing_ok=True)  # se este não der certo, o de antes não passa por ele
        try:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # os conversores escrevem páginas
                conteudo, roda = converte(modelo)
        except Exception as erro:  # cada conversor tem os seus
            raise ErroClaro(
                f"o conversor não aceitou esta rede em {sufixo} ({type(erro).__name__}). "
                "Use EXPORTAR = False, ou outro BACKBONE."
            ) from erro
        p, velocidade = _mede(roda, fotos, lote)
        diferenca = float(np.abs(p - p_keras).max())
        if not diferenca <= MAIOR_DIFERENCA:  # escrito assim, recusa também NaN
            raise ErroClaro(
                f"{arquivo.name} não foi gravado: numa foto de teste a sua probabilidade está a "
                f"{diferenca:.4f} da que o Keras dá. Use EXPORTAR = False, ou outro BACKBONE."
            )
        grava(arquivo, conteudo)
        diferentes, certas = (p > 0.5) != (p_keras > 0.5), (p > 0.5) == (y == 1)
        medidas = (diferenca, diferentes.sum(), certas.mean(), round(velocidade))
        linhas.append((arquivo.name, round(len(conteudo) / 1e6, 1), *medidas))
    colunas = "arquivo MB maior_diferenca decisoes_diferentes acuracia fotos_por_segundo"
    return pd.DataFrame(linhas, columns=colunas.split())


def _mede(roda: Roda, fotos: Fotos, lote: int) -> tuple[np.ndarray, float]:
    """As probabilidades (n,) das `fotos`, e quantas delas por segundo `roda` classificou."""
    if not isinstance(fotos, tf.data.Dataset):
        fotos = tf.data.Dataset.from_tensor_slices(fotos)
    lotes, p, segundos = fotos.batch(lote), [], 0.0
    roda(next(lotes.as_numpy_iterator()))  # a primeira vez inclui preparar-se
    for fotos_do_lote in lotes.as_numpy_iterator():
        inicio = time.perf_counter()
        p.extend(roda(fotos_do_lote)[:, 0])
        segundos += time.perf_counter() - inicio
    return np.array(p), len(p) / segundos


def _litert(modelo: keras.Model) -> tuple[bytes, Roda]:
    uma = keras.Input(batch_shape=(1, LADO, LADO, 3), name="foto")  # no celular, uma foto por vez
    conteudo = tf.lite.TFLiteConverter.from_keras_model(keras.Model(uma, modelo(uma))).convert()
    interprete = tf.lite.Interpreter(model_content=conteudo, num_threads=THREADS)
    interprete.allocate_tensors()
    [entrada], [saida] = interprete.get_input_details(), interprete.get_output_details()

    def roda(foto: np.ndarray) -> np.ndarray:
        interprete.set_tensor(entrada["index"], foto)
        interprete.invoke()
        return interprete.get_tensor(saida["index"])

    return conteudo, roda


def _onnx(modelo: keras.Model) -> tuple[bytes, Roda]:
    import onnxruntime

    with tempfile.TemporaryDirectory() as pasta:
        modelo.export(f"{pasta}/modelo.onnx", format="onnx", verbose=False)
        conteudo = pathlib.Path(pasta, "modelo.onnx").read_bytes()
    opcoes = onnxruntime.SessionOptions()
    opcoes.intra_op_num_threads = THREADS
    sessao = onnxruntime.InferenceSession(conteudo, opcoes, providers=["CPUExecutionProvider"])
    nome = sessao.get_inputs()[0].name
    return conteudo, lambda fotos: sessao.run(None, {nome: fotos})[0]
