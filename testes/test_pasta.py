"""`DATASET` como uma pasta da pessoa: uma subpasta por classe, e o que pode haver de estranho dentro dela."""

import os
import pathlib

import numpy as np
import PIL.Image
import pytest
from conftest import executa, saidas

FORMATOS = {"jpg": {"quality": 95}, "png": {}, "webp": {"lossless": True}}


@pytest.fixture(scope="module")
def fotos(nb, amostra):
    """{rótulo: 30 fotos da amostra}, uint8 (32, 32, 3)."""
    rotulos, _ = nb.le_rotulos(amostra, 200)
    return {rotulo: nb.pega_fotos(amostra, np.flatnonzero(rotulos == rotulo)[:30].tolist()) for rotulo in (0, 1)}


def faz_classe(subpasta, fotos):
    """Grava as fotos numa subpasta, em JPEG, PNG e WebP, um formato de cada vez."""
    subpasta.mkdir(parents=True)
    for i, foto in enumerate(fotos):
        extensao = list(FORMATOS)[i % 3]
        PIL.Image.fromarray(foto).save(subpasta / f"{subpasta.name} {i:02}.{extensao}", **FORMATOS[extensao])


def faz_pasta(pasta, fotos, quantas=12, nomes=("gatos", "lobos")):
    """Uma pasta com duas classes de `quantas` fotos."""
    for rotulo, nome in enumerate(nomes):
        faz_classe(pasta / nome, fotos[rotulo][:quantas])
    return pasta


def prepara(nb, pasta):
    """O builder da pasta, guardado ao lado dela, como quem rodasse o notebook com DATA_DIR."""
    return nb.escolhe_dados(str(pasta), str(pasta.parent / "tfds"), None)


def conteudo(nb, construtor):
    """{nome do arquivo: rótulo} de tudo o que o builder entrega."""
    rotulos, arquivos = nb.le_rotulos(construtor, construtor.info.splits["train"].num_examples)
    return dict(zip(arquivos.tolist(), rotulos.tolist()))


# O que uma boa pasta dá

def test_as_subpastas_viram_as_classes_em_ordem(nb, fotos, tmp_path):
    construtor = prepara(nb, faz_pasta(tmp_path / "bichos", fotos, nomes=("lobos", "gatos")))
    assert construtor.info.features["label"].names == nb.nomes_das_classes(construtor) == ["gatos", "lobos"]
    nomes = conteudo(nb, construtor)
    assert list(nomes.values()) != sorted(nomes.values()), "embaralhadas, ou o teste teria uma classe só"
    assert len(nomes) == 24 and all(rotulo == nome.startswith("lobos/") for nome, rotulo in nomes.items())


def test_as_fotos_chegam_quase_identicas_e_com_as_features_do_dataset(nb, fotos, amostra, tmp_path):
    construtor = prepara(nb, faz_pasta(tmp_path / "bichos", fotos))
    assert set(construtor.info.features) == set(amostra.info.features)
    for exemplo in nb.le_fotos(construtor, (0, 24)).as_numpy_iterator():
        classe, nome = exemplo["image/filename"].decode().split("/")
        original = fotos[classe == "lobos"][int(nome[6:8])]
        lida = nb.decodifica(exemplo)[0].numpy()
        assert lida.shape == (32, 32, 3) and np.abs(lida.astype(int) - original).mean() < 8, "só o que o JPEG perde"


@pytest.mark.parametrize("nomes", [("cães bravos", "gatos da vovó"), ("1", "2"), ("日本", "ação!"), ("a.b", "c,d")])
def test_nomes_com_acentos_e_espacos_sao_mantidos(nb, fotos, tmp_path, nomes):
    construtor = prepara(nb, faz_pasta(tmp_path / "as minhas fotos (férias)", fotos, nomes=nomes))
    assert nb.nomes_das_classes(construtor) == sorted(nomes)
    assert {nome.split("/")[0] for nome in conteudo(nb, construtor)} == set(nomes)


def test_preparada_duas_vezes_e_lida_uma(nb, fotos, tmp_path, monkeypatch):
    pasta = faz_pasta(tmp_path / "bichos", fotos)
    antes = prepara(nb, pasta)
    monkeypatch.setattr(nb, "abre_foto", lambda *a: pytest.fail("leu as fotos de novo"))
    depois = prepara(nb, pasta)
    assert antes.info.full_name == depois.info.full_name and conteudo(nb, antes) == conteudo(nb, depois)


