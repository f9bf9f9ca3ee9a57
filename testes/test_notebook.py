"""O notebook inteiro, pelo papermill, como a pessoa o roda: sem rede, de novo, interrompido, com fotos reais."""

import json
import os
import re
import subprocess
import sys

import leiame
import numpy as np
import pytest
from conftest import NOTEBOOK, RAIZ, executa, resultados, saidas
from PIL import Image

CONTRATO = {"dataset", "n_treino", "n_validacao", "n_teste", "acuracia", "precisao", "recall", "log_loss",
            "imagens_extraidas", "segundos_extracao", "segundos_total"}


@pytest.fixture(scope="module")
def na_amostra(tmp_path_factory):
    """Uma execução completa sem rede e sem dados: cai na amostra."""
    pasta = tmp_path_factory.mktemp("amostra")
    processo, metricas = executa(pasta, EXPORTAR=True)
    assert processo.returncode == 0, processo.stderr[-3000:]
    return pasta, metricas


def test_sem_rede_e_sem_dados_o_notebook_roda_inteiro_na_amostra(na_amostra):
    pasta, metricas = na_amostra
    assert CONTRATO <= set(metricas)
    assert metricas["acuracia"] >= 0.86
    assert (metricas["n_treino"], metricas["n_validacao"], metricas["n_teste"]) == (1600, 200, 200)
    assert metricas["imagens_extraidas"] == 2000
    texto = saidas(pasta / "executado.ipynb")
    assert "AMOSTRA EMBUTIDA" in texto
    for esperado in ("Acurácia: ", "Precisão: ", "Recall: ", "IC 95 %", "Log loss: ", "era cachorro", "classe mais comum"):
        assert esperado in texto


def test_as_tres_licoes_acontecem_de_verdade(na_amostra):
    pasta, metricas = na_amostra
    texto = saidas(pasta / "executado.ipynb")
    assert "uma foto: (224, 224, 3)\n  ValueError" in texto and "(32, 224, 224, 3) → características (32, 1280)" in texto
    certa, sem_normalizar, de_outra_rede = (r["val_log_loss"] for r in metricas["licao_2"].values())
    assert certa < de_outra_rede < sem_normalizar
    assert "dez épocas, " in texto and "na próxima sessão, nenhuma" in texto


def test_as_figuras_sao_gravadas(na_amostra):
    pasta, _ = na_amostra
    for nome in ("visualizacao_de_exemplos_do_dataset", "curvas_de_treino", "confusao_e_calibracao", "erros_mais_convictos",
                 "onde_olhou", "nem_gato_nem_cachorro"):
        figura = (pasta / f"imagens/{nome}.png").read_bytes()
        assert figura.startswith(b"\x89PNG") and 5_000 < len(figura) < 500_000


def test_a_segunda_execucao_nao_extrai_nada_e_da_os_mesmos_numeros(na_amostra):
    pasta, antes = na_amostra
    processo, depois = executa(pasta)
    assert processo.returncode == 0, processo.stderr[-3000:]
    assert depois["imagens_extraidas"] == 0 and resultados(antes) == resultados(depois)
    assert depois["segundos_extracao"] == 0


def test_o_modelo_gravado_funciona_sem_o_notebook(na_amostra, nb, amostra, tmp_path):
    """Um processo que só importa keras lê o .keras e dá as probabilidades que o notebook deu."""
    pasta, metricas = na_amostra
    fotos, rotulos = (np.stack(t) for t in zip(*nb.le_fotos(amostra, (1800, 2000)).map(nb.prepara).as_numpy_iterator()))
    np.save(tmp_path / "fotos.npy", fotos)
    programa = ("import keras, numpy as np\n"
                f"m = keras.models.load_model({str(pasta / 'modelos/detector_dogs_cats.keras')!r}, safe_mode=True)\n"
                "assert m.input_shape == (None, 224, 224, 3) and m.output_shape == (None, 1)\n"
                "np.save('p.npy', m.predict(np.load('fotos.npy'), verbose=0))\n")
    subprocess.run([sys.executable, "-c", programa], cwd=tmp_path, check=True)
    p = np.load(tmp_path / "p.npy")[:, 0]
    assert nb.avalia(rotulos, p)["confusao"] == metricas["confusao"]
    assert nb.avalia(rotulos, p)["log_loss"] == pytest.approx(metricas["log_loss"], abs=1e-5)


