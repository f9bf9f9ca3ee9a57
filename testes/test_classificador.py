"""`classifica`: o que ela responde, e o que ela se recusa a carregar."""

import json
import os
import pathlib
import shutil

import keras
import numpy as np
import PIL.Image
import pytest

import detector
from detector import classificador, dados, imagenet
from detector.ambiente import ErroClaro
from detector.entrega import DO_CLASSIFICADOR, MODELO

CORES = {"gato": "red", "cachorro": "lime", "nenhum dos dois": "blue"}
CONHECIDAS = np.arange(151, 286)


def faz_modelo(peso=8.0):
    """Um modelo com as três partes do verdadeiro. O vetor é a cor média; vermelho é gato."""
    x = keras.Input((224, 224, 3))
    base = keras.Model(x, keras.layers.Conv2D(3, 1, 32, name="cor")(x), name="base")
    base.get_layer("cor").set_weights([np.eye(3)[None, None], np.zeros(3)])
    x = keras.Input((7, 7, 3))
    ajuste = keras.layers.Conv2D(3, 1, name="ajuste")
    topo = keras.Model(x, keras.layers.GlobalAveragePooling2D(name="media")(ajuste(x)), name="topo")
    ajuste.set_weights([np.eye(3)[None, None], np.zeros(3)])
    cabeca = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, "sigmoid")], name="cabeca")
    cabeca.set_weights([np.array([[-peso], [peso], [0]]), np.zeros(1)])
    foto = keras.Input((224, 224, 3), name="foto")
    return keras.Model(foto, cabeca(topo(base(foto))))


KERNEL = np.zeros((3, 1000), "float32")  # a ImageNet só não conhece o azul
KERNEL[:2, CONHECIDAS], KERNEL[2, :151] = 30, 30
SABE = imagenet.Conhecidas([(KERNEL, np.zeros(1000, "float32"))], CONHECIDAS)


def entrega(pasta, modelo=None, leitor=dados.le, sabe=SABE, limiar=5.0):
    """Deixa em `pasta` o que o notebook deixa em MODELOS."""
    modelo, pasta = modelo or faz_modelo(), pathlib.Path(pasta)
    pasta.mkdir(exist_ok=True)
    modelo.save(pasta / MODELO)
    outros = (dados.prova(leitor), sabe, limiar, faz_modelo().get_layer("topo"))
    classificador.guarda(pasta, modelo, ["gato", "cachorro"], *outros)
    return pasta


def foto(cor, fundo=None, lado=30):
    """Uma foto de uma cor; com `fundo`, ela só ocupa um quadrado no meio, de `lado` %."""
    imagem = PIL.Image.new("RGB", (120, 90), fundo or cor)
    if fundo:
        x, y = 60 * lado // 100, 45 * lado // 100
        imagem.paste(cor, (60 - x, 45 - y, 60 + x, 45 + y))
    return imagem


@pytest.fixture(scope="module")
def modelos(tmp_path_factory):
    return entrega(tmp_path_factory.mktemp("modelos"))


@pytest.fixture(scope="module")
def classifica(modelos):
    return detector.carrega_classificador(str(modelos))


@pytest.mark.parametrize("classe", CORES)
def test_a_resposta_diz_a_classe_o_que_parece_e_as_chances(classifica, classe, capsys):
    veredito = classifica(foto(CORES[classe]))
    assert veredito["classe"] == classe and veredito["parece"] in ("gato", "cachorro")
    assert classe in (veredito["parece"], "nenhum dos dois")
    assert 0.5 <= veredito["probabilidade"] <= 1
    assert (veredito["chance_de_ser_um_deles"] > 0.5) == (classe != "nenhum dos dois")
    assert str(veredito).startswith(classe) and "\n" not in str(veredito)
    assert json.loads(json.dumps(veredito)) == veredito
    veredito._ipython_display_()
    assert str(veredito) in capsys.readouterr().out, "o que se lê no Jupyter, embaixo da foto"


def test_o_bicho_no_meio_de_outra_coisa_e_achado_no_segundo_olhar(classifica, modelos):
    """Dado um quadrado verde no azul, de longe é azul; de perto, se ele é grande, é verde."""
    assert classifica(foto("lime", "blue", lado=25))["classe"] == "nenhum dos dois"
    grande = classifica(foto("lime", "blue", lado=65))
    de_perto = dados.redimensiona_img(imagenet.miolo(grande.foto), 0)[0]
    p = keras.models.load_model(modelos / MODELO)(de_perto[None])
    assert grande["classe"] == "cachorro"
    assert grande["probabilidade"] == pytest.approx(float(p[0, 0])), "a do modelo entregue"


def test_a_nota_nao_muda_se_o_topo_foi_ajustado(tmp_path):
    """Dado um fine-tuning que troca azul e verde no topo, o azul continua desconhecido."""
    modelo = faz_modelo()
    ajuste = modelo.get_layer("topo").get_layer("ajuste")
    ajuste.set_weights([np.eye(3)[[0, 2, 1]][None, None], np.zeros(3)])
    azul = detector.carrega_classificador(entrega(tmp_path, modelo))(foto("blue"))
    assert (azul["classe"], azul["parece"]) == ("nenhum dos dois", "cachorro")
    assert azul["probabilidade"] > 0.9