def test_o_til_e_a_pasta_do_usuario(nb, fotos, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    pasta = faz_pasta(tmp_path / "bichos", fotos)
    assert nb.escolhe_dados("~/bichos", "~/tfds", None).info.full_name == prepara(nb, pasta).info.full_name


# O que faz dela outra

def regrava(pasta, fotos):
    PIL.Image.fromarray(fotos[0][20]).save(pasta / "gatos/gatos 01.png")


def apaga(pasta, fotos):
    (pasta / "gatos/gatos 01.png").unlink()


def acrescenta(pasta, fotos):
    PIL.Image.fromarray(fotos[0][20]).save(pasta / "gatos/novo.png")


def renomeia_a_classe(pasta, fotos):
    (pasta / "gatos").rename(pasta / "felinos")


def corrige_o_rotulo(pasta, fotos):
    """Passa a última foto de uma classe para a outra, onde fica sendo a primeira: a lista de nomes não muda."""
    (pasta / "gatos/gatos 11.webp").rename(pasta / "lobos/gatos 11.webp")


@pytest.mark.parametrize("muda", [regrava, apaga, acrescenta, renomeia_a_classe, corrige_o_rotulo])
def test_mudou_a_pasta_mudou_o_dataset(nb, fotos, tmp_path, muda):
    pasta = faz_pasta(tmp_path / "bichos", fotos)
    antes = prepara(nb, pasta)
    muda(pasta, fotos)
    depois = prepara(nb, pasta)
    assert antes.info.name != depois.info.name
    esperado = {str(p.relative_to(pasta)): int(p.parent.name == "lobos") for p in pasta.glob("*/*")}
    assert conteudo(nb, depois) == esperado


# O que há de estranho dentro dela

def test_o_que_nao_e_foto_fica_de_fora_e_e_dito(nb, fotos, tmp_path, capsys):
    pasta = faz_pasta(tmp_path / "bichos", fotos)
    (pasta / "gatos/Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" * 99)
    (pasta / "lobos/leia-me.txt").write_text("fotos de lobos", encoding="utf-8")
    (pasta / "lobos/cortada.jpg").write_bytes((pasta / "lobos/lobos 00.jpg").read_bytes()[:300])
    (pasta / "solta.txt").write_text("fora das classes", encoding="utf-8")
    assert len(conteudo(nb, prepara(nb, pasta))) == 24
    dito = capsys.readouterr().out
    assert "3 arquivos ficaram de fora" in dito
    assert all(nome in dito for nome in ("Thumbs.db", "leia-me.txt", "cortada.jpg")) and "solta" not in dito


def test_um_atalho_que_nao_leva_a_nada_fica_de_fora(nb, fotos, tmp_path, capsys):
    pasta = faz_pasta(tmp_path / "bichos", fotos)
    os.symlink(tmp_path / "apagada.jpg", pasta / "gatos/atalho.jpg")
    assert len(conteudo(nb, prepara(nb, pasta))) == 24
    assert "atalho.jpg" in capsys.readouterr().out


def test_o_que_esta_oculto_e_ignorado_em_silencio(nb, fotos, tmp_path, capsys):
    pasta = faz_pasta(tmp_path / "bichos", fotos)
    for oculta in (".ipynb_checkpoints", "__MACOSX", "gatos/.ipynb_checkpoints", "lobos/__MACOSX"):
        faz_classe(pasta / oculta, fotos[0][:1])
    (pasta / "gatos/.DS_Store").write_bytes(b"x")
    (pasta / "gatos/._gatos 00.jpg").write_bytes(b"x")
    construtor = prepara(nb, pasta)
    assert nb.nomes_das_classes(construtor) == ["gatos", "lobos"] and len(conteudo(nb, construtor)) == 24
    assert "ficaram de fora" not in capsys.readouterr().out


def test_uma_classe_com_menos_de_10_fotos_e_recusada_e_nao_deixa_nada_pela_metade(nb, fotos, tmp_path):
    pasta = faz_pasta(tmp_path / "bichos", fotos)
    for foto in sorted((pasta / "lobos").iterdir())[:3]:
        foto.write_bytes(b"isto nao e uma foto")
    for _ in range(2):  # da segunda vez também: o que sobrou da primeira não passa por pronto
        with pytest.raises(nb.ErroClaro, match=r"^a classe lobos tem 9 fotos.*o mínimo é 10"):
            prepara(nb, pasta)
    assert not list((tmp_path / "tfds").rglob("*.tfrecord*"))
    faz_classe(tmp_path / "mais", fotos[1][20:22])
    for foto in (tmp_path / "mais").iterdir():
        foto.rename(pasta / "lobos" / foto.name)
    assert list(conteudo(nb, prepara(nb, pasta)).values()).count(1) == 11


def test_interrompida_no_meio_recomeca(nb, fotos, tmp_path, monkeypatch):
    pasta, abre, abertas = faz_pasta(tmp_path / "bichos", fotos), nb.abre_foto, []

    def interrompe_na_quinta(caminho):
        abertas.append(caminho)
        if len(abertas) == 5:
            raise KeyboardInterrupt
        return abre(caminho)
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(nb, "abre_foto", interrompe_na_quinta)
        prepara(nb, pasta)
    assert len(conteudo(nb, prepara(nb, pasta))) == 24


ERRADAS = {
    "vazia": ([], "duas subpastas.*encontrei 0: nenhuma"),
    "uma subpasta": (["gatos/1.jpg"], "duas subpastas.*encontrei 1: gatos"),
    "três subpastas": (["gatos/1.jpg", "lobos/1.jpg", "raposas/1.jpg"], "encontrei 3: gatos, lobos, raposas"),
    "fotos soltas": (["1.jpg", "2.jpg"], "encontrei 0"),
    "train e test": (["test/gatos/1.jpg", "test/lobos/1.jpg", "train/gatos/1.jpg", "train/lobos/1.jpg"],
                     r"test[/\\]gatos é uma pasta dentro"),
    "uma pasta acima": (["bichos/gatos/1.jpg", "bichos/lobos/1.jpg"], "encontrei 1: bichos"),
    "subpastas vazias": (["gatos/", "lobos/"], "a classe gatos tem 0 fotos"),
    "uma subpasta vazia": ([*(f"gatos/{i}.jpg" for i in range(12)), "lobos/"], "a classe lobos tem 0 fotos"),
}


@pytest.mark.parametrize("nome", ERRADAS)
def test_uma_pasta_que_nao_e_assim_e_recusada_com_o_que_se_achou(nb, fotos, tmp_path, nome):
    arquivos, mensagem = ERRADAS[nome]
    pasta = tmp_path / "bichos"
    pasta.mkdir()
    for arquivo in arquivos:
        destino = pasta / arquivo
        (destino if arquivo.endswith("/") else destino.parent).mkdir(parents=True, exist_ok=True)
        if not arquivo.endswith("/"):
            PIL.Image.fromarray(fotos[0][0]).save(destino)
    with pytest.raises(nb.ErroClaro, match=mensagem) as recusa:
        prepara(nb, pasta)
    assert "\n" not in str(recusa.value) and not list(tmp_path.rglob("*.tfrecord*"))


def test_uma_pasta_que_nao_existe_e_recusada(nb, tmp_path):
    with pytest.raises(nb.ErroClaro, match="pasta que exista"):
        prepara(nb, tmp_path / "nada")


def test_a_pasta_que_o_proprio_tfds_cria_nao_e_confundida_com_a_da_pessoa(nb, tmp_path, monkeypatch):
    """Com DATA_DIR = "." o TFDS deixa uma pasta cats_vs_dogs ao lado do notebook; ela não é um DATASET."""
    (tmp_path / "cats_vs_dogs/4.0.1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(nb.ErroClaro, match="ARQUIVO_ZIP"):
        nb.escolhe_dados("cats_vs_dogs", ".", "nao-existe.zip")


def test_data_dir_que_nao_se_pode_gravar_e_dito(nb, fotos, tmp_path):
    pasta = faz_pasta(tmp_path / "bichos", fotos)
    (tmp_path / "tfds").write_text("um arquivo no lugar da pasta", encoding="utf-8")
    with pytest.raises(nb.ErroClaro, match="mude DATA_DIR"):
        prepara(nb, pasta)


# O notebook inteiro

def test_o_notebook_inteiro_com_uma_pasta(fotos, tmp_path):
    pasta = faz_pasta(tmp_path / "meus bichos", fotos, quantas=30, nomes=("gatos da vovó", "lobos"))
    processo, metricas = executa(tmp_path / "projeto", DATASET=pasta, EXPORTAR=False)
    assert processo.returncode == 0, processo.stderr[-3000:]
    assert metricas["classes"] == ["gatos da vovó", "lobos"]
    assert (metricas["n_treino"], metricas["n_validacao"], metricas["n_teste"]) == (48, 6, 6)
    assert metricas["validacao_cruzada"]["acuracia"] > 0.7, "60 fotos bastam para acertar bem mais que a metade"
    texto = saidas(tmp_path / "projeto/executado.ipynb")
    assert "60 fotos; 0 = gatos da vovó, 1 = lobos" in texto and "era gatos da vovó" in texto
    assert "AMOSTRA EMBUTIDA" not in texto
    assert {p.name for p in pathlib.Path(tmp_path / "projeto/modelos").iterdir()} >= {
        "detector_dogs_cats.keras", "classificador.npz", "suspeitas.csv", "metricas.json"}
