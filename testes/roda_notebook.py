"""Roda o notebook célula a célula, como um kernel faria, e pode ser maltratado ou editado.

    python testes/roda_notebook.py '{"parametros": {"EPOCAS": 9}, "acoes": [["mata", "teste", 1]]}'

Cada célula é encontrada pela sua etiqueta (tag). As ações:

mata TAG SEGUNDOS: kill -9 no próprio processo, tantos segundos depois de a célula começar.
interrompe TAG SEGUNDOS: um Ctrl-C; depois a célula é rodada de novo, como a pessoa faria.
mata-gravando TRECHO N: kill -9 quando um arquivo ou pasta com TRECHO no nome vai, pela N-ésima
vez, entrar no lugar do anterior (já está todo escrito, mas ainda não vale) ou ser apagado.

O que mais cabe num pedido: `trocas`, {TAG: [de, para]}, o que a pessoa edita numa célula; `depois`,
{TAG: código}, uma célula nova logo abaixo; `pula`, as células que a pessoa não rodou; `ambiente`.

Sem argumentos, carrega as bibliotecas uma vez e fica à espera de linhas, cada uma com uma lista de
pedidos, que rodam ao mesmo tempo, cada um num processo novo, que já nasce com elas. No fim, diz FIM
e o código de saída.

Cada conexão tentada é dita, e quanto cada célula demorou.
"""

import importlib
import json
import os
import pathlib
import signal
import sys
import threading
import time

RAIZ = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOK = RAIZ / "detector_dogs_cats.ipynb"
FIM = "<fim da sessão>"
PRAZO = 400  # segundos; o que passa disso travou
SINAIS = {"mata": signal.SIGKILL, "interrompe": signal.SIGINT}


def celulas() -> dict[str, str]:
    """{etiqueta: fonte} das células de código, na ordem do notebook."""
    todas = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    codigo = [celula for celula in todas if celula["cell_type"] == "code"]
    return {celula["metadata"]["tags"][0]: "".join(celula["source"]) for celula in codigo}


def editadas(pedido: dict) -> dict[str, str]:
    """{etiqueta: fonte} do que a pessoa roda, com os parâmetros depois da célula deles."""
    fontes = {tag: fonte for tag, fonte in celulas().items() if tag not in pedido.get("pula", ())}
    for tag, (de, para) in pedido.get("trocas", {}).items():
        if fontes[tag].count(de) != 1:
            sys.exit(f"a célula {tag} não tem, uma vez só, {de!r}")
        fontes[tag] = fontes[tag].replace(de, para)
    parametros = "\n".join(f"{nome} = {v!r}" for nome, v in pedido["parametros"].items())
    for tag, codigo in ({"parameters": parametros} | pedido.get("depois", {})).items():
        fontes[tag] += f"\n{codigo}"
    return fontes


def vigia(mortes: list[tuple[str, float]]) -> None:
    """Diz as conexões que o Python tenta, e mata o processo numa das gravações de `mortes`."""
    faltam = dict(mortes)

    def ve(evento, args):
        if evento in ("socket.getaddrinfo", "socket.connect"):
            print(f"<conexão: {args[0] if evento.endswith('info') else args[1]}>", flush=True)
        if evento in ("os.rename", "os.remove", "os.rmdir"):  # os.replace se anuncia como rename
            nome = os.path.basename(args[evento == "os.rename"])
            for trecho in [t for t in faltam if t in nome and not nome.startswith(".incompleto")]:
                faltam[trecho] -= 1
                if not faltam[trecho]:
                    os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(ve)


def roda(pedido: dict) -> None:
    """O notebook inteiro, num kernel novo; SystemExit na primeira célula que falha."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    signal.signal(signal.SIGINT, signal.default_int_handler)  # quem roda em segundo plano o ignora
    os.environ.update(pedido.get("ambiente", {}))
    acoes = pedido.get("acoes", [])
    vigia([(trecho, vez) for acao, trecho, vez in acoes if acao == "mata-gravando"])
    kernel = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    fontes = editadas(pedido)
    if erradas := {tag for acao, tag, _ in acoes if acao in SINAIS} - fontes.keys():
        sys.exit(f"não há estas células: {erradas}")
    maltrata = {tag: (SINAIS[acao], segundos) for acao, tag, segundos in acoes if acao in SINAIS}
    for tag, fonte in fontes.items():
        inicio = time.monotonic()
        if tag in maltrata:
            sinal, segundos = maltrata[tag]
            alarme = threading.Timer(segundos, os.kill, (os.getpid(), sinal))
            alarme.start()
            rodada = kernel.run_cell(fonte)
            alarme.cancel()
            parou = not rodada.success  # o TensorFlow às vezes faz do Ctrl-C um SystemError
            print(f"<interrompe em {tag}: {'parou' if parou else 'acabou antes'}>")
        if tag not in maltrata or parou:  # quem viu a célula acabar não a roda de novo
            rodada = kernel.run_cell(fonte)
        if not rodada.success:
            sys.exit(1)
        print(f"<{time.monotonic() - inicio:.2f} s: {tag}>", flush=True)


def nasce(pedido: dict) -> int:
    """O número de um processo novo, que roda o notebook e acaba."""
    if filho := os.fork():
        return filho
    signal.alarm(PRAZO)
    sys.exit(roda(pedido))


def atende() -> None:
    """Roda os pedidos que chegam pela entrada: os de uma linha, ao mesmo tempo."""
    for sala in ("classificador", "figuras", "origem", "treino"):
        importlib.import_module(f"detector.{sala}")
    for modulo in ("IPython.core.interactiveshell", "scipy.stats", "sklearn.model_selection"):
        importlib.import_module(modulo)
    for linha in sys.stdin:
        filhos = [nasce(pedido) for pedido in json.loads(linha)]
        codigos = [os.waitstatus_to_exitcode(os.waitpid(filho, 0)[1]) for filho in filhos]
        print(f"\n{FIM} {next(filter(None, codigos), 0)}", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(RAIZ))  # um kernel procura os módulos na pasta do notebook
    if len(sys.argv) > 1:
        roda(json.loads(sys.argv[1]))
    else:
        atende()
