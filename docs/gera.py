"""Leva aos textos o que o notebook mediu: cada bloco deles é da função de mesmo nome, aqui.

python docs/gera.py         roda o notebook, com as 2.000 fotos reais em TFDS_DATA_DIR; refaz tudo
python docs/gera.py textos  só reescreve os textos e imagens/, com o que há em docs/*.json
python docs/gera.py mede ARQUIVO [PARÂMETRO=VALOR…]  só roda o notebook e grava o que ele mediu
"""

import ast
import base64
import json
import pathlib
import re
import sys
import tempfile
import time

import nbformat
import numpy as np
import pandas as pd
from nbclient import NotebookClient

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from detector.arquivos import codigo_do_pacote, digesto
from detector.metricas import intervalo, num

RAIZ = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOK = RAIZ / "detector_dogs_cats.ipynb"
TEXTOS = (RAIZ / "README.md", RAIZ / "docs/como_funciona.md")
EXECUCOES = {
    "metricas": "2.000 reais",
    "metricas_20000": "20.000 pequenas",
    "metricas_amostra": "amostra, miniaturas",
}
AVALIA = (  # os títulos das colunas de `avaliado`
    "avaliadas",
    "acurácia (intervalo de 95 %)",
    "precisão (classe 1 / classe 0)",
    "recall (1 / 0)",
    "log loss",
)
FIGURAS = {  # da etiqueta da célula ao arquivo, em imagens/
    "exemplos": "visualizacao_de_exemplos_do_dataset.png",
    "onde_olhou": "onde_olhou.png",
    "outras_coisas": "nem_gato_nem_cachorro.png",
}
VAZIOS = r", \w+=\[\]|\w+=\[\](, )?"  # do ast.dump; o de um Python mais novo não os mostra
MEMORIA = "print(*open('/proc/self/status'))"  # o ru_maxrss herdaria o de quem abriu o kernel


def executa(modelos: str, **parametros: object) -> tuple[nbformat.NotebookNode, dict]:
    """Uma cópia do notebook, rodada, e o que ela mediu, com os tempos, a memória e o disco."""
    notebook, assinado = nbformat.read(NOTEBOOK, 4), assinatura()
    [celula] = [c for c in notebook.cells if c.metadata.get("tags") == ["parameters"]]
    original = celula.source
    for nome, valor in (parametros | {"MODELOS": modelos}).items():
        celula.source += f"\n{nome} = {valor!r}"
    notebook.cells.append(nbformat.v4.new_code_cell(MEMORIA))
    NotebookClient(notebook, timeout=None, coalesce_streams=True).execute(cwd=RAIZ)
    celula.source = original
    [pico] = re.findall(r"VmHWM: *\t *(\d+) kB", notebook.cells.pop().outputs[0].text)
    pasta = pathlib.Path(modelos)
    m = json.loads((pasta / "metricas.json").read_text("utf-8")) | assinado
    parte = next(pasta.glob("vetores-*"))
    m["fotos"] = m["n_treino"] + m["n_validacao"] + m["n_teste"]
    m["mb_modelos"] = sum(a.stat().st_size for a in pasta.iterdir()) / 1e6
    m["kb_por_foto"] = parte.stat().st_size / len(np.load(parte)["rotulos"]) / 1000
    m["tempos"] = segundos(notebook.cells) | {
        "até a primeira acurácia (s)": m["segundos_ate_metrica"],
        "até a última célula (s)": m["segundos_total"],
        "memória (GB)": int(pico) * 1024 / 1e9,
    }
    return notebook, m


def segundos(celulas: list) -> dict[str, float]:
    """Quanto levou cada seção, cada lição (que não conta na seção em que está) e duas células."""
    titulos, tempos = {}, {}
    for celula in celulas:
        if titulo := re.match(r"(##+) (?:\d+\. )?(.+)", celula.source):
            titulos[titulo[1]] = titulo[2]
        if quando := celula.metadata.pop("execution", None):
            nome, fim = celula.metadata.tags[0], pd.Timestamp(quando["shell.execute_reply"])
            demora = (fim - pd.Timestamp(quando["iopub.execute_input"])).total_seconds()
            secao = titulos["###" if nome.startswith("licao") else "##"]
            tempos[secao] = tempos.get(secao, 0) + demora
            if nome in ("extracao", "fit_cabeca"):
                tempos[f"só a célula `{nome}`"] = demora
    return tempos


