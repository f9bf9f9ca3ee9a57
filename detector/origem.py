"""De onde vêm as fotos: o que o TFDS já preparou, um zip, a internet, uma pasta ou a amostra."""

import functools
import hashlib
import io
import os
import pathlib
import zipfile
from collections.abc import Callable

import PIL.Image
import tensorflow_datasets as tfds
from tensorflow_datasets.image_classification import cats_vs_dogs

from detector import arquivos, conversao, download, fotos
from detector.ambiente import ErroClaro, motivo
from detector.dados import Builder, classes

AMOSTRA = pathlib.Path(__file__).parent / "amostra/cats_vs_dogs_amostra/1.0.0"


def abre(
    dataset: str | os.PathLike,
    data_dir: str | os.PathLike | None = None,
    arquivo_zip: str | os.PathLike | None = None,
) -> Builder:
    """Devolve o builder do TFDS com as fotos prontas para ler, e diz o que encontrou.

    dataset: "cats_vs_dogs" (o já preparado, senão `arquivo_zip`, senão a internet, senão a
    amostra), "amostra", ou uma pasta com duas subpastas de fotos, uma por classe.
    data_dir: onde o TFDS guarda os datasets; None é o lugar de sempre, que TFDS_DATA_DIR muda.
    Levanta ErroClaro se `dataset` é outra coisa, se as fotos não servem ou se não pode gravar.
    """
    raiz = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    pasta = pathlib.Path(dataset).expanduser()
    try:
        if dataset == "amostra":
            builder = _amostra('você pediu: DATASET = "amostra"')
        elif dataset == "cats_vs_dogs":
            builder = _cats_vs_dogs(raiz, arquivo_zip)
        elif pasta.is_dir():
            builder = _da_pasta(pasta, raiz)
        else:
            raise ErroClaro(
                f'DATASET = "{dataset}": use "cats_vs_dogs", "amostra" ou uma pasta que exista.'
            )
    except OSError as erro:
        raise ErroClaro(
            f"não consegui gravar em {raiz} ({motivo(erro)}). Libere espaço ou mude DATA_DIR, e "
            "rode de novo: o download continua de onde parou."
        ) from erro
    zero, um = classes(builder)
    total = builder.info.splits["train"].num_examples
    print(f"{builder.info.full_name}: {total} fotos; 0 = {zero}, 1 = {um}")
    return builder


def _amostra(por_que: str) -> Builder:
    """A amostra embutida, com um aviso que ninguém deixa de ver."""
    if not AMOSTRA.is_dir():
        raise ErroClaro(
            f"{por_que}, e a amostra não está em {AMOSTRA}. Copie-a do repositório, ou indique "
            "DATA_DIR ou ARQUIVO_ZIP."
        )
    linhas = [
        "ATENÇÃO: ESTA É A AMOSTRA EMBUTIDA, NÃO O DATASET DE VERDADE",
        "",
        "O que é:  1.000 gatos e 1.000 cachorros do CIFAR-10, de 32×32 pixels",
        f"Por quê:  {por_que}",
        "Efeito:   as fotos são minúsculas; espere perto de 90 %, não de 99 %",
        "Para ter as fotos reais: baixe kagglecatsanddogs_5340.zip e ponha o",
        "          caminho dele em ARQUIVO_ZIP, ou tente de novo com internet",
    ]
    largura = max(map(len, linhas))
    meio = [f"║ {linha:<{largura}} ║" for linha in linhas]
    print("\n".join(["╔" + "═" * (largura + 2) + "╗", *meio, "╚" + "═" * (largura + 2) + "╝"]))
    return tfds.builder_from_directory(AMOSTRA)


def _cats_vs_dogs(raiz: pathlib.Path, arquivo_zip: str | os.PathLike | None) -> Builder:
    def prepara():
        if arquivo_zip:
            _prepara_zip(pathlib.Path(arquivo_zip).expanduser(), raiz)
        else:
            _baixa_e_prepara(raiz)

    try:
        return _pronto(
            functools.partial(tfds.builder, "cats_vs_dogs", data_dir=raiz), raiz, prepara
        )
    except ConnectionError as erro:  # o que já chegou fica para a próxima vez
        return _amostra(f"o download falhou ({erro})")


