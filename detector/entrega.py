"""A pasta MODELOS: o que uma execução deixa nela, inteiro ou nada."""

import atexit
import contextlib
import io
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator

import numpy as np

from detector.ambiente import ErroClaro, caminho, no_disco
from detector.arquivos import codigo_do_pacote, digesto, grava, trava
from detector.metricas import Medidas

MODELO, DO_CLASSIFICADOR = "detector_dogs_cats.keras", "classificador.npz"
METRICAS = "metricas.json"
CONVERTIDOS = {"detector_dogs_cats.tflite", "detector_dogs_cats_0a255.tflite"}
CONVERTIDOS |= {"detector_dogs_cats.onnx", "detector_dogs_cats_0a255.onnx"}
EXPORTADOS = CONVERTIDOS | {"classes.txt", "pagina.html"}
PUBLICANDO, LISTA = ".publicando", ".lista.json"
# O que o Keras 3.15 escreve em todo modelo, e o valor de sempre.
NOVIDADES = {"input_axes": None, "output_axes": None, "quantization_config": None}
NOVIDADES |= {"renorm": False, "renorm_clipping": None, "renorm_momentum": 0.99}


def abre_pasta(modelos: str | os.PathLike) -> pathlib.Path:
    """A pasta MODELOS, criada se não existia. Levanta ErroClaro se não se pode escrever nela."""
    pasta = caminho(modelos)
    grava(pasta / ".pode-gravar", b"")
    completa(pasta)
    return pasta


def acha_modelo(modelos: str | os.PathLike) -> tuple[pathlib.Path, pathlib.Path]:
    """O modelo e os dados do classificador que o notebook deixou; ErroClaro se falta um deles."""
    pasta = caminho(modelos)
    achados = pasta / MODELO, pasta / DO_CLASSIFICADOR
    with no_disco("abrir", pasta, "mude a pasta dos modelos"):
        if pasta.is_file():
            raise ErroClaro(f"{pasta} é um arquivo; diga a pasta em que o notebook o deixou.")
        completa(pasta)
        faltam = [arquivo for arquivo in achados if not arquivo.is_file()]
    if faltam:
        raise ErroClaro(f"{faltam[0]} não existe; rode antes o `make`, ou o notebook inteiro.")
    return achados


def rascunho() -> pathlib.Path:
    """Pasta temporária do que só vai para MODELOS pronto e junto; some quando o Python acaba."""
    pasta = tempfile.mkdtemp(prefix="detector-")
    atexit.register(shutil.rmtree, pasta, ignore_errors=True)
    return pathlib.Path(pasta)


def abre_em_qualquer_keras(arquivo: pathlib.Path) -> None:
    """Tira de um `.keras` o que o Keras 3.11 recusa e o que muda de uma gravação para outra.

    Sem as opções novas do Keras 3.15, no valor de sempre, o mesmo modelo abre do 3.11 em diante.
    Sem a hora e os endereços de memória, o mesmo notebook deixa os mesmos bytes.
    """
    with zipfile.ZipFile(arquivo) as velho:
        partes = {nome: velho.read(nome) for nome in velho.namelist()}
    metadados = json.loads(partes["metadata.json"]) | {"date_saved": "1980-01-01@00:00:00"}
    partes["metadata.json"] = json.dumps(metadados)
    partes["config.json"] = json.dumps(json.loads(partes["config.json"], object_hook=_limpas))
    conteudo = io.BytesIO()
    with zipfile.ZipFile(conteudo, "w") as novo:
        for nome, parte in partes.items():
            novo.writestr(zipfile.ZipInfo(nome), parte)  # um ZipInfo tem a data de 1/1/1980
    grava(arquivo, conteudo.getvalue())


def _limpas(opcoes: dict) -> dict:
    """As opções de um objeto, sem as novas que têm o valor de sempre nem o endereço dele."""
    opcoes.pop("shared_object_id", None)
    return {k: v for k, v in opcoes.items() if k not in NOVIDADES or v != NOVIDADES[k]}


def publica(rascunho: pathlib.Path, pasta: pathlib.Path, medidas: Medidas) -> None:
    """Leva os arquivos de `rascunho`, e as medidas, para `pasta`: todos, ou nenhum.

    Em metricas.json, o que se mediu no teste fica também no primeiro nível. Os arquivos são
    copiados para uma pasta à parte, e um só rename decide que a execução nova vale. Se o computador
    morrer antes dele, fica a anterior; se depois, quem abrir `pasta` termina de pôr cada arquivo no
    lugar. Levanta ErroClaro se não pode gravar.
    """
    ipython = sys.modules.get("IPython")
    kernel = ipython and ipython.get_ipython()
    celulas = kernel.user_ns.get("In", []) if kernel else []  # as que já rodaram
    medidas["codigo"] = digesto([celula for celula in celulas if celula], codigo_do_pacote())
    medidas["segundos_total"] = time.time() - medidas["inicio"]
    with np.load(rascunho / DO_CLASSIFICADOR) as extras:
        medidas["modelo"] = str(extras["digest"])
    tudo = json.dumps(medidas | medidas["teste"], indent=1, ensure_ascii=False)
    grava(rascunho / METRICAS, tudo.encode())
    nova = pasta / f".nova-{os.getpid()}"
    with _trava(pasta):
        _completa(pasta)
        shutil.rmtree(nova, ignore_errors=True)
        nomes = sorted(arquivo.name for arquivo in rascunho.iterdir())
        for nome in nomes:
            grava(nova / nome, (rascunho / nome).read_bytes())
        grava(nova / LISTA, json.dumps(nomes).encode())
        os.rename(nova, pasta / PUBLICANDO)
        _completa(pasta)


def completa(pasta: pathlib.Path) -> None:
    """Termina a publicação que uma execução decidiu e não acabou, se há uma."""
    if (pasta / PUBLICANDO).is_dir():
        with _trava(pasta):
            _completa(pasta)


def _completa(pasta: pathlib.Path) -> None:
    decidida = pasta / PUBLICANDO
    lista = decidida / LISTA
    if lista.is_file():  # o último a sair: sem ele, já está tudo no lugar
        nomes = json.loads(lista.read_text(encoding="utf-8"))
        if any((pasta / nome).exists() for nome in CONVERTIDOS):
            for exportado in EXPORTADOS - set(nomes):  # é de outro modelo
                (pasta / exportado).unlink(missing_ok=True)
        for nome in nomes:
            with contextlib.suppress(FileNotFoundError):  # este já foi
                os.replace(decidida / nome, pasta / nome)
        lista.unlink()
    if decidida.is_dir():
        shutil.rmtree(decidida)  # o sistema pode ter posto ali um .DS_Store


@contextlib.contextmanager
def _trava(pasta: pathlib.Path) -> Iterator[None]:
    """Uma execução de cada vez; um erro do disco lá dentro vira uma frase."""
    esperando = f"Outra execução está gravando em {pasta}; espero por ela."
    with no_disco("gravar em", pasta, "mude MODELOS"), trava(pasta / ".trava", esperando):
        yield
