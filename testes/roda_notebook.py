"""Roda o notebook célula a célula neste processo, como um kernel faria, e pode ser maltratado.

    python testes/roda_notebook.py '{"MODELOS": "…"}' [mata|interrompe TRECHO SEGUNDOS]…

mata: kill -9 no próprio processo, SEGUNDOS depois de começar a célula que contém TRECHO.
interrompe: um Ctrl-C nesse momento; depois a célula é rodada de novo, como a pessoa faria.
Com a variável LIMITE_DE_ARQUIVO, nenhum arquivo pode passar desse número de bytes: o mesmo erro de
um disco cheio, no meio da gravação.
"""

import json
import os
import pathlib
import resource
import signal
import sys
import threading

from IPython.core.interactiveshell import InteractiveShell

RAIZ = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOK = RAIZ / "detector_dogs_cats.ipynb"
SINAIS = {"mata": signal.SIGKILL, "interrompe": signal.SIGINT}


def le_celulas(parametros: dict) -> list[str]:
    """Fontes das células de código, com os parâmetros depois da célula deles."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    celulas = []
    for celula in (c for c in notebook["cells"] if c["cell_type"] == "code"):
        celulas.append("".join(celula["source"]))
        if "parameters" in celula["metadata"].get("tags", []):
            celulas.append("\n".join(f"{nome} = {valor!r}" for nome, valor in parametros.items()))
    return celulas


def main(parametros: str, *opcoes: str) -> None:
    if limite := os.environ.get("LIMITE_DE_ARQUIVO"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limite), int(limite)))
    marcados = list(zip(opcoes[::3], opcoes[1::3], map(float, opcoes[2::3]), strict=True))
    sys.path.insert(0, str(RAIZ))  # um kernel procura os módulos na pasta do notebook
    kernel = InteractiveShell.instance()
    for fonte in le_celulas(json.loads(parametros)):
        for acao, trecho, segundos in marcados:
            if trecho in fonte:
                alarme = threading.Timer(segundos, os.kill, (os.getpid(), SINAIS[acao]))
                alarme.start()
                resultado = kernel.run_cell(fonte)
                alarme.cancel()
                parou = isinstance(resultado.error_in_exec, KeyboardInterrupt)
                print(f"<{acao} em {trecho!r}: {'parou' if parou else 'acabou antes'}>")
        resultado = kernel.run_cell(fonte)
        if not resultado.success:
            sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
