"""O modelo sem o TensorFlow: em LiteRT, para celulares, em ONNX, e numa página que classifica."""

import io
import os
import pathlib
import tempfile
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

from detector import arquivos, classificador, pagina
from detector.ambiente import ErroClaro, sem_stderr
from detector.comeco import EXPORTAM
from detector.dados import LADO, redimensiona_img
from detector.imagenet import Conhecidas

# Sem isto o ONNX Runtime abre conexões para contar ao fabricante que foi usado.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

DA_PAGINA = "detector_dogs_cats_0a255.onnx"  # recebe uma foto de qualquer tamanho
MAIOR_DIFERENCA = 1e-3  # na probabilidade
UMA = (1, LADO, LADO, 3)  # no celular, uma foto por vez
DE_0_A_1 = f"float32 (n, {LADO}, {LADO}, 3), RGB, de 0 a 1; em LiteRT, n = 1"
DE_0_A_255 = f"uint8 de 0 a 255, RGB: ONNX (altura, largura, 3); LiteRT (1, {LADO}, {LADO}, 3)"
Roda = Callable[[np.ndarray], np.ndarray]  # uma foto → probabilidade (1, 1)


def exporta(rascunho: pathlib.Path, fotos: tf.data.Dataset, p_keras: np.ndarray) -> pd.DataFrame:
    """Grava em `rascunho`, do modelo que há lá, dois LiteRT, dois ONNX, as classes e a página.

    Os `_0a255` recebem uint8 e dão também a nota. fotos: até umas centenas, em [0, 1]. p_keras:
    (n,), o que o modelo diz delas. Devolve uma linha por arquivo, comparado com ele, foto a foto.
    Levanta ErroClaro, e não grava o arquivo, se falta um pacote, se o conversor não aceita a rede
    ou se alguma probabilidade se afasta da do Keras mais que 0,001.
    """
    rede, textos = _com_nota(rascunho)
    float32 = np.stack([*fotos.as_numpy_iterator()])
    uint8 = np.rint(float32 * 255).astype("uint8")
    p_uint8 = rede.predict(uint8 / np.float32(255), verbose=0)["probabilidade"][:, 0]
    linhas = []
    for nome, rede_dele in _redes(rede).items():
        conteudo, roda = _converte(nome, rede_dele, textos)
        de_255 = rede_dele.input.dtype == "uint8"
        entram, p_certa = (uint8, p_uint8) if de_255 else (float32, p_keras)
        if len(rede_dele.input.shape) == 4:  # um lote de uma foto, e não só a foto
            entram = entram[:, np.newaxis]
        p = np.ravel([roda(foto) for foto in entram])
        linha = {"arquivo": nome, "MB": round(len(conteudo) / 1e6, 1)}
        linha["maior_diferenca"] = float(np.abs(p - p_certa).max())
        linha["decisoes_diferentes"] = int(np.sum((p > 0.5) != (p_certa > 0.5)))
        if not linha["maior_diferenca"] <= MAIOR_DIFERENCA:  # escrito assim, recusa também NaN
            raise ErroClaro(
                f"{nome} não foi gravado: numa foto de teste a sua probabilidade está a "
                f"{linha['maior_diferenca']:.4f} da do Keras. Use EXPORTAR = False, ou outro "
                "BACKBONE."
            )
        arquivos.grava(rascunho / nome, conteudo)
        linhas.append(linha)
    arquivos.grava(rascunho / "classes.txt", f"{textos['classes']}\n".encode())
    da_pagina = (rascunho / DA_PAGINA).read_bytes()
    arquivos.grava(rascunho / pagina.NOME, pagina.monta(da_pagina, textos))
    return pd.DataFrame(linhas)


