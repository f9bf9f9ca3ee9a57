"""Cada foto passa pelo backbone uma vez: o que já foi feito é lido, o que mudou é refeito, o estragado é dito."""

import errno
import importlib
import os
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from conftest import celulas

N = 40


@pytest.fixture
def partes_pequenas(nb, monkeypatch):
    monkeypatch.setattr(nb, "FOTOS_POR_PARTE", 16)


@pytest.fixture
def pronto(nb, amostra, backbone, partes_pequenas, tmp_path):
    """Pasta com a extração de N fotos feita em três partes, e o resultado dela."""
    X, resumo = nb.extrai_caracteristicas(amostra, N, backbone, "keras", tmp_path)
    assert resumo["extraidas"] == N and len(list(tmp_path.iterdir())) == 3
    return tmp_path, X


def de_novo(nb, amostra, rede, pasta, **outros):
    argumentos = {"construtor": amostra, "n": N, "backbone": rede, "motor": "keras", "pasta": pasta} | outros
    return nb.extrai_caracteristicas(**argumentos)


def test_os_vetores_sao_os_do_backbone(nb, amostra, backbone, pronto):
    fotos = np.stack(list(nb.le_fotos(amostra, (0, N)).map(lambda e: nb.prepara(e)[0]).as_numpy_iterator()))
    np.testing.assert_allclose(pronto[1], backbone.predict(fotos, verbose=0), atol=1e-4)


def test_a_segunda_vez_le_tudo_e_nao_calcula_nada(nb, amostra, backbone, pronto, monkeypatch):
    monkeypatch.setattr(nb, "cria_motor", lambda *a: pytest.fail("rodou o backbone de novo"))
    X, resumo = de_novo(nb, amostra, backbone, pronto[0])
    assert resumo["extraidas"] == 0 and resumo["segundos"] == 0 and np.array_equal(X, pronto[1])
    assert resumo["por_segundo"] > 0


def test_so_a_parte_que_falta_e_refeita(nb, amostra, backbone, pronto):
    pasta, antes = pronto
    sorted(pasta.iterdir())[1].unlink()
    X, resumo = de_novo(nb, amostra, backbone, pasta)
    assert resumo["extraidas"] == 16 and np.array_equal(X, antes)


