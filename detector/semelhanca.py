"""Quanto uma foto se parece com as do treino: o cosseno com os vetores mais próximos."""

import numpy as np

# Com 5, três fotos de texto entre as 1.600 do treino já faziam outra passar por gato; com 20, é
# preciso mais de cinco, e não se recusam mais gatos e cachorros (1 % do teste; antes, 2 %).
VIZINHOS = 20


def unitarios(vetores: np.ndarray) -> np.ndarray:
    """Os mesmos vetores (n, canais), float32, com norma 1."""
    vetores = np.asarray(vetores, "float32")
    return vetores / np.maximum(np.linalg.norm(vetores, axis=1, keepdims=True), 1e-12)


def semelhanca(vetores: np.ndarray, referencia: np.ndarray, pula: int = 0) -> np.ndarray:
    """Cosseno médio (n,), de −1 a 1, de cada vetor com os 20 mais próximos da `referencia`.

    vetores: (n, canais). referencia: (m, canais), de norma 1 (ver `unitarios`).
    pula: quantos dos mais próximos saltar; 1 para vetores que estão na própria referência.
    """
    medias = []
    for inicio in range(0, len(vetores), 1000):
        cossenos = unitarios(vetores[inicio : inicio + 1000]) @ referencia.T
        fica = min(pula + VIZINHOS, cossenos.shape[1])
        proximos = -np.partition(-cossenos, fica - 1, axis=1)[:, :fica]
        medias.append(-np.sort(-proximos, axis=1)[:, pula:].mean(axis=1))
    return np.concatenate(medias)
