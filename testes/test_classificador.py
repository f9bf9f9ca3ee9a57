"""`classifica`: o que ela responde, e o que ela se recusa a carregar."""

import json
import pathlib

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import detector
from detector import classificador
from detector.erros import ErroClaro
from detector.preparo import redimensiona_img

ARQUIVOS = MODELO, DADOS = "detector_dogs_cats.keras", "classificador.dados"
CORES = {"gato": "red", "cachorro": "lime", "nenhum dos dois": "blue"}


def faz_modelo(peso=8.0):
    """Um modelo com as três partes do verdadeiro. O vetor é a cor média; vermelho é gato."""
    x = keras.Input((224, 224, 3))
    base = keras.Model(x, keras.layers.Conv2D(3, 1, 32, name="cor")(x), name="base")
    base.get_layer("cor").set_weights([np.eye(3)[None, None], np.zeros(3)])
    x = keras.Input((7, 7, 3))
    topo = keras.Model(x, keras.layers.GlobalAveragePooling2D(name="media")(x), name="topo")
    cabeca = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, "sigmoid")], name="cabeca")
    cabeca.set_weights([np.array([[-peso], [peso], [0]]), np.zeros(1)])
    foto = keras.Input((224, 224, 3), name="foto")
    return keras.Model(foto, cabeca(topo(base(foto))))


def entrega(pasta, modelo=None, preparo=redimensiona_img):
    """Deixa em `pasta` o que o notebook deixa em MODELOS; no treino só houve vermelho e verde."""
    modelo, pasta = modelo or faz_modelo(), pathlib.Path(pasta)
    pasta.mkdir(exist_ok=True)
    modelo.save(pasta / MODELO)
    vetores = np.eye(3)[[0] * 25 + [1] * 25] * 5
    classificador.guarda(pasta, modelo, vetores, 0.8, ["gato", "cachorro"], preparo)
    return pasta


def foto(cor):
    return PIL.Image.new("RGB", (120, 90), cor)


@pytest.fixture(scope="module")
def modelos(tmp_path_factory):
    return entrega(tmp_path_factory.mktemp("modelos"))


@pytest.fixture(scope="module")
def classifica(modelos):
    return detector.carrega_classificador(str(modelos))


@pytest.mark.parametrize("classe", CORES)
def test_a_resposta_tem_classe_probabilidade_e_semelhanca(classifica, classe):
    veredito = classifica(foto(CORES[classe]))
    assert list(veredito) == ["classe", "probabilidade", "similaridade", "probabilidades"]
    assert veredito["classe"] == classe
    assert sum(veredito["probabilidades"].values()) == pytest.approx(1)
    assert veredito["probabilidade"] == max(veredito["probabilidades"].values()) >= 0.5
    assert veredito["similaridade"] == pytest.approx(int(classe != "nenhum dos dois"), abs=1e-3)
    assert str(veredito).startswith(classe) and "\n" not in str(veredito)
    assert json.loads(json.dumps(veredito)) == veredito


def test_a_probabilidade_e_a_do_modelo_entregue(classifica, modelos):
    laranja = foto((200, 120, 0))
    preparada = redimensiona_img(tf.constant(np.asarray(laranja)), 0)[0]
    p = keras.models.load_model(modelos / MODELO)(preparada[None])
    assert classifica(laranja)["probabilidades"]["cachorro"] == pytest.approx(float(p[0, 0]))
    assert classifica(laranja) == classifica(np.asarray(laranja))


