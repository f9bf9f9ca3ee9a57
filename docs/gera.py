"""Leva ao repositório o que uma execução mediu, para que nenhum número seja copiado à mão.

    python docs/gera.py notebook   roda o notebook; refaz as saídas dele, imagens/ e metricas.json
    python docs/gera.py            só reescreve os números dos textos, a partir de metricas.json
    python docs/gera.py mede ARQUIVO   roda o notebook sem mudá-lo e grava o que ele mediu
    python docs/gera.py endereco URL   escreve o endereço no notebook, e os selos do Colab

Cada bloco entre `<!-- numeros: NOME -->` e `<!-- /numeros -->` é escrito por uma função daqui.
"""

import json
import pathlib
import re
import resource
import shutil
import sys
import tempfile

RAIZ = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOK = RAIZ / "detector_dogs_cats.ipynb"
METRICAS = RAIZ / "docs/metricas.json"
COLAB = "https://colab.research.google.com"
VERSAO = "v" + re.search(r'__version__ = "(.+)"', (RAIZ / "detector/__init__.py").read_text())[1]
TEXTOS = (RAIZ / "README.md", RAIZ / "docs/como_funciona.md")
FAIXAS = {
    "[0, 1]": "[0, 1], a certa",
    "0–255": "0–255, sem normalizar",
    "[−1, 1]": "[−1, 1], de outra rede",
}


def num(valor: float, casas: int = 4) -> str:
    """O número em português: 0,9900."""
    return f"{valor:.{casas}f}".replace(".", ",")


def _linha(nome: str, m: dict) -> str:
    minimo, maximo = m["acuracia_ic95"]
    acuracia = f"{num(m['acuracia'])} ({num(minimo)} a {num(maximo)})"
    outras = " | ".join(num(m[chave]) for chave in ("precisao", "recall", "log_loss"))
    return f"| {nome} | {m['n']} | {acuracia} | {outras} |"


def _linhas(m: dict) -> list[str]:
    return [
        _linha("**teste**, modelo entregue", m),
        _linha("validação, antes do fine-tuning", m["validacao_congelado"]),
        _linha("validação, depois (ajudou a escolher)", m["validacao"]),
        _linha("validação cruzada, antes do fine-tuning", m["validacao_cruzada"]),
    ]


def resultado(m: dict) -> list[str]:
    """A tabela do começo do README."""
    return [
        "| | fotos | acurácia (intervalo de 95 %) | precisão | recall | log loss |",
        "| --- | --- | --- | --- | --- | --- |",
        *_linhas(m),
        "",
        f"Quem diz sempre a classe mais comum do treino acerta {num(m['linha_de_base'])} no "
        f"teste. O fine-tuning foi {m['ajuste_fino']}, com {num(100 * m['parte_nova'], 0)} % de "
        f"pesos novos. Recusados como «nenhum dos dois»: {m['recusadas_teste']} dos "
        f"{m['n_teste']} gatos e cachorros do teste, e {m['outras_coisas_recusadas']} de 6 imagens "
        "de outras coisas.",
    ]


def vinte_mil(_: dict) -> list[str]:
    """A mesma tabela, com as 20.000 fotos pequenas de docs/metricas_20000.json."""
    m = json.loads(METRICAS.with_name("metricas_20000.json").read_text(encoding="utf-8"))
    return [
        f"| **20.000 fotos pequenas** (treino: {m['n_treino']}) | fotos | acurácia (intervalo de "
        "95 %) | precisão | recall | log loss |",
        "| --- | --- | --- | --- | --- | --- |",
        *_linhas(m),
        "",
        f"Recusados: {m['recusadas_teste']} dos {m['n_teste']} gatos e cachorros do teste. A "
        f"execução inteira levou {num(m['segundos_total'], 0)} s, e a memória chegou a "
        f"{num(m['pico_mb'] / 1000, 1)} GB.",
    ]


def tempo(m: dict) -> list[str]:
    """Quanto demora, no README."""
    n = m["n_treino"] + m["n_validacao"] + m["n_teste"]
    return [
        f"Nessa execução, com {n} fotos: {num(m['segundos_ate_metrica'], 0)} s até a primeira "
        f"acurácia, {num(m['segundos_total'], 0)} s até a última célula, e no máximo "
        f"{num(m['pico_mb'] / 1000, 1)} GB de memória. O motor foi o `{m['motor']}`.",
    ]


