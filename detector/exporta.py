"""O modelo sem o TensorFlow: em LiteRT, para celulares, em ONNX, e numa página que classifica."""

import io
import os
import pathlib
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.util import find_spec

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import ops

from detector import arquivos, classificador, entrega, pagina
from detector.ambiente import ErroClaro, sem_stderr
from detector.dados import LADO, redimensiona_img
from detector.imagenet import Conhecidas

# Sem isto o ONNX Runtime abre conexões para contar ao fabricante que foi usado.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

MAIOR_DIFERENCA = 1e-3  # na probabilidade
THREADS = os.cpu_count() or 1  # as mesmas para os dois formatos, ou as velocidades enganariam
UMA = (1, LADO, LADO, 3)  # no celular, uma foto por vez
DE_0_A_1 = f"float32 (n, {LADO}, {LADO}, 3), RGB, de 0 a 1; em LiteRT, n = 1"
DE_0_A_255 = f"uint8 de 0 a 255, RGB: ONNX (altura, largura, 3); LiteRT (1, {LADO}, {LADO}, 3)"
Roda = Callable[[np.ndarray], np.ndarray]  # uma foto → probabilidade (1, 1)


def exporta(rascunho: pathlib.Path, fotos: tf.data.Dataset, p_keras: np.ndarray) -> pd.DataFrame:
    """Grava em `rascunho`, do modelo que há lá, dois LiteRT, dois ONNX, as classes e a página.

    Os `_0a255` recebem uint8 e dão também a nota. fotos: até umas centenas, em [0, 1]. p_keras:
    (n,), o que o modelo diz delas. Devolve uma linha por arquivo, comparado com ele e cronometrado
    com uma foto por vez.
    Levanta ErroClaro, e não grava o arquivo, se falta um pacote, se o conversor não aceita a rede
    ou se alguma probabilidade se afasta da do Keras mais que 0,001.
    """
    for exportado in entrega.EXPORTADOS:  # se algo não der certo, o de antes não passa por ele
        (rascunho / exportado).unlink(missing_ok=True)
    rede, textos = _com_nota(rascunho)
    so_p = keras.Model(rede.input, {"probabilidade": rede.output["probabilidade"]})
    lotes = [*fotos.batch(1).as_numpy_iterator()]
    fotos_uint8 = np.rint(np.concatenate(lotes) * 255).astype("uint8")
    p_uint8 = rede.predict(fotos_uint8 / np.float32(255), verbose=0)["probabilidade"][:, 0]
    lotes_uint8 = fotos_uint8[:, np.newaxis]
    linhas = []
    for sufixo, converte, rede_dele, entram, p_certa in (
        (".tflite", _litert, _recebe(so_p, batch_shape=UMA), lotes, p_keras),
        (".onnx", _onnx, so_p, lotes, p_keras),
        ("_0a255.tflite", _litert, _recebe(rede, _divide, batch_shape=UMA), lotes_uint8, p_uint8),
        ("_0a255.onnx", _onnx, _recebe(rede, _prepara, shape=(None, 3)), fotos_uint8, p_uint8),
    ):
        nome = f"detector_dogs_cats{sufixo}"
        conteudo, roda = _converte(converte, rede_dele, textos, nome)
        roda(entram[0])  # a primeira vez inclui preparar-se
        inicio = time.perf_counter()
        p = np.concatenate([roda(foto)[:, 0] for foto in entram])
        segundos = time.perf_counter() - inicio
        diferenca = float(np.abs(p - p_certa).max())
        if not diferenca <= MAIOR_DIFERENCA:  # escrito assim, recusa também NaN
            raise ErroClaro(
                f"{nome} não foi gravado: numa foto de teste a sua probabilidade está a "
                f"{diferenca:.4f} da que o Keras dá. Use EXPORTAR = False, ou outro BACKBONE."
            )
        arquivos.grava(rascunho / nome, conteudo)
        diferentes = int(np.sum((p > 0.5) != (p_certa > 0.5)))
        medidas = (diferenca, diferentes, round(len(p) / segundos))
        linhas.append((nome, round(len(conteudo) / 1e6, 1), *medidas))
    arquivos.grava(rascunho / "classes.txt", f"{textos['classes']}\n".encode())
    arquivos.grava(rascunho / pagina.NOME, pagina.monta(conteudo))
    colunas = "arquivo MB maior_diferenca decisoes_diferentes fotos_por_segundo"
    return pd.DataFrame(linhas, columns=colunas.split())


def escreve_pagina(modelos: str, runtime: str | None = None) -> pathlib.Path:
    """Grava `pagina.html` em `modelos`, do que o notebook deixou lá; devolve o caminho dela.

    runtime: a pasta `dist` do onnxruntime-web, para a página não precisar da internet. Levanta
    ErroClaro se ela ou o modelo não serve, ou se falta um pacote.
    """
    rede, textos = _com_nota(pathlib.Path(modelos))
    programa = pagina.le_runtime(runtime) if runtime else {}
    rede = _recebe(rede, _prepara, shape=(None, 3))
    html = pagina.monta(_converte(_onnx, rede, textos, pagina.NOME)[0], programa)
    arquivos.grava(destino := pathlib.Path(modelos, pagina.NOME), html)
    return destino


