"""O que merece um segundo olhar no dataset: rótulos em dúvida, cópias, fotos de outra coisa.

E o caminho de volta: as fotos que a pessoa, depois de olhar, tirou do treino.
"""

import codecs
import csv
import io
import os
import pathlib
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import pandas as pd

from detector.ambiente import ErroClaro, caminho, no_disco
from detector.pastas import quantos

# Escolhidos à mão entre o que dão as cópias (espelhadas, reduzidas, regravadas) e as outras fotos.
CORRELACAO, COSSENO = 0.97, 0.4  # das miniaturas; dos vetores
PLANILHAS = b"PK", bytes.fromhex("d0cf11e0")  # como começam um .xlsx e um .xls
POR_FOTO = 5  # de quantas anteriores, no máximo, uma foto é dita cópia


def discordancias(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Índices das fotos em que rótulo e modelo discordam, o modelo mais convicto primeiro.

    y: (n,), 0 ou 1. p: (n,), a probabilidade da classe 1 segundo um modelo que não viu a foto.
    """
    y, p = np.asarray(y), np.asarray(p)
    quais = np.flatnonzero((p > 0.5) != (y == 1))
    return quais[np.argsort(-np.abs(p - y)[quais], kind="stable")]


def copias(miniaturas: np.ndarray, vetores: np.ndarray) -> list[tuple[int, int]]:
    """Pares (i, j), i < j, de fotos que são a mesma, mesmo espelhada, reduzida ou regravada.

    miniaturas: (n, 16, 16), em tons de cinza. vetores: (n, canais), um por foto.
    Cada foto é comparada com todas as anteriores, em blocos: a memória não cresce com n². De
    dezenas de fotos iguais saem pares que as ligam, não todos os pares.
    """
    from sklearn.preprocessing import normalize  # cada linha, com norma 1

    linhas = miniaturas.reshape(-1, 256).astype("float32")
    normais = normalize(linhas - linhas.mean(axis=1, keepdims=True)).reshape(-1, 16, 16)
    espelhos = normais[:, :, ::-1]
    # O que o espelho não muda e o que ele troca de sinal; as outras 8 colunas repetem estas. A
    # correlação de duas fotos é a soma dos dois produtos; com uma espelhada, é a diferença.
    iguais = (normais + espelhos)[:, :, :8].reshape(-1, 128) / 2**0.5
    trocadas = (normais - espelhos)[:, :, :8].reshape(-1, 128) / 2**0.5
    pares = []
    for inicio in range(0, len(linhas), 256):
        fim = min(inicio + 256, len(linhas))
        correlacoes = np.abs(trocadas[inicio:fim] @ trocadas[:fim].T)
        correlacoes += iguais[inicio:fim] @ iguais[:fim].T
        correlacoes[:, inicio:] = np.tril(correlacoes[:, inicio:], -1)  # só com as anteriores
        for _ in range(POR_FOTO):
            i, j = correlacoes.argmax(axis=1), np.arange(inicio, fim)
            parecidas = correlacoes[j - inicio, i] > CORRELACAO
            if not parecidas.any():
                break
            i, j = i[parecidas], j[parecidas]
            cossenos = (normalize(vetores[i]) * normalize(vetores[j])).sum(axis=1)
            pares += np.column_stack([i, j])[cossenos > COSSENO].tolist()
            correlacoes[j - inicio, i] = 0
    return sorted((i, j) for i, j in pares)


def com_copia(pares: list[tuple[int, int]], conjuntos: Sequence[str], de: str, em: str) -> int:
    """Quantas fotos do conjunto `de` têm uma cópia no conjunto `em`; conjuntos: o de cada foto."""
    nos_dois_sentidos = [*pares, *((j, i) for i, j in pares)]
    return len({i for i, j in nos_dois_sentidos if (conjuntos[i], conjuntos[j]) == (de, em)})


def suspeitas(
    fotos: pd.DataFrame, classes: list[str], p: np.ndarray, pares: list, estranhas: Sequence[int]
) -> pd.DataFrame:
    """A tabela das fotos que merecem um segundo olhar, a mais duvidosa primeiro.

    fotos: de `dados.lista`. classes: o nome da 0 e o da 1. p: (n,), de quem não viu a foto.
    pares: de `copias`. estranhas: índices das que não parecem de classe alguma. O índice da tabela
    é a linha da foto no dataset.
    """
    y, arquivos = fotos["rotulo"].to_numpy(), fotos["arquivo"].tolist()
    motivos = {i: ["rótulo e modelo discordam"] for i in discordancias(y, p).tolist()}
    for i, j in pares:
        motivos.setdefault(i, []).append(f"cópia de {arquivos[j]}")
        motivos.setdefault(j, []).append(f"cópia de {arquivos[i]}")
    for i in np.asarray(estranhas, int).tolist():
        motivos.setdefault(i, []).append(f"das que menos parecem {classes[0]} ou {classes[1]}")
    linhas = [
        (arquivos[i], classes[y[i]], round(float(p[i]), 4), "; ".join(motivo))
        for i, motivo in motivos.items()
    ]
    colunas = ["arquivo", "rotulo", f"probabilidade_{classes[1]}", "motivo"]
    return pd.DataFrame(linhas, columns=colunas, index=list(motivos))


def fora_do_treino(fotos: pd.DataFrame, arquivo: str | os.PathLike | None) -> np.ndarray:
    """(n,) True para as fotos que a coluna `arquivo` de um CSV nomeia; nenhuma, se ele é None.

    fotos: as colunas `arquivo`, `rotulo` e `conjunto`. Serve o CSV que o notebook grava e também o
    que o Excel salva por cima dele. Diz quantas linhas não são fotos deste dataset. Levanta
    ErroClaro se não é um CSV assim, ou se deixaria no treino menos da metade de uma classe.
    """
    if arquivo is None:
        return np.zeros(len(fotos), bool)
    nomes = le_tabela(caminho(arquivo))["arquivo"].dropna()
    de_cada = {_simples(nome): nome for nome in fotos["arquivo"]}
    de_cada |= {nome: nome for nome in fotos["arquivo"]}
    achadas = {nome: de_cada.get(nome, de_cada.get(_simples(nome))) for nome in nomes}
    fora = fotos["arquivo"].isin(achadas.values()).to_numpy()
    no_treino = fotos["conjunto"] == "treino"
    saem = quantos((fora & no_treino).sum(), "sai", "saem")
    ficam = quantos((fora & ~no_treino).sum(), "fica, por ser", "ficam, por serem")
    print(
        f"FOTOS_FORA: {quantos(fora.sum(), 'foto', 'fotos')} de {arquivo}: {saem} do treino; "
        f"{ficam} da validação ou do teste"
    )
    if perdidas := [nome for nome, achada in achadas.items() if achada is None]:
        linhas = quantos(len(perdidas), "linha não é foto", "linhas não são fotos")
        exemplos = f"{', '.join(perdidas[:3])}; nele, os nomes são como {fotos['arquivo'].iloc[0]}"
        print(f"  {linhas} deste dataset, como {exemplos}")
    for rotulo, antes in fotos["rotulo"][no_treino].value_counts().items():
        ficam = (no_treino & ~fora & (fotos["rotulo"] == rotulo)).sum()
        if ficam < antes / 2:
            raise ErroClaro(
                f"FOTOS_FORA: {arquivo} deixaria no treino só {ficam} das {antes} fotos da classe "
                f"{rotulo}. Confira o arquivo; para treinar com menos fotos, use MAX_IMAGENS."
            )
    return fora


def _simples(nome: str) -> str:
    """O nome como o Windows e o macOS o comparam: sem maiúsculas, com / e os acentos compostos."""
    return unicodedata.normalize("NFC", nome).replace("\\", "/").strip().lower()


def le_tabela(arquivo: pathlib.Path) -> pd.DataFrame:
    """Um CSV, do pandas ou do Excel, com a coluna `arquivo`; ErroClaro se não é um.

    Os campos que uma linha tem a mais que o cabeçalho são ignorados; os a menos são NaN.
    """
    with no_disco("ler FOTOS_FORA,", arquivo, "mude FOTOS_FORA"):
        conteudo = arquivo.read_bytes()
    texto = _decodifica(conteudo)
    texto = re.sub(r"\A[\r\n]*(sep=.[\r\n]*)?", "", texto)  # o sep=; diz o separador ao Excel
    cabecalho = "".join(texto.splitlines()[:1])
    causa = cabecalho[:60] or "está vazio"
    if conteudo.startswith(PLANILHAS):
        causa = "é uma planilha: salve-a como CSV"
    elif re.search(r"[\0-\x08]", texto):
        causa = "não é um texto"
    separador = max(",;\t", key=cabecalho.count)
    linhas = csv.DictReader(io.StringIO(texto, newline=""), delimiter=separador)
    try:
        colunas = [nome.strip().lower() for nome in linhas.fieldnames or []]
        linhas.fieldnames = colunas
        tabela = pd.DataFrame(linhas, columns=list(dict.fromkeys(colunas)), dtype=object)
        return tabela.where(tabela != "").astype({"arquivo": object})
    except (csv.Error, KeyError) as erro:
        raise ErroClaro(
            f"FOTOS_FORA: {arquivo} não é um CSV com a coluna `arquivo` ({causa})."
        ) from erro


def _decodifica(conteudo: bytes) -> str:
    """O texto de um CSV, que o Excel salva em UTF-16, em UTF-8 ou na codificação do Windows."""
    if conteudo.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return conteudo.decode("utf-16", "replace")
    try:
        return conteudo.decode("utf-8-sig")
    except UnicodeDecodeError:
        return conteudo.decode("cp1252", "replace")
