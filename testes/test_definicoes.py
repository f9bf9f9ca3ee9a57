"""O contrato das células: quem define só define, quem mostra fica fora, e nada disso demora."""

import ast
import json
import subprocess
import sys

from conftest import NOTEBOOK, celulas

PARAMETROS = {"DATASET", "DATA_DIR", "ARQUIVO_ZIP", "MODELOS", "BACKBONE", "MOTOR", "TAMANHO_LOTE", "EPOCAS",
              "EPOCAS_AJUSTE_FINO", "MAX_IMAGENS", "REMOVE_SUSPEITAS", "FOTOS", "EXPORTAR", "SEMENTE"}


def test_a_primeira_celula_de_codigo_traz_os_parametros():
    [parametros] = celulas("parameters")
    assert celulas()[0] == parametros
    assert {alvo.id for no in ast.parse(parametros).body for alvo in no.targets} == PARAMETROS


def test_celula_de_definicoes_so_importa_define_funcoes_e_constantes():
    permitidos = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign)
    for fonte in celulas("definicoes"):
        outros = [ast.unparse(no) for no in ast.parse(fonte).body if not isinstance(no, permitidos)]
        assert all(linha.startswith("os.environ.setdefault(") for linha in outros), outros


def test_celula_que_mostra_nao_define_funcao():
    mostram = set(celulas()) - set(celulas("definicoes"))
    for fonte in mostram:
        arvore = ast.parse(fonte.replace("%pip", "pass  # %pip"))
        assert not [no.name for no in ast.walk(arvore) if isinstance(no, (ast.FunctionDef, ast.ClassDef))]


def test_definicoes_carregam_sozinhas_sem_rede_e_sem_gravar_nada(tmp_path):
    programa = tmp_path / "carrega.py"
    vazia = tmp_path / "vazia"
    vazia.mkdir()
    programa.write_text("import socket\ndef recusa(*a, **k): raise AssertionError('tocou na rede')\n"
                        "socket.socket.connect = socket.getaddrinfo = recusa\n" + "\n".join(celulas("definicoes")), "utf-8")
    subprocess.run([sys.executable, programa], check=True, cwd=vazia, timeout=120)
    assert not list(vazia.iterdir())


def test_nenhuma_celula_passa_de_40_linhas():
    compridas = [fonte.splitlines()[0] for fonte in celulas() if sum(bool(linha.strip()) for linha in fonte.splitlines()) > 40]
    assert not compridas


def test_todo_texto_publico_tem_docstring(nb):
    sem = [nome for nome, objeto in vars(nb).items() if getattr(objeto, "__module__", "") == nb.__name__ and not objeto.__doc__]
    assert not sem


def test_o_notebook_versionado_tem_as_saidas_de_uma_execucao_limpa():
    codigo = [c for c in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in codigo] == list(range(1, len(codigo) + 1))
    for celula in codigo:
        assert all(saida["output_type"] != "error" for saida in celula["outputs"])
        mostra = not {"definicoes", "parameters"} & set(celula["metadata"].get("tags", []))
        assert bool(celula["outputs"]) == mostra, "".join(celula["source"])
        if mostra and "mostra_" in (fonte := "".join(celula["source"])) and "mostra_metricas" not in fonte:
            assert any("image/png" in saida.get("data", {}) for saida in celula["outputs"]), f"figura que não aparece:\n{fonte}"
    texto = json.dumps([c["outputs"] for c in codigo])
    assert "amostra embutida" not in texto.lower(), "as saídas versionadas são das fotos reais"
    assert not [lugar for lugar in ("/home/", "/root/", "/tmp/", f"{NOTEBOOK.parent.parent}/", "C:\\\\") if lugar in texto]
    assert NOTEBOOK.stat().st_size < 3_000_000
