"""A semelhança é o cosseno médio com os mais próximos, calculado de qualquer tamanho."""

import numpy as np
import pytest

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
    """Cinco cópias e um vetor só: sem pular, todos se achariam iguais a alguém."""
    vetores = np.eye(6)[[0, 0, 0, 0, 0, 0, 5]]
    com_pula = semelhanca(vetores, unitarios(vetores), pula=1)
    np.testing.assert_allclose(com_pula, [1, 1, 1, 1, 1, 1, 0], atol=1e-6)


def test_um_vetor_de_zeros_nao_se_parece_com_ninguem():
    assert semelhanca(np.zeros((1, 4)), unitarios(np.eye(4))).tolist() == [0]
