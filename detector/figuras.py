"""Tudo o que é desenhado; cada figura aparece na tela, como um PNG."""

import io
import math

import IPython.display
import keras
import numpy as np
import tensorflow as tf
from matplotlib.cbook import get_sample_data
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure  # e não o pyplot, que só desenha na thread principal
from PIL import Image
from sklearn.datasets import load_sample_image
from sklearn.metrics import ConfusionMatrixDisplay

from detector.dados import LADO

AZUL, LARANJA = "#0072B2", "#D55E00"  # de Okabe e Ito: distintas também para quem é daltônico


def _figura(largura: float, altura: float, linhas: int = 1, colunas: int = 1) -> tuple:
    """Figura branca, em polegadas, e o array (linhas, colunas) dos seus eixos."""
    figura = Figure(figsize=(largura, altura), facecolor="white", layout="constrained")
    return figura, figura.subplots(linhas, colunas, squeeze=False)


def _png(figura: Figure) -> io.BytesIO:
    png = io.BytesIO()
    figura.savefig(png, format="png", dpi=90)
    return png


def _mostra(figura: Figure) -> None:
    IPython.display.display(IPython.display.Image(_png(figura).getvalue()))


def mostra_fotos(imagens: list, titulos: list, colunas: int = 6, lado: float = 1.7) -> None:
    """As imagens numa grade, com um título em cada uma.

    imagens: (altura, largura, 3), uint8 ou float em [0, 1]. lado: de cada foto, em polegadas.
    """
    linhas = max(math.ceil(len(imagens) / colunas), 1)
    figura, eixos = _figura(lado * colunas, (lado + 0.3) * linhas, linhas, colunas)
    for eixo in eixos.flat:
        eixo.axis("off")
    for eixo, imagem, titulo in zip(eixos.flat, imagens, titulos, strict=False):
        eixo.imshow(imagem)
        eixo.set_title(titulo, fontsize=9)
    _mostra(figura)


def curvas(historico: dict[str, list[float]]) -> None:
    """Log loss e acurácia por época, no treino e na validação, e a época de menor log loss.

    historico: do `fit`; tem `log_loss`, `acuracia`, `val_log_loss` e `val_acuracia`.
    """
    figura, [eixos] = _figura(9, 3, 1, 2)
    epocas = range(1, len(historico["log_loss"]) + 1)
    melhor = int(np.argmin(historico["val_log_loss"])) + 1
    titulos = {"log_loss": "Log loss", "acuracia": "Acurácia"}
    for eixo, (medida, titulo) in zip(eixos, titulos.items(), strict=True):
        eixo.plot(epocas, historico[medida], ".-", color=AZUL, label="treino")
        eixo.plot(epocas, historico[f"val_{medida}"], ".-", color=LARANJA, label="validação")
        eixo.axvline(melhor, color="gray", linestyle=":", label=f"melhor época ({melhor})")
        eixo.set(title=titulo, xlabel="época", xlim=(0.5, len(epocas) + 0.5))
        eixo.locator_params(axis="x", integer=True)
        eixo.yaxis.set_major_formatter(lambda valor, _: f"{valor:.3g}".replace(".", ","))
        eixo.grid(alpha=0.3)
        eixo.legend()
    _mostra(figura)


def confusao(y: np.ndarray, p: np.ndarray, classes: list[str]) -> None:
    """Matriz de confusão, com a decisão em 0,5.

    y: (n,), 0 ou 1. p: (n,), a probabilidade da classe 1.
    """
    y, disse = np.asarray(y).astype(int), (np.asarray(p) > 0.5).astype(int)
    figura, [[eixo]] = _figura(4.5, 3.8)
    opcoes = {"display_labels": classes, "cmap": "Blues", "colorbar": False}
    ConfusionMatrixDisplay.from_predictions(y, disse, labels=[0, 1], ax=eixo, **opcoes)
    eixo.set(title=f"Confusão em {len(y)} fotos", xlabel="o modelo disse", ylabel="o dataset diz")
    _mostra(figura)


def onde_olhou(topo: keras.Model, cabeca: keras.Model, mapas: np.ndarray) -> np.ndarray | None:
    """Quanto cada região puxou a decisão: (n, 224, 224), positivo para a classe 1.

    mapas: (n, h, w, canais), o que entra em `topo`. A média do resultado, somada ao viés, é o
    logit: é o CAM de Zhou et al., arXiv:1512.04150. None se `topo` não tem média global (unidos).
    """
    if "media" not in [camada.name for camada in topo.layers]:
        return None
    ativacoes = keras.Model(topo.input, topo.get_layer("media").input)
    kernel = cabeca.layers[-1].get_weights()[0]  # (canais, 1)
    regioes = ativacoes(np.asarray(mapas, "float32"), training=False) @ kernel
    return tf.image.resize(regioes, (LADO, LADO)).numpy()[..., 0]


def mostra_onde_olhou(fotos: np.ndarray, regioes: np.ndarray | None, titulos: list) -> None:
    """As fotos em cinza e o mapa por cima: laranja puxa para a classe 1, azul para a classe 0.

    fotos: (n, 224, 224, 3) em [0, 1]. regioes: de `onde_olhou`. Cada foto tem a sua escala, para
    que se veja também o mapa fraco: as cores comparam regiões de uma foto, não fotos.
    """
    if regioes is None:
        print("Com redes unidas não se vê para onde elas olharam.")
        return
    forca = np.abs(regioes)
    forca = forca / np.maximum(forca.max(axis=(1, 2), keepdims=True), 1e-9)
    opaco = 0.7 * forca[..., None]
    cor = np.where(regioes[..., None] > 0, to_rgb(LARANJA), to_rgb(AZUL))
    cinza = np.mean(fotos, axis=-1, keepdims=True)  # um gato alaranjado não passa por mapa
    mostra_fotos(cinza * (1 - opaco) + cor * opaco, titulos, colunas=4, lado=2.2)


def outras_coisas() -> dict[str, np.ndarray]:
    """Seis imagens uint8 (altura, largura, 3) que não são gato nem cachorro."""
    grafico, [[eixo]] = _figura(4, 4)
    eixo.bar(range(6), [3, 5, 2, 8, 6, 4], color=AZUL)
    texto = Figure(figsize=(4, 4), facecolor="white")
    texto.text(0.5, 0.5, "Isto não é\num gato.", fontsize=30, ha="center", va="center")
    casas = (np.indices((8, 8, 3))[:2].sum(axis=0) % 2 * 255).astype("uint8")
    imagens = {"templo": load_sample_image("china.jpg"), "flor": load_sample_image("flower.jpg")}
    with get_sample_data("grace_hopper.jpg") as pessoa:
        arquivos = {"pessoa": pessoa, "gráfico": _png(grafico), "texto": _png(texto)}
        for nome, arquivo in arquivos.items():
            imagens[nome] = np.asarray(Image.open(arquivo).convert("RGB"))
    imagens["xadrez"] = casas.repeat(32, axis=0).repeat(32, axis=1)
    return imagens