def test_o_retrato_do_celular_e_julgado_e_mostrado_em_pe_e_sem_achatar(classifica, tmp_path):
    """4000×3000 pixels, deitado, com a orientação no EXIF: o mesmo que a foto já em pé."""
    y, x = np.indices((4000, 3000))
    em_pe = PIL.Image.fromarray(np.stack([y // 16, x // 12, 0 * x], 2).astype("uint8"))
    exif = PIL.Image.Exif()
    exif[274] = 6
    em_pe.rotate(90, expand=True).save(tmp_path / "rex.jpg", exif=exif, quality=95)
    veredito, certo = classifica(tmp_path / "rex.jpg"), classifica(em_pe)
    assert veredito.foto.shape == (512, 384, 3), "a foto que aparece na tela"
    assert np.abs(veredito.foto.astype(int) - certo.foto).mean() < 2
    assert veredito["classe"] == certo["classe"]
    assert veredito["probabilidade"] == pytest.approx(certo["probabilidade"], abs=0.01)


def troca(nome, conteudo):
    return lambda pasta: (pasta / nome).write_bytes(conteudo((pasta / nome).read_bytes()))


def de_um_lambda(pasta):
    x = keras.Input((224, 224, 3), name="foto")
    y = keras.layers.Lambda(lambda x: (open("invadido", "w").close(), x)[1])(x)
    keras.Model(x, y).save(pasta / MODELO)
    pathlib.Path("invadido").unlink()


def bilinear(img, label):
    return tf.image.resize(img, (224, 224)) / 255, label


RUINS = {
    "vazio": lambda dados: b"",
    "pela metade": lambda dados: dados[: len(dados) // 2],
    "com um bit trocado": lambda dados: dados[:500] + bytes([dados[500] ^ 1]) + dados[501:],
    "que é uma página": lambda dados: b"<!DOCTYPE html><html>404</html>",
}
ESTRAGOS = {f"{nome} {como}": troca(nome, RUINS[como]) for nome in ARQUIVOS for como in RUINS}
ESTRAGOS |= {
    "sem modelo": lambda p: (p / MODELO).unlink(),
    "sem os dados": lambda p: (p / DADOS).unlink(),
    "modelo de outra execução": lambda p: faz_modelo(peso=7.0).save(p / MODELO),
    "modelo de outra rede": lambda p: keras.Sequential([keras.Input((3,))]).save(p / MODELO),
    "modelo com um Lambda": de_um_lambda,
    "outra interpolação": lambda p: entrega(p, preparo=bilinear),
    "outro tamanho": lambda p: entrega(p, preparo=lambda img, y: (img[:99, :99], y)),
}
DITO = {"sem": "`make`", "outra interpolação": "preparação", "outro tamanho": "preparação"}


@pytest.mark.parametrize("nome", ESTRAGOS)
def test_o_que_nao_e_uma_entrega_inteira_e_recusado(nome, modelos, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for arquivo in ARQUIVOS:
        (tmp_path / arquivo).write_bytes((modelos / arquivo).read_bytes())
    ESTRAGOS[nome](tmp_path)
    capfd.readouterr()
    dito = next((d for inicio, d in DITO.items() if nome.startswith(inicio)), "rode o notebook")
    with pytest.raises(ErroClaro, match=dito) as recusa:
        detector.carrega_classificador(tmp_path)
    assert str(tmp_path) in str(recusa.value) and "\n" not in str(recusa.value)
    assert capfd.readouterr().out == "", "uma frase só, a do erro"
    assert not (tmp_path / "invadido").exists(), "nada do que veio no arquivo foi executado"


def test_varias_fotos_viram_uma_tabela_e_as_ruins_nao_param_as_outras(classifica, tmp_path):
    for nome, cor in (("a.png", "red"), ("c.png", "blue")):
        foto(cor).save(tmp_path / nome)
    (tmp_path / "b.txt").write_text("nao sou uma foto")
    tabela = classificador.classifica_varias(classifica, sorted(tmp_path.iterdir()))
    assert list(tabela) == ["arquivo", "classe", "probabilidade", "similaridade", "erro"]
    assert tabela["arquivo"].tolist() == [str(tmp_path / n) for n in ("a.png", "b.txt", "c.png")]
    assert tabela["classe"].tolist() == ["gato", "", "nenhum dos dois"]
    assert tabela["erro"].str.startswith("b.txt não é uma foto").tolist() == [False, True, False]


def test_no_jupyter_aparecem_a_foto_e_a_resposta(classifica, capsys):
    veredito = classifica(foto("red"))
    veredito._ipython_display_()
    assert str(veredito) in capsys.readouterr().out


def pelo_ipywidgets_8(seletor, nome, dados):
    arquivo = {"name": nome, "type": "", "size": len(dados), "last_modified": 0}
    seletor.set_state({"value": [arquivo | {"content": memoryview(dados)}]})


def pelo_ipywidgets_7(seletor, nome, dados):
    valor = {nome: {"metadata": {"name": nome}, "content": dados}}
    seletor.notify_change({"name": "value", "new": valor, "owner": seletor, "type": "change"})


@pytest.mark.parametrize("envia", [pelo_ipywidgets_8, pelo_ipywidgets_7])
def test_o_botao_responde_a_cada_foto_escolhida(classifica, tmp_path, capsys, envia):
    seletor, _ = classificador.botao(classifica).children
    foto("red").save(tmp_path / "rex.png")
    envia(seletor, "rex.png", (tmp_path / "rex.png").read_bytes())
    dito = capsys.readouterr().out
    assert "rex.png" in dito and "gato" in dito
    envia(seletor, "leia-me.txt", b"nao sou uma foto")
    assert "leia-me.txt não é uma foto" in capsys.readouterr().out
