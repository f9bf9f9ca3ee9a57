"""As partes feitas por muitas máquinas, ou por muitos processos: quem as reparte é o Ray Data.

Quem chama escolhe o motor, a precisão e as threads; cada processo confere, antes da primeira parte
que faz, que a conta dele é a mesma. O Ray só é importado quando alguém usa `liga`.
"""

import contextlib
import functools
import logging
import os
import pathlib
import pickle
import socket
from collections.abc import Callable, Iterator
from types import ModuleType

import tensorflow_datasets as tfds

from detector import caracteristicas, motores, partes
from detector.ambiente import ErroClaro, prepara
from detector.arquivos import digesto

ESPERA = 5  # segundos pelo endereço; o Ray insistiria por muito mais tempo


@contextlib.contextmanager
def liga(endereco: str, threads: int) -> Iterator[ModuleType]:
    """O módulo `ray` ligado a `endereco`, com o código deste pacote em todos os nós.

    endereco: "local" (um Ray só desta máquina, que acaba no fim), "auto" (o que já roda nela) ou
    "HOST:PORTA". threads: de cada processo. Levanta ErroClaro se falta o Ray ou ninguém atende.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # senão ele conta cada uso ao fabricante
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"  # senão avisa, em inglês, do que ele resolve
    try:
        import ray.data
    except ModuleNotFoundError as erro:
        raise ErroClaro(
            "falta o Ray. No terminal: python -m pip install -r requirements-ray.txt"
        ) from erro
    variaveis = dict.fromkeys(["TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"], str(threads))
    nos_processos = {
        "py_modules": [str(pathlib.Path(__file__).parent)],
        "excludes": ["amostra"],
        "env_vars": variaveis | {"KERAS_BACKEND": "tensorflow"},
    }
    try:
        if endereco not in ("local", "auto"):
            host, _, porta = endereco.rpartition(":")
            socket.create_connection((host, int(porta)), ESPERA).close()
        ray.init(endereco, log_to_driver=False, logging_level="ERROR", runtime_env=nos_processos)
    except Exception as erro:  # conforme o que houve, o Ray levanta de tudo
        causa = (str(erro).strip().splitlines() or [type(erro).__name__])[0]
        raise ErroClaro(
            f"--ray {endereco}: nenhum Ray atende aí ({causa[:100]}). Use local, auto ou o "
            "HOST:PORTA que o `ray start --head` mostrou; se ele pede token, RAY_AUTH_MODE=token."
        ) from erro
    try:
        yield ray
    finally:
        ray.shutdown()


def extrai(ray: ModuleType, threads: int, *pedido) -> caracteristicas.Caracteristicas:
    """O mesmo que `caracteristicas.extrai(*pedido)`, com o que falta feito pelos nós do Ray.

    ray: de `liga`. threads: de cada processo; um nó tem tantos quantos couberem nos núcleos dele.
    Levanta ErroClaro se nenhum nó tem tantos núcleos, ou se um deles não pode fazer a mesma conta.
    """
    return caracteristicas.extrai(*pedido, espalha=functools.partial(_espalha, ray, threads))


def _espalha(ray, threads, builder, leitor, backbone, corte, motor, faltam) -> Iterator:
    """As partes que faltam, uma a uma, assim que algum nó as deixa prontas."""
    onde = pathlib.Path(builder.data_path).absolute()
    iguais = _info(onde), motores.versoes(motor), _receita(leitor, backbone, corte)
    rede = pickle.dumps(backbone)  # que só se abre com as bibliotecas já preparadas
    outros = onde, leitor, rede, corte, motor, threads, faltam[0]
    return _reparte(ray, threads, functools.partial(_monta, *iguais, *outros), faltam)


def _info(onde: pathlib.Path) -> bytes | None:
    """O que o TFDS diz do dataset que há na pasta; None se ela não se vê daqui."""
    arquivo = onde / "dataset_info.json"
    return arquivo.read_bytes() if arquivo.is_file() else None


def _receita(leitor, backbone, corte) -> str:
    """A receita sem o código do leitor, que, vindo de um notebook, os nós não têm onde ler."""
    (_, prova), *resto = partes.receita(leitor, backbone, corte)
    return digesto(prova, resto)


def _monta(info, versoes, receita, onde, leitor, rede, corte, motor, threads, parte) -> Callable:
    """`partes.calcula` com o motor deste processo. Levanta ErroClaro se o nó faria outra conta."""
    aqui = f"o nó {socket.gethostname()}"
    if _info(onde) != info:
        raise ErroClaro(
            f"{aqui} não vê {onde} como este computador: DATA_DIR e MODELOS têm de ficar num disco "
            "que todos alcancem pelo mesmo caminho."
        )
    prepara(0)
    if motor not in motores.candidatos(motor.partition("-")[0]):
        raise ErroClaro(f"{aqui} não roda o motor {motor}: escolha outro, ou tire esse nó.")
    if (daqui := motores.versoes(motor)) != versoes:
        raise ErroClaro(f"{aqui} tem as versões {daqui}, e não {versoes}: instale as mesmas.")
    if _receita(leitor, rede := pickle.loads(rede), corte) != receita:
        raise ErroClaro(f"{aqui} prepara as fotos com outro resultado.")
    builder = tfds.builder_from_directory(onde)
    amostra = partes.com_miniaturas(leitor, builder, [parte])
    roda = motores.monta(motor, rede, corte, parte.arquivo.parent, amostra, threads)
    if roda is None:
        raise ErroClaro(f"{aqui} não montou o motor {motor}: escolha outro, ou tire esse nó.")
    return functools.partial(partes.calcula, roda, leitor, builder)


class Trabalhador:
    """Um processo do Ray Data, que monta o motor uma vez e faz a parte de cada linha."""

    def __init__(self, monta: Callable):
        self.calcula = functools.cache(monta)  # na primeira linha, para a frase voltar com ela

    def __call__(self, linha: dict) -> dict:
        """A linha, com a frase do ErroClaro que ela deu, ou ""."""
        try:
            list(self.calcula()([linha["item"]]))
        except ErroClaro as erro:
            return linha | {"erro": str(erro)}
        return linha | {"erro": ""}


def _reparte(ray: ModuleType, threads: int, monta: Callable, faltam: list) -> Iterator:
    """Cada parte, assim que fica pronta; a do nó que cai, o Ray Data a dá a outro."""
    nucleos = [no["Resources"].get("CPU", 0) for no in ray.nodes() if no["Alive"]]
    if max(nucleos, default=0) < threads:
        raise ErroClaro(f"nenhum nó do Ray tem {threads} núcleos: diminua --threads.")
    contexto = ray.data.DataContext.get_current()
    contexto.enable_progress_bars = contexto.print_on_execution_start = False  # há a nossa barra
    logging.getLogger("ray.data").setLevel("CRITICAL")
    linhas = ray.data.from_items(faltam, override_num_blocks=len(faltam))
    opcoes = {"compute": ray.data.ActorPoolStrategy(), "num_cpus": threads}
    try:
        for linha in linhas.map(Trabalhador, fn_constructor_args=[monta], **opcoes).iter_rows():
            if linha["erro"]:
                raise ErroClaro(linha["erro"])
            yield linha["item"]
    except ray.data.exceptions.ExecutionTimeoutError as erro:  # depois de meia hora
        raise ErroClaro(
            "faz tempo que nenhuma parte fica pronta: os nós caíram, ou travaram. Rode de novo: o "
            "que está pronto vale."
        ) from erro
    except ray.exceptions.RayError as erro:
        causa = str(erro).strip().splitlines()[-1]
        raise ErroClaro(f"um nó do Ray não pôde trabalhar ({causa}).") from erro
