"""De que classe é cada foto de uma pasta ou de um zip; aqui só se olham nomes."""

import collections
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from detector.ambiente import ErroClaro, no_disco

SISTEMA = {"icon\r", "lost+found", "thumbs.db", "desktop.ini"}
SISTEMA |= {"__macosx", "@eadir", "#recycle", "$recycle.bin"}
# O que diz cada palavra do nome de uma pasta; as últimas não dizem nada.
PALAVRAS = {
    "cat": "cat cats gato gatos gata gatas gatinho gatinhos kitten kittens",
    "dog": "dog dogs cachorro cachorros cadela cadelas cao caes perro perros puppy puppies",
    "divisão": "train training treino treinamento val valid validation validacao dev eval "
    "evaluation test testing teste testes pred prediction predictions",
    "anotação": "annotation annotations anotacoes labels mascaras masks trimaps",
    "": "set data dataset image images imagem imagens foto fotos photo photos pictures de",
}
PALAVRAS = {diz: set(todas.split()) for diz, todas in PALAVRAS.items()}
BICHOS = {"cat", "dog"}


class Lida(NamedTuple):
    """O que se entendeu de uma foto. onde: a pasta em que as classes se separam."""

    classe: str
    onde: str
    como: str = "pela pasta"


def legivel(nome: str | bytes | os.PathLike, antigo: str = "cp1252") -> str:
    """O nome em texto que se grava e se mostra; antigo: como ele está escrito, se não em UTF-8."""
    cru = os.fsencode(nome)
    try:
        return cru.decode()
    except UnicodeDecodeError:
        return cru.decode(antigo, errors="backslashreplace")  # dois nomes não viram o mesmo


def quantos(n: int, um: str, varios: str) -> str:
    """Como em "1 foto" e "2 fotos"."""
    return f"{n} {um if n == 1 else varios}"


def do_sistema(nome: str) -> bool:
    """O que o sistema, e não a pessoa, pôs ali; e "..", que sairia da pasta."""
    return any(p.startswith(".") or p.casefold() in SISTEMA for p in nome.split("/"))


def visiveis(pasta: pathlib.Path) -> Iterator[str]:
    """Os arquivos da pasta e das subpastas, menos os do sistema; nomes a partir dela, com "/".

    Levanta ErroClaro se uma das pastas não pode ser lida.
    """

    def para(erro: OSError):
        with no_disco("ler", legivel(erro.filename), "aponte para outra pasta"):
            raise erro

    vistas = {os.path.realpath(pasta)}  # um atalho pode dar numa pasta de onde se veio
    for onde, subpastas, arquivos in os.walk(pasta, onerror=para, followlinks=True):
        reais = {p: os.path.realpath(os.path.join(onde, p)) for p in sorted(subpastas)}
        subpastas[:] = [p for p in reais if not do_sistema(p) and reais[p] not in vistas]
        vistas.update(reais.values())
        for nome in sorted(arquivos):
            if not do_sistema(nome):
                yield pathlib.Path(onde, nome).relative_to(pasta).as_posix()


def entende(fotos: Sequence[str], pasta: str | os.PathLike) -> dict[str, Lida]:
    """Como se leu cada foto que tem classe; as que não têm ficam de fora.

    fotos: nomes legíveis a partir de `pasta`, com "/". Primeiro procura gatos e cachorros, nas
    pastas e depois nos nomes; senão, duas subpastas quaisquer. Atravessa treino, validação e teste,
    e as pastas que só embrulham outra; não entra nas de máscaras e anotações. Levanta ErroClaro se
    não há duas classes, ou não se sabe quais.
    """
    de_fotos = [foto for foto in fotos if "anotação" not in map(tipo, foto.split("/")[:-1])]
    pastas = {foto: _pastas(foto) for foto in de_fotos}
    lidas = _pela_palavra(pastas) or _pelo_nome(de_fotos) or _pelo_lugar(pastas)
    classes = sorted({lida.classe for lida in lidas.values()})
    if len(classes) > 2 and {tipo(classe) for classe in classes} == BICHOS:
        # Cat, cats e dogs: três nomes, mas dois bichos.
        lidas = {foto: lida._replace(classe=tipo(lida.classe)) for foto, lida in lidas.items()}
    elif len(classes) > 2:
        raise ErroClaro(
            f"encontrei {len(classes)} classes em {pasta} ({', '.join(classes[:6])}), e sei "
            "separar duas: deixe só as pastas delas, ou aponte para uma pasta que só tenha duas."
        )
    elif len({_sem_a_divisao(classe) for classe in classes}) < 2:  # cats_train e cats_test
        partes = {parte for foto in fotos for parte in foto.split("/")[:-1]}
        puladas = sorted(parte for parte in partes if tipo(parte) in ("divisão", "anotação"))
        ditas = quantos(len(fotos), "foto", "fotos")
        tomei = f" (tomei {', '.join(puladas[:4])} por treino, validação, teste ou anotações)"
        raise ErroClaro(
            f"há {ditas} em {pasta}, mas não duas classes{tomei if puladas else ''}: "
            "são precisas duas subpastas com fotos, uma por classe, ou nomes como cat.1.jpg e "
            "dog.1.jpg. Se essa pasta é uma das classes, aponte para a que a contém, "
            f"{pathlib.Path(pasta).absolute().parent}."
        )
    return lidas


