"""Baixar um arquivo grande por uma rede que falha: continua de onde parou, ou diz por que não."""

import contextlib
import hashlib
import http.client
import pathlib
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator

from tqdm import tqdm

PEDACO = 1 << 16  # bytes
DEVAGAR = 5000  # bytes por segundo; abaixo disso, o dataset levaria mais de um dia
TENTATIVAS = 3  # seguidas, sem que nada de novo chegue
NAO_CONTINUA = 33
FALHAS = {  # por que o curl parou, pelo código com que saiu
    28: "o servidor parou de mandar, ou manda devagar demais",
    NAO_CONTINUA: "o servidor não sabe continuar um download, e ele recomeça do início",
}


def responde(url: str, prazo: float = 5.0) -> bool:
    """True se `url` responde com um arquivo, e não com uma página HTML, em `prazo` segundos.

    A pergunta vai em outra thread porque o DNS não obedece a prazo nenhum.
    """
    respostas = []

    def pergunta():
        pedido = urllib.request.Request(url, method="HEAD")
        with (
            contextlib.suppress(OSError, http.client.HTTPException),  # sem rede, 404…
            _abre(pedido, prazo) as resposta,
        ):
            respostas.append("html" not in resposta.headers.get("Content-Type", ""))

    conversa = threading.Thread(target=pergunta, daemon=True)
    conversa.start()
    conversa.join(prazo)
    return respostas == [True]


def baixa(
    url: str, destino: pathlib.Path, tamanho: int, sha256: str, prazo: float = 5, espera: int = 30
) -> None:
    """Baixa `url` para `destino` e verifica o SHA-256.

    O que já chegou fica em `destino`.parcial. Se há curl, a próxima chamada continua daí, mesmo
    depois de um kill -9. tamanho: em bytes. prazo: segundos para a primeira resposta. espera:
    segundos de silêncio, ou de conta-gotas, até desistir da conexão.
    Levanta ConnectionError se a rede não entrega o arquivo, e OSError se não dá para gravar.
    """
    if destino.is_file():  # só recebe este nome depois de verificado
        return
    parcial = destino.with_name(f"{destino.name}.parcial")
    chegou = parcial.stat().st_size if parcial.is_file() else 0
    if chegou < tamanho:
        if not responde(url, prazo):
            raise ConnectionError("o servidor não respondeu")
        parcial.parent.mkdir(parents=True, exist_ok=True)
        with open(parcial, "ab") as arquivo:
            _completa(arquivo, url, tamanho, espera)
    if _sha256(parcial) != sha256:
        parcial.unlink()
        raise ConnectionError("o arquivo veio diferente do original e foi apagado")
    parcial.replace(destino)


def _completa(arquivo, url: str, tamanho: int, espera: int) -> None:
    """Acrescenta ao `arquivo` o que falta; insiste enquanto chega alguma coisa nova."""
    mais_longe, em_vao = arquivo.tell(), 0
    bytes_ = {"total": tamanho, "initial": arquivo.tell(), "unit": "B", "unit_scale": True}
    with tqdm(desc="Baixando", mininterval=1, file=sys.stdout, **bytes_) as barra:
        while arquivo.tell() < tamanho:
            if not shutil.which("curl") and arquivo.tell():
                barra.write("Sem o curl não sei continuar um download: recomeço do início.")
                arquivo.seek(0)
                arquivo.truncate()
            falha = "a conexão caiu"
            try:
                for pedaco in _pedacos(url, arquivo.tell(), espera):
                    arquivo.write(pedaco)
                    barra.update(arquivo.tell() - barra.n)
                    if arquivo.tell() > tamanho:  # não é o arquivo, e talvez não tenha fim
                        break
            except ConnectionError as erro:
                falha = str(erro)
                if falha == FALHAS[NAO_CONTINUA]:
                    arquivo.truncate(0)
            em_vao = 0 if arquivo.tell() > mais_longe else em_vao + 1
            mais_longe = max(mais_longe, arquivo.tell())
            if em_vao == TENTATIVAS:
                raise ConnectionError(falha)
            time.sleep(em_vao * espera / 10)


def _pedacos(url: str, inicio: int, espera: int) -> Iterator[bytes]:
    """Os bytes de `url` a partir de `inicio`; ConnectionError, com o motivo, se param de chegar."""
    return _do_curl(url, inicio, espera) if shutil.which("curl") else _do_urllib(url, espera)


def _do_curl(url: str, inicio: int, espera: int) -> Iterator[bytes]:
    # Pelo pipe, e não por --output: se este processo morre, o curl morre junto, em vez de continuar
    # escrevendo no arquivo que a próxima execução vai completar.
    comando = ["curl", "--silent", "--fail", "--location", "--proto-redir", "=https", url]
    comando += ["--connect-timeout", str(min(10, espera)), "--continue-at", str(inicio)]
    comando += ["--speed-limit", str(DEVAGAR), "--speed-time", str(espera)]
    with subprocess.Popen(comando, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as curl:
        try:
            while pedaco := curl.stdout.read1(PEDACO):
                yield pedaco
            codigo = curl.wait()
        finally:
            curl.kill()
    if codigo:
        raise ConnectionError(FALHAS.get(codigo, f"a conexão caiu; o curl diz {codigo}"))


def _do_urllib(url: str, espera: int) -> Iterator[bytes]:
    try:
        with _abre(url, espera) as resposta:
            while pedaco := resposta.read1(PEDACO):
                yield pedaco
    except (OSError, http.client.HTTPException) as erro:
        raise ConnectionError(str(erro)) from erro


def _abre(pedido, prazo: float):
    """Como `urllib.request.urlopen`, que se lembraria para sempre do proxy da primeira vez."""
    return urllib.request.build_opener().open(pedido, timeout=prazo)


def _sha256(caminho: pathlib.Path) -> str:
    resumo = hashlib.sha256()
    with open(caminho, "rb") as arquivo:
        while pedaco := arquivo.read(PEDACO):
            resumo.update(pedaco)
    return resumo.hexdigest()
