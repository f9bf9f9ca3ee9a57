"""De que classe é cada foto de uma pasta ou de um zip; aqui só se olham nomes."""

import collections
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from detector.ambiente import ErroClaro, motivo

SISTEMA = {
    "__macosx",
    "thumbs.db",
    "desktop.ini",
    "icon\r",
    "@eadir",
    "#recycle",
    "$recycle.bin",
    "lost+found",
}
# O que diz cada palavra do nome de uma pasta; as últimas não dizem nada.
TIPOS = {
    "cat": "cat cats gato gatos gata gatas gatinho gatinhos kitten kittens",
    "dog": "dog dogs cachorro cachorros cadela cadelas cao caes perro perros puppy puppies",
    "divisão": "train training treino treinamento val valid validation validacao dev "
    "test testing teste testes",
    "": "set data dataset image images imagem imagens foto fotos photo photos pictures de",
}
TIPOS = {palavra: tipo for tipo, palavras in TIPOS.items() for palavra in palavras.split()}
BICHOS = {"cat", "dog"}


class Lida(NamedTuple):
    """O que se entendeu de uma foto. onde: a pasta em que as classes se separam."""

    classe: str
    onde: str
    como: str


def legivel(nome: str | os.PathLike) -> str:
    """O nome em texto que se grava e se mostra, mesmo se ele não é UTF-8 no disco."""
    return os.fsencode(nome).decode(errors="replace")


def do_sistema(nome: str) -> bool:
    """O que o sistema, e não a pessoa, pôs ali; e "..", que sairia da pasta."""
    partes = nome.split("/")
    return any(p.startswith(".") or p.casefold() in SISTEMA or not p for p in partes)


def visiveis(pasta: pathlib.Path) -> Iterator[str]:
    """Os arquivos da pasta e das subpastas, menos os do sistema; nomes a partir dela, com "/".

    Levanta ErroClaro se uma das pastas não pode ser lida.
    """

    def para(erro: OSError):
        quem = f"a pasta {legivel(os.path.abspath(erro.filename))} ({motivo(erro)})"
        raise ErroClaro(f"não consegui ler {quem}; acerte a permissão dela.") from erro

    vistas = {os.path.realpath(pasta)}  # um atalho pode dar numa pasta de onde se veio
    for onde, subpastas, arquivos in os.walk(pasta, onerror=para, followlinks=True):
        reais = {p: os.path.realpath(os.path.join(onde, p)) for p in sorted(subpastas)}
        subpastas[:] = [p for p in reais if not do_sistema(p) and reais[p] not in vistas]
        vistas.update(reais.values())
        daqui = pathlib.Path(onde).relative_to(pasta)
        yield from ((daqui / nome).as_posix() for nome in sorted(arquivos) if not do_sistema(nome))


def entende(fotos: Sequence[str], pasta: str | os.PathLike) -> dict[str, Lida]:
    """Como se leu cada foto que tem classe; as que não têm ficam de fora.

    fotos: nomes a partir de `pasta`, com "/". Primeiro procura gatos e cachorros, nas pastas e
    depois nos nomes; senão, duas subpastas quaisquer. Atravessa treino, validação e teste, e as
    pastas que só embrulham outra. Levanta ErroClaro se não há duas classes, ou não se sabe quais.
    """
    lidas = _pela_palavra(fotos) or _pelo_nome(fotos) or _pelo_lugar(fotos)
    classes = sorted({lida.classe for lida in lidas.values()})
    if len(classes) > 2 and {tipo(classe) for classe in classes} == BICHOS:  # cats, Cat e dogs
        lidas = {nome: lida._replace(classe=tipo(lida.classe)) for nome, lida in lidas.items()}
    elif len(classes) > 2:
        raise ErroClaro(
            f"encontrei {len(classes)} classes em {pasta} ({', '.join(classes[:6])}), e sei "
            "separar duas: deixe só as pastas delas, ou aponte para uma pasta que só tenha duas."
        )
    elif len({_sem_a_divisao(classe) for classe in classes}) < 2:  # cats_train e cats_test
        partes = {parte for nome in fotos for parte in nome.split("/")[:-1]}
        divisoes = sorted(parte for parte in partes if tipo(parte) == "divisão")
        tomei = f" (tomei {', '.join(divisoes[:4])} por treino, validação ou teste)"
        raise ErroClaro(
            f"há {len(fotos)} fotos em {pasta}, mas não duas classes{tomei if divisoes else ''}: "
            "são precisas duas subpastas, uma por classe, ou nomes como cat.1.jpg e dog.1.jpg. Se "
            f"essa pasta é uma das classes, aponte para a que a contém, {_acima(pasta)}."
        )
    fora, *dentro = sorted({tuple(_sem_divisoes(lida.onde)) for lida in lidas.values()}, key=len)
    if repetida := next((d for d in dentro if d[: len(fora)] == fora), None):
        raise ErroClaro(
            f"há as duas classes em {os.path.join(pasta, *repetida)} e também fora dela, talvez as "
            "mesmas fotos: aponte para ela, ou tire-a dali."
        )
    return lidas


