"""Baixar um arquivo grande por uma rede que falha: continua de onde parou, ou diz por que não."""

import hashlib
import pathlib
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator

import requests
from tqdm import tqdm
from urllib3.exceptions import HTTPError, ReadTimeoutError

PEDACO = 1 << 16  # bytes
DEVAGAR = 5000  # bytes por segundo; abaixo disso, o dataset levaria mais de um dia
TENTATIVAS = 3  # seguidas, sem que nada de novo chegue
CODIGOS = {"403": "acesso proibido", "404": "o arquivo não está lá", "407": "o proxy pede senha"}
MOTIVOS = {  # {} é quem falhou: o servidor, ou o proxy
    ssl.SSLCertVerificationError: "o certificado do site não é de confiança: confira a data e a "
    "hora do computador, ou peça ajuda a quem cuida da rede",
    socket.gaierror: "o endereço d{} não foi encontrado: confira a conexão com a internet",
    ConnectionRefusedError: "{} recusou a conexão",
    TimeoutError: "{} não respondeu a tempo",
    requests.exceptions.InvalidSchema: "o site mandou buscar o arquivo sem a proteção do https",
}


def baixa(
    url: str, destino: pathlib.Path, tamanho: int, sha256: str, prazo: float = 5, espera: float = 30
) -> None:
    """Baixa `url`, de `tamanho` bytes, para `destino`, e verifica o SHA-256.

    O que já chegou fica em `destino`.parcial; a próxima chamada continua daí, mesmo após kill -9.
    prazo e espera: segundos até a primeira resposta; e de silêncio, ou conta-gotas, até desistir.
    Levanta ConnectionError se a rede não entrega o arquivo, e OSError se não dá para gravar.
    """
    if destino.is_file():  # só recebe este nome depois de verificado
        return
    parcial = destino.with_name(f"{destino.name}.parcial")
    if not parcial.is_file() or parcial.stat().st_size < tamanho:
        sonda(url, prazo)
        parcial.parent.mkdir(parents=True, exist_ok=True)
        with open(parcial, "ab") as arquivo:
            _completa(arquivo, url, tamanho, espera)
    resumo = hashlib.sha256()
    with open(parcial, "rb") as arquivo:
        while pedaco := arquivo.read(PEDACO):
            resumo.update(pedaco)
    if resumo.hexdigest() != sha256:
        parcial.unlink()
        raise ConnectionError("o arquivo veio diferente do original e foi apagado")
    parcial.replace(destino)


def sonda(url: str, prazo: float) -> None:
    """Levanta ConnectionError se `url` não começa a entregar o arquivo em `prazo` segundos."""
    falhas = [ConnectionError("o servidor não respondeu a tempo")]

    def pergunta():
        try:
            _abre(url, 0, prazo).close()
            falhas.clear()
        except Exception as erro:  # seja qual for, quem chamou é que a levanta
            falhas[:] = [erro]

    conversa = threading.Thread(target=pergunta, daemon=True)  # o DNS não obedece a prazo nenhum
    conversa.start()
    conversa.join(prazo)
    for falha in falhas:
        raise falha


def _completa(arquivo, url: str, tamanho: int, espera: float) -> None:
    """Acrescenta ao `arquivo` o que falta; insiste enquanto chega alguma coisa nova."""
    mais_longe, em_vao = arquivo.tell(), 0
    bytes_ = {"total": tamanho, "initial": arquivo.tell(), "unit": "B", "unit_scale": True}
    with tqdm(desc="Baixando", mininterval=1, file=sys.stdout, **bytes_) as barra:
        while (inicio := arquivo.tell()) < tamanho:
            falha = "o servidor parou antes do fim do arquivo"
            try:
                with _abre(url, inicio, espera) as resposta:
                    if inicio and resposta.status_code != 206:
                        barra.write("O servidor não continua um download: recomeço do início.")
                        arquivo.seek(0)
                        arquivo.truncate()
                    for pedaco in _pedacos(resposta, espera):
                        arquivo.write(pedaco)
                        barra.update(arquivo.tell() - barra.n)
                        if arquivo.tell() > tamanho:  # não é o arquivo, e talvez não tenha fim
                            break
            except ConnectionError as erro:
                falha = str(erro)
            em_vao = 0 if arquivo.tell() > mais_longe else em_vao + 1
            mais_longe = max(mais_longe, arquivo.tell())
            if em_vao == TENTATIVAS:
                raise ConnectionError(falha)
            time.sleep(em_vao * espera / 10)


def _abre(url: str, inicio: int, prazo: float) -> requests.Response:
    """A resposta por ler: os bytes, sem compressão, a partir de `inicio` (206) ou todos (200)."""
    pedido = {"Accept-Encoding": "identity", "Range": f"bytes={inicio}-" if inicio else None}
    with requests.Session() as sessao:  # uma por pedido: o proxy é o de agora
        if url.startswith("https:"):
            del sessao.adapters["http://"]  # nenhum redirecionamento tira a proteção
        try:
            resposta = sessao.get(url, headers=pedido, stream=True, timeout=prazo)
            if not inicio or resposta.status_code != 416:
                resposta.raise_for_status()
        except (OSError, HTTPError) as erro:  # o erro do requests é um OSError
            raise ConnectionError(_motivo(erro)) from erro
    if resposta.ok and "html" in resposta.headers.get("Content-Type", ""):
        raise ConnectionError("veio uma página no lugar do arquivo: a rede talvez peça login")
    faixa = resposta.headers.get("Content-Range", "")
    if inicio and resposta.status_code != 200 and not faixa.startswith(f"bytes {inicio}-"):
        return _abre(url, 0, prazo)  # veio outra parte, ou não há essa (416)
    return resposta


def _motivo(erro: BaseException) -> str:
    """O que houve com a conexão; a causa está atrás do erro do requests, ou do erro atrás dele."""
    quem = "o proxy da rede" if isinstance(erro, requests.exceptions.ProxyError) else "o servidor"
    if codigo := re.search(r"(?:^|Tunnel connection failed: )(\d{3})\b", str(erro)):
        padrao = "está com problemas, tente mais tarde" if codigo[1] > "499" else "pedido recusado"
        return f"{quem} respondeu {codigo[1]}: {CODIGOS.get(codigo[1], padrao)}"
    while True:
        if frase := next((MOTIVOS[tipo] for tipo in MOTIVOS if isinstance(erro, tipo)), None):
            return frase.format(quem)
        if not (causa := erro.__cause__ or erro.__context__):
            return f"a conexão com {quem} falhou antes da resposta: {erro}"
        erro = causa


def _pedacos(resposta: requests.Response, espera: float) -> Iterator[bytes]:
    """O que vai chegando; levanta ConnectionError se para de chegar ou vem devagar demais."""
    desde, chegou = time.monotonic(), 0
    try:
        while pedaco := resposta.raw.read1(PEDACO):
            yield pedaco
            chegou += len(pedaco)
            if time.monotonic() - desde >= espera:
                if chegou < DEVAGAR * espera:
                    raise TimeoutError
                desde, chegou = time.monotonic(), 0
    except (TimeoutError, ReadTimeoutError) as erro:
        raise ConnectionError("o servidor parou de mandar, ou manda devagar demais") from erro
    except (OSError, HTTPError) as erro:
        raise ConnectionError("a conexão caiu no meio do download") from erro
