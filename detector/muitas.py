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

from detector import caracteristicas, dados, motores
from detector.ambiente import ErroClaro, prepara

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
    nos_processos = {
        "py_modules": [str(pathlib.Path(__file__).parent)],
        "excludes": ["amostra"],
        "env_vars": {
            "TF_NUM_INTRAOP_THREADS": str(threads),
            "TF_NUM_INTEROP_THREADS": str(threads),
            "KERAS_BACKEND": "tensorflow",
        },
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
    builder, _, leitor, backbone, corte, *_ = pedido
    onde = pathlib.Path(builder.data_path).absolute()
    rede = pickle.dumps(backbone)  # que só se abre com as bibliotecas já preparadas

    def espalha(motor, faltam):
        """Cada parte, assim que fica pronta; a do nó que cai, o Ray Data a dá a outro."""
        nucleos = [no["Resources"].get("CPU", 0) for no in ray.nodes() if no["Alive"]]
        if max(nucleos, default=0) < threads:
            raise ErroClaro(f"nenhum nó do Ray tem {threads} núcleos: diminua --threads.")
        contexto = ray.data.DataContext.get_current()
        contexto.enable_progress_bars = contexto.print_on_execution_start = False  # há a nossa
        logging.getLogger("ray.data").setLevel("CRITICAL")
        versoes = motores.versoes(motor)
        linhas = ray.data.from_items(faltam, override_num_blocks=len(faltam)).map(
            Trabalhador,
            fn_constructor_args=[_info(onde), versoes, onde, leitor, rede, corte, motor, threads],
            compute=ray.data.ActorPoolStrategy(),
            num_cpus=threads,
        )
        try:
            for linha in linhas.iter_rows():
                if linha["erro"]:
                    raise ErroClaro(linha["erro"])
                yield linha["item"]
        except (ray.exceptions.RayError, ray.data.exceptions.ExecutionTimeoutError) as erro:
            causa = str(erro).strip().splitlines()[-1][:100]
            raise ErroClaro(
                f"os nós do Ray pararam ({causa}): caíram, travaram ou não puderam começar. Rode "
                "de novo: o que está pronto vale."
            ) from erro

    return caracteristicas.extrai(*pedido, espalha=espalha)


class Trabalhador:
    """Um processo do Ray Data, que monta o motor uma vez e faz a parte de cada linha."""

    def __init__(self, *pedido):
        self.pedido, self.calcula = pedido, None

    def __call__(self, linha: dict) -> dict:
        """A linha, com a frase do ErroClaro que ela deu, ou ""."""
        try:
            if self.calcula is None:  # só agora, para a frase voltar com a linha
                self.calcula = _monta(linha["item"], *self.pedido)
            list(self.calcula([linha["item"]]))
        except ErroClaro as erro:
            return linha | {"erro": str(erro)}
        return linha | {"erro": ""}


def _monta(parte, info, versoes, onde, leitor, rede, corte, motor, threads) -> Callable:
    """`calcula` com o motor deste nó. Levanta ErroClaro se ele faria outra conta."""
    no = f"o nó {socket.gethostname()}"
    nao_roda = ErroClaro(f"{no} não roda o motor {motor}: escolha outro, ou tire esse nó.")
    if _info(onde) != info:
        raise ErroClaro(
            f"{no} não vê {onde} como este computador: DATA_DIR e MODELOS têm de ficar num disco "
            "que todos alcancem pelo mesmo caminho."
        )
    prepara(0)
    if motor not in motores.candidatos(motor.partition("-")[0]):
        raise nao_roda
    if motores.versoes(motor) != versoes:
        raise ErroClaro(
            f"{no} tem as versões {motores.versoes(motor)}, e não {versoes}: instale as mesmas."
        )
    builder, backbone = tfds.builder_from_directory(onde), pickle.loads(rede)
    amostra = dados.com_miniaturas(leitor, builder, [parte.linhas])
    roda = motores.monta(motor, backbone, corte, parte.arquivo.parent, amostra, threads)
    if roda is None:
        raise nao_roda
    return functools.partial(caracteristicas.calcula, roda, leitor, builder)


def _info(onde: pathlib.Path) -> bytes | None:
    """O que o TFDS diz do dataset que há na pasta; None se ela não se vê daqui."""
    arquivo = onde / "dataset_info.json"
    return arquivo.read_bytes() if arquivo.is_file() else None