def escreve_pagina(modelos: str | os.PathLike, runtime: pathlib.Path | None = None) -> pathlib.Path:
    """Grava `pagina.html` em `modelos`, do que o notebook deixou lá; devolve o caminho dela.

    runtime: a pasta `dist` do onnxruntime-web, para a página não precisar da internet. Levanta
    ErroClaro se ela ou o modelo não serve, ou se falta um pacote.
    """
    programa = pagina.le_runtime(runtime) if runtime else {}
    rede, textos = _com_nota(pathlib.Path(modelos))
    modelo, _ = _converte(DA_PAGINA, _redes(rede)[DA_PAGINA], textos)
    destino = pathlib.Path(modelos, pagina.NOME)
    arquivos.grava(destino, pagina.monta(modelo, textos, programa))
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
    notas, fim = [], 0
    for kernel, bias in conhecidas.cabecas:
        inicio, fim = fim, fim + len(kernel)
        chances = ops.softmax(ops.matmul(vetor[:, inicio:fim], kernel) + bias)
        dos_grupos = ops.log(ops.matmul(chances, grupos))
        notas.append(dos_grupos[:, :1] - dos_grupos[:, 1:])
    return sum(notas) / len(notas)


def _redes(rede: keras.Model) -> dict[str, keras.Model]:
    """{arquivo: a rede, com a entrada que ele recebe}."""
    so_p = keras.Model(rede.input, {"probabilidade": rede.output["probabilidade"]})
    uma = keras.Input(batch_shape=UMA, name="foto")
    uma_de_255 = keras.Input(batch_shape=UMA, dtype="uint8", name="foto")
    divide = keras.layers.Rescaling(1 / 255)  # só isto: o LiteRT não tem o resize bicúbico
    qualquer = keras.Input((None, 3), dtype="uint8", name="foto")  # no eixo do lote, a altura
    prepara = keras.layers.Lambda(lambda foto: redimensiona_img(foto, 0)[0][tf.newaxis])
    return {
        "detector_dogs_cats.tflite": keras.Model(uma, so_p(uma)),
        "detector_dogs_cats.onnx": so_p,
        "detector_dogs_cats_0a255.tflite": keras.Model(uma_de_255, rede(divide(uma_de_255))),
        DA_PAGINA: keras.Model(qualquer, rede(prepara(ops.cast(qualquer, "float32")))),
    }


def _converte(nome: str, rede: keras.Model, textos: dict[str, str]) -> tuple[bytes, Roda]:
    """O conteúdo do arquivo, com os textos dentro, e quem o roda."""
    if faltam := [pacote for pacote in EXPORTAM if not find_spec(pacote)]:
        raise ErroClaro(f"para exportar, rode: python -m pip install {' '.join(faltam)}")
    converte = _litert if nome.endswith(".tflite") else _onnx
    pixels = DE_0_A_255 if rede.input.dtype == "uint8" else DE_0_A_1
    try:
        with sem_stderr(), redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # os conversores escrevem páginas
            return converte(rede, {"foto": pixels} | textos)
    except Exception as erro:  # da falta de espaço aos de cada conversor
        causa, conselho = type(erro).__name__, "Use EXPORTAR = False, ou outro BACKBONE"
        if isinstance(erro, OSError | MemoryError):
            causa, conselho = str(erro) or causa, "Libere disco ou memória e rode de novo"
        raise ErroClaro(f"não consegui converter em {nome} ({causa}). {conselho}.") from erro


def _litert(rede: keras.Model, textos: dict[str, str]) -> tuple[bytes, Roda]:
    memoria = io.BytesIO(tf.lite.TFLiteConverter.from_keras_model(rede).convert())
    with zipfile.ZipFile(memoria, "a") as zip_:  # no fim, como as ferramentas do LiteRT fazem
        for nome, texto in textos.items():
            zip_.writestr(f"{nome}.txt", texto)
    conteudo = memoria.getvalue()
    roda = tf.lite.Interpreter(model_content=conteudo).get_signature_runner()
    return conteudo, lambda foto: roda(foto=foto)["probabilidade"]


def _onnx(rede: keras.Model, textos: dict[str, str]) -> tuple[bytes, Roda]:
    import onnx
    import onnxruntime

    rede(tf.zeros([lado or 1 for lado in rede.input_shape], rede.input.dtype))  # o Keras o exige
    with tempfile.TemporaryDirectory() as pasta:
        rede.export(f"{pasta}/modelo.onnx", format="onnx", verbose=False)
        convertida = onnx.load(f"{pasta}/modelo.onnx")
    onnx.helper.set_model_props(convertida, textos)
    conteudo = convertida.SerializeToString()
    sessao = onnxruntime.InferenceSession(conteudo, providers=["CPUExecutionProvider"])
    return conteudo, lambda foto: sessao.run(["probabilidade"], {"foto": foto})[0]
