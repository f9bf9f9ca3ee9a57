"""O que «nenhum dos dois» faz com fotos que o notebook não conhece: grava docs/estranhas.json.

    python docs/estranhas.py MODELOS DATA_DIR FOTOS_DE_FORA.zip

MODELOS: o que uma execução com o dataset de DATA_DIR deixou. O zip tem pastas de fotos de outra
fonte: cachorros, gatos, selvagens e outras. As 200 de teste são mudadas como celulares as mudam.
"""

import collections
import functools
import sys
import zipfile

import gera
import numpy as np
from PIL import Image, ImageFilter

import detector
from detector.fotos import abre_foto
from detector.metricas import intervalo


def barras(foto: Image.Image) -> Image.Image:
    """A foto numa captura de tela em pé: faixas pretas em cima e embaixo."""
    tela = Image.new("RGB", (foto.width, foto.width * 2))
    tela.paste(foto, (0, (tela.height - foto.height) // 2))
    return tela


def num_nono(foto: Image.Image, fundo: Image.Image) -> Image.Image:
    """A foto num nono do quadro, no meio de outra coisa."""
    tela = fundo.resize((foto.width * 3, foto.height * 3))
    tela.paste(foto, foto.size)
    return tela


def borra(foto: Image.Image, raio: float) -> Image.Image:
    return foto.filter(ImageFilter.GaussianBlur(raio * max(foto.size)))


MUDANCAS = {
    "como são": lambda foto: foto,
    "com faixas pretas, de captura de tela": barras,
    "num nono do quadro, fundo cinza": lambda f: num_nono(f, Image.new("RGB", f.size, "gray")),
    "num nono do quadro, fundo da foto borrada": lambda foto: num_nono(foto, borra(foto, 0.1)),
    "borradas": lambda foto: borra(foto, 0.01),
    "de cabeça para baixo": lambda foto: foto.rotate(180),
    "com 64 pixels": lambda foto: foto.resize((64, 64)),
}


def conta(fotos: list[np.ndarray], certa: str, modelos: str) -> dict:
    """De quantas fotos, as recusadas, as trocadas e as que a rede sozinha trocaria.

    certa: a classe delas; vazia, se não são de nenhuma, e então trocadas são as aceitas. A rede
    sozinha não recusa, nem olha outra vez o meio da foto.
    """
    classifica, (rede, _, _, classes) = carregados(modelos)
    respostas = collections.Counter(classifica(foto)["classe"] for foto in fotos)
    recusadas = respostas[detector.classificador.NENHUM]
    prontas = [detector.redimensiona_img(abre_foto(foto), 0)[0] for foto in fotos]
    sozinha = np.array(classes)[(rede.predict(np.stack(prontas), verbose=0)[0] > 0.5).ravel() * 1]
    return {
        "fotos": len(fotos),
        "recusadas": recusadas,
        "certas": respostas[certa] if certa else None,
        "trocadas": len(fotos) - recusadas - respostas[certa],
        "sozinha": int(sum(sozinha != certa)) if certa else None,
    }


@functools.cache
def carregados(modelos: str) -> tuple:
    """`classifica`, e a rede dele sem mais nada."""
    return detector.carrega_classificador(modelos), detector.classificador.abre(modelos)


def soma(contas: list[dict]) -> dict:
    total = {
        n: None if c is None else sum(conta[n] for conta in contas) for n, c in contas[0].items()
    }
    return total | {"recusadas_ic95": intervalo(total["recusadas"], total["fotos"])}


def mede(modelos: str, data_dir: str, de_fora: str) -> None:
    """Classifica tudo e grava estranhas.json."""
    medidas = {}
    pastas = {"cachorros": "cachorro", "gatos": "gato", "selvagens": "", "outras": ""}
    with zipfile.ZipFile(de_fora) as zipado:
        for pasta, certa in pastas.items():
            nomes = [
                n for n in zipado.namelist() if n.split("/")[-2:-1] == [pasta] and n[-1] != "/"
            ]
            fotos = [abre_foto(zipado.read(nome), nome) for nome in nomes]
            medidas[f"de outra fonte: {pasta}"] = soma([conta(fotos, certa, modelos)])
    builder = detector.origem.abre("cats_vs_dogs", data_dir)
    n = len(detector.dados.lista(builder))
    teste = detector.dados.le(builder, f"train[{n * 9 // 10}:{n}]", prepara=None)
    teste = [(Image.fromarray(img), int(label)) for img, label in teste.as_numpy_iterator()]
    for nome, muda in MUDANCAS.items():
        contas = []
        for classe, certa in enumerate(detector.dados.classes(builder)):
            fotos = [np.asarray(muda(foto)) for foto, label in teste if label == classe]
            contas.append(conta(fotos, certa, modelos))
        medidas[f"as {len(teste)} de teste, {nome}"] = soma(contas)
    gera.grava({"fotos": medidas} | gera.assinatura(), gera.RAIZ / "docs/estranhas.json")


if __name__ == "__main__":
    mede(*sys.argv[1:])
    gera.escreve()
