"""python com_litert.py detector_dogs_cats_0a255.tflite foto.jpg   (pip install ai-edge-litert)"""

import sys
import zipfile

import numpy as np
import PIL.Image
import PIL.ImageOps

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:  # o TensorFlow traz o mesmo
    import tensorflow

    Interpreter = tensorflow.lite.Interpreter


def classifica(modelo, foto):
    """A resposta e a probabilidade dela. A divisão por 255 está dentro do modelo; o resize, não."""
    with zipfile.ZipFile(modelo) as textos:
        classes = textos.read("classes.txt").decode().split("\n")
    imagem = PIL.ImageOps.exif_transpose(PIL.Image.open(foto)).convert("RGB")
    pixels = np.array(imagem.resize((224, 224), PIL.Image.Resampling.BICUBIC))
    roda = Interpreter(modelo).get_signature_runner()
    p = float(roda(foto=pixels[np.newaxis])["probabilidade"][0, 0])
    return classes[p > 0.5], max(p, 1 - p)


if __name__ == "__main__":
    print(*classifica(*sys.argv[1:]))