def _pela_palavra(pastas: Mapping[str, list[Lida]]) -> dict[str, Lida]:
    """Pelas pastas chamadas gatos, cachorros, cats…; {} se não há dos dois.

    Ao lado delas, uma pasta com outro nome é outra classe.
    """
    bichos = []
    for todas in pastas.values():
        da_foto = [pasta for pasta in todas if tipo(pasta.classe) in BICHOS]
        bichos += da_foto[:1]
    if {tipo(bicho.classe) for bicho in bichos} != BICHOS:
        return {}
    lugares = {bicho.onde for bicho in bichos}
    return {f: pasta for f, todas in pastas.items() for pasta in todas if pasta.onde in lugares}


def _pelo_nome(fotos: Sequence[str]) -> dict[str, Lida]:
    """Pelo começo do nome: cat.0.jpg, Gato_1.png, dog (2).jpeg; {} se não há dos dois.

    Nem se, nas pastas em que estão, são poucas: um cat.jpg perdido não desfaz as pastas.
    """
    lidas = {}
    for foto in fotos:
        onde, _, arquivo = foto.rpartition("/")
        bicho = tipo("".join(_palavras(arquivo)[:1]))
        if bicho in BICHOS:
            lidas[foto] = Lida(bicho, onde, "pelo nome do arquivo")
    lugares = {lida.onde for lida in lidas.values()}
    vizinhas = [foto for foto in fotos if foto.rpartition("/")[0] in lugares]
    os_dois = {lida.classe for lida in lidas.values()} == BICHOS
    return lidas if os_dois and len(lidas) >= len(vizinhas) / 2 else {}


def _pelo_lugar(pastas: Mapping[str, list[Lida]]) -> dict[str, Lida]:
    """Pela primeira pasta que não é a mesma para todas, nem uma divisão.

    Levanta ErroClaro se as duas têm as mesmas subpastas: podem ser divisões com outro nome.
    """
    nivel = 0
    while len({todas[nivel].classe for todas in pastas.values() if len(todas) > nivel}) == 1:
        nivel += 1
    fundas = [todas[nivel:] for todas in pastas.values() if len(todas) > nivel + 1]
    pares = {(fora.classe, dentro.classe) for fora, dentro, *_ in fundas}
    vezes = collections.Counter(dentro for _, dentro in pares)
    repetidas = sorted(nome for nome in vezes if vezes[nome] > 1 and _palavras(nome))
    if len(repetidas) > 1:  # uma só, ou 2023 e 2024, são álbuns
        raise ErroClaro(
            f"não sei se as classes são {' e '.join(sorted({fora for fora, _ in pares}))} ou "
            f"{' e '.join(repetidas[:4])}. No primeiro caso, ponha as fotos de cada classe numa "
            "pasta só; no segundo, aponte para uma das pastas de fora."
        )
    return {foto: todas[nivel] for foto, todas in pastas.items() if len(todas) > nivel}


def _pastas(foto: str) -> list[Lida]:
    """Cada pasta em que a foto está, menos as divisões, como se fosse a classe dela."""
    partes = unicodedata.normalize("NFC", foto).split("/")[:-1]
    todas = [Lida(parte, "/".join(partes[:i])) for i, parte in enumerate(partes)]
    return [pasta for pasta in todas if tipo(pasta.classe) != "divisão"]


def _sem_a_divisao(classe: str) -> str:
    """De "cats_train", "cats"; de "classe 1", ela mesma."""
    divisao = rf"(?<![a-z])({'|'.join(PALAVRAS['divisão'])})(?![a-z])\d*"
    return re.sub(divisao, "", _simples(classe)).strip(" _.-")


def _palavras(nome: str) -> list[str]:
    """As palavras do nome: de "Cães_2", só "caes"."""
    return re.findall("[a-z]+", _simples(nome))


def _simples(nome: str) -> str:
    """O nome em minúsculas e sem acentos."""
    letras = unicodedata.normalize("NFKD", nome.casefold())
    return "".join(c for c in letras if not unicodedata.combining(c))


def tipo(pasta: str) -> str | None:
    """cat, dog, divisão ou anotação, se o nome da pasta não diz mais nada: de "hot dog", None."""
    palavras = set(_palavras(pasta)) - PALAVRAS[""]
    sem_divisao = palavras - PALAVRAS["divisão"]
    if palavras and not sem_divisao:
        return "divisão"
    dizem = (*BICHOS, "anotação") if sem_divisao else ()
    return next((diz for diz in dizem if sem_divisao <= PALAVRAS[diz]), None)
