"""Roda o notebook célula a célula, como um kernel faria, e pode ser maltratado.

    python testes/roda_notebook.py '{"MODELOS": "…"}' [AÇÃO TRECHO NÚMERO]…

mata: kill -9 no próprio processo, NÚMERO segundos depois de começar a célula que contém TRECHO.
mata-gravando: kill -9 quando um arquivo com TRECHO no nome vai, pela NÚMERO-ésima vez, entrar no
lugar do anterior: já está todo escrito, mas ainda não vale.
interrompe: um Ctrl-C; depois a célula é rodada de novo, como a pessoa faria.

Sem argumentos, carrega as bibliotecas uma vez e fica à espera de pedidos: linhas de JSON com
[parâmetros, opções, ambiente]. Cada pedido roda num processo novo, que já nasce com elas, e termina
com uma linha que diz FIM e o código de saída.

LIMITE_DE_ARQUIVO, no ambiente: nenhum arquivo pode passar desse número de bytes, e a gravação falha
no meio, como num disco cheio. NOTEBOOK: outro notebook. Cada conexão tentada é dita.
"""

import json
import os
import pathlib
import resource
import signal
import sys
import threading
import time

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

RAIZ = pathlib.Path(__file__).resolve().parent.parent
FIM = "<fim da sessão>"
PRAZO = 400  # segundos; o que passa disso travou
SINAIS = {"mata": signal.SIGKILL, "interrompe": signal.SIGINT}


def le_celulas(notebook: pathlib.Path, parametros: dict) -> list[str]:
    """Fontes das células de código, com os parâmetros depois da célula deles."""
    celulas = []
    for celula in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if celula["cell_type"] == "code":
            celulas.append("".join(celula["source"]))
            if "parameters" in celula["metadata"].get("tags", []):
                celulas.append("\n".join(f"{nome} = {v!r}" for nome, v in parametros.items()))
    return celulas


def vigia(mortes: list[tuple[str, float]]) -> None:
    """Diz as conexões que o Python tenta, e mata o processo numa das gravações de `mortes`."""
    faltam = dict(mortes)

    def ve(evento, args):
        if evento in ("socket.getaddrinfo", "socket.connect"):
            print(f"<conexão: {args[0] if evento.endswith('info') else args[1]}>", flush=True)
        if evento == "os.rename":  # os.replace também se anuncia assim
            for trecho in [t for t in faltam if t in os.path.basename(args[1])]:
                faltam[trecho] -= 1
                if not faltam[trecho]:
                    os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(ve)


def roda(parametros: dict, opcoes: list[str]) -> None:
    """O notebook inteiro, num kernel novo; SystemExit na primeira célula que falha."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # quem roda em segundo plano o ignora
    acoes = list(zip(opcoes[::3], opcoes[1::3], map(float, opcoes[2::3]), strict=True))
    vigia([(trecho, vez) for acao, trecho, vez in acoes if acao == "mata-gravando"])
    if limite := os.environ.get("LIMITE_DE_ARQUIVO"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limite), int(limite)))
    sem_historico = Config({"HistoryManager": {"enabled": False}})
    kernel = InteractiveShell.instance(config=sem_historico)
    notebook = pathlib.Path(os.environ.get("NOTEBOOK", RAIZ / "detector_dogs_cats.ipynb"))
    for fonte in le_celulas(notebook, parametros):
        for acao, trecho, segundos in acoes:
            if acao in SINAIS and trecho in fonte:
                alarme = threading.Timer(segundos, os.kill, (os.getpid(), SINAIS[acao]))
                alarme.start()
                resultado = kernel.run_cell(fonte)
                alarme.cancel()
                parou = isinstance(resultado.error_in_exec, KeyboardInterrupt)
                print(f"<{acao} em {trecho!r}: {'parou' if parou else 'acabou antes'}>")
        inicio = time.monotonic()
        if not kernel.run_cell(fonte).success:
            sys.exit(1)
        print(f"<{time.monotonic() - inicio:.2f} s: {fonte.splitlines()[0]}>")


def atende() -> None:
    """Roda os pedidos que chegam pela entrada, um de cada vez, cada um num processo seu."""
    import detector

    for sala in ("auditoria", "caracteristicas", "classificador", "dados", "figuras", "treino"):
        getattr(detector, sala)
    for pedido in sys.stdin:
        if not (filho := os.fork()):
            signal.alarm(PRAZO)
            parametros, opcoes, ambiente = json.loads(pedido)
            os.environ.update(ambiente)
            sys.exit(roda(parametros, opcoes))
        codigo = os.waitstatus_to_exitcode(os.waitpid(filho, 0)[1])
        print(f"\n{FIM} {codigo}", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(RAIZ))  # um kernel procura os módulos na pasta do notebook
    if len(sys.argv) > 1:
        roda(json.loads(sys.argv[1]), sys.argv[2:])
    else:
        atende()
