"""python com_onnx.py detector_dogs_cats_0a255.onnx foto.jpg   (pip install onnxruntime pillow)"""

import sys

import numpy as np
import onnxruntime
import PIL.Image
import PIL.ImageOps


def classifica(modelo, foto):
    """A resposta e a probabilidade dela. O resize e a divisão por 255 estão dentro do modelo."""
    sessao = onnxruntime.InferenceSession(modelo)
    textos = sessao.get_modelmeta().custom_metadata_map
    imagem = PIL.ImageOps.exif_transpose(PIL.Image.open(foto)).convert("RGB")
    imagem.thumbnail((512, 512))  # como em `classifica`
    saidas = [saida.name for saida in sessao.get_outputs()]
    resposta = dict(zip(saidas, sessao.run(saidas, {"foto": np.array(imagem)}), strict=True))
    p = float(resposta["probabilidade"][0, 0])
    if "nota" in resposta and resposta["nota"][0, 0] < float(textos["limiar"]):
        return "nenhum dos dois", max(p, 1 - p)
    return textos["classes"].split("\n")[p > 0.5], max(p, 1 - p)


if __name__ == "__main__":
    print(*classifica(*sys.argv[1:]))