def test_varias_fotos_viram_uma_tabela_e_as_ruins_nao_param_as_outras(classifica, tmp_path):
    for nome, cor in (("a.png", "red"), ("c.png", "blue")):
        foto(cor).save(tmp_path / nome)
    (tmp_path / "b.txt").write_text("nao sou uma foto")
    tabela = classificador.classifica_varias(classifica, sorted(tmp_path.iterdir()))
    assert list(tabela) == classificador.COLUNAS
    assert tabela["arquivo"].tolist() == [str(tmp_path / n) for n in ("a.png", "b.txt", "c.png")]
    assert tabela["classe"].tolist() == ["gato", "", "nenhum dos dois"]
    assert tabela["erro"].str.startswith("b.txt não é uma foto").tolist() == [False, True, False]


def test_um_nome_que_nao_e_utf8_aparece_legivel_na_tabela(classifica, tmp_path):
    """Como num disco antigo, ou num zip do Windows; a foto boa e a ruim."""
    boa, ruim = (tmp_path / os.fsdecode(nome) for nome in (b"ma\xe7\xe3.png", b"n\xe3o.jpg"))
    foto("red").save(boa)
    ruim.write_bytes(b"")
    tabela = classificador.classifica_varias(classifica, [boa, ruim])
    assert tabela["arquivo"].tolist() == [f"{tmp_path}/maçã.png", f"{tmp_path}/não.jpg"]
    assert tabela["classe"].tolist() == ["gato", ""] and "não.jpg" in tabela["erro"][1]
    assert "maçã.png" in tabela.to_csv().encode().decode()


def de_um_lambda(pasta):
    x = keras.Input((224, 224, 3), name="foto")
    y = keras.layers.Lambda(lambda x: (open("invadido", "w").close(), x)[1])(x)
    keras.Model(x, y).save(pasta / MODELO)
    pathlib.Path("invadido").unlink()


def outro_leitor(builder, fatia):
    return dados.le(builder, fatia).map(lambda img, label: (img * 2 - 1, label))


def com_um_bit_trocado(dados):
    meio = len(dados) // 2
    return dados[:meio] + bytes([dados[meio] ^ 1]) + dados[meio + 1 :]


def reescreve(arquivo, estraga):
    return lambda p: (p / arquivo).write_bytes(estraga((p / arquivo).read_bytes()))


ESTRAGOS = {
    "sem arquivo": lambda p: (p / MODELO).unlink(),
    "de outra execução": lambda p: faz_modelo(peso=7.0).save(p / MODELO),
    "de outra rede": lambda p: keras.Sequential([keras.Input((3,))]).save(p / MODELO),
    "com um Lambda": de_um_lambda,
    "de outro leitor": lambda p: entrega(p, leitor=outro_leitor),
}
for arquivo in (MODELO, DO_CLASSIFICADOR):
    ESTRAGOS[f"{arquivo} vazio"] = reescreve(arquivo, lambda dados: b"")
    ESTRAGOS[f"{arquivo} pela metade"] = reescreve(arquivo, lambda dados: dados[: len(dados) // 2])
    ESTRAGOS[f"{arquivo} com um bit trocado"] = reescreve(arquivo, com_um_bit_trocado)
DITO = {"sem arquivo": "`make`", "de outro leitor": "volte a usar `le` na extração e rode"}


@pytest.mark.parametrize("estrago", ESTRAGOS)
def test_o_que_nao_e_uma_entrega_inteira_e_recusado(estrago, modelos, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(modelos, tmp_path, dirs_exist_ok=True)
    ESTRAGOS[estrago](tmp_path)
    capfd.readouterr()
    with pytest.raises(ErroClaro, match=DITO.get(estrago, "rode o notebook")) as recusa:
        detector.carrega_classificador(tmp_path)
    assert str(tmp_path) in str(recusa.value) and "\n" not in str(recusa.value)
    assert capfd.readouterr().out == "", "uma frase só, a do erro"
    assert not (tmp_path / "invadido").exists(), "nada do que veio no arquivo foi executado"


def test_so_se_entrega_o_modelo_que_os_mapas_descrevem(capsys):
    """Um motor menos preciso muda um pouco cada p; outro modelo muda muito."""
    acaso = np.random.default_rng(0)
    z = acaso.normal(0, 1, 300)
    p, do_bf16, de_outro = (1 / (1 + np.exp(-v)) for v in (z, z + acaso.normal(0, 0.1, 300), -z))
    classificador.confere(p[:200], do_bf16)
    diferentes = int(((p > 0.5) != (do_bf16 > 0.5))[:200].sum())
    assert f"{diferentes} de 200 fotos" in capsys.readouterr().out and diferentes
    for ruim in (de_outro, np.full(300, np.nan)):
        with pytest.raises(ErroClaro, match="não dá as respostas que os mapas dão"):
            classificador.confere(p[:200], ruim)


def test_sem_a_cabeca_da_imagenet_nada_e_recusado(tmp_path):
    sem = imagenet.Conhecidas([], np.zeros(0, int))
    limiar = imagenet.limiar(sem.nota(np.zeros((1800, 3))), sem.nota(np.zeros((7, 3))))
    classifica = detector.carrega_classificador(entrega(tmp_path, sabe=sem, limiar=limiar))
    assert classifica(foto("blue"))["classe"] == "gato"
