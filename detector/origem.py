"""De onde vêm as fotos: o que o TFDS já preparou, um zip, a internet, uma pasta ou a amostra."""

import contextlib
import functools
import os
import pathlib
import zipfile
from collections.abc import Callable

import tensorflow_datasets as tfds
from google.protobuf.json_format import ParseError
from tensorflow_datasets.image_classification import cats_vs_dogs

from detector import acervo, arquivos, conversao, download, fotos
from detector.acervo import Foto
from detector.ambiente import ErroClaro, caminho, motivo
from detector.conversao import Copia
from detector.dados import Builder, classes

AMOSTRA = pathlib.Path(__file__).parent / "amostra/cats_vs_dogs_amostra/1.0.0"


def abre(
    dataset: str | os.PathLike,
    data_dir: str | os.PathLike | None = None,
    arquivo_zip: str | os.PathLike | None = None,
) -> Builder:
    """Devolve o builder do TFDS com as fotos prontas para ler; diz o que leu e o que não usou.

    dataset: "cats_vs_dogs" (o já preparado, senão `arquivo_zip`, senão a internet, senão a
    amostra), "amostra", ou uma pasta ou um zip com fotos de duas classes.
    data_dir: onde o TFDS guarda os datasets; None é o lugar de sempre, que TFDS_DATA_DIR muda.
    Levanta ErroClaro se `dataset` é outra coisa, se as fotos não servem ou se não pode gravar.
    """
    raiz = caminho(data_dir or tfds.core.constants.DATA_DIR).absolute()
    onde = caminho(dataset).absolute()
    try:
        if (
            dataset in ("amostra", "cats_vs_dogs")
            and os.path.isdir(onde)
            and not _preparado_em(onde)
        ):
            print(f'não li a pasta {dataset}; se é ela que você quer, DATASET = "./{dataset}"')
        if dataset == "amostra":
            _nao_usei("a amostra acompanha o projeto", DATA_DIR=data_dir, ARQUIVO_ZIP=arquivo_zip)
            builder = _amostra('você pediu: DATASET = "amostra"')
        elif dataset == "cats_vs_dogs":
            zip_ = caminho(arquivo_zip) if arquivo_zip else None
            builder = _cats_vs_dogs(_preparado_em(raiz) or raiz, zip_)
        else:
            _nao_usei(f"li {dataset}", ARQUIVO_ZIP=arquivo_zip)
            builder = _do_usuario(onde, raiz)
    except OSError as erro:
        raise ErroClaro(f"não consegui ler {erro.filename or onde} ({motivo(erro)}).") from erro
    zero, um = classes(builder)
    total = builder.info.splits["train"].num_examples
    print(f"{builder.info.full_name}: {total} fotos; 0 = {zero}, 1 = {um}")
    return builder


def _nao_usei(por_que: str, **parametros: str | os.PathLike | None) -> None:
    for nome, valor in parametros.items():
        if valor:
            print(f"não usei {nome} = {valor}: {por_que}")


def _preparado_em(pasta: pathlib.Path) -> pathlib.Path | None:
    """A DATA_DIR que tem o cats_vs_dogs preparado, de quem apontou para ela ou para perto dela."""
    acima = [p.parent for p in (pasta, pasta.parent) if p.name == "cats_vs_dogs"]
    for raiz in (pasta, *acima, pasta / "tensorflow_datasets"):
        if any((raiz / "cats_vs_dogs").glob("*/dataset_info.json")):
            if raiz != pasta:
                print(f"{pasta}: o cats_vs_dogs preparado está em {raiz}, e é ele que uso")
            return raiz
    return None


def _amostra(por_que: str) -> Builder:
    """A amostra embutida, com um aviso que ninguém deixa de ver."""
    if not AMOSTRA.is_dir():
        raise ErroClaro(
            f"{por_que}, e a amostra não está em {AMOSTRA}. Copie-a do repositório, ou indique "
            "DATA_DIR ou ARQUIVO_ZIP."
        )
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
    """O cats_vs_dogs; ou as fotos do zip, se ele não é o da Microsoft."""
    abre = functools.partial(tfds.builder, "cats_vs_dogs", data_dir=raiz)
    prepara = functools.partial(_baixa_e_prepara, raiz)
    with contextlib.ExitStack() as no_fim:
        if arquivo_zip:
            pronto = _esta_pronto("cats_vs_dogs", abre, raiz)
            if not pronto or zipfile.is_zipfile(arquivo_zip):
                dentro = no_fim.enter_context(acervo.do_zip(arquivo_zip))
                if not _da_microsoft(dentro):
                    return _das_fotos(dentro, arquivo_zip, raiz)
                prepara = functools.partial(_prepara_o_da_microsoft, dentro, arquivo_zip, raiz)
            if pronto:
                print(f"não usei {arquivo_zip}: as fotos já estão preparadas em {raiz}")
        try:
            return _pronto("cats_vs_dogs", abre, raiz, prepara)
        except ConnectionError as erro:  # o que já chegou fica para a próxima vez
            return _amostra(f"o download falhou ({erro})")


