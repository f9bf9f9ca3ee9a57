"""Leva ao repositório o que uma execução mediu, para que nenhum número seja copiado à mão.

    python docs/gera.py notebook   roda o notebook; refaz as saídas dele, imagens/ e metricas.json
    python docs/gera.py            só reescreve os números dos textos, a partir de metricas.json
    python docs/gera.py mede ARQUIVO [PARÂMETRO=VALOR…]   roda o notebook e grava o que ele mediu
    python docs/gera.py endereco URL   escreve o endereço no notebook, e os selos do Colab

Quem escreve os números é `docs/textos.py`.
"""

import json
import pathlib
import re
import resource
import shutil
import sys
import tempfile
import time

import textos

RAIZ = textos.RAIZ
NOTEBOOK = RAIZ / "detector_dogs_cats.ipynb"
METRICAS = RAIZ / "docs/metricas.json"
COLAB = "https://colab.research.google.com"
VERSAO = "v" + re.search(r'__version__ = "(.+)"', (RAIZ / "detector/__init__.py").read_text())[1]


def roda_notebook() -> None:
    """Roda o notebook e grava nele as saídas, como o Jupyter faria; refaz imagens/ e as medidas."""
    import nbformat

    notebook = nbformat.read(NOTEBOOK, 4)
    with tempfile.TemporaryDirectory() as modelos:
        medidas = executa(notebook, pathlib.Path(modelos), {})
        if (medidas["dataset"].partition("/")[0], medidas["fotos"]) != ("cats_vs_dogs", 2000):
            sys.exit("os textos falam das 2.000 primeiras fotos reais; com outras, nada é gravado.")
        _grava(medidas, METRICAS)
        for figura in pathlib.Path(modelos, "figuras").glob("*.png"):
            shutil.copy(figura, RAIZ / "imagens")
    for celula in notebook.cells:
        celula.metadata.pop("execution", None)
        if celula.cell_type == "code":
            celula.outputs = _como_na_tela(celula.outputs)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, NOTEBOOK)


def mede(arquivo: str, *opcoes: str) -> None:
    """Roda o notebook, sem mudar nada nele, e grava em `arquivo` o que ele mediu.

    opcoes: parâmetros do notebook, como MAX_IMAGENS=500. Sem MODELOS, a pasta começa vazia.
    """
    import nbformat

    parametros = dict(opcao.split("=", 1) for opcao in opcoes)
    parametros = {nome: json.loads(v) if v.isdigit() else v for nome, v in parametros.items()}
    with tempfile.TemporaryDirectory() as vazia:
        modelos = pathlib.Path(parametros.pop("MODELOS", vazia))
        _grava(executa(nbformat.read(NOTEBOOK, 4), modelos, parametros), pathlib.Path(arquivo))


