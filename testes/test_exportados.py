"""Os formatos que se leva para fora: conferidos contra o Keras, feitos uma vez só, e um que falta não impede os outros."""

import functools
import shutil
import sys

import numpy as np
import pytest

NOMES = ["detector.tflite", "detector_int8.tflite", "detector.onnx"]


@pytest.fixture(scope="module")
def exportado(nb, amostra, backbone, caracteristicas, tmp_path_factory):
    """Pasta com os três arquivos, os argumentos de `exporta` e o que ele devolveu."""
    pasta = tmp_path_factory.mktemp("exportado")
    X, y = caracteristicas
    cabeca, _ = nb.treina_cabeca(X, y, range(1600), range(1600, 1800), 32, 100, pasta, "r")
    modelo = nb.junta(backbone, cabeca)
    fotos = np.stack([img for img, _ in nb.le_fotos(amostra, (1800, 1840)).map(nb.prepara).as_numpy_iterator()])
    amostras = np.stack([img for img, _ in nb.le_fotos(amostra, (0, 40)).map(nb.prepara).as_numpy_iterator()])
    argumentos = (modelo, "detector", pasta, amostras, fotos, modelo.predict(fotos, verbose=0)[:, 0], y[1800:1840])
    return pasta, argumentos, nb.exporta(*argumentos)


def test_cada_formato_concorda_com_o_keras(nb, exportado):
    pasta, (*_, fotos, p, y), resultado = exportado
    assert list(resultado) == NOMES
    for nome, maximo in zip(NOMES, (1e-4, 0.5, 1e-4)):
        assert "erro" not in resultado[nome], resultado[nome]
        roda = nb.abre_exportado(pasta / nome)
        obtido = np.array([roda(foto) for foto in fotos])
        assert resultado[nome]["diferenca"] == pytest.approx(np.abs(obtido - p).max(), abs=1e-6) and resultado[nome]["diferenca"] < maximo
        assert resultado[nome]["acuracia"] == np.mean((obtido > 0.5) == y)
        assert resultado[nome]["mb"] == (pasta / nome).stat().st_size / 1e6 and resultado[nome]["por_segundo"] > 0
    assert np.corrcoef(np.array([nb.abre_exportado(pasta / NOMES[1])(foto) for foto in fotos]), p)[0, 1] > 0.9
    assert resultado[NOMES[1]]["mb"] < resultado[NOMES[0]]["mb"] / 3


def no_lugar_de(funcao, outra):
    """`outra`, que para o digest do código passa pela `funcao`."""
    return functools.wraps(funcao)(outra)


def test_mudar_o_conversor_refaz_os_arquivos(nb, exportado, monkeypatch):
    _, argumentos, _ = exportado
    feitos = []
    monkeypatch.setattr(nb, "converte", lambda modelo, caminho, amostras: feitos.append(caminho.name))
    nb.exporta(*argumentos)
    assert feitos == NOMES


def test_a_segunda_vez_nao_converte_nada(nb, exportado, monkeypatch):
    _, argumentos, antes = exportado
    monkeypatch.setattr(nb, "converte", no_lugar_de(nb.converte, lambda *a: pytest.fail("converteu de novo")))
    assert nb.exporta(*argumentos) == antes


def test_arquivo_danificado_ou_de_outro_modelo_e_refeito(nb, exportado, monkeypatch):
    pasta, (modelo, *resto), antes = exportado
    feitos, converte = [], nb.converte
    monkeypatch.setattr(nb, "converte", no_lugar_de(converte, lambda modelo, caminho, amostras: (
        feitos.append(caminho.name), converte(modelo, caminho, amostras))))
    arquivo = pasta / NOMES[2]
    arquivo.write_bytes(arquivo.read_bytes()[:-10])
    nb.exporta(modelo, *resto)
    assert feitos == [NOMES[2]]
    outro = nb.keras.models.clone_model(modelo)
    outro.set_weights([peso * 1.001 for peso in modelo.get_weights()])
    nb.exporta(outro, *resto)
    assert feitos[1:] == NOMES


def test_sem_o_conversor_de_um_formato_os_outros_seguem(nb, exportado, monkeypatch, tmp_path):
    pasta, (modelo, nome, _, *resto), _ = exportado
    shutil.copytree(pasta, tmp_path, dirs_exist_ok=True)
    (tmp_path / NOMES[2]).unlink()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    resultado = nb.exporta(modelo, nome, tmp_path, *resto)
    assert "erro" in resultado[NOMES[2]] and not any("erro" in resultado[outro] for outro in NOMES[:2])


def test_o_silencio_passa_e_a_tela_volta(nb, capfd):
    with nb.silencio():
        print("não deve aparecer")
        sys.stderr.write("nem isto")
    print("voltou")
    assert capfd.readouterr().out == "voltou\n"