def licao2(m: dict) -> list[str]:
    """A tabela da segunda lição."""
    linhas = [
        "| pixels que chegam à rede | acurácia (intervalo de 95 %) | log loss |",
        "| --- | --- | --- |",
    ]
    for faixa, r in m["licao_2"].items():
        acuracia = "{} ({} a {})".format(num(r["acuracia"]), *map(num, r["acuracia_ic95"]))
        linhas.append(f"| {FAIXAS[faixa]} | {acuracia} | {num(r['log_loss'])} |")
    return linhas


def licao3(m: dict) -> list[str]:
    """Os segundos da terceira lição."""
    epoca, extracao = m["segundos_epoca_comum"], m["segundos_extracao"]
    return [
        f"Nessa execução, uma época comum levaria {num(epoca, 0)} s só para ir pela rede, e dez "
        f"épocas, {num(10 * epoca, 0)} s. Passar cada foto uma vez levou {num(extracao, 0)} s."
    ]


def disco(m: dict) -> list[str]:
    """Quanto ocupa a pasta de modelos."""
    n = m["n_treino"] + m["n_validacao"] + m["n_teste"]
    inteiro = m["kb_por_foto"] * 23262 / 1000
    return [
        f"**Espaço**: com {n} fotos, a pasta inteira ocupou {num(m['mb_modelos'], 0)} MB. Vetores "
        f"e mapas ocupam {num(m['kb_por_foto'], 1)} kB por foto; com as 23.262 do dataset inteiro, "
        f"a conta dá {num(inteiro, 0)} MB.",
    ]


def com_numeros(texto: str, medidas: dict) -> str:
    """O texto com todos os blocos refeitos."""

    def refaz(bloco: re.Match) -> str:
        linhas = globals()[bloco[1]](medidas)
        return "\n".join([f"<!-- numeros: {bloco[1]} -->", *linhas, "<!-- /numeros -->"])

    return re.sub(r"<!-- numeros: (\w+) -->.*?<!-- /numeros -->", refaz, texto, flags=re.DOTALL)


def roda_notebook() -> None:
    """Roda o notebook e grava nele as saídas, como o Jupyter faria; refaz imagens/ e as medidas."""
    import nbformat

    notebook = nbformat.read(NOTEBOOK, 4)
    with tempfile.TemporaryDirectory() as modelos:
        _executa(notebook, pathlib.Path(modelos), METRICAS)
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


def mede(arquivo: str) -> None:
    """Roda o notebook, sem mudar nada nele, e grava em `arquivo` o que ele mediu."""
    import nbformat

    with tempfile.TemporaryDirectory() as modelos:
        _executa(nbformat.read(NOTEBOOK, 4), pathlib.Path(modelos), pathlib.Path(arquivo))


def _executa(notebook, modelos: pathlib.Path, arquivo: pathlib.Path) -> None:
    """Roda as células, com MODELOS numa pasta vazia, e grava as medidas, a memória e o espaço."""
    from nbclient import NotebookClient

    [parametros] = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    original = parametros.source
    parametros.source += f"\nMODELOS = {str(modelos)!r}"
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": RAIZ}}).execute()
    parametros.source = original
    medidas = json.loads((modelos / "metricas.json").read_text(encoding="utf-8"))
    medidas |= _espaco(modelos, medidas)
    medidas["pico_mb"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
    arquivo.write_text(json.dumps(medidas, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _espaco(modelos: pathlib.Path, medidas: dict) -> dict[str, float]:
    """MB da pasta inteira, e kB de vetores e mapas por foto (as da lição 2 também passam)."""
    fotos = sum(medidas[f"n_{parte}"] for parte in ("treino", "validacao", "teste"))
    fotos += sum(r["n"] for faixa, r in medidas["licao_2"].items() if faixa != "[0, 1]")
    total = sum(a.stat().st_size for a in modelos.rglob("*") if a.is_file())
    partes = sum(
        a.stat().st_size for tipo in ("vetores", "mapas") for a in modelos.glob(f"{tipo}-*")
    )
    return {"mb_modelos": total / 1e6, "kb_por_foto": partes / fotos / 1e3}


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
    medidas = json.loads(METRICAS.read_text(encoding="utf-8"))
    for arquivo in TEXTOS:
        arquivo.write_text(com_numeros(arquivo.read_text(encoding="utf-8"), medidas), "utf-8")


if __name__ == "__main__":
    main()
