"""O que «nenhum dos dois» faz com fotos que o notebook não conhece: grava docs/estranhas.json.

    python docs/estranhas.py MODELOS DATA_DIR FOTOS_DE_FORA.zip

MODELOS: o que uma execução com o dataset de DATA_DIR deixou. O zip tem pastas de fotos de outra
fonte: cachorros, gatos, selvagens e outras. As 200 de teste são mudadas como celulares as mudam.
"""

import re
import sys
import zipfile

import gera
import numpy as np
from PIL import Image, ImageFilter, ImageOps

import detector
from detector.fotos import abre_foto
from detector.metricas import intervalo


def borra(foto: Image.Image, raio: float) -> Image.Image:
    return foto.filter(ImageFilter.GaussianBlur(raio * max(foto.size)))


def num_nono(foto: Image.Image) -> Image.Image:
    """A foto num nono do quadro, no meio dela mesma, borrada."""
    tela = borra(foto, 0.1).resize((foto.width * 3, foto.height * 3))
    tela.paste(foto, foto.size)
    return tela


MUDANCAS = {
    "como são": lambda foto: foto,
    "com faixas pretas, de captura de tela": lambda f: ImageOps.pad(f, (f.width, f.width * 2)),
    "num nono do quadro, fundo cinza": lambda foto: ImageOps.expand(foto, foto.size, "gray"),
    "num nono do quadro, fundo da foto borrada": num_nono,
    "borradas": lambda foto: borra(foto, 0.01),
    "de cabeça para baixo": lambda foto: foto.rotate(180),
    "com 64 pixels": lambda foto: foto.resize((64, 64)),
}


def mede(modelos: str, data_dir: str, de_fora: str) -> None:
    """Classifica tudo e grava estranhas.json."""
    medidas = {}
    pastas = {"cachorros": "cachorro", "gatos": "gato", "selvagens": "", "outras": ""}
    with zipfile.ZipFile(de_fora) as zipado:
        for pasta, certa in pastas.items():
            nomes = [nome for nome in zipado.namelist() if re.search(rf"\b{pasta}/[^/]+$", nome)]
            fotos = [abre_foto(zipado.read(nome), nome) for nome in nomes]
            medidas[f"de outra fonte: {pasta}"] = conta(fotos, [certa] * len(fotos), modelos)
    builder = detector.origem.abre("cats_vs_dogs", data_dir)
    n, classes = len(detector.dados.lista(builder)), detector.dados.classes(builder)
    teste = detector.dados.le(builder, f"train[{n * 9 // 10}:{n}]", prepara=None)
    teste = [(Image.fromarray(img), classes[label]) for img, label in teste.as_numpy_iterator()]
    for nome, muda in MUDANCAS.items():
        fotos = [np.asarray(muda(foto)) for foto, _ in teste]
        certas = [certa for _, certa in teste]
        medidas[f"as {len(teste)} de teste, {nome}"] = conta(fotos, certas, modelos)
    gera.grava({"fotos": medidas} | gera.assinatura(), gera.RAIZ / "docs/estranhas.json")


def conta(fotos: list[np.ndarray], certas: list[str], modelos: str) -> dict:
    """De quantas fotos, as recusadas, as trocadas e as que a rede sozinha trocaria.

    certas: a classe de cada uma; vazia, se não é de nenhuma, e então trocadas são as aceitas. A
    rede sozinha não recusa, nem olha outra vez o meio da foto.
    """
    classifica = detector.carrega_classificador(modelos)
    respostas = np.array([classifica(foto)["classe"] for foto in fotos])
    prontas = np.stack([detector.redimensiona_img(abre_foto(foto), 0)[0] for foto in fotos])
    rede, _, _, classes = detector.classificador.abre(modelos)
    p = rede.predict(prontas, verbose=0)[0].ravel()
    sozinha = np.where(p > 0.5, classes[1], classes[0])
    recusadas = int(sum(respostas == detector.classificador.NENHUM))
    acertos = int(sum(respostas == certas))
    return {
        "fotos": len(fotos),
        "recusadas": recusadas,
        "certas": acertos if any(certas) else None,
        "trocadas": len(fotos) - recusadas - acertos,
        "sozinha": int(sum(sozinha != certas)) if any(certas) else None,
        "recusadas_ic95": intervalo(recusadas, len(fotos)),
    }


if __name__ == "__main__":
    mede(*sys.argv[1:])
    gera.escreve()
