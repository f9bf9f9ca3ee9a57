"""Pelo terminal: classificar (`python -m detector foto.jpg`), extrair, limpar ou conferir."""

from __future__ import annotations  # para dizer ao Python 3.9 que ele não serve

import argparse
import contextlib
import functools
import os
import sys

import detector
from detector.ambiente import MINIMOS, ErroClaro, caminho, confere_vizinhos, nao_carrega

AJUDA = """\
uso: python -m detector FOTO_OU_PASTA… [--modelos PASTA] [--csv ARQUIVO]
     python -m detector --limpa | --confere | --version | --help [--modelos PASTA]
     python -m detector extrai [--dataset NOME_OU_PASTA] [--data-dir PASTA] [--arquivo-zip ZIP]
                               [--modelos PASTA] [--backbone REDE] [--motor MOTOR]
                               [--max-imagens N] [--ray ENDERECO] [--threads N]
     python -m detector pagina [--modelos PASTA] [--runtime PASTA]

Diz se em cada foto há um gato, um cachorro ou nenhum dos dois, com o que o notebook deixou na PASTA
(padrão: modelos). O CSV se abre no Excel. `--limpa` apaga da PASTA o que o notebook não usa mais.
`--confere` diz se esta máquina serve e, do que não serve, o que fazer.

`extrai` passa as fotos pela parte congelada da rede e deixa na PASTA o que o notebook, com os
mesmos parâmetros, calcularia. `--ray` (local, auto ou HOST:PORTA) divide o trabalho entre máquinas,
e `--threads` é de cada processo.

`pagina` grava na PASTA uma página que classifica no navegador. `--runtime` é a pasta dist do
onnxruntime-web, para ela não precisar da internet.

Devolve 0 se leu todas as fotos ou se tudo serve, 1 se não, 2 se não havia o que fazer."""
SIM_OU_NAO = ("--help", "--version", "--limpa", "--confere")
DE_EXTRAI = {"dataset": "cats_vs_dogs", "data_dir": None, "arquivo_zip": None, "ray": None}
DE_EXTRAI |= {"backbone": "EfficientNetLite0", "motor": "auto", "max_imagens": None, "threads": 1}


class _Argumentos(argparse.ArgumentParser):
    """O que não entende vira um ErroClaro, em português, no lugar da frase do argparse."""

    def error(self, message: str) -> None:
        dito = " ".join(sys.argv[1:])
        raise ErroClaro(f"não entendi `{dito}`; veja como se usa com `python -m detector --help`.")


def _pedido(ditos: list[str]) -> argparse.Namespace:
    argumentos = _Argumentos(add_help=False)
    argumentos.add_argument("--modelos", default="modelos")
    for opcao in SIM_OU_NAO:
        argumentos.add_argument(opcao, *["-h"][: opcao == "--help"], action="store_true")
    if ditos[:1] == ["extrai"]:
        for nome, padrao in DE_EXTRAI.items():
            tipo = int if nome.upper() in MINIMOS else str
            argumentos.add_argument(f"--{nome.replace('_', '-')}", type=tipo, default=padrao)
        return argumentos.parse_args(ditos[1:])
    if ditos[:1] == ["pagina"]:
        argumentos.add_argument("--runtime")
        return argumentos.parse_args(ditos[1:])
    argumentos.add_argument("--csv")
    argumentos.add_argument("fotos", nargs="*")
    return argumentos.parse_intermixed_args(ditos)


def principal() -> int:
    """Faz o que o terminal pediu e devolve o código de saída."""
    sys.stdout.reconfigure(errors="replace")  # há nomes de arquivo que nenhum terminal mostra
    pedido = _pedido(sys.argv[1:])
    if pedido.help or pedido.version:
        print(AJUDA if pedido.help else f"detector {detector.__version__}")
        return 0
    if pedido.confere:
        from detector.confere import confere

        return int(not confere(caminho(pedido.modelos)))
    confere_vizinhos()  # antes do NumPy, que as salas carregam
    if pedido.limpa:
        from detector.entrega import limpa

        quantos, tamanho = limpa(caminho(pedido.modelos))
        print(f"apagados de {pedido.modelos}: {quantos} arquivos, {tamanho / 1e6:.1f} MB")
        return 0
    if "runtime" in pedido:
        print(detector.exporta.escreve_pagina(caminho(pedido.modelos), pedido.runtime))
        return 0
    return _classifica(pedido) if "fotos" in pedido else _extrai(pedido)


def _classifica(pedido: argparse.Namespace) -> int:
    """Escreve uma linha por foto e, se pedida, a tabela. Devolve 1 se alguma não pôde ser lida."""
    from detector.acervo import caminhos
    from detector.arquivos import grava
    from detector.entrega import acha_modelo

    if not pedido.fotos:
        raise ErroClaro("diga que fotos classificar, como em `python -m detector foto.jpg`.")
    if pedido.csv and caminho(pedido.csv).is_dir():
        raise ErroClaro(f"--csv {pedido.csv} é uma pasta; diga o arquivo, como em --csv tabela.csv")
    fotos = caminhos(pedido.fotos)
    acha_modelo(pedido.modelos)
    sala = detector.classificador  # só agora vem o TensorFlow, que leva segundos
    tabela = sala.classifica_varias(sala.carrega_classificador(caminho(pedido.modelos)), fotos)
    for linha in tabela.to_dict("records"):
        print(f"{linha['arquivo']}: {linha['erro'] or sala.Veredito(linha)}")
    if pedido.csv:
        conteudo = tabela.to_csv(index=False).encode("utf-8-sig", errors="replace")  # para o Excel
        grava(caminho(pedido.csv), conteudo, "escolha outro arquivo em --csv")
    return int((tabela["erro"] != "").any())


def _extrai(pedido: argparse.Namespace) -> int:
    """Deixa em MODELOS as características de cada foto, como a célula do notebook deixaria."""
    for nome in ("data_dir", "arquivo_zip", "modelos"):
        if dito := getattr(pedido, nome):
            setattr(pedido, nome, str(caminho(dito)))
    detector.confere_parametros({nome.upper(): valor for nome, valor in vars(pedido).items()})
    detector.prepara(0)
    with contextlib.ExitStack() as no_fim:
        extrai = detector.caracteristicas.extrai
        if pedido.ray:
            ray = no_fim.enter_context(detector.muitas.liga(pedido.ray, pedido.threads))
            extrai = functools.partial(detector.muitas.extrai, ray, pedido.threads)
        pasta = detector.entrega.abre_pasta(pedido.modelos)
        builder = detector.origem.abre(pedido.dataset, pedido.data_dir, pedido.arquivo_zip)
        fotos = detector.dados.lista(builder, pedido.max_imagens)
        backbone = detector.backbones.cria(pedido.backbone)
        corte = detector.backbones.acha_corte(backbone)
        leitor = detector.dados.le
        extracao = extrai(builder, fotos, leitor, backbone, corte, pedido.motor, pasta)
    print(f"motor {extracao.motor}, corte {corte}: {len(fotos)} fotos")
    print(f"extraídas agora: {extracao.extraidas} fotos, em {extracao.segundos:.1f} s")
    return 0


if __name__ == "__main__":
    try:
        codigo = principal()
        sys.stdout.flush()
    except (ErroClaro, ImportError) as erro:
        erro = nao_carrega("detector", erro) if isinstance(erro, ImportError) else erro
        print(erro, file=sys.stderr)
        codigo = 2
    except KeyboardInterrupt:
        codigo = 130
    except BrokenPipeError:  # quem lia a saída (head, less) já foi embora
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        codigo = 0
    sys.exit(codigo)
