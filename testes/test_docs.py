"""Os textos dizem o que foi medido, apontam para o que existe, e sabe-se que código os mediu."""

import base64
import json
import re
import subprocess
import sys

import nbformat
import pytest
from conftest import NOTEBOOK, RAIZ

import detector
from detector import metricas

sys.path.insert(0, str(RAIZ / "docs"))
import comparacoes
import desempenho
import gera

LEIAME, COMO = (arquivo.read_text("utf-8") for arquivo in gera.TEXTOS)
PAGINAS = {a: a.read_text("utf-8") for a in (RAIZ / "README.md", *sorted(RAIZ.glob("docs/*.md")))}
CELULAS = nbformat.read(NOTEBOOK, 4).cells
MEDIDOS = (*gera.EXECUCOES, "desempenho", "comparacoes", "estranhas")


@pytest.fixture(scope="module")
def medidas():
    return {nome: json.loads((RAIZ / f"docs/{nome}.json").read_text("utf-8")) for nome in MEDIDOS}


# Os números são os medidos


def test_os_numeros_dos_textos_sao_os_dos_json_e_tem_virgula(medidas):
    for texto in (LEIAME, COMO):
        assert gera.com_numeros(texto, medidas) == texto
        for bloco in re.findall(r"<!-- numeros: .*?<!-- /numeros -->", texto, re.DOTALL):
            assert not re.findall(r"\d\.\d(?!\d\d\b)", bloco)
    assert desempenho.pagina(medidas) == PAGINAS[RAIZ / "docs/desempenho.md"]


@pytest.mark.parametrize("bloco", re.findall("<!-- numeros: (.+) -->", LEIAME + COMO))
def test_uma_medida_trocada_por_outra_e_notada(bloco, medidas):
    """Cada número que o bloco mostra vira outro; a precisão e o recall trocam de lugar."""

    def troca(medida):
        if isinstance(medida, dict):
            nomes = {"precisao": "recall", "recall": "precisao"}
            return {nome: troca(medida[nomes.get(nome, nome)]) for nome in medida}
        return medida * 1.1 + 1 if type(medida) in (int, float) else medida

    assert getattr(gera, bloco)(troca(medidas)) != getattr(gera, bloco)(medidas)


def test_cada_medida_fica_na_sua_coluna():
    m = {"acuracia": 0.5, "acuracia_ic95": [0.25, 0.75], "precisao": 0.125, "recall": 0.625}
    m |= {"precisao_0": 0.75, "recall_0": None}
    linha = [8, "0,5000 (0,2500 a 0,7500)", "0,1250 / 0,7500", "0,6250 / indefinida", "0,3750"]
    assert gera.avaliado({"n": 8, "log_loss": 0.375} | m) == linha


def test_as_saidas_gravadas_no_notebook_sao_as_das_medidas(medidas, capsys):
    m, saidas = medidas["metricas"], [s for c in CELULAS for s in c.get("outputs", [])]
    ditas = "".join(saida.get("text", "") for saida in saidas)
    metricas.mostra("Teste", m["teste"], m["classes"])
    assert capsys.readouterr().out in ditas and "\r" not in ditas
    assert "jupyter.widget" not in NOTEBOOK.read_text("utf-8")


# De que código são


@pytest.mark.parametrize("nome", MEDIDOS)
def test_a_medida_e_do_codigo_de_agora(nome, medidas):
    """A que está gravada no notebook tem de ser; as outras, que demoram, ficam à vista."""
    casos = medidas[nome] if nome == "comparacoes" else {nome: medidas[nome]}
    agora = gera.assinatura()["codigo"]
    velhos = [f"{caso} ({m['data']})" for caso, m in casos.items() if m["codigo"] != agora]
    if velhos and nome != "metricas":
        pytest.xfail(f"docs/{nome}.json é de outro código: {', '.join(velhos)}")
    assert not velhos, "as saídas do notebook são de outro código: rode make notebook"


def test_o_codigo_so_muda_quando_muda_o_que_ele_faz(monkeypatch):
    def codigo(celula):
        monkeypatch.setattr(gera, "celulas", lambda: {"uma": celula})
        return gera.assinatura()["codigo"]

    antes = codigo("def f():\n    return [1, 2]")
    assert codigo("def f():  # uma lista\n    return [\n        1,\n        2,\n    ]") == antes
    assert codigo('def f():\n    """Dois."""\n    return [1, 2]') == antes
    assert codigo("def f():\n    return [2, 1]") != antes


# Quem mede


def test_o_notebook_e_rodado_com_os_parametros_pedidos_e_fica_como_era(tmp_path, monkeypatch):
    publica = (
        "import json, numpy as np, pathlib, time\ntime.sleep(0.3)\n"
        "m = dict(n_treino=N, n_validacao=1, n_teste=1, segundos_ate_metrica=2, segundos_total=3)\n"
        "pathlib.Path(MODELOS, 'metricas.json').write_text(json.dumps(m | {'dataset': 'outras'}))\n"
        "np.savez(pathlib.Path(MODELOS, 'vetores-a.npz'), rotulos=[0, 1])"
    )
    celulas = [nbformat.v4.new_markdown_cell("## 1. Um\n\nTexto.\n\n### Lição: dois")]
    for tag, fonte in (("parameters", "N = 1"), ("licao_dois", publica), ("extracao", "MODELOS")):
        celulas.append(nbformat.v4.new_code_cell(fonte, metadata={"tags": [tag]}))
    celulas.insert(1, nbformat.v4.new_markdown_cell("### Lição: dois"))
    monkeypatch.setattr(gera, "NOTEBOOK", tmp_path / "n.ipynb")
    nbformat.write(nbformat.v4.new_notebook(cells=celulas), gera.NOTEBOOK)
    antes = gera.NOTEBOOK.read_bytes()
    gera.main("mede", str(tmp_path / "m.json"), "N=5")
    medido = json.loads((tmp_path / "m.json").read_text("utf-8"))
    assert medido["fotos"] == 7 and medido["codigo"] == gera.assinatura()["codigo"]
    tempos = medido["tempos"]
    assert tempos["Lição: dois"] > 0.3 > tempos["Um"] > tempos["só a célula `extracao`"] > 0
    assert 0.01 < tempos["memória (GB)"] < 1 and medido["kb_por_foto"] > 0
    with pytest.raises(SystemExit, match="nada é gravado"):
        gera.main()
    assert gera.NOTEBOOK.read_bytes() == antes


