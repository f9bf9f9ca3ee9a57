"""O que «nenhum dos dois» faz com fotos que o notebook não conhece: grava docs/estranhas.json.

    python docs/estranhas.py MODELOS DATA_DIR FOTOS_DE_FORA.zip

MODELOS: o que uma execução com o dataset de DATA_DIR deixou. O zip tem pastas de fotos de outra
fonte: cachorros, gatos, selvagens e outras. As 200 de teste são mudadas como celulares as mudam.
"""

import collections
import sys
import zipfile

import gera
import numpy as np
from PIL import Image, ImageFilter

import detector
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


def conta(vereditos: list[dict], certa: str) -> dict:
    """De quantas fotos, as recusadas, as trocadas e as que a rede, sem recusar, trocaria."""
    respostas = collections.Counter(veredito["classe"] for veredito in vereditos)
    recusadas = respostas[detector.classificador.NENHUM]
    return {
        "fotos": len(vereditos),
        "recusadas": recusadas,
        "certas": respostas[certa],
        "trocadas": len(vereditos) - recusadas - respostas[certa],
        "a rede trocaria": sum(veredito["parece"] != certa for veredito in vereditos),
    }


def soma(contas: list[dict]) -> dict:
    total = dict(sum(map(collections.Counter, contas), collections.Counter()))
    total = {nome: total.get(nome, 0) for nome in contas[0]}
    return total | {"recusadas_ic95": intervalo(total["recusadas"], total["fotos"])}


def mede(modelos: str, data_dir: str, de_fora: str) -> None:
    """Classifica tudo e grava estranhas.json."""
    classifica, medidas = detector.carrega_classificador(modelos), {}
    pastas = {"cachorros": "cachorro", "gatos": "gato", "selvagens": "", "outras": ""}
    with zipfile.ZipFile(de_fora) as zipado:
        for pasta, certa in pastas.items():
            nomes = [
                n for n in zipado.namelist() if n.split("/")[-2:-1] == [pasta] and n[-1] != "/"
            ]
            vistas = [classifica(zipado.read(nome), nome) for nome in nomes]
            medidas[f"de outra fonte: {pasta}"] = soma([conta(vistas, certa)])
    builder = detector.origem.abre("cats_vs_dogs", data_dir)
    n = len(detector.dados.lista(builder))
    teste = detector.dados.le(builder, f"train[{n * 9 // 10}:{n}]", prepara=None)
    teste = [(Image.fromarray(img), int(label)) for img, label in teste.as_numpy_iterator()]
    for nome, muda in MUDANCAS.items():
        contas = []
        for classe, certa in enumerate(detector.dados.classes(builder)):
            fotos = [muda(foto) for foto, label in teste if label == classe]
            contas.append(conta([classifica(np.asarray(foto)) for foto in fotos], certa))
        medidas[f"as {len(teste)} de teste, {nome}"] = soma(contas)
    gera.grava({"fotos": medidas} | gera.assinatura(), gera.RAIZ / "docs/estranhas.json")


if __name__ == "__main__":
    mede(*sys.argv[1:])
    gera.escreve()