def _com_nota(modelos: pathlib.Path) -> tuple[keras.Model, dict[str, str]]:
    """A rede que dá "probabilidade" e, se há a cabeça da ImageNet, "nota"; e o que dizer dela."""
    rede, conhecidas, limiar, classes = classificador.abre(modelos)
    textos = {"classes": "\n".join(classes), "probabilidade": f"a de ser {classes[1]}, de 0 a 1"}
    p, vetor = rede.output
    saidas = {"probabilidade": p}
    if conhecidas.cabecas:
        saidas["nota"] = _nota(vetor, conhecidas)
        textos["limiar"] = f"{limiar:.9g}"  # nota menor que ele: nenhuma das classes
    return keras.Model(rede.input, saidas), textos


def _nota(vetor: keras.KerasTensor, conhecidas: Conhecidas) -> keras.KerasTensor:
    """A conta de `imagenet.nota`, (n, 1), com operações que os dois conversores aceitam."""
    dentro = np.isin(np.arange(1000), conhecidas.indices)
    grupos = np.stack([dentro, ~dentro], axis=1).astype("float32")
    soma, fim = 0, 0
    for kernel, bias in conhecidas.cabecas:
        parte, fim = vetor[:, fim : fim + len(kernel)], fim + len(kernel)
        chances = ops.softmax(ops.matmul(parte, kernel) + bias)
        soma = soma + ops.log(ops.matmul(chances, grupos))
    return (soma[:, :1] - soma[:, 1:]) / len(conhecidas.cabecas)


def _recebe(rede: keras.Model, prepara: Callable | None = None, **forma) -> keras.Model:
    """A mesma rede, com outra entrada: se `prepara` a deixa pronta, ela é uint8, em 0–255."""
    foto = keras.Input(**forma, dtype="uint8" if prepara else "float32", name="foto")
    return keras.Model(foto, rede(keras.layers.Lambda(prepara)(foto) if prepara else foto))


def _divide(lote: tf.Tensor) -> tf.Tensor:  # o LiteRT não tem o resize bicúbico
    return tf.cast(lote, tf.float32) / 255


def _prepara(foto: tf.Tensor) -> tf.Tensor:  # para o Keras, o eixo do lote dela é a altura
    return redimensiona_img(tf.cast(foto, tf.float32), 0)[0][tf.newaxis]


def _converte(
    converte: Callable, rede: keras.Model, textos: dict[str, str], nome: str
) -> tuple[bytes, Roda]:
    """O conteúdo do arquivo, com os textos dentro, e quem o roda."""
    if faltam := [pacote for pacote in ("tf2onnx", "onnx", "onnxruntime") if not find_spec(pacote)]:
        raise ErroClaro(f"para exportar, rode: python -m pip install {' '.join(faltam)}")
    pixels = DE_0_A_255 if rede.input.dtype == "uint8" else DE_0_A_1
    try:
        with sem_stderr(), redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # os conversores escrevem páginas
            return converte(rede, {"foto": pixels} | textos)
    except (OSError, MemoryError) as erro:
        raise ErroClaro(f"não consegui converter {nome}: {erro or 'falta memória'}.") from erro
    except Exception as erro:  # cada conversor tem os seus
        raise ErroClaro(
            f"o conversor não aceitou esta rede em {nome} ({type(erro).__name__}). "
            "Use EXPORTAR = False, ou outro BACKBONE."
        ) from erro


def _litert(rede: keras.Model, textos: dict[str, str]) -> tuple[bytes, Roda]:
    memoria = io.BytesIO(tf.lite.TFLiteConverter.from_keras_model(rede).convert())
    with zipfile.ZipFile(memoria, "a") as zip_:  # no fim, como as ferramentas do LiteRT fazem
        for nome, texto in textos.items():
            zip_.writestr(f"{nome}.txt", texto)
    conteudo = memoria.getvalue()
    roda = tf.lite.Interpreter(model_content=conteudo, num_threads=THREADS).get_signature_runner()
    return conteudo, lambda foto: roda(foto=foto)["probabilidade"]


def _onnx(rede: keras.Model, textos: dict[str, str]) -> tuple[bytes, Roda]:
    import onnx
    import onnxruntime

    rede(tf.zeros([lado or 1 for lado in rede.input_shape], rede.input.dtype))  # o Keras o exige
    with tempfile.TemporaryDirectory() as pasta:
        rede.export(f"{pasta}/modelo.onnx", format="onnx", verbose=False)
        convertida = onnx.load(f"{pasta}/modelo.onnx")
    onnx.helper.set_model_props(convertida, textos)
    conteudo, opcoes = convertida.SerializeToString(), onnxruntime.SessionOptions()
    opcoes.intra_op_num_threads = THREADS
    sessao = onnxruntime.InferenceSession(conteudo, opcoes, providers=["CPUExecutionProvider"])
    nome = sessao.get_inputs()[0].name
    return conteudo, lambda foto: sessao.run(["probabilidade"], {nome: foto})[0]
