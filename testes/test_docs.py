"""Os textos dizem o que foi medido, e o que eles mandam fazer funciona."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import NOTEBOOK, RAIZ

sys.path.insert(0, str(RAIZ / "docs"))
import gera
import textos


@pytest.fixture
def medidas():
    return textos.medidas()


@pytest.mark.parametrize("texto", textos.TEXTOS, ids=lambda caminho: caminho.name)
def test_os_numeros_sao_os_da_execucao_gravada(texto, medidas):
    """E trocar precisão e recall, ou a acurácia por outra, seria visto."""
    escrito = texto.read_text(encoding="utf-8")
    assert "<!-- numeros:" in escrito
    assert textos.com_numeros(escrito, medidas) == escrito


def test_uma_medida_trocada_por_outra_muda_o_readme(medidas):
    escrito = (RAIZ / "README.md").read_text(encoding="utf-8")
    gravada = medidas["metricas"]
    assert gravada["precisao"] != gravada["recall"]
    trocadas = gravada | {"precisao": gravada["recall"], "recall": gravada["precisao"]}
    trocadas = medidas | {"metricas": trocadas}
    assert textos.com_numeros(escrito, trocadas) != escrito


def test_as_metricas_gravadas_sao_as_das_saidas_do_notebook(medidas):
    medidas = medidas["metricas"]
    celulas = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    ditas = "".join(
        "".join(saida.get("text", "")) for c in celulas for saida in c.get("outputs", [])
    )
    linha = (
        "Teste ({n} fotos): acurácia {acuracia:.4f} · precisão {precisao:.4f} · recall {recall:.4f}"
    )
    assert linha.format(**medidas) in ditas
    assert f'BACKBONE = "{medidas["backbone"]}"' in "".join(
        "".join(c["source"]) for c in celulas if c["cell_type"] == "code"
    )
    assert f"motor {medidas['motor']}, corte {medidas['corte']}" in ditas


def test_o_readme_cabe_numa_leitura_e_os_caminhos_dele_existem():
    readme = (RAIZ / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 200
    for texto in textos.TEXTOS:
        for caminho in re.findall(r"\]\(([^)#:]+)\)", texto.read_text(encoding="utf-8")):
            assert (texto.parent / caminho).exists(), f"{texto.name}: {caminho}"
    for modulo in re.findall(r"`(?:detector/)?(\w+\.py)`", readme):
        assert (RAIZ / "detector" / modulo).is_file(), modulo


def test_cada_sala_so_importa_as_de_niveis_mais_baixos():
    """E todas estão na tabela: a página diz como as peças se encaixam de verdade."""
    pagina = (RAIZ / "docs/como_funciona.md").read_text(encoding="utf-8")
    linhas = re.findall(r"^\| (\d) \| (`.*`) \|$", pagina, re.M)
    nivel = {sala: int(n) for n, salas in linhas for sala in re.findall(r"`(\w+)`", salas)}
    arquivos = {a.stem: a for a in (RAIZ / "detector").glob("*.py") if a.stem != "__init__"}
    assert nivel.keys() == arquivos.keys()
    for sala, arquivo in arquivos.items():
        texto = arquivo.read_text(encoding="utf-8")
        usadas = re.findall(r"^ *from detector\.(\w+) import", texto, re.M)
        usadas += re.split(
            r"\W+", " ".join(re.findall(r"^ *from detector import (.*)", texto, re.M))
        )
        for usada in nivel.keys() & set(usadas):
            assert nivel[usada] < nivel[sala], f"{sala} importa {usada}"


def test_os_parametros_do_readme_sao_os_do_notebook():
    celulas = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    [fonte] = ["".join(c["source"]) for c in celulas if c["metadata"].get("tags")]
    readme = (RAIZ / "README.md").read_text(encoding="utf-8")
    tabela = readme.partition("## Parâmetros")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", tabela, re.M) == re.findall(r"^(\w+) = ", fonte, re.M)


def test_make_ajuda_conta_todos_os_alvos():
    ajuda = subprocess.run(["make", "ajuda"], cwd=RAIZ, capture_output=True, text=True).stdout
    makefile = (RAIZ / "Makefile").read_text(encoding="utf-8")
    [alvos] = re.findall(r"^\.PHONY: (.*)", makefile, re.M)
    assert sorted(re.findall(r"^make ([a-z-]+) +\S", ajuda, re.M)) == sorted(alvos.split())


def test_o_endereco_entra_no_notebook_e_nos_selos_e_nao_se_repete(tmp_path):
    """Até lá, nenhum selo leva a lugar nenhum."""
    for nome in ("README.md", NOTEBOOK.name):
        shutil.copy(RAIZ / nome, tmp_path)
        assert "Abrir no Colab" not in (tmp_path / nome).read_text(encoding="utf-8")
    for _ in range(2):
        gera.endereco("git@github.com:ana/gatos.git", tmp_path)
    for nome in ("README.md", NOTEBOOK.name):
        texto = (tmp_path / nome).read_text(encoding="utf-8")
        assert texto.count("Abrir no Colab") == 1
        assert f"/github/ana/gatos/blob/{gera.VERSAO}/{NOTEBOOK.name}" in texto
    assert r"REPOSITORIO = \"https://github.com/ana/gatos\"" in texto


def test_um_endereco_que_nao_e_endereco_e_recusado(tmp_path):
    with pytest.raises(SystemExit, match="não é um endereço"):
        gera.endereco("", tmp_path)
