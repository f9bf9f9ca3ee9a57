"""O que `make` faz antes de rodar qualquer coisa: escolhe o Python, cria o ambiente e o refaz."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import RAIZ

# Um Python que diz ser de outra versão, e que cria ambientes depressa porque não põe o pip neles.
IMITA = """#!/bin/sh
case "$1" in
-c) exec {python} -c "import sys; sys.version_info = {versao}; exec(sys.argv[1])" "$2" ;;
-m) exec {python} "$@" --without-pip ;;
esac
"""
PYTHONS = ("python3", "python3.10", "python3.11", "python3.12", "python3.13")


@pytest.fixture
def projeto(tmp_path):
    """Uma pasta com o Makefile e nada a instalar."""
    pasta = tmp_path / "projeto"
    pasta.mkdir()
    shutil.copy(RAIZ / "Makefile", pasta)
    (pasta / "requirements.txt").touch()
    return pasta


def make(projeto, pythons, *opcoes):
    """Roda `make` onde só há os Pythons dados, {nome: versão}; devolve o código e o que disse."""
    bin_ = projeto.parent / "bin"
    bin_.mkdir(exist_ok=True)
    for nome in {*PYTHONS, *pythons}:
        imitado = IMITA.format(python=sys._base_executable, versao=pythons.get(nome))
        (bin_ / nome).write_text(imitado if nome in pythons else "#!/bin/sh\nexit 127\n")
        (bin_ / nome).chmod(0o755)
    ambiente = {"PATH": f"{bin_}:{os.environ['PATH']}"}
    ambiente |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    saida = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    processo = subprocess.run(["make", *opcoes], cwd=projeto, env=ambiente, timeout=120, **saida)
    return processo.returncode, processo.stdout


@pytest.mark.parametrize(
    ("pythons", "frase"),
    [
        ({"python3.14": (3, 14)}, "Instale um e rode: make PYTHON=python3.12"),
        ({"python3.14": (3, 14), "python3.11": (3, 11)}, "Use o que há: make PYTHON=python3.11"),
    ],
)
def test_um_python_que_nao_serve_e_recusado_antes_de_instalar(projeto, pythons, frase):
    codigo, dito = make(projeto, {"python3": (3, 9)} | pythons, "PYTHON=python3.14")
    recusa = "É preciso Python de 3.10 a 3.13, e python3.14 é o 3.14. "
    assert codigo and dito.startswith(f"{recusa}{frase}\n")
    assert not list(projeto.glob(".venv*"))


def test_se_python3_nao_serve_e_outro_serve_usa_o_outro_e_diz(projeto):
    frase = "O python3 daqui não serve (é preciso de 3.10 a 3.13): uso o python3.12.\n"
    pythons = {"python3": (3, 14), "python3.12": (3, 12)}
    assert make(projeto, pythons, ".venv/feito") == (0, frase)


def test_um_ambiente_que_mudou_de_pasta_ou_ficou_sem_python_e_refeito_e_o_que_serve_fica(projeto):
    pede = {"python3": (3, 11)}, ".venv/feito"
    assert make(projeto, *pede) == (0, "")
    (projeto / ".venv/instalado").touch()
    assert "refazê-lo" not in make(projeto, *pede)[1]
    outra = projeto.rename(projeto.parent / "outra pasta")
    assert (outra / ".venv/instalado").exists()
    refeito = ".venv ficou pela metade, mudou de pasta ou perdeu o Python dele: vou refazê-lo.\n"
    assert make(outra, *pede) == (0, refeito)
    assert not (outra / ".venv/instalado").exists()
    (outra / ".venv/bin/python").unlink()
    assert make(outra, *pede) == (0, refeito)


def test_sem_o_uv_instala_com_o_pip_e_diz(projeto):
    """E nada mais é dito: nem o uv nem o pip aparecem com as frases deles, em inglês."""
    assert make(projeto, {}, f"PYTHON={sys.executable}", "VENV=.venv", ".venv/pronto") == (
        0,
        "Instalando em .venv o que está em requirements.txt…\n"
        "O uv não serviu aqui: instalo com o pip, em alguns minutos.\n",
    )
    assert (projeto / ".venv/pronto").exists()


def test_limpar_cache_apaga_o_que_se_refaz_e_nada_que_seja_da_pessoa(projeto):
    resumo, modelos = "0123456789ab", projeto / "modelos"
    (modelos / ".nova-7").mkdir(parents=True)
    saem = [f"motor-{resumo}.npz", f"vetores-{resumo}-000500.npz", f"meu_treino-{resumo}-003.npz"]
    saem += [".incompleto-7-x", "topo-antigo.dados"]
    ficam = {"classificador.npz", "fotos_fora.csv", "vetores-meus.npz", "ajuste-fino.odt"}
    for nome in (*saem, *ficam):
        (modelos / nome).touch()
    assert make(projeto, {"python3": (3, 11)}, "limpar-cache")[0] == 0
    assert {arquivo.name for arquivo in modelos.iterdir()} == ficam
