"""Gato ou cachorro: o que o notebook `detector_dogs_cats.ipynb` usa e não precisa mostrar.

Importar este pacote é rápido e não toca em nada: cada sala (`detector.dados`, `detector.motores`…)
só é carregada, e o TensorFlow com ela, quando alguém a usa pela primeira vez.
"""

import importlib
import importlib.util

from detector.ambiente import (
    ErroClaro,
    carrega_tensorflow,
    confere_parametros,
    nao_carrega,
    prepara,
)

__version__ = "3.0.0"
__all__ = [
    "ErroClaro",
    "carrega_classificador",
    "comeca",
    "confere_parametros",
    "prepara",
    "redimensiona_img",
]

_ATALHOS = {
    "carrega_classificador": "classificador",
    "comeca": "entrega",
    "redimensiona_img": "dados",
}


def __getattr__(nome: str):
    """Carrega a sala `nome`, ou a função que mora nela, na primeira vez em que alguém a usa."""
    if nome in _ATALHOS:
        return getattr(__getattr__(_ATALHOS[nome]), nome)
    if nome.startswith("_") or importlib.util.find_spec(f"detector.{nome}") is None:
        raise AttributeError(f"o pacote detector não tem {nome!r}")
    carrega_tensorflow()
    try:
        return importlib.import_module(f"detector.{nome}")
    except (ImportError, AttributeError) as erro:  # o `from … import` esconderia um AttributeError
        raise nao_carrega(f"detector.{nome}", erro) from erro
