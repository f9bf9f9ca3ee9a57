"""O que se clica no notebook: as fotos em dúvida, para limpar o treino, e o botão da sua foto.

As marcas das fotos em dúvida são um CSV em MODELOS. Na coluna `arquivo` estão as que saem do
treino, e é essa a que FOTOS_FORA lê; em `rotulo_certo`, as que a pessoa olhou e confirmou.
"""

import html
import importlib
import io
import pathlib
import sys
from collections.abc import Callable

import ipywidgets
import numpy as np
import pandas as pd
from IPython.display import display
from IPython.utils.capture import capture_output
from PIL import Image, ImageOps

from detector import auditoria
from detector.ambiente import ErroClaro, no_disco
from detector.arquivos import grava, trava
from detector.figuras import mostra_fotos

FORA, CERTO = "arquivo", "rotulo_certo"  # as colunas do CSV
BOTOES = {"o rótulo está certo": CERTO, "tirar do treino": FORA, "não sei": ""}
POR_PAGINA, LADO = 12, 150  # fotos; pixels de cada uma
ESTILO = "white-space: pre-line; line-height: 1.4; overflow-wrap: anywhere"  # CSS
ARQUIVO = "fotos_fora.csv"
AVISO = """De uma vez cabem 10 MB, umas duas fotos de celular; com o Jupyter aberto por
<code>make jupyter</code>, 300 MB. Se passar disso, nada aparece: rode esta célula de novo e
escolha menos."""


def marcadas(modelos: pathlib.Path) -> pathlib.Path | None:
    """O arquivo das marcas, que vale como FOTOS_FORA se não há outro; None se ninguém marcou."""
    arquivo = modelos / ARQUIVO
    return arquivo if arquivo.exists() else None


def le_marcas(arquivo: pathlib.Path) -> pd.DataFrame:
    """As linhas do arquivo; nenhuma, se não existe. Levanta ErroClaro se não se lê."""
    if not arquivo.exists():
        return pd.DataFrame(columns=[FORA, CERTO], dtype=object)
    marcas = auditoria.le_tabela(arquivo).astype(object)
    return marcas.reindex(columns=marcas.columns.union([FORA, CERTO], sort=False))


def marca(arquivo: pathlib.Path, nome: str, qual: str) -> pd.DataFrame:
    """Grava já a marca de uma foto: FORA, CERTO, ou "", que a desfaz. Devolve todas.

    O que outro kernel marcou nesse meio-tempo fica. Levanta ErroClaro se não pôde gravar.
    """
    disco = no_disco("gravar em", arquivo.parent, "mude MODELOS")
    with disco, trava(arquivo.with_name(".trava-marcas"), ""):
        marcas = le_marcas(arquivo)
        marcas = marcas[(marcas[FORA] != nome) & (marcas[CERTO] != nome)].reset_index(drop=True)
        if qual:
            marcas.loc[len(marcas), qual] = nome
        grava(arquivo, marcas.to_csv(index=False).encode("utf-8-sig"))
        return marcas


