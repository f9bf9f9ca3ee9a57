"""Pelo terminal: classificar (`python -m detector foto.jpg`), extrair, conferir, fazer a página."""

from __future__ import annotations  # para dizer ao Python 3.9 que ele não serve

import argparse
import contextlib
import functools
import os
import pathlib
import sys
from collections.abc import Sequence

import detector
from detector.ambiente import ErroClaro, caminho, confere_vizinhos, nao_carrega

AJUDA = """\
uso: python -m detector FOTO_OU_PASTA… [--modelos PASTA] [--csv ARQUIVO]
     python -m detector --confere | --version | --help [--modelos PASTA]
     python -m detector extrai [--dataset NOME_OU_PASTA] [--data-dir PASTA] [--arquivo-zip ZIP]
                               [--modelos PASTA] [--backbone REDE] [--motor MOTOR]
                               [--max-imagens N] [--ray ENDERECO] [--threads N]
     python -m detector pagina [--modelos PASTA] [--runtime PASTA]

Diz se em cada foto há um gato, um cachorro ou nenhum dos dois, com o que o notebook deixou na PASTA
(padrão: modelos). O CSV se abre no Excel.
`--confere` diz se esta máquina serve e, do que não serve, o que fazer.

`extrai` passa as fotos pela parte congelada da rede e deixa na PASTA o que o notebook, com os
mesmos parâmetros, calcularia. `--ray` (local, auto ou HOST:PORTA) divide o trabalho entre máquinas,
e `--threads` é de cada processo.

`pagina` grava na PASTA uma página que classifica no navegador. `--runtime` é a pasta dist do
onnxruntime-web, para ela não precisar da internet.

Devolve 0 se leu todas as fotos ou se tudo serve, 1 se não, 2 se não pôde fazer o que se pediu."""


class _Argumentos(argparse.ArgumentParser):
    """A ajuda inteira, e o que não se entende num ErroClaro, em português."""

    def __init__(self):
        super().__init__()
        self.add_argument("--version", action="version", version=f"detector {detector.__version__}")
        self.add_argument("--modelos", type=caminho, default="modelos")

    def format_help(self) -> str:
        return f"{AJUDA}\n"

    def error(self, message: str) -> None:
        dito = " ".join(sys.argv[1:])
        raise ErroClaro(f"não entendi `{dito}`; veja como se usa com `python -m detector --help`.")


def principal() -> int:
    """Faz o que o terminal pediu e devolve o código de saída."""
    sys.stdout.reconfigure(errors="replace")  # há nomes de arquivo que nenhum terminal mostra
    ditos = sys.argv[1:]
    if ditos[:1] == ["extrai"]:
        return _extrai(ditos[1:])
    if ditos[:1] == ["pagina"]:
        return _pagina(ditos[1:])
    argumentos = _Argumentos()
    argumentos.add_argument("--csv", type=caminho)
    argumentos.add_argument("--confere", action="store_true")
    argumentos.add_argument("fotos", nargs="*")
    pedido = argumentos.parse_intermixed_args(ditos)
    if pedido.confere:
        from detector.confere import confere

        return 0 if confere(pedido.modelos) else 1
    confere_vizinhos()  # antes do NumPy, que as salas carregam
    return _classifica(pedido)


def _classifica(pedido: argparse.Namespace) -> int:
    """Escreve uma linha por foto e, se pedida, a tabela. Devolve 1 se alguma não pôde ser lida."""
    from detector.acervo import caminhos
    from detector.arquivos import grava
    from detector.entrega import acha_modelo

    if not pedido.fotos:
        raise ErroClaro("diga que fotos classificar, como em `python -m detector foto.jpg`.")
    fotos = caminhos(pedido.fotos)
    if pedido.csv is not None:
        _confere_csv(pedido.csv, fotos)
    acha_modelo(pedido.modelos)
    sala = detector.classificador  # só agora vem o TensorFlow, que leva segundos
    tabela = sala.classifica_varias(sala.carrega_classificador(pedido.modelos), fotos)
    for linha in tabela.to_dict("records"):
        print(f"{linha['arquivo']}: {linha['erro'] or sala.Veredito(linha)}")
    if pedido.csv is not None:
        conteudo = tabela.to_csv(index=False).encode("utf-8-sig")  # para o Excel
        grava(pedido.csv, conteudo, "escolha outro arquivo em --csv")
    return 1 if (tabela["erro"] != "").any() else 0


