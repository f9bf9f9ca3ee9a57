"""Gato ou cachorro: o que o notebook `detector_dogs_cats.ipynb` usa e não precisa mostrar.

Importar este pacote é rápido e não toca em nada: cada sala (`detector.dados`, `detector.motores`…)
só é carregada, e o TensorFlow com ela, quando alguém a usa pela primeira vez.
"""

import importlib
import importlib.util

from detector import ambiente
from detector.ambiente import ErroClaro, prepara

__version__ = "3.0.0"
_ATALHOS = {  # o que se pede ao pacote, e a sala em que está
    "carrega_classificador": "classificador",
    "comeca": "comeco",
    "confere_parametros": "comeco",
    "redimensiona_img": "dados",
}
__all__ = ["ErroClaro", "prepara", *_ATALHOS]


def __getattr__(nome: str):
    """Carrega a sala `nome`, ou a função que mora nela, na primeira vez em que alguém a usa."""
    if nome in _ATALHOS:
        return getattr(__getattr__(_ATALHOS[nome]), nome)
    if nome.startswith("_") or importlib.util.find_spec(f"detector.{nome}") is None:
        raise AttributeError(f"o pacote detector não tem {nome!r}")
    ambiente.carrega_tensorflow()
    try:
        return importlib.import_module(f"detector.{nome}")
    except (ImportError, AttributeError) as erro:  # o `from … import` esconderia um AttributeError
        raise ambiente.nao_carrega(f"detector.{nome}", erro) from erro