def _baixa_e_prepara(raiz: pathlib.Path) -> None:
    url = cats_vs_dogs._URL
    registro = cats_vs_dogs.CatsVsDogs.url_infos[url]
    arquivo = raiz / "downloads" / registro.filename
    download.baixa(url, arquivo, int(registro.size), registro.checksum)
    _prepara_zip(arquivo, raiz)
    arquivo.unlink()


def _prepara_zip(arquivo: pathlib.Path, raiz: pathlib.Path) -> None:
    try:
        aberto = zipfile.ZipFile(arquivo)
    except (OSError, zipfile.BadZipFile) as erro:
        por_que = "não é um zip inteiro" if arquivo.is_file() else "não existe"
        raise ErroClaro(f"ARQUIVO_ZIP = {arquivo} {por_que}; verifique o caminho.") from erro
    with aberto:
        conversao.prepara(conversao.Copia(conversao.do_zip(aberto), raiz))


def _da_pasta(pasta: pathlib.Path, raiz: pathlib.Path) -> Builder:
    """As fotos da pasta, copiadas para um dataset cujo nome muda quando elas mudam."""
    subpastas = [p for p in _visiveis(pasta) if p.is_dir()]
    nomes = [p.name for p in subpastas]
    if len(nomes) != 2:
        raise ErroClaro(
            f"{pasta} precisa ter duas subpastas de fotos, uma por classe; encontrei {len(nomes)}: "
            f"{', '.join(nomes[:6]) or 'nenhuma'}."
        )
    caminhos = [p for subpasta in subpastas for p in _visiveis(subpasta)]
    todas = [
        conversao.Foto(f"{p.parent.name}/{p.name}", p.parent.name, functools.partial(_jpeg, p))
        for p in caminhos
    ]
    conteudos = [(foto.nome, _sha256(p)) for foto, p in zip(todas, caminhos, strict=True)]
    nome = f"pasta_{arquivos.digesto(conteudos)}"
    abre = functools.partial(conversao.CopiaDaPasta, nome, nomes, todas, raiz)
    return _pronto(abre, raiz, lambda: conversao.prepara(abre()))


def _visiveis(pasta: pathlib.Path) -> list[pathlib.Path]:
    """O que há na pasta, menos o que o sistema põe lá (.DS_Store, __MACOSX…)."""
    return sorted(p for p in pasta.iterdir() if not p.name.startswith((".", "__")))


def _jpeg(caminho: pathlib.Path) -> bytes:
    memoria = io.BytesIO()
    PIL.Image.fromarray(fotos.abre_foto(caminho)).save(memoria, "JPEG", quality=95)
    return memoria.getvalue()


def _sha256(caminho: pathlib.Path) -> str | None:
    """None se não é um arquivo que se possa ler; `_jpeg` dirá por quê."""
    try:
        return hashlib.sha256(caminho.read_bytes()).hexdigest()
    except OSError:
        return None


def _pronto(
    abre: Callable[[], Builder], raiz: pathlib.Path, prepara: Callable[[], None]
) -> Builder:
    """O builder que `abre` devolve, preparado antes por `prepara` se ainda não estava."""
    if not _esta_pronto(abre, raiz):
        with conversao.reservada(raiz):
            if not _esta_pronto(abre, raiz):  # outra execução pode ter preparado enquanto isso
                prepara()
    return abre()


def _esta_pronto(abre: Callable[[], Builder], raiz: pathlib.Path) -> bool:
    """Levanta ErroClaro se o que está preparado em `raiz` se estragou."""
    try:
        builder = abre()
        if not (pathlib.Path(builder.data_path) / "dataset_info.json").is_file():
            return False
        if builder.info.splits["train"].num_examples:
            return True
        raise ValueError("sem fotos")
    except Exception as erro:  # cada defeito na descrição dos dados falha à sua maneira no TFDS
        raise ErroClaro(
            f"os dados de {raiz} estão danificados ({type(erro).__name__}). Apague a pasta deles e "
            "rode de novo."
        ) from erro