def _confere_csv(csv: pathlib.Path, fotos: Sequence[pathlib.Path]) -> None:
    """Levanta ErroClaro se gravar a tabela em `csv` tomaria o lugar de outra coisa."""
    if csv.is_dir():
        causa = "é uma pasta"
    elif csv.suffix.lower() != ".csv":  # uma foto, um aparelho como /dev/stdout, um modelo
        causa = "não termina em .csv"
    elif csv.resolve() in [foto.resolve() for foto in fotos]:
        causa = "é uma das fotos"
    else:
        return
    raise ErroClaro(f"--csv {csv} {causa}; diga o arquivo da tabela, como em --csv tabela.csv")


def _extrai(ditos: list[str]) -> int:
    """Deixa em MODELOS as características de cada foto, como a célula do notebook deixaria."""
    argumentos = _Argumentos()
    argumentos.add_argument("--dataset", default="cats_vs_dogs")
    argumentos.add_argument("--data-dir")
    argumentos.add_argument("--arquivo-zip")
    argumentos.add_argument("--backbone", default="EfficientNetLite0")
    argumentos.add_argument("--motor", default="auto")
    argumentos.add_argument("--max-imagens", type=int)
    argumentos.add_argument("--ray")
    argumentos.add_argument("--threads", type=int, default=1)
    pedido = argumentos.parse_args(ditos)
    confere_vizinhos()
    from detector.comeco import confere_parametros

    confere_parametros({nome.upper(): valor for nome, valor in vars(pedido).items()})
    detector.prepara(0)
    with contextlib.ExitStack() as no_fim:
        extrai = detector.caracteristicas.extrai
        if pedido.ray:
            ray = no_fim.enter_context(detector.muitas.liga(pedido.ray, pedido.threads))
            extrai = functools.partial(detector.muitas.extrai, ray, pedido.threads)
        pasta = detector.entrega.abre_pasta(pedido.modelos)
        backbone = detector.backbones.cria(pedido.backbone)  # antes do que demora
        builder = detector.origem.abre(pedido.dataset, pedido.data_dir, pedido.arquivo_zip)
        fotos = detector.dados.lista(builder, pedido.max_imagens)
        corte = detector.backbones.acha_corte(backbone)
        leitor = detector.dados.le
        extracao = extrai(builder, fotos, leitor, backbone, corte, pedido.motor, pasta)
    print(f"motor {extracao.motor}, corte {corte}: {len(fotos)} fotos")
    print(f"extraídas agora: {extracao.extraidas} fotos, em {extracao.segundos:.1f} s")
    return 0


def _pagina(ditos: list[str]) -> int:
    """Grava em MODELOS a página que classifica no navegador."""
    argumentos = _Argumentos()
    argumentos.add_argument("--runtime", type=caminho)
    pedido = argumentos.parse_args(ditos)
    print(detector.exporta.escreve_pagina(pedido.modelos, pedido.runtime))
    return 0


if __name__ == "__main__":
    codigo = 2
    try:
        codigo = principal()
        sys.stdout.flush()
    except ErroClaro as erro:
        print(erro, file=sys.stderr)
    except ImportError as erro:
        print(nao_carrega("detector", erro), file=sys.stderr)
    except KeyboardInterrupt:
        codigo = 130
    except BrokenPipeError:  # quem lia a saída (head, less) já foi embora
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        codigo = 0
    sys.exit(codigo)