def test_os_testes_de_duas_divisoes_nao_tem_fotos_em_comum_e_nada_roda_depois(monkeypatch):
    divide = "import pandas\nn = N\ntabela = pandas.DataFrame({'conjunto': ['treino'] * n})\n"
    divide += "tabela.loc[n * 9 // 10 :, 'conjunto'] = 'teste'"
    fontes = {"parameters": "N = 1", "divisao": divide, "lotes": "1 / 0", "decisao": ""}
    fontes |= {"depois": "1 / 0"}
    monkeypatch.setattr(gera, "celulas", lambda: fontes)
    tabelas = [comparacoes.roda(i / 3, None, N=200)["tabela"] for i in range(3)]
    quais = [set(tabela.index[tabela["conjunto"] == "teste"]) for tabela in tabelas]
    assert [len(teste) for teste in quais] == [20, 20, 20] and len(set.union(*quais)) == 60


def test_as_etiquetas_que_os_programas_procuram_estao_no_notebook():
    procuradas = {*comparacoes.PULA, *gera.FIGURAS, "divisao", "decisao", "extracao", "fit_cabeca"}
    assert procuradas <= gera.celulas().keys()


# O que os textos mostram existe


def test_os_enderecos_das_paginas_existem_e_cada_imagem_e_a_que_o_notebook_mostra():
    for pagina, texto in PAGINAS.items():
        for caminho in re.findall(r"\]\(([^)#:]+)\)", texto):
            assert (pagina.parent / caminho).exists(), f"{pagina.name}: {caminho}"
    imagens = {imagem.name: imagem.read_bytes() for imagem in (RAIZ / "imagens").iterdir()}
    assert all(f"imagens/{nome})" in "".join(PAGINAS.values()) for nome in imagens)
    do_navegador = imagens.pop("sessao_visualizacao.png")
    assert do_navegador.startswith(b"\x89PNG")
    de_cada = {gera.FIGURAS.get((c.metadata.get("tags") or [""])[0]): c for c in CELULAS}
    for nome, imagem in imagens.items():
        pngs = [saida.get("data", {}).get("image/png", "") for saida in de_cada[nome].outputs]
        assert imagem in map(base64.b64decode, pngs), nome


def test_o_readme_cabe_numa_leitura_e_a_tabela_de_parametros_e_a_do_notebook():
    assert len(LEIAME.splitlines()) <= 210
    exec(gera.celulas()["parameters"], {}, valores := {})
    tabela = LEIAME.partition("## Parâmetros")[2].partition("\n## ")[0]
    ditos = dict(re.findall(r"^\| `(\w+)` \| `?(.*?)`? \|", tabela, re.MULTILINE))
    assert [*ditos] == [*valores]
    vazios = ("vazio", "nenhum", "todas", "pasta do TFDS", "as que você marcou")
    for nome, valor in valores.items():
        assert ditos[nome] in (vazios if valor in (None, "") else [str(valor)]), nome


def test_as_salas_que_cada_celula_chama_sao_as_que_a_pagina_diz():
    ditas = dict(re.findall(r"^\| `(\w+)` \| (`.*`) \|$", COMO, re.MULTILINE))
    for celula, fonte in gera.celulas().items():
        nomes = re.findall(r"\bdetector\.(\w+)", fonte)
        salas = dict.fromkeys(f"`{detector._ATALHOS.get(nome, nome)}`" for nome in nomes)
        assert ditas.get(celula, "") == ", ".join(salas), celula


def test_cada_sala_so_importa_as_de_niveis_mais_baixos_e_todas_estao_na_tabela():
    linhas = re.findall(r"^\| (\d) \| (`.*`) \|$", COMO, re.MULTILINE)
    nivel = {sala: int(n) for n, salas in linhas for sala in re.findall(r"\w+", salas)}
    fontes = {a.stem: a.read_text("utf-8") for a in (RAIZ / "detector").glob("[!_]*.py")}
    assert nivel.keys() == fontes.keys()
    for sala, fonte in fontes.items():
        importa = re.findall(r"from detector\S* import (?:\([^)]*\)|.*)", fonte)
        for usada in nivel.keys() & set(re.findall(r"\w+", " ".join(importa))):
            assert nivel[usada] < nivel[sala], f"{sala} importa {usada}"


def test_make_ajuda_conta_todos_os_alvos():
    ajuda = subprocess.run(["make", "ajuda"], cwd=RAIZ, capture_output=True, text=True).stdout
    alvos = re.search(r"^\.PHONY: (.*)", (RAIZ / "Makefile").read_text("utf-8"), re.MULTILINE)[1]
    assert sorted(re.findall(r"^make ([a-z-]+) +\S", ajuda, re.MULTILINE)) == sorted(alvos.split())