def assinatura() -> dict[str, str]:
    """O dia, e um resumo das células e do pacote, que só muda quando muda o que eles fazem."""
    fontes = *celulas().values(), *codigo_do_pacote().values()
    arvores = [ast.parse(fonte) for fonte in fontes]
    for arvore in arvores:
        for no in ast.walk(arvore):
            tem_texto = isinstance(no, ast.Module | ast.ClassDef | ast.FunctionDef)
            if tem_texto and ast.get_docstring(no):
                del no.body[0]
    formas = [re.sub(VAZIOS, "", ast.dump(arvore)) for arvore in arvores]
    return {"codigo": digesto(formas), "data": time.strftime("%d/%m/%Y")}


def celulas() -> dict[str, str]:
    """O código de cada célula do notebook, pela etiqueta, menos o da que instala no Colab."""
    codigo = [c for c in nbformat.read(NOTEBOOK, 4).cells if c.cell_type == "code"]
    return {c.metadata.tags[0]: c.source for c in codigo if c.metadata.tags != ["colab"]}


def tabela(*linhas: tuple) -> str:
    """Uma tabela em Markdown; a primeira linha é o cabeçalho."""
    titulos, *resto = (f"| {' | '.join(map(str, linha))} |" for linha in linhas)
    return "\n".join([titulos, "|" + " --- |" * len(linhas[0]), *resto])


def quadro(colunas: dict[str, dict[str, float]], linhas: tuple[str, ...] = ()) -> str:
    """A tabela de um dict de colunas, cada uma um dict de números; de todos, ou só de `linhas`."""
    linhas = linhas or next(iter(colunas.values()))
    numeros = [[nome, *[num(c[nome], 1) for c in colunas.values()]] for nome in linhas]
    return tabela(("", *colunas), *numeros)


def faixa(m: dict, medida: str, sinal: bool = False) -> str:
    """Uma medida e, entre parênteses, o intervalo de 95 % dela."""
    return f"{num(m[medida], sinal=sinal)} ({ate(m[f'{medida}_ic95'], sinal)})"


def ate(intervalo_95: list[float], sinal: bool = False) -> str:
    return " a ".join(num(valor, sinal=sinal) for valor in intervalo_95)


def avaliado(m: dict) -> list:
    """As colunas AVALIA, do que `metricas.avalia` devolve."""
    precisoes = f"{num(m['precisao'])} / {num(m['precisao_0'])}"
    recalls = f"{num(m['recall'])} / {num(m['recall_0'])}"
    return [m["n"], faixa(m, "acuracia"), precisoes, recalls, num(m["log_loss"])]


def resultado(m: dict) -> str:
    linhas, notas = [("", *AVALIA)], []
    for nome, fotos in EXECUCOES.items():
        v = m[nome]
        linhas.append((f"**{fotos}: teste**", *avaliado(v["teste"])))
        linhas.append(("teste, congelado", *avaliado(v["teste_congelado"])))
        linhas.append(("validação cruzada, congelado", *avaliado(v["validacao_cruzada"])))
        notas.append(f"{v['motor']}, {v['codigo']}, {v['data']}")
    return f"{tabela(*linhas)}\n\nO motor, o código e o dia de cada uma: {'; '.join(notas)}."


