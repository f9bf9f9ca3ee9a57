"""O que cada nó do Ray faz: diz se pode fazer a conta, monta o motor uma vez e faz partes."""

import dataclasses
import functools
import pathlib
import pickle
import socket

import tensorflow_datasets as tfds

from detector import caracteristicas, motores
from detector.ambiente import prepara
from detector.erros import ErroClaro
from detector.gravacao import digesto
from detector.preparo import Preparo


@dataclasses.dataclass
class Conta:
    """O que um nó precisa saber para fazer qualquer parte como os outros a fariam.

    dados: a pasta do dataset preparado. backbone: o modelo, em pickle, que só se abre com as
    bibliotecas já preparadas. vistos: o conteúdo dos arquivos que o nó tem de ver. receita: o
    digest de `caracteristicas.receita`.
    """

    dados: str
    preparo: Preparo
    backbone: bytes
    corte: str | None
    motor: str
    pasta: pathlib.Path
    threads: int
    vistos: dict[pathlib.Path, bytes]
    versoes: list[str]
    receita: str


def recusa(conta: Conta) -> str | None:
    """Por que este nó não pode fazer a conta, ou None se pode."""
    for arquivo, conteudo in conta.vistos.items():
        if not arquivo.is_file() or arquivo.read_bytes() != conteudo:
            return (
                f"não vê {arquivo.parent} como este computador: DATA_DIR e MODELOS têm de ficar "
                "num disco que todos alcancem pelo mesmo caminho"
            )
    prepara(0)
    if conta.motor not in motores.candidatos(conta.motor.partition("-")[0]):
        return f"não roda o motor {conta.motor}: escolha outro em --motor, ou tire esse nó"
    if (daqui := motores.versoes(conta.motor)) != conta.versoes:
        return f"tem as versões {daqui}, e este computador, {conta.versoes}: instale as mesmas"
    receita = caracteristicas.receita(conta.preparo, pickle.loads(conta.backbone), conta.corte)
    return None if digesto(receita) == conta.receita else "prepara as fotos com outro resultado"


class Trabalhador:
    """Um processo que monta o motor uma vez e faz as partes que lhe dão."""

    def monta(self, conta: Conta, parte: caracteristicas.Parte) -> None:
        """Fica pronto para `faz`. Levanta ErroClaro se o motor não funciona neste nó."""
        prepara(0)
        builder, backbone = tfds.builder_from_directory(conta.dados), pickle.loads(conta.backbone)
        fotos = caracteristicas.pares(builder, [parte], conta.preparo)
        roda = motores.monta(conta.motor, backbone, conta.corte, conta.pasta, fotos, conta.threads)
        if roda is None:
            raise ErroClaro(f"o motor {conta.motor} não funcionou em {socket.gethostname()}.")
        self.calcula = functools.partial(caracteristicas.calcula, roda, builder, conta.preparo)

    def faz(self, parte: caracteristicas.Parte) -> None:
        """Deixa os arquivos da parte em MODELOS."""
        self.calcula([parte], caracteristicas.barra(0, disable=True))
