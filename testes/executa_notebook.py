"""Roda o notebook de cima para baixo e grava as saídas nele mesmo: `make notebook`.

Usa a pasta de modelos e os dados padrão; para outros dados, a variável TFDS_DATA_DIR. O arquivo fica como
se alguém o tivesse rodado no Jupyter: sem a célula de parâmetros injetada do papermill, sem horários e com
as barras de progresso no estado final. Os números do README são refeitos com os desta execução.
"""

import json
import pathlib
import sys
import tempfile

import leiame
import nbformat
from nbclient import NotebookClient

RAIZ = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOK = RAIZ / "detector_dogs_cats.ipynb"


def junta_saidas(saidas):
    """Une os pedaços seguidos do mesmo stream e aplica os retornos de carro, como a tela faria."""
    unidas = []
    for saida in saidas:
        if unidas and saida.output_type == "stream" == unidas[-1].output_type and saida.name == unidas[-1].name:
            unidas[-1].text += saida.text
        else:
            unidas.append(saida)
    for saida in unidas:
        if saida.output_type == "stream":
            linhas = [linha.rstrip("\r").rsplit("\r", 1)[-1] for linha in saida.text.split("\n")]
            saida.text = "\n".join(linhas)
        if "application/vnd.jupyter.widget-view+json" in saida.get("data", {}):  # sem kernel, o botão seria um erro na página
            saida.data = {"text/plain": "(aqui aparece o botão «Escolher fotos», quando se roda a célula)"}
    return unidas


def main():
    notebook = nbformat.read(NOTEBOOK, 4)
    with tempfile.TemporaryDirectory() as pasta:  # modelos/ vazio: as saídas são de uma primeira execução
        trabalho = pathlib.Path(pasta)
        (trabalho / "amostra").symlink_to(RAIZ / "amostra")
        (trabalho / "imagens").symlink_to(RAIZ / "imagens")
        NotebookClient(notebook, timeout=None, resources={"metadata": {"path": pasta}}).execute()
        metricas = json.loads((trabalho / "modelos/metricas.json").read_text(encoding="utf-8"))
    for celula in notebook.cells:
        celula.metadata.pop("execution", None)
        if celula.cell_type == "code":
            celula.outputs = junta_saidas(celula.outputs)
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                         "language_info": {"name": "python"}}
    notebook.metadata.pop("widgets", None)
    nbformat.write(notebook, NOTEBOOK)
    leiame.atualiza(metricas)


if __name__ == "__main__":
    sys.exit(main())