def executa(notebook, modelos: pathlib.Path, parametros: dict) -> dict:
    """Roda as células; devolve as medidas do notebook, segundos por seção, memória e espaço."""
    from nbclient import NotebookClient

    [celula] = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    original = celula.source
    for nome, valor in (parametros | {"MODELOS": str(modelos)}).items():
        celula.source += f"\n{nome} = {valor!r}"
    secao, secoes = "", {}
    for c in notebook.cells:
        titulo = re.match(r"## \d+\. (.*)", c.source)
        secao = titulo[1] if titulo else secao
        c.metadata["secao"] = secao

    def comeca(cell, cell_index):
        secoes[cell.metadata["secao"]] = secoes.get(cell.metadata["secao"], 0) - time.perf_counter()

    def acaba(cell, cell_index, execute_reply):
        secoes[cell.metadata["secao"]] += time.perf_counter()

    inicio = time.perf_counter()
    NotebookClient(
        notebook,
        timeout=None,
        resources={"metadata": {"path": RAIZ}},
        on_cell_execute=comeca,
        on_cell_executed=acaba,
    ).execute()
    segundos = time.perf_counter() - inicio
    for c in notebook.cells:
        del c.metadata["secao"]
    celula.source = original
    medidas = json.loads((modelos / "metricas.json").read_text(encoding="utf-8"))
    medidas["fotos"] = sum(medidas[f"n_{parte}"] for parte in ("treino", "validacao", "teste"))
    medidas["segundos_por_secao"] = {"abrir o Jupyter": segundos - sum(secoes.values())} | secoes
    medidas["segundos_com_o_jupyter"] = segundos
    medidas["pico_mb"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
    return medidas | _espaco(modelos, medidas)


def _grava(medidas: dict, arquivo: pathlib.Path) -> None:
    arquivo.write_text(json.dumps(medidas, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _espaco(modelos: pathlib.Path, medidas: dict) -> dict[str, float]:
    """MB da pasta inteira, e kB de vetores e mapas por foto (as da lição 2 também passam)."""
    licao_2 = sum(r["n"] for faixa, r in medidas["licao_2"].items() if faixa != "[0, 1]")
    total = sum(a.stat().st_size for a in modelos.rglob("*") if a.is_file())
    partes = sum(
        a.stat().st_size for tipo in ("vetores", "mapas") for a in modelos.glob(f"{tipo}-*")
    )
    return {"mb_modelos": total / 1e6, "kb_por_foto": partes / (medidas["fotos"] + licao_2) / 1e3}


def _como_na_tela(saidas: list) -> list:
    """Une os pedaços seguidos do mesmo texto e deixa só o fim de cada barra de progresso."""
    unidas = []
    for saida in saidas:
        anterior = unidas[-1] if unidas else None
        if anterior and saida.output_type == "stream" and saida.get("name") == anterior.get("name"):
            anterior.text += saida.text
        else:
            unidas.append(saida)
    for saida in unidas:
        if saida.output_type == "stream":
            linhas = saida.text.split("\n")
            saida.text = "\n".join(linha.rstrip("\r").rpartition("\r")[2] for linha in linhas)
        if "application/vnd.jupyter.widget-view+json" in saida.get("data", {}):
            saida.data = {"text/plain": "(ao rodar a célula, aqui aparece o botão)"}
    return unidas


def endereco(url: str, raiz: pathlib.Path = RAIZ) -> None:
    """Escreve `url` em REPOSITORIO e, se é do GitHub, põe no README e no notebook o selo do Colab.

    Serve também o que `git remote get-url` devolve, como git@github.com:dono/nome.git.
    """
    url = re.sub(r"^git@([^:]+):", r"https://\1/", url.strip()).removesuffix(".git")
    if not re.match(r"(https|file)://", url):
        sys.exit(f"{url or 'o endereço vazio'} não é um endereço; use REPOSITORIO=https://…")
    arquivo = raiz / NOTEBOOK.name
    notebook = json.loads(arquivo.read_text(encoding="utf-8"))
    for celula in notebook["cells"]:
        if "parameters" in celula["metadata"].get("tags", []):
            troca = [
                re.sub(r'^REPOSITORIO = ".*?"', f'REPOSITORIO = "{url}"', linha)
                for linha in celula["source"]
            ]
            celula["source"] = troca
    selo = _selo(url)
    primeira = notebook["cells"][0]
    primeira["source"] = com_selo("".join(primeira["source"]), selo).splitlines(keepends=True)
    arquivo.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    leiame = raiz / "README.md"
    leiame.write_text(com_selo(leiame.read_text(encoding="utf-8"), selo), encoding="utf-8")
    print(f"REPOSITORIO = {url}. Para o Colab achar esta versão, publique a etiqueta {VERSAO}.")


def _selo(url: str) -> str:
    """O selo do Colab em Markdown; vazio se o endereço não é do GitHub, o único que ele abre."""
    if not url.startswith("https://github.com/"):
        return ""
    caminho = url.removeprefix("https://github.com/")
    colab = f"{COLAB}/github/{caminho}/blob/{VERSAO}/{NOTEBOOK.name}"
    return f"[![Abrir no Colab]({COLAB}/assets/colab-badge.svg)]({colab})"


def com_selo(texto: str, selo: str) -> str:
    """O texto com o selo embaixo do título, no lugar do que houvesse."""
    texto = re.sub(r"\n\n\[!\[Abrir no Colab\].*", "", texto)
    titulo, _, resto = texto.partition("\n")
    return f"{titulo}\n\n{selo}\n{resto}" if selo else f"{titulo}\n{resto}"


def main() -> None:
    if sys.argv[1:2] == ["endereco"]:
        return endereco(*sys.argv[2:])
    if sys.argv[1:2] == ["mede"]:
        return mede(*sys.argv[2:])
    if sys.argv[1:] == ["notebook"]:
        roda_notebook()
    textos.escreve()


if __name__ == "__main__":
    main()