def escolhas(m: dict) -> str:
    itens = []
    for nome, fotos in EXECUCOES.items():
        v = m[nome]
        recusadas, n_teste = v["recusadas_teste"], v["n_teste"]
        itens.append(
            f"- **{fotos}**: dizer sempre «{v['quem_diz_sempre']}» acertaria {num(v['acerta'])} do "
            f"teste. Fine-tuning {v['ajuste_fino']}: na validação, a log loss muda "
            f"{faixa(v['validacao_fine_tuning'], 'log_loss', sinal=True)}. «Nenhum dos dois»: "
            f"{recusadas} dos {n_teste} gatos e cachorros do teste "
            f"({ate(intervalo(recusadas, n_teste))}). Com cópia no treino: {v['copias_no_treino']}."
        )
    return "\n".join(itens)


def estranhas(m: dict) -> str:
    titulos = "fotos", "quantas", "recusadas (intervalo de 95 %)", "certas", "trocadas ou aceitas"
    linhas = [(*titulos, "a rede sozinha, sem recusar, trocaria")]
    for nome, v in m["estranhas"]["fotos"].items():
        recusadas = f"{v['recusadas']} ({ate(v['recusadas_ic95'])})"
        outras = ["–" if v[qual] is None else v[qual] for qual in ("certas", "trocadas", "sozinha")]
        linhas.append((nome, v["fotos"], recusadas, *outras))
    return tabela(*linhas)


def tempo(m: dict) -> str:
    colunas = {fotos: m[nome]["tempos"] for nome, fotos in EXECUCOES.items()}
    colunas["2.000 reais, segunda sessão"] = m["desempenho"]["sessoes"]["segunda"]
    linhas = ("até a primeira acurácia (s)", "até a última célula (s)", "memória (GB)")
    return quadro(colunas, linhas)


def licao_normalizacao(m: dict) -> str:
    v = m["metricas"]
    return tabela(
        ("pixels que chegam à rede", *AVALIA),
        ("[0, 1], a certa", *avaliado(v["pixels_em_0_1_a_certa"])),
        ("0–255, sem normalizar", *avaliado(v["pixels_em_0_a_255"])),
        ("[−1, 1], normalizados duas vezes", *avaliado(v["pixels_em_1_1"])),
    )


def licao_horas(m: dict) -> str:
    motor, tempos = m["metricas"]["motor"], m["desempenho"]["passagens"]["segundos"]
    p, extracao, f32 = (
        tempos["Model.predict"],
        tempos[f"{motor}, tudo"],
        tempos["openvino-f32, tudo"],
    )
    fit = m["desempenho"]["sessoes"]["primeira"]["só a célula `fit_cabeca`"]
    return (
        f"Passar as 2.000 fotos pela rede com `Model.predict` leva {num(p, 0)} s. A extração, com "
        f"`{motor}` e contando converter e montar a rede, leva {num(extracao, 0)} s: "
        f"{num(p / extracao, 1)} vezes menos. Com `openvino-f32`, o de quem não tem bfloat16, são "
        f"{num(f32, 0)} s nesta mesma máquina: {num(p / f32, 1)} vezes. E isso uma vez só: um "
        f"treino comum passa as fotos de treino e validação de novo a cada época, e as 20 da "
        f"cabeça seriam {num(20 * 0.9 * p / 60, 0)} minutos, só de ida (conta, não medida: 20 × "
        f"90 % de {num(p, 0)} s). Aqui, o `fit` leva {num(fit, 1)} s."
    )


def ganho(m: dict, menos: tuple = ("congelado", "candidato", "controle")) -> str:
    linhas = [("fotos", "modelo", *AVALIA, "muda a log loss (intervalo de 95 %); acertos + e −")]
    for fotos, v in m["comparacoes"].items():
        if menos and "amostra" in fotos:  # no README, só as fotos de verdade
            continue
        dito = "sem fine-tuning"
        if "candidato" in v["modelos"]:
            aceitos = sum(divisao["aceito"] for divisao in v["divisoes"])
            dito = f"fine-tuning aceito em {aceitos} de {len(v['divisoes'])} divisões"
        if "2.000" in fotos:
            dito += f"; extração em {num(v['segundos_extracao'], 0)} s, fora montar a rede"
        for modelo, medidas in v["modelos"].items():
            if modelo not in menos:
                linha = (f"{fotos} ({dito})", modelo, *avaliado(medidas), mudou(medidas["muda"]))
                linhas.append(linha)
    return (
        f"{tabela(*linhas)}\n\nCada modelo é comparado com o congelado das mesmas fotos; – é o "
        "próprio. Os testes das divisões não têm fotos em comum. Os treinos têm, e os intervalos, "
        "que não contam isso, podem ser estreitos demais."
    )


