"""A semelhança é o cosseno médio com os mais próximos, calculado de qualquer tamanho."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from detector import caracteristicas, leitura
from detector.preparo import redimensiona_img
from detector.semelhanca import VIZINHOS, semelhanca, unitarios


def uma_a_uma(vetores, referencia, pula):
    """A mesma conta, sem pressa: um cosseno de cada vez, todos ordenados."""
    medias = []
    for a in vetores:
        cossenos = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in referencia]
        medias.append(np.mean(sorted(cossenos, reverse=True)[pula : pula + VIZINHOS]))
    return np.array(medias)


@pytest.mark.parametrize(("n", "m", "pula"), [(30, 40, 0), (30, 3, 0), (40, 40, 1), (1001, 9, 0)])
def test_e_a_media_dos_cossenos_com_os_mais_proximos(n, m, pula):
    vetores = np.random.default_rng(0).normal(size=(max(n, m), 8)) * 3 + 1
    referencia = vetores[:m]
    obtida = semelhanca(vetores[:n], unitarios(referencia), pula)
    np.testing.assert_allclose(obtida, uma_a_uma(vetores[:n], referencia, pula), atol=1e-5)


def test_quem_esta_na_referencia_nao_se_conta():
    """Muitas cópias e um vetor só: sem pular, este se acharia parecido com alguém."""
    vetores = np.eye(6)[[0] * (VIZINHOS + 1) + [5]]
    com_pula = semelhanca(vetores, unitarios(vetores), pula=1)
    np.testing.assert_allclose(com_pula, [1] * (VIZINHOS + 1) + [0], atol=1e-6)


def test_um_vetor_de_zeros_nao_se_parece_com_ninguem():
    assert semelhanca(np.zeros((1, 4)), unitarios(np.eye(4))).tolist() == [0]


def test_umas_poucas_fotos_estranhas_no_treino_nao_deixam_passar_as_suas_semelhantes(
    amostra, backbone, tmp_path
):
    """O dataset tem fotos de texto com o rótulo de gato. Três, e três desenhos, não bastam."""
    acaso = np.random.default_rng(0)
    textos, desenhos = ([faz(acaso) for _ in range(10)] for faz in (texto, desenho))
    fotos = leitura.lista(amostra, 1000)
    extrai = caracteristicas.extrai
    X = extrai(amostra, fotos, redimensiona_img, backbone, None, "auto", tmp_path).vetores
    preparadas = np.stack([redimensiona_img(foto, 0)[0] for foto in textos + desenhos])
    estranhas = backbone.predict(preparadas, verbose=0)
    plantadas = np.concatenate([X[:900], estranhas[:3], estranhas[10:13]])
    referencia = unitarios(plantadas)
    limiar = np.quantile(semelhanca(plantadas, referencia, pula=1), 0.01)
    outras = np.concatenate([estranhas[3:10], estranhas[13:]])
    assert (semelhanca(outras, referencia) < limiar).all()
    assert (semelhanca(X[900:], referencia) < limiar).mean() <= 0.05


def texto(acaso):
    imagem = Image.new("RGB", (400, 300), "white")
    letras = acaso.integers(97, 123, (8, 36)).astype("uint8")
    for i, linha in enumerate(letras):
        frase = " ".join(bytes(linha).decode()[k : k + 6] for k in range(0, 36, 6))
        ImageDraw.Draw(imagem).text((15, 15 + 35 * i), frase, fill="black", font_size=20)
    return np.asarray(imagem)


def desenho(acaso):
    imagem = Image.new("RGB", (300, 300), "white")
    for x, y, largura, altura in acaso.integers(20, 150, (6, 4)):
        caixa = [x, y, x + largura, y + altura]
        ImageDraw.Draw(imagem).ellipse(caixa, outline="black", width=3)
    return np.asarray(imagem)