@pytest.mark.parametrize("estraga", [
    lambda b: b[:len(b) // 2], lambda b: b"", lambda b: b"lixo" * 100,
    lambda b: b[:len(b) // 2] + bytes([b[len(b) // 2] ^ 1]) + b[len(b) // 2 + 1:],
])
def test_parte_danificada_e_dita_e_refeita(nb, amostra, backbone, pronto, capsys, estraga):
    pasta, antes = pronto
    parte = sorted(pasta.iterdir())[1]
    parte.write_bytes(estraga(parte.read_bytes()))
    X, resumo = de_novo(nb, amostra, backbone, pasta)
    assert resumo["extraidas"] == 16 and np.array_equal(X, antes)
    assert f"{parte} não serve" in capsys.readouterr().out


def test_parte_de_outra_configuracao_com_o_nome_trocado_e_recusada(nb, amostra, backbone, pronto):
    pasta, antes = pronto
    a, b, _ = sorted(pasta.iterdir())
    outra = pasta / "outra"
    de_novo(nb, amostra, backbone, outra, escala=(255.0, 0.0))
    a.write_bytes(sorted(outra.iterdir())[0].read_bytes())
    X, resumo = de_novo(nb, amostra, backbone, pasta)
    assert resumo["extraidas"] == 16 and np.array_equal(X, antes)


def test_outra_configuracao_nunca_le_o_cache_desta(nb, amostra, backbone, pronto):
    pasta, antes = pronto
    outros_pesos = nb.keras.models.clone_model(backbone)
    outros_pesos.set_weights([p * 1.001 for p in backbone.get_weights()])
    for outros, esperado in [({"escala": (2.0, -1.0)}, N), ({"backbone": outros_pesos}, N), ({"motor": "openvino"}, N),
                             ({"n": 32}, 0), ({}, 0)]:
        assert de_novo(nb, amostra, backbone, pasta, **outros)[1]["extraidas"] == esperado, outros


def prepara(nb, pasta, semente_da_ultima):
    """cats_vs_dogs preparado, num processo novo, de um zip com 12 fotos em que só a última muda."""
    fotos = {f"PetImages/{classe}/{i}.jpg": i for classe in ("Cat", "Dog") for i in range(6)}
    fotos["PetImages/Dog/5.jpg"] = semente_da_ultima
    pasta.mkdir()
    with zipfile.ZipFile(pasta / "f.zip", "w") as z:
        for nome, semente in fotos.items():
            foto = np.random.default_rng(semente).integers(0, 256, (40, 50, 3), dtype="uint8")
            z.writestr(nome, nb.tf.io.encode_jpeg(foto).numpy())
    programa = "\n".join([*celulas("definicoes"), f"escolhe_dados('cats_vs_dogs', {str(pasta)!r}, {str(pasta / 'f.zip')!r})"])
    subprocess.run([sys.executable, "-c", programa], check=True, capture_output=True)
    return nb.tfds.builder("cats_vs_dogs", data_dir=str(pasta))


def test_o_digest_e_do_conteudo_e_nao_de_quando_foi_preparado(nb, backbone, tmp_path):
    """Quem prepara os dados de novo (no Colab, a cada sessão) aproveita os vetores; quem muda uma foto, não."""
    a, igual, outra = (prepara(nb, tmp_path / nome, semente) for nome, semente in (("a", 5), ("igual", 5), ("outra", 99)))
    assert nb.identifica(a, backbone) == nb.identifica(igual, backbone) != nb.identifica(outra, backbone)


def test_disco_cheio_e_explicado_e_nao_deixa_parte_pela_metade(nb, tmp_path):
    def enche(caminho):
        caminho.write_bytes(b"metade")
        raise OSError(28, "No space left on device")
    antigo = tmp_path / "parte.npz"
    antigo.write_bytes(b"inteiro")
    with pytest.raises(nb.ErroClaro, match="Libere espaço"):
        nb.grava(antigo, enche)
    assert antigo.read_bytes() == b"inteiro" and list(tmp_path.iterdir()) == [antigo]


def test_modelos_que_nao_e_pasta_e_explicado(nb, tmp_path):
    (tmp_path / "modelos").write_text("sou um arquivo")
    with pytest.raises(nb.ErroClaro, match="mude MODELOS"):
        nb.grava_npz(tmp_path / "modelos" / "x.npz", "x", a=1)


def test_figura_que_nao_se_deixa_gravar_nao_para_nada(nb, tmp_path, monkeypatch, capsys):
    """As figuras de imagens/ são um enfeite: numa pasta só de leitura o treino segue, e a pessoa fica sabendo."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagens").write_text("sou um arquivo")
    nb.salva_figura(nb.plt.Figure(), "x.png")
    assert capsys.readouterr().out == (
        "Não gravei imagens/x.png (há um arquivo onde devia haver uma pasta); a figura fica só aqui.\n")
    (tmp_path / "imagens").unlink()
    nb.salva_figura(nb.plt.Figure(), "x.png")
    assert (tmp_path / "imagens/x.png").exists() and not capsys.readouterr().out


@pytest.mark.parametrize("erro", [OSError(errno.ENOLCK, "No locks available"), OSError(errno.ENOTSUP, "Not supported"),
                                  NotImplementedError()])
def test_num_disco_que_nao_sabe_travar_avisa_e_segue(nb, tmp_path, monkeypatch, capsys, erro):
    """Alguns discos de rede não têm travas: quem guarda `modelos/` num deles precisa poder trabalhar."""
    def falha(*a, **k):
        raise erro
    monkeypatch.setattr(nb.filelock.FileLock, "acquire", falha)
    nb.reserva(tmp_path)
    assert "disco sem travas: não rode duas execuções" in capsys.readouterr().out
    nb.libera(tmp_path)


@pytest.mark.parametrize("codigo, mensagem", [(errno.EACCES, "sem permissão"), (errno.EROFS, "só de leitura"),
                                              (errno.ENOSPC, "o disco está cheio"), (errno.EDQUOT, "cota de disco"),
                                              (errno.EFBIG, "tamanho permitido"), (errno.EISDIR, "pasta com esse nome"),
                                              (errno.EIO, "o disco falhou"), (errno.ENXIO, "No such device or address")])
def test_pasta_que_nao_se_deixa_escrever_e_dita_em_portugues(nb, tmp_path, monkeypatch, codigo, mensagem):
    def falha(*a, **k):
        raise OSError(codigo, os.strerror(codigo))
    monkeypatch.setattr(nb.filelock.FileLock, "acquire", falha)
    with pytest.raises(nb.ErroClaro, match=f"não consigo escrever em .*{mensagem}.*mude MODELOS"):
        nb.reserva(tmp_path)


def test_o_nome_muda_com_o_codigo_os_valores_padrao_e_as_bibliotecas(nb, monkeypatch):
    openvino = importlib.import_module("openvino")
    um, dois = (lambda x=1: x), (lambda x=2: x)
    antes, motor = nb.codigo(um), nb.versao_do_motor("openvino-bf16")
    assert antes != nb.codigo(dois) and antes != nb.codigo(lambda x=1: x + 1) and antes == nb.codigo(lambda x=1: x)
    assert motor == openvino.__version__ and nb.versao_do_motor("keras") is None
    for biblioteca in (nb.tf, nb.keras, openvino):
        with monkeypatch.context() as m:
            m.setattr(biblioteca, "__version__", "0.0")
            assert (nb.codigo(um), nb.versao_do_motor("openvino-bf16")) != (antes, motor), biblioteca.__name__


def test_as_predicoes_do_teste_sao_guardadas_em_partes(nb, amostra, backbone, partes_pequenas, tmp_path, monkeypatch):
    modelo, rodadas, predict = nb.junta(backbone, nb.cria_cabeca(1280)), [], nb.keras.Model.predict
    monkeypatch.setattr(nb.keras.Model, "predict", lambda self, *a, **k: rodadas.append(1) or predict(self, *a, **k))
    p, vetores = nb.prediz(modelo, amostra, (10, 50), tmp_path)
    assert len(rodadas) == len(list(tmp_path.iterdir())) == 3 and p.shape == (40,) and vetores.shape == (40, 1280)
    fotos = np.stack([foto for foto, _ in nb.le_fotos(amostra, (10, 50)).map(nb.prepara).as_numpy_iterator()])
    np.testing.assert_allclose(vetores, predict(backbone, fotos, verbose=0), atol=1e-4)
    sorted(tmp_path.iterdir())[1].unlink()
    de_volta = nb.prediz(modelo, amostra, (10, 50), tmp_path)
    assert len(rodadas) == 4 and np.array_equal(de_volta[0], p) and np.array_equal(de_volta[1], vetores)


def test_cada_motor_concorda_com_o_keras(nb, amostra, backbone, tmp_path, capsys):
    motores = [motor for motor in nb.MOTORES[1:] if motor != "openvino-bf16" or nb.tem_bf16()]
    vetores = {motor: de_novo(nb, amostra, backbone, tmp_path, motor=motor)[0] for motor in motores}
    np.testing.assert_allclose(vetores["openvino"], vetores["keras"], atol=1e-3)
    texto = capsys.readouterr().out
    assert texto.count("maior diferença para o Keras") == len(motores) - 1
    for motor, minimo in {"openvino-int8": 0.9, "openvino-bf16": 0.95, "keras-float16": 0.999}.items():
        if motor not in motores:
            continue
        if f"{motor} não concorda" in texto:  # sem as instruções VNNI, as somas do int8 estouram os 16 bits
            assert motor == "openvino-int8" and not tem_vnni() and np.array_equal(vetores[motor], vetores["keras"])
            continue
        assert vetores[motor].dtype == "float32" and not np.array_equal(vetores[motor], vetores["keras"])
        assert min(np.corrcoef(a, b)[0, 1] for a, b in zip(vetores[motor], vetores["keras"])) > minimo


def tem_vnni():
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    return not cpuinfo.exists() or "_vnni" in cpuinfo.read_text()


def test_bf16_so_onde_o_processador_o_tem(nb, amostra, backbone, partes_pequenas, tmp_path, monkeypatch, capsys):
    for tem, padrao in ((True, "openvino-bf16"), (False, "openvino")):
        monkeypatch.setattr(nb, "tem_bf16", lambda: tem)
        assert nb.escolhe_motor("auto") == padrao
    nb.motor_openvino.cache_clear()
    _, resumo = de_novo(nb, amostra, backbone, tmp_path, motor="openvino-bf16")
    assert resumo["motor"] == "keras" and "não tem instruções bf16" in capsys.readouterr().out


def test_sem_openvino_diz_e_segue_com_o_keras(nb, amostra, backbone, partes_pequenas, tmp_path, monkeypatch, capsys):
    nb.motor_openvino.cache_clear()
    monkeypatch.setitem(sys.modules, "openvino", None)
    _, resumo = de_novo(nb, amostra, backbone, tmp_path, motor="openvino")
    assert resumo["motor"] == "keras" and "Sigo com o Keras" in capsys.readouterr().out
    monkeypatch.setattr(nb.importlib.util, "find_spec", lambda nome: None)
    assert nb.escolhe_motor("auto") == "keras"


def test_motor_que_discorda_do_keras_nao_e_usado(nb, amostra, backbone, partes_pequenas, tmp_path, monkeypatch, capsys):
    def errado(backbone, precisao="f32", amostras=None):
        return lambda fotos: (np.random.default_rng(i).random(1280) for i, _ in enumerate(fotos))
    monkeypatch.setattr(nb, "motor_openvino", errado)
    _, resumo = de_novo(nb, amostra, backbone, tmp_path, motor="openvino")
    assert resumo["motor"] == "keras" and "não concorda com o Keras" in capsys.readouterr().out


def test_o_npz_confere_cada_array(nb, tmp_path):
    """O formato de que o cache depende: um bit trocado nos dados não passa despercebido."""
    arquivo = tmp_path / "x.npz"
    nb.grava_npz(arquivo, "x", a=np.arange(1000.0))
    with zipfile.ZipFile(arquivo) as z:
        assert all(item.CRC for item in z.infolist())
    assert np.array_equal(nb.le_npz(arquivo, "x")["a"], np.arange(1000.0)) and nb.le_npz(arquivo, "y") is None