def mudou(muda: dict) -> str:
    """O que `metricas.compara` devolveu; um traço, se é o mesmo modelo."""
    if not muda["log_loss"]:
        return "–"
    quanto = faixa(muda, "log_loss", sinal=True)
    return f"{quanto}; {muda['passou_a_acertar']} e {muda['passou_a_errar']}"


def disco(m: dict) -> str:
    v = m["metricas"]
    return (
        f"**Espaço**: {v['fotos']} fotos deixaram {num(v['mb_modelos'], 0)} MB na pasta. O vetor e "
        f"o mapa são {num(v['kb_por_foto'], 1)} kB por foto; com as 23.262 do dataset inteiro, a "
        f"conta dá {num(v['kb_por_foto'] * 23.262, 0)} MB."
    )


def com_numeros(texto: str, m: dict[str, dict]) -> str:
    """O texto com todos os blocos refeitos."""
    bloco = r"(<!-- numeros: (\w+) -->\n).*?(?=<!-- /numeros -->)"
    return re.sub(bloco, lambda b: f"{b[1]}{globals()[b[2]](m)}\n", texto, flags=re.DOTALL)


def escreve() -> None:
    """Refaz os números dos textos e, em imagens/, as figuras do notebook que o README mostra."""
    import desempenho  # só aqui, porque ele usa este módulo

    m = {a.stem: json.loads(a.read_text("utf-8")) for a in RAIZ.glob("docs/*.json")}
    (RAIZ / "docs/desempenho.md").write_text(desempenho.pagina(m), "utf-8")
    for arquivo in TEXTOS:
        arquivo.write_text(com_numeros(arquivo.read_text("utf-8"), m), "utf-8")
    for celula in nbformat.read(NOTEBOOK, 4).cells:
        for saida in celula.get("outputs", []):
            nome = FIGURAS.get(celula.metadata.tags[0])
            if nome and "image/png" in saida.get("data", {}):
                (RAIZ / "imagens" / nome).write_bytes(base64.b64decode(saida.data["image/png"]))


def grava(medidas: dict, arquivo: pathlib.Path) -> None:
    arquivo.write_text(json.dumps(medidas, indent=1, ensure_ascii=False) + "\n", "utf-8")


def main(comando: str = "", arquivo: str = "", *opcoes: str) -> None:
    if comando == "textos":
        return escreve()
    if comando not in ("", "mede"):
        sys.exit(__doc__)
    pares = (opcao.split("=", 1) for opcao in opcoes)
    parametros = {nome: int(valor) if valor.isdigit() else valor for nome, valor in pares}
    with tempfile.TemporaryDirectory() as modelos:
        notebook, medidas = executa(modelos, **parametros)
    if comando == "mede":
        return grava(medidas, pathlib.Path(arquivo))
    if (medidas["dataset"].partition("/")[0], medidas["fotos"]) != ("cats_vs_dogs", 2000):
        sys.exit("os textos falam das 2.000 fotos reais; com outras, nada é gravado.")
    for celula in notebook.cells:
        for saida in celula.get("outputs", []):
            botoes = saida.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
            if botoes and "image/png" not in saida.data:
                saida.data = {"text/plain": "(ao rodar a célula, aqui aparece o botão)"}
    notebook.metadata = nbformat.read(NOTEBOOK, 4).metadata  # sem a versão do Python nem o botão
    nbformat.write(notebook, NOTEBOOK)
    grava(medidas, RAIZ / "docs/metricas.json")
    escreve()


if __name__ == "__main__":
    main(*sys.argv[1:])