def _baixa_e_prepara(raiz: pathlib.Path) -> None:
    url = cats_vs_dogs._URL
    registro = cats_vs_dogs.CatsVsDogs.url_infos[url]
    arquivo = raiz / "downloads" / registro.filename
    download.baixa(url, arquivo, int(registro.size), registro.checksum)
    with acervo.do_zip(arquivo) as dentro:
        _prepara_o_da_microsoft(dentro, arquivo, raiz)
    arquivo.unlink()


def _da_microsoft(dentro: list[Foto]) -> bool:
    """Se cada foto está onde o builder do TFDS a espera: PetImages/Cat/1.jpg."""
    jpegs = [foto.nome for foto in dentro if foto.nome.lower().endswith(tuple(fotos.EXTENSOES))]
    return bool(jpegs) and all(map(cats_vs_dogs._NAME_RE.match, jpegs))


def _prepara_o_da_microsoft(dentro: list[Foto], arquivo: pathlib.Path, raiz: pathlib.Path) -> None:
    lidas = [f._replace(classe=f.classe.lower()) for f in acervo.com_classe(dentro, arquivo)]
    conversao.prepara(Copia(lidas, conversao.como_o_tfds, raiz))


def _do_usuario(onde: pathlib.Path, raiz: pathlib.Path) -> Builder:
    """As fotos da pasta ou do zip que a pessoa indicou, ou o que o TFDS preparou ali."""
    if preparado := _preparado_em(onde):
        return _cats_vs_dogs(preparado, None)
    if os.path.isfile(onde):
        with acervo.do_zip(onde) as dentro:
            return _das_fotos(dentro, onde, raiz)
    if os.path.isdir(onde):
        return _das_fotos(acervo.da_pasta(onde), onde, raiz)
    raise ErroClaro(
        f'DATASET = "{onde}" não existe: use "cats_vs_dogs", "amostra" ou uma pasta, ou um zip, '
        "com fotos de duas classes."
    )


def _das_fotos(todos: list[Foto], onde: pathlib.Path, raiz: pathlib.Path) -> Builder:
    """As fotos, copiadas para um dataset cujo nome muda quando elas mudam."""
    lidas = acervo.com_classe(todos, onde)
    nome = f"pasta_{arquivos.digesto([(f.nome, f.classe, f.resumo()) for f in lidas])}"
    abre = functools.partial(Copia, lidas, conversao.em_pe, raiz, nome)
    return _pronto(nome, abre, raiz, lambda: conversao.prepara(abre()))


def _pronto(
    nome: str, abre: Callable[[], Builder], raiz: pathlib.Path, prepara: Callable[[], None]
) -> Builder:
    """O builder que `abre` devolve, preparado antes por `prepara` se ainda não estava."""
    if not _esta_pronto(nome, abre, raiz):
        try:
            with conversao.reservada(raiz):
                if not _esta_pronto(nome, abre, raiz):  # outra execução pode ter preparado
                    prepara()
        except ConnectionError:
            raise
        except OSError as erro:
            raise ErroClaro(
                f"não consegui gravar em {raiz} ({motivo(erro)}). Libere espaço ou mude DATA_DIR, "
                "e rode de novo: o download continua de onde parou."
            ) from erro
    return abre()


def _esta_pronto(nome: str, abre: Callable[[], Builder], raiz: pathlib.Path) -> bool:
    """Levanta ErroClaro se o que está preparado em `raiz` se estragou ou não pode ser lido."""
    try:
        builder = abre()
        if not (pathlib.Path(builder.data_path) / "dataset_info.json").is_file():
            return False
        if builder.info.splits["train"].num_examples:
            return True
        raise ValueError("sem fotos")
    except OSError as erro:
        causa = motivo(erro.__cause__ if isinstance(erro.__cause__, OSError) else erro)
        raise ErroClaro(f"não consegui ler {raiz / nome} ({causa}).") from erro
    except (ParseError, RuntimeError, ValueError, LookupError) as erro:  # assim falha o TFDS
        raise ErroClaro(
            f"os dados de {raiz / nome} estão danificados. Apague essa pasta e rode de novo."
        ) from erro
