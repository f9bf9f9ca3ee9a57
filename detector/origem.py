"""De onde vêm as fotos: o que o TFDS já preparou, um zip, a internet, uma pasta ou a amostra."""

import os
import pathlib
import zipfile
from collections.abc import Callable

import tensorflow_datasets as tfds
from google.protobuf.json_format import ParseError
from tensorflow_datasets.image_classification import cats_vs_dogs

from detector import acervo, arquivos, conversao, download
from detector.acervo import Foto
from detector.ambiente import ErroClaro, caminho, no_disco
from detector.conversao import Copia
from detector.dados import Builder, classes
from detector.fotos import EXTENSOES

INFO = "[0-9]*/dataset_info.json"  # e não a de um preparo morto, em incomplete.ABC_4.0.1
AMOSTRA = pathlib.Path(__file__).parent / "amostra/cats_vs_dogs_amostra/1.0.0"


def abre(
    dataset: str | os.PathLike,
    data_dir: str | os.PathLike | None = None,
    arquivo_zip: str | os.PathLike | None = None,
) -> Builder:
    """Devolve o builder do TFDS com as fotos prontas para ler; diz o que leu e o que não usou.

    dataset: "cats_vs_dogs" (o já preparado, senão `arquivo_zip`, senão a internet, senão a
    amostra; um zip que não é o da Microsoft passa na frente), "amostra", ou uma pasta ou um zip
    com fotos de duas classes.
    data_dir: onde o TFDS guarda os datasets; None é o lugar de sempre, que TFDS_DATA_DIR muda.
    Levanta ErroClaro se `dataset` é outra coisa, se as fotos não servem ou se não pode gravar.
    """
    raiz = caminho(data_dir or tfds.core.constants.DATA_DIR).absolute()
    onde = caminho(dataset).absolute()
    try:
        if dataset == "amostra":
            _nao_usei("a amostra acompanha o projeto", DATA_DIR=data_dir, ARQUIVO_ZIP=arquivo_zip)
            builder = _amostra('você pediu: DATASET = "amostra"')
        elif dataset == "cats_vs_dogs":
            zip_ = caminho(arquivo_zip) if arquivo_zip else None
            builder = _cats_vs_dogs(_perto_de(raiz) or raiz, zip_)
        else:
            _nao_usei(f"li {dataset}", ARQUIVO_ZIP=arquivo_zip)
            builder = _do_usuario(onde, raiz)
        if dataset in ("amostra", "cats_vs_dogs") and onde.is_dir() and not _perto_de(onde):
            print(f'não li a pasta {dataset}; se é ela que você quer, DATASET = "./{dataset}"')
    except OSError as erro:
        causa = erro.__cause__ if isinstance(erro.__cause__, OSError) else erro  # atrás do TFDS
        with no_disco("ler", causa.filename or onde, "aponte para outra pasta"):
            raise causa from None
    zero, um = classes(builder)
    total = builder.info.splits["train"].num_examples
    print(f"{builder.info.full_name}: {total} fotos; 0 = {zero}, 1 = {um}")
    return builder


def _nao_usei(por_que: str, **parametros: str | os.PathLike | None) -> None:
    for nome, valor in parametros.items():
        if valor:
            print(f"não usei {nome} = {valor}: {por_que}")


def _perto_de(pasta: pathlib.Path) -> pathlib.Path | None:
    """A DATA_DIR que tem o cats_vs_dogs preparado, de quem apontou para ela ou para perto dela."""
    acima = [p.parent for p in (pasta, pasta.parent) if p.name == "cats_vs_dogs"]
    for raiz in (pasta, *acima, pasta / "tensorflow_datasets"):
        if any((raiz / "cats_vs_dogs").glob(INFO)):
            if raiz != pasta:
                print(f"{pasta}: o cats_vs_dogs preparado está em {raiz}, e é ele que uso")
            return raiz
    return None


def _amostra(por_que: str) -> Builder:
    """A amostra embutida, com um aviso que ninguém deixa de ver."""
    print(
        f"{'═' * 72}\nATENÇÃO: ESTA É A AMOSTRA EMBUTIDA, NÃO O DATASET DE VERDADE\n\n"
        "O que é:  1.000 gatos e 1.000 cachorros do CIFAR-10, de 32×32 pixels\n"
        f"Por quê:  {por_que}\n"
        "Efeito:   as fotos são minúsculas, e ele erra bem mais que nas de verdade\n"
        "Para ter as fotos reais: baixe kagglecatsanddogs_5340.zip e ponha o\n"
        f"          caminho dele em ARQUIVO_ZIP, ou tente de novo com internet\n{'═' * 72}"
    )
    return tfds.builder_from_directory(AMOSTRA)