def test_erro_do_usuario_aparece_numa_frase_so(tmp_path):
    processo, metricas = executa(tmp_path, DATASET="amostra", BACKBONE="ResNet9000")
    assert processo.returncode != 0 and metricas is None
    executado = json.loads((tmp_path / "executado.ipynb").read_text(encoding="utf-8"))
    [erro] = [s for c in executado["cells"] for s in c.get("outputs", []) if s["output_type"] == "error"]
    assert len(erro["traceback"]) == 1 and erro["traceback"][0].startswith("ERRO: não conheço o backbone 'ResNet9000'")


def test_com_as_2000_fotos_reais(dados_reais, tmp_path):
    """O resultado prometido: 98 % ou mais no teste e 98,5 % ou mais na validação cruzada; de novo, igual e sem extrair."""
    processo, metricas = executa(tmp_path, DATA_DIR=dados_reais)
    assert processo.returncode == 0, processo.stderr[-3000:]
    assert metricas["dataset"].startswith("cats_vs_dogs/4") and metricas["n_teste"] == 200
    assert metricas["acuracia"] >= 0.98 and metricas["validacao_cruzada"]["acuracia"] >= 0.985
    processo, de_novo = executa(tmp_path, DATA_DIR=dados_reais)
    assert de_novo["imagens_extraidas"] == 0 and resultados(metricas) == resultados(de_novo)


def test_os_numeros_do_readme_sao_os_medidos():
    """Os blocos do notebook estão, número a número, nas saídas versionadas; os outros, nos json que `make` gravou."""
    texto, leiame_atual = saidas(NOTEBOOK), leiame.LEIAME.read_text(encoding="utf-8")
    medidas = json.loads((RAIZ / "testes/desempenho.json").read_text(encoding="utf-8"))
    assert leiame.com_numeros(leiame_atual, leiame.DO_DESEMPENHO, medidas) == leiame_atual
    aguentou = json.loads((RAIZ / "testes/resistencia.json").read_text(encoding="utf-8"))
    assert leiame.com_numeros(leiame_atual, leiame.DA_RESISTENCIA, aguentou) == leiame_atual
    for funcao in leiame.DO_NOTEBOOK:
        [bloco] = re.findall(rf"<!-- numeros: {funcao.__name__} -->(.*?)<!-- /numeros -->", leiame_atual, re.DOTALL)
        numeros = [n.replace(",", ".") for n in re.findall(r"`([\d.,e−+-]+)`", bloco)]
        assert numeros and not [n for n in numeros if not re.search(rf"(?<![\d.]){re.escape(n)}(?![\d.]*\d)", texto)], numeros


def test_os_exemplos_do_readme_funcionam(na_amostra, nb, amostra):
    """Cada bloco python do README, copiado e colado, dá a mesma resposta que `classifica`."""
    pasta, _ = na_amostra
    [foto] = nb.pega_fotos(amostra, [1999])
    Image.fromarray(foto).save(pasta / "minha_foto.jpg", quality=95)
    esperada = nb.carrega_classificador(pasta / "modelos")(pasta / "minha_foto.jpg")["probabilidades"]["cachorro"]
    exemplos = re.findall(r"```python\n(.*?)```", leiame.LEIAME.read_text(encoding="utf-8"), re.DOTALL)
    assert len(exemplos) == 3
    for exemplo in exemplos:
        processo = subprocess.run([sys.executable, "-c", exemplo], cwd=pasta, capture_output=True, text=True)
        assert processo.returncode == 0, processo.stderr[-2000:]
        assert float(processo.stdout.split("probabilidade de cachorro: ")[1]) == pytest.approx(esperada, abs=0.05)


def test_toda_figura_do_readme_existe_e_tem_texto_alternativo():
    figuras = re.findall(r"!\[(.*?)\]\((imagens/.*?)\)", leiame.LEIAME.read_text(encoding="utf-8"))
    assert len(figuras) >= 7 and all(len(texto) > 30 for texto, _ in figuras)
    for _, arquivo in figuras:
        assert 5_000 < (RAIZ / arquivo).stat().st_size < 500_000, arquivo


def test_o_ci_roda_o_mesmo_comando_dos_testes():
    assert "make testes" in (RAIZ / ".ci/run").read_text() and os.access(RAIZ / ".ci/run", os.X_OK)