class Painel:
    """As fotos em dúvida, doze por página; abre na primeira em que falta marcar alguma.

    suspeitas: de `auditoria.suspeitas`, com mais uma coluna, `conjunto`. classes: o nome da 0 e o
    da 1. pega(linhas): as fotos uint8 dessas linhas do dataset. modelos: a pasta das marcas.
    """

    def __init__(
        self, suspeitas: pd.DataFrame, classes: list[str], pega: Callable, modelos: pathlib.Path
    ) -> None:
        self.suspeitas, self.classes, self.pega = suspeitas, classes, pega
        self.arquivo = modelos / ARQUIVO
        self.conta, self.grade = ipywidgets.HTML(), ipywidgets.Box(layout={"flex_flow": "row wrap"})
        self.volta = ipywidgets.Button(description="← anteriores")
        self.segue = ipywidgets.Button(description="seguintes →")
        self.volta.on_click(lambda _: self.abre(self.pagina - 1))
        self.segue.on_click(lambda _: self.abre(self.pagina + 1))
        passos = ipywidgets.HBox([self.volta, self.segue])
        self.tudo = ipywidgets.VBox([self.conta, self.grade, passos])
        faltam = ~suspeitas["arquivo"].isin(le_marcas(self.arquivo)[[FORA, CERTO]].stack())
        self.abre(int(faltam.argmax()) // POR_PAGINA if len(faltam) else 0)

    def _ipython_display_(self) -> None:
        """O navegador escolhe o widget; o papermill e o GitHub, uma figura da mesma página."""
        with capture_output() as dito:
            mostra_fotos(self.fotos, self.titulos)
        [figura] = dito.outputs
        widget = {"version_major": 2, "version_minor": 0, "model_id": self.tudo.model_id}
        formatos = {
            "text/plain": "(no Jupyter, cada foto aparece com botões)",
            "application/vnd.jupyter.widget-view+json": widget,
        }
        display(figura.data | formatos, raw=True)

    def abre(self, pagina: int) -> None:
        """Mostra uma página; a primeira é a 0."""
        linhas = self.suspeitas[pagina * POR_PAGINA : (pagina + 1) * POR_PAGINA]
        self.pagina, self.fotos, self.titulos = pagina, self.pega(list(linhas.index)), []
        self.volta.disabled = pagina == 0
        self.segue.disabled = (pagina + 1) * POR_PAGINA >= len(self.suspeitas)
        marcas = le_marcas(self.arquivo)
        cartoes = []
        for foto, linha in zip(self.fotos, linhas.itertuples(index=False, name=None), strict=True):
            nome, rotulo, p, motivo, conjunto = linha
            modelo = f"{self.classes[p > 0.5]} ({max(p, 1 - p):.0%})"
            self.titulos.append(f"rótulo: {rotulo}\nmodelo: {modelo}")
            legenda = f"{self.titulos[-1]}\n{conjunto}; {motivo}\n{nome}"
            gravada = next((qual for qual in (FORA, CERTO) if nome in {*marcas[qual]}), "")
            cartoes.append(self._cartao(foto, legenda, nome, gravada))
        self.grade.children = cartoes
        self._conta(marcas)

    def _cartao(self, foto: np.ndarray, legenda: str, nome: str, gravada: str) -> ipywidgets.VBox:
        jpeg = io.BytesIO()
        ImageOps.pad(Image.fromarray(foto), (LADO, LADO), color="white").save(jpeg, "JPEG")
        vista = ipywidgets.Image(value=jpeg.getvalue(), format="jpeg")
        texto = ipywidgets.HTML(f'<div style="{ESTILO}">{html.escape(legenda)}</div>')
        botoes = ipywidgets.ToggleButtons(options=BOTOES, value=gravada)
        botoes.observe(lambda muda: self._marca(nome, muda["new"]), "value")
        return ipywidgets.VBox([vista, texto, botoes], layout={"width": "170px"})

    def _marca(self, nome: str, qual: str) -> None:
        try:
            self._conta(marca(self.arquivo, nome, qual))
        except ErroClaro as erro:
            self.conta.value = html.escape(f"ERRO: {erro}")

    def _conta(self, marcas: pd.DataFrame) -> None:
        certas = self.suspeitas["arquivo"].isin(marcas[CERTO])
        fora = self.suspeitas["arquivo"].isin(marcas[FORA])
        ficam = self.suspeitas["conjunto"][fora].isin(["validação", "teste"])
        self.conta.value = html.escape(
            f"Página {self.pagina + 1}. Fotos em dúvida: {len(self.suspeitas)}; com o rótulo "
            f"certo, {certas.sum()}; para tirar do treino, {fora.sum()} (da validação ou do teste, "
            f"que ficam: {ficam.sum()}). Cada clique já está em {self.arquivo}, para a próxima "
            "execução."
        )


def botao(classifica: Callable[..., dict]) -> ipywidgets.VBox:
    """Botão do Jupyter e do Colab para escolher fotos; cada uma aparece embaixo, com a resposta.

    No Jupyter, as fotos escolhidas vão numa mensagem só; se ela passa do limite do servidor, nada
    chega até aqui, e por isso o botão diz antes o que cabe. No Colab, quem envia é ele mesmo.
    """
    saida = ipywidgets.Output()

    @saida.capture(clear_output=True)
    def responde(fotos: dict[str, bytes]) -> None:
        for nome, conteudo in fotos.items():
            print(f"{nome}:")
            try:
                display(classifica(bytes(conteudo), nome))
            except ErroClaro as erro:
                print(erro)

    def do_jupyter(mudanca: dict) -> None:
        novas = mudanca["new"]  # tupla de dicts no ipywidgets 8; dict de dicts no 7
        if isinstance(novas, dict):
            novas = [{"name": nome, **nova} for nome, nova in novas.items()]
        responde({nova["name"]: nova["content"] for nova in novas})

    if "google.colab" in sys.modules:

        def do_colab(_: ipywidgets.Button) -> None:
            responde(importlib.import_module("google.colab.files").upload())

        seletor = ipywidgets.Button(description="Escolher fotos", icon="upload")
        seletor.on_click(do_colab)
        return ipywidgets.VBox([seletor, saida])
    seletor = ipywidgets.FileUpload(
        accept="image/*,.heic",
        multiple=True,
        description="Escolher fotos",
        layout={"width": "auto"},  # cabe também o número das escolhidas
    )
    seletor.observe(do_jupyter, "value")
    return ipywidgets.VBox([seletor, ipywidgets.HTML(AVISO), saida])