def _cats_vs_dogs(raiz: pathlib.Path, arquivo_zip: pathlib.Path | None) -> Builder:
    """O que já está preparado em `raiz`, senão o do zip, senão o da internet, senão a amostra.

    Se o zip não é o da Microsoft, são sempre as fotos dele.
    """
    pronto = _preparado("cats_vs_dogs", raiz)
    if arquivo_zip and (not pronto or zipfile.is_zipfile(arquivo_zip)):
        with acervo.do_zip(arquivo_zip) as dentro:
            if not _da_microsoft(dentro):
                return _das_fotos(dentro, arquivo_zip, raiz)
            if not pronto:
                return _prepara(
                    "cats_vs_dogs", raiz, lambda: _grava_o_da_microsoft(dentro, arquivo_zip, raiz)
                )
    if pronto:
        _nao_usei(f"as fotos já estão preparadas em {raiz}", ARQUIVO_ZIP=arquivo_zip)
        return pronto
    try:
        return _prepara("cats_vs_dogs", raiz, lambda: _baixa_e_grava(raiz))
    except ConnectionError as erro:  # o que já chegou fica para a próxima vez
        return _amostra(f"o download falhou ({erro})")


def _baixa_e_grava(raiz: pathlib.Path) -> None:
    url = cats_vs_dogs._URL
    registro = cats_vs_dogs.CatsVsDogs.url_infos[url]
    arquivo = raiz / "downloads" / registro.filename
    download.baixa(url, arquivo, int(registro.size), registro.checksum)
    with acervo.do_zip(arquivo) as dentro:
        _grava_o_da_microsoft(dentro, arquivo, raiz)
    arquivo.unlink()


def _da_microsoft(dentro: list[Foto]) -> bool:
    """Se cada foto está onde o builder do TFDS a espera: PetImages/Cat/1.jpg."""
    nomes = [foto.nome for foto in dentro if foto.nome.lower().endswith(tuple(EXTENSOES))]
    return bool(nomes) and all(cats_vs_dogs._NAME_RE.match(nome) for nome in nomes)


def _grava_o_da_microsoft(dentro: list[Foto], arquivo: pathlib.Path, raiz: pathlib.Path) -> None:
    """Com o que o builder do TFDS gravaria; as classes dele são cat e dog."""
    lidas = [f._replace(classe=f.classe.lower()) for f in acervo.com_classe(dentro, arquivo)]
    conversao.prepara(Copia("cats_vs_dogs", lidas, conversao.como_o_tfds, raiz))


def _do_usuario(onde: pathlib.Path, raiz: pathlib.Path) -> Builder:
    """As fotos da pasta ou do zip que a pessoa indicou, ou o que o TFDS preparou ali."""
    if preparado := _perto_de(onde):
        return _cats_vs_dogs(preparado, None)
    if onde.is_file():
        with acervo.do_zip(onde) as dentro:
            return _das_fotos(dentro, onde, raiz)
    if onde.is_dir():
        return _das_fotos(acervo.da_pasta(onde), onde, raiz)
    raise ErroClaro(
        f'DATASET = "{onde}" não existe: use "cats_vs_dogs", "amostra" ou uma pasta, ou um zip, '
        "com fotos de duas classes."
    )


def _das_fotos(todos: list[Foto], onde: pathlib.Path, raiz: pathlib.Path) -> Builder:
    """As fotos, copiadas para um dataset cujo nome muda quando elas mudam."""
    lidas = conversao.sem_repetidas(acervo.com_classe(todos, onde))
    nome = f"pasta_{arquivos.digesto([(f.nome, f.classe, f.sha256) for f in lidas])}"
    copia = Copia(nome, lidas, conversao.em_pe, raiz)
    return _preparado(nome, raiz) or _prepara(nome, raiz, lambda: conversao.prepara(copia))


def _prepara(nome: str, raiz: pathlib.Path, grava: Callable[[], None]) -> Builder:
    """O dataset que `grava` deixa em `raiz`, ou o que outra execução acabou de deixar lá."""
    if raiz.is_file():
        raise ErroClaro(f"DATA_DIR = {raiz} é um arquivo; indique uma pasta.")
    espera = f"Outra execução está preparando fotos em {raiz}; espero por ela."
    try:
        with arquivos.trava(raiz / "cats_vs_dogs.lock", espera):
            if not _preparado(nome, raiz):
                grava()
    except ConnectionError:
        raise
    except OSError as erro:
        with no_disco("gravar em", raiz, "mude DATA_DIR"):
            raise erro
    return _preparado(nome, raiz)


def _preparado(nome: str, raiz: pathlib.Path) -> Builder | None:
    """O dataset que está em `raiz`, se está; ErroClaro se ele se estragou, OSError se não o lê."""
    try:
        for info in (raiz / nome).glob(INFO):
            builder = tfds.builder_from_directory(info.parent)
            if builder.info.splits["train"].num_examples:
                return builder
            raise ValueError("sem fotos")
    except (ParseError, RuntimeError, ValueError, LookupError) as erro:  # assim falha o TFDS
        raise ErroClaro(
            f"os arquivos de {raiz / nome} estão danificados. Apague essa pasta e rode de novo."
        ) from erro
    return None
