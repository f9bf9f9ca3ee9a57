"""As partes das características feitas por muitas máquinas, ou por muitos processos, com o Ray.

Uma parte depende só do que o nome do arquivo dela resume, e por isso qualquer um pode fazê-la. Quem
chama escolhe o motor, a precisão e as threads, e cada nó é conferido antes de receber trabalho.
O Ray só é importado quando alguém usa `liga`.
"""

import collections
import contextlib
import os
import pathlib
import pickle
import socket
import sys
import uuid
from collections.abc import Iterator
from types import ModuleType

import keras
import pandas as pd
import tensorflow_datasets as tfds

from detector import caracteristicas, motores
from detector.erros import ErroClaro
from detector.gravacao import digesto, grava
from detector.preparo import Preparo
from detector.trabalhador import Conta, Trabalhador, recusa

ESPERA = 5  # segundos pelo endereço; o Ray levaria três minutos para desistir


@contextlib.contextmanager
def liga(endereco: str, threads: int) -> Iterator[ModuleType]:
    """O módulo `ray` ligado a `endereco`, com o código deste pacote em todos os nós.

    endereco: "local" (um Ray só desta máquina, que acaba no fim), "auto" (o que já roda nela) ou
    "HOST:PORTA". threads: de cada processo. Levanta ErroClaro se falta o Ray ou ninguém atende.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # senão ele conta cada uso ao fabricante
    try:
        import ray
    except ModuleNotFoundError as erro:
        raise ErroClaro(
            "falta o Ray. No terminal: python -m pip install -r requirements-ray.txt"
        ) from erro
    variaveis = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    nos_processos = {
        "py_modules": [str(pathlib.Path(__file__).parent)],
        "env_vars": dict.fromkeys(variaveis, str(threads)),
    }
    try:
        if endereco not in ("local", "auto"):
            host, _, porta = endereco.rpartition(":")
            socket.create_connection((host, int(porta)), ESPERA).close()
        ray.init(endereco, log_to_driver=False, logging_level="ERROR", runtime_env=nos_processos)
    except (OSError, ValueError, RuntimeError) as erro:
        causa = (str(erro).strip().splitlines() or [type(erro).__name__])[0]
        raise ErroClaro(
            f"--ray {endereco}: nenhum Ray atende aí ({causa[:100]}). Use local, auto ou o "
            "HOST:PORTA que o `ray start --head` mostrou; se ele pede token, RAY_AUTH_MODE=token."
        ) from erro
    try:
        yield ray
    finally:
        ray.shutdown()


def extrai(
    ray: ModuleType,
    threads: int,
    builder: tfds.core.DatasetBuilder,
    fotos: pd.DataFrame,
    preparo_: Preparo,
    backbone: keras.Model,
    corte: str | None,
    motor: str,
    pasta: pathlib.Path,
) -> caracteristicas.Caracteristicas:
    """O mesmo que `caracteristicas.extrai`, com as partes que faltam feitas pelos nós do Ray.

    ray: de `liga`. threads: de cada trabalhador; um nó tem tantos quantos couberem nos núcleos
    dele. Levanta ErroClaro se um nó não pode fazer a mesma conta, ou se todos caem.
    """
    pasta, dados = pasta.absolute(), pathlib.Path(builder.data_path).absolute()

    def espalha(nome, faltam):
        descricao, marca = dados / "dataset_info.json", pasta / f".incompleto-{uuid.uuid4().hex}"
        conta = Conta(
            dados=str(dados),
            preparo=preparo_,
            backbone=pickle.dumps(backbone),
            corte=corte,
            motor=nome,
            pasta=pasta,
            threads=threads,
            vistos={descricao: descricao.read_bytes(), marca: b""},
            versoes=motores.versoes(nome),
            receita=digesto(caracteristicas.receita(preparo_, backbone, corte)),
        )
        grava(marca, b"")
        try:
            _distribui(ray, _atores(ray, conta, faltam[0]), faltam)
        finally:
            marca.unlink(missing_ok=True)

    return caracteristicas.extrai(
        builder, fotos, preparo_, backbone, corte, motor, pasta, espalha=espalha
    )


def _atores(ray: ModuleType, conta: Conta, parte: caracteristicas.Parte) -> dict:
    """Um ator para cada `threads` núcleos, por aquilo que avisará que ele está montado.

    Antes, cada nó é conferido. Levanta ErroClaro se algum não pode fazer a conta.
    """
    guardada, conferidos, atores = ray.put(conta), [], []
    confere, trabalhador = ray.remote(num_cpus=0)(recusa), ray.remote(Trabalhador)
    for no in ray.nodes():
        onde = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(no["NodeID"], False)
        quantos = int(no["Resources"].get("CPU", 0) // conta.threads) if no["Alive"] else 0
        if quantos:
            por_que = confere.options(scheduling_strategy=onde).remote(guardada)
            conferidos.append((no, onde, quantos, por_que))
    if not conferidos:
        raise ErroClaro(f"nenhum nó do Ray tem {conta.threads} núcleos: diminua --threads.")
    for no, onde, quantos, por_que in conferidos:
        try:
            por_que = ray.get(por_que)
        except ray.exceptions.RayTaskError as erro:
            por_que = f"não pôde ser usado ({str(erro.cause).strip().splitlines()[-1]})"
        except ray.exceptions.RayError:  # caiu antes de começar: ficam os outros
            continue
        if por_que:
            endereco = f"{no['NodeManagerHostname']} ({no['NodeManagerAddress']})"
            raise ErroClaro(f"o nó {endereco} {por_que}.")
        opcoes = {"num_cpus": conta.threads, "scheduling_strategy": onde}
        atores += [trabalhador.options(**opcoes).remote() for _ in range(quantos)]
    return {ator.monta.remote(guardada, parte): (ator, None) for ator in atores}


def _distribui(ray: ModuleType, em_curso: dict, faltam: list[caracteristicas.Parte]) -> None:
    """Uma parte de cada vez a cada ator; a de um que cai volta para a fila."""
    fila, livres, feitas = collections.deque(faltam), [], 0
    with caracteristicas.barra(sum(parte.fim - parte.inicio for parte in faltam)) as barra:
        while feitas < len(faltam):
            while fila and livres:
                ator, parte = livres.pop(), fila.popleft()
                em_curso[ator.faz.remote(parte)] = ator, parte
            if not em_curso:
                raise ErroClaro("todos os nós caíram. Rode de novo: o que está pronto vale.")
            [resposta], _ = ray.wait(list(em_curso))
            ator, parte = em_curso.pop(resposta)
            try:
                ray.get(resposta)
            except ray.exceptions.RayTaskError as erro:
                raise (erro.cause if isinstance(erro.cause, ErroClaro) else erro) from None
            except ray.exceptions.RayError:
                barra.write("Um trabalhador caiu; os outros seguem.", file=sys.stdout)
                fila.extendleft([parte] if parte else [])
                continue
            livres.append(ator)
            if parte:
                feitas += 1
                barra.set_postfix_str(f"{feitas} de {len(faltam)} partes", refresh=False)
                barra.update(parte.fim - parte.inicio)