def _acima(pasta: str | os.PathLike) -> pathlib.Path:
    return pathlib.Path(pasta).absolute().parent


def _sem_a_divisao(classe: str) -> str:
    """De "cats_train", "cats"; se não sobra nada, o nome inteiro."""
    palavras = [palavra for palavra in _palavras(classe) if TIPOS.get(palavra) != "divisão"]
    return " ".join(palavras) or classe


def _pela_palavra(fotos: Sequence[str]) -> dict[str, Lida]:
    """Pelas pastas chamadas gatos, cachorros, cats…; {} se não há dos dois."""
    lidas, em = {}, {nome: nome.split("/")[:-1] for nome in fotos}
    for nome, partes in em.items():
        if bichos := [i for i, parte in enumerate(partes) if tipo(parte) in BICHOS]:
            lidas[nome] = _lida(partes, bichos[0])
    if {tipo(lida.classe) for lida in lidas.values()} != BICHOS:
        return {}
    lugares = {lida.onde for lida in lidas.values()}
    for nome in em.keys() - lidas.keys():  # ao lado delas, uma pasta com outro nome é outra classe
        for i, parte in enumerate(em[nome]):
            if _lida(em[nome], i).onde in lugares and tipo(parte) != "divisão":
                lidas[nome] = _lida(em[nome], i)
    return lidas


def _pelo_nome(fotos: Sequence[str]) -> dict[str, Lida]:
    """Pelo começo do nome: cat.0.jpg, Gato_1.png, dog (2).jpeg; {} se não há dos dois.

    Nem se, nas pastas em que estão, são poucas: um cat.jpg perdido não desfaz as pastas.
    """
    lidas, em = {}, collections.Counter(nome.rpartition("/")[0] for nome in fotos)
    for nome in fotos:
        onde, _, arquivo = nome.rpartition("/")
        if (bicho := TIPOS.get("".join(_palavras(arquivo)[:1]))) in BICHOS:
            lidas[nome] = Lida(bicho, onde, "pelo nome do arquivo")
    poucas = len(lidas) < sum(em[onde] for onde in {lida.onde for lida in lidas.values()}) / 2
    return {} if poucas or {lida.classe for lida in lidas.values()} != BICHOS else lidas


def _pelo_lugar(fotos: Sequence[str]) -> dict[str, Lida]:
    """Pela primeira pasta que não é a mesma para todas, nem uma divisão.

    Levanta ErroClaro se as duas têm as mesmas subpastas: podem ser divisões com outro nome.
    """
    lugares = {}  # de cada foto, onde estão as pastas que não são divisões
    for nome in fotos:
        partes = nome.split("/")[:-1]
        lugares[nome] = [i for i, parte in enumerate(partes) if tipo(parte) != "divisão"]
    nivel = 0
    while len({n.split("/")[i[nivel]] for n, i in lugares.items() if len(i) > nivel}) == 1:
        nivel += 1
    dentro = collections.defaultdict(set)
    for nome, i in lugares.items():
        if len(i) > nivel + 1:
            dentro[nome.split("/")[i[nivel]]].add(nome.split("/")[i[nivel + 1]])
    iguais = set.intersection(*dentro.values()) if len(dentro) == 2 else set()
    if len(iguais := [nome for nome in sorted(iguais) if _palavras(nome)]) >= 2:  # 2023 é um álbum
        fora, dentro = " e ".join(sorted(dentro)), " e ".join(iguais[:4])
        raise ErroClaro(
            f"não sei se as classes são {fora} ou {dentro}. No primeiro caso, ponha as fotos de "
            "cada classe numa pasta só; no segundo, aponte para uma das duas pastas de fora."
        )
    return {n: _lida(n.split("/"), i[nivel]) for n, i in lugares.items() if len(i) > nivel}


def _lida(partes: list[str], i: int) -> Lida:
    classe = unicodedata.normalize("NFC", legivel(partes[i]))
    return Lida(classe, "/".join(partes[:i]), "pela pasta")


def _sem_divisoes(onde: str) -> list[str]:
    return [parte for parte in onde.split("/") if parte and tipo(parte) != "divisão"]


def _palavras(nome: str) -> list[str]:
    """As palavras do nome, sem acentos e em minúsculas: de "Cães_2", só "caes"."""
    letras = unicodedata.normalize("NFKD", nome.casefold())
    return re.findall("[a-z]+", "".join(c for c in letras if not unicodedata.combining(c)))


def tipo(pasta: str) -> str | None:
    """cat, dog ou divisão, se o nome da pasta não diz mais nada: de "hot dog", None."""
    tipos = {TIPOS.get(palavra) for palavra in _palavras(legivel(pasta))} - {""}
    tipos = tipos - {"divisão"} or tipos
    return tipos.pop() if len(tipos) == 1 else None
