"""Pelo terminal: classificar (`python -m detector foto.jpg`) ou extrair (`… extrai`)."""

import argparse
import contextlib
import functools
import os
import pathlib
import sys

import detector
from detector.arquivos import grava
from detector.entrega import abre_pasta, acha_modelo, limpa
from detector.erros import ErroClaro
from detector.fotos import caminhos

FIM = """\
exemplos:
  python -m detector rex.jpg                    uma foto
  python -m detector fotos/ --csv tabela.csv    uma pasta inteira, numa tabela
  python -m detector --limpa                    libera espaço em modelos/
  python -m detector extrai --help              passa as fotos pela rede, em várias máquinas

Devolve 0 se leu todas as fotos, 1 se alguma não pôde ser lida, 2 se não havia o que fazer."""

FIM_EXTRAI = """\
Deixa na PASTA o que o notebook, com os mesmos parâmetros, calcularia; ele acha tudo pronto.

exemplos:
  python -m detector extrai                                      nesta máquina
  python -m detector extrai --ray local --threads 1              um processo por núcleo
  python -m detector extrai --ray 10.0.0.5:6379 --data-dir /rede/tfds --modelos /rede/modelos"""


class _Formato(argparse.RawDescriptionHelpFormatter):
    """A ajuda como foi escrita, com "uso" no lugar de "usage"."""

    def add_usage(self, usage, actions, groups, prefix=None) -> None:
        super().add_usage(usage, actions, groups, "uso: ")


class _Argumentos(argparse.ArgumentParser):
    """O que não entende vira um ErroClaro, em português, no lugar da frase do argparse."""

    def error(self, message: str) -> None:
        dito = " ".join(sys.argv[1:])
        raise ErroClaro(f"não entendi `{dito}`; veja como se usa com `{self.prog} --help`.")


def _argumentos() -> _Argumentos:
    argumentos = _Argumentos(
        prog="python -m detector",
        description="Diz se em cada foto há um gato, um cachorro ou nenhum dos dois.",
        epilog=FIM,
        formatter_class=_Formato,
        add_help=False,
    )
    grupo = argumentos.add_argument_group("o que você pode dizer")
    grupo.add_argument(
        "fotos", nargs="*", metavar="FOTO_OU_PASTA", help="fotos, ou pastas com fotos"
    )
    grupo.add_argument(
        "--modelos",
        default="modelos",
        metavar="PASTA",
        help="onde o notebook deixou o modelo (padrão: modelos)",
    )
    grupo.add_argument("--csv", metavar="ARQUIVO", help="grava também uma tabela em CSV")
    grupo.add_argument(
        "--limpa", action="store_true", help="apaga de PASTA o que o notebook não usa mais"
    )
    grupo.add_argument(
        "--version",
        action="version",
        version=f"detector {detector.__version__}",
        help="mostra a versão e sai",
    )
    grupo.add_argument("-h", "--help", action="help", help="mostra esta ajuda e sai")
    return argumentos


def _argumentos_extrai() -> _Argumentos:
    argumentos = _Argumentos(
        prog="python -m detector extrai",
        description="Passa cada foto pela parte congelada da rede, em uma ou em muitas máquinas.",
        epilog=FIM_EXTRAI,
        formatter_class=_Formato,
        add_help=False,
    )
    grupo = argumentos.add_argument_group("o que você pode dizer, como no notebook")
    grupo.add_argument("--dataset", default="cats_vs_dogs", metavar="NOME_OU_PASTA")
    grupo.add_argument("--data-dir", metavar="PASTA", help="onde o TFDS guarda os dados")
    grupo.add_argument("--arquivo-zip", metavar="ZIP")
    grupo.add_argument("--modelos", default="modelos", metavar="PASTA", help="padrão: modelos")
    grupo.add_argument("--backbone", default="EfficientNetLite0", metavar="REDE")
    grupo.add_argument("--motor", default="auto", help="auto, keras ou openvino")
    grupo.add_argument("--max-imagens", type=int, metavar="N", help="só as N primeiras fotos")
    grupo = argumentos.add_argument_group("e mais")
    grupo.add_argument("--ray", metavar="ENDERECO", help="local, auto ou HOST:PORTA; sem ele, aqui")
    grupo.add_argument(
        "--threads", type=int, default=1, metavar="N", help="de cada processo do Ray (padrão: 1)"
    )
    grupo.add_argument("-h", "--help", action="help", help="mostra esta ajuda e sai")
    return argumentos


def principal() -> int:
    """Faz o que o terminal pediu e devolve o código de saída."""
    sys.stdout.reconfigure(errors="replace")  # há nomes de arquivo que nenhum terminal mostra
    if sys.argv[1:2] == ["extrai"]:
        return _extrai(_argumentos_extrai().parse_args(sys.argv[2:]))
    pedido = _argumentos().parse_args()
    if pedido.limpa:
        quantos, tamanho = limpa(pathlib.Path(os.path.expanduser(pedido.modelos)))
        print(f"apagados de {pedido.modelos}: {quantos} arquivos, {tamanho / 1e6:.1f} MB")
        return 0
    if not pedido.fotos:
        raise ErroClaro("diga que fotos classificar, como em `python -m detector foto.jpg`.")
    return _classifica(caminhos(pedido.fotos), pedido.modelos, pedido.csv)


def _classifica(fotos: list[pathlib.Path], modelos: str, csv: str | None) -> int:
    """Escreve uma linha por foto e, se pedida, a tabela. Devolve 1 se alguma não pôde ser lida."""
    acha_modelo(modelos)
    sala = detector.classificador  # só agora vem o TensorFlow, que leva segundos
    tabela = sala.classifica_varias(sala.carrega_classificador(modelos), fotos)
    for linha in tabela.to_dict("records"):
        print(f"{linha['arquivo']}: {linha['erro'] or sala.Veredito(linha)}")
    if csv:
        tabela_csv = tabela.to_csv(index=False).encode(errors="replace")
        grava(pathlib.Path(os.path.expanduser(csv)), tabela_csv)
    return int((tabela["erro"] != "").any())


def _extrai(pedido: argparse.Namespace) -> int:
    """Deixa em MODELOS as características de cada foto, como a célula do notebook deixaria."""
    parametros = {nome.upper(): valor for nome, valor in vars(pedido).items()}
    detector.confere_parametros(parametros)
    detector.prepara(0)
    with contextlib.ExitStack() as no_fim:
        extrai = detector.caracteristicas.extrai
        if pedido.ray:
            ray = no_fim.enter_context(detector.muitas.liga(pedido.ray, pedido.threads))
            extrai = functools.partial(detector.muitas.extrai, ray, pedido.threads)
        pasta = abre_pasta(pedido.modelos)
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
    except ErroClaro as erro:
        print(erro, file=sys.stderr)
        codigo = 2
    except KeyboardInterrupt:
        codigo = 130
    except BrokenPipeError:  # quem lia a saída (head, less) já foi embora
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        codigo = 0
    sys.exit(codigo)
