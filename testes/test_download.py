"""O download: o que a rede e o servidor fazem de errado, e como ele continua ou diz por que não."""

import datetime
import errno
import hashlib
import socket
import ssl
import subprocess
import sys
import time

import pytest
import requests
import trustme
from conftest import RAIZ
from servidor_falso import servindo

from detector import download

ARQUIVO = bytes(range(256)) * 1024
METADE = len(ARQUIVO) // 2
SHA256 = hashlib.sha256(ARQUIVO).hexdigest()
NINGUEM = "http://127.0.0.1:9"  # uma porta em que ninguém atende
ANTES = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)


@pytest.fixture
def parcial(tmp_path, monkeypatch):
    """A metade do arquivo, que uma execução morta deixou; e nenhum proxy."""
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "f.zip.parcial").write_bytes(ARQUIVO[:METADE])
    return tmp_path / "f.zip.parcial"


def baixa(url, parcial, **prazos):
    """Completa o que chegou até agora; devolve o conteúdo do arquivo."""
    destino = parcial.with_suffix("")
    download.baixa(url, destino, len(ARQUIVO), SHA256, **prazos)
    assert not parcial.exists()
    return destino.read_bytes()


def falha(url, parcial, **prazos):
    """A frase com que o download falha, em menos de 6 s; o que já havia chegado continua lá."""
    inicio = time.monotonic()
    with pytest.raises(ConnectionError) as erro:
        baixa(url, parcial, **prazos)
    assert parcial.read_bytes()[:METADE] == ARQUIVO[:METADE] and time.monotonic() - inicio < 6
    return str(erro.value)


def test_conexao_cortada_na_metade_e_retomada_de_onde_parou(parcial):
    """E o pedido é só do que falta, mesmo a um servidor que recusa o HEAD."""
    parcial.unlink()
    with servindo(ARQUIVO, por_conexao=METADE) as servidor:
        assert not requests.head(servidor.url).ok
        assert baixa(servidor.url, parcial) == ARQUIVO
    assert servidor.pedidos == ["GET", "GET", f"GET bytes={METADE}-"]
    assert baixa(NINGUEM, parcial) == ARQUIVO  # o que já está no disco não precisa da rede


@pytest.mark.parametrize("status", [200, 416])
def test_servidor_que_nao_continua_faz_recomecar_do_inicio(parcial, capsys, status):
    with servindo(ARQUIVO, com_faixa=status) as servidor:
        assert baixa(servidor.url, parcial) == ARQUIVO
    assert servidor.pedidos == ["GET", f"GET bytes={METADE}-", "GET"]
    assert "recomeço do início" in capsys.readouterr().out


def test_morto_no_meio_a_proxima_execucao_continua(parcial):
    """Dado um kill -9 no meio do download, o seguinte pede só o que não está no disco."""
    parcial.write_bytes(b"")
    with servindo(ARQUIVO, por_conexao=100_000, cala=True, mal_ate=2) as servidor:
        destino = str(parcial.with_suffix(""))
        codigo = "import pathlib, detector.download as d; "
        codigo += f"d.baixa({servidor.url!r}, pathlib.Path({destino!r}), {len(ARQUIVO)}, '')"
        processo = subprocess.Popen([sys.executable, "-c", codigo], cwd=RAIZ)
        while parcial.stat().st_size < 50_000 and processo.poll() is None:
            time.sleep(0.02)
        processo.kill()
        assert processo.wait() == -9
        chegou = parcial.stat().st_size
        assert baixa(servidor.url, parcial) == ARQUIVO
    assert servidor.pedidos == ["GET", "GET", "GET", f"GET bytes={chegou}-"]


def test_conteudo_diferente_do_original_e_apagado(parcial):
    with servindo(ARQUIVO[::-1]) as servidor, pytest.raises(ConnectionError, match="apagado"):
        baixa(servidor.url, parcial)
    assert not list(parcial.parent.iterdir())


def test_o_que_passa_do_tamanho_esperado_nao_e_lido_ate_o_fim(parcial):
    """Ele talvez não tenha fim, e encheria o disco."""
    parcial.unlink()
    muito = ARQUIVO + bytes(100_000_000)
    with servindo(muito) as servidor, pytest.raises(ConnectionError, match="apagado"):
        baixa(servidor.url, parcial)
    assert not servidor.entregou


def test_disco_cheio_nao_e_culpa_da_rede(parcial):
    parcial.unlink()
    parcial.symlink_to("/dev/full")
    with servindo(ARQUIVO) as servidor, pytest.raises(OSError) as erro:
        baixa(servidor.url, parcial)
    assert erro.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    ("jeito", "frase"),
    [
        ({"status": 403}, "o servidor respondeu 403: acesso proibido"),
        ({"com_faixa": 503}, "o servidor respondeu 503: está com problemas, tente mais tarde"),
        (
            {"tipo": "text/html"},
            "a conexão com o servidor falhou: veio uma página no lugar do arquivo; talvez peça "
            "login",
        ),
        ({"conteudo": ARQUIVO[:-1]}, "o servidor parou antes do fim do arquivo"),
        ({"por_conexao": 0}, "a conexão com o servidor caiu no meio do download"),
        ({"por_conexao": 0, "cala": True}, "o servidor não respondeu a tempo"),
    ],
)
def test_servidor_que_nao_entrega_nao_prende_e_o_que_veio_fica(parcial, jeito, frase):
    with servindo(**{"conteudo": ARQUIVO} | jeito) as servidor:
        assert falha(servidor.url, parcial, espera=0.5) == frase and len(servidor.pedidos) < 6


def test_certificado_que_nao_vale_e_recusado_numa_frase(parcial, monkeypatch):
    """Dado um certificado vencido, ou de desconhecidos, a frase diz o que conferir."""
    confiavel, pem = trustme.CA(), parcial.with_name("ca.pem")
    confiavel.cert_pem.write_to_path(pem)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nao/existe.pem")
    assert falha("https://127.0.0.1:9", parcial).endswith("invalid path: /nao/existe.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pem))
    for autoridade, ate in ((trustme.CA(), None), (confiavel, ANTES), (confiavel, None)):
        contexto = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        autoridade.issue_cert("127.0.0.1", not_after=ate).configure_cert(contexto)
        with servindo(ARQUIVO, certificado=contexto) as servidor:
            if autoridade is confiavel and not ate:
                assert baixa(servidor.url, parcial) == ARQUIVO
                parcial.with_suffix("").unlink()
                parcial.write_bytes(ARQUIVO[:METADE])
                vars(servidor).update(status=302, manda_para="http://127.0.0.1:9")
                assert "sem a proteção do https" in falha(servidor.url, parcial)
            else:
                frase = "o certificado do site não é de confiança: confira a data e a hora"
                assert falha(servidor.url, parcial).startswith(frase)


def test_proxy_que_recusa_pede_senha_ou_se_cala_e_dito_logo(parcial, monkeypatch):
    with servindo(b"", status=407) as servidor, socket.create_server(("127.0.0.1", 0)) as mudo:
        for proxy, frase in (
            (NINGUEM, "o proxy da rede recusou a conexão"),
            (servidor.url, "o proxy da rede respondeu 407: o proxy pede senha"),
            (f"http://127.0.0.1:{mudo.getsockname()[1]}", "o servidor não respondeu a tempo"),
        ):
            monkeypatch.setenv("no_proxy", "")
            monkeypatch.setenv("https_proxy", proxy)
            assert falha("https://a.invalid", parcial, prazo=1) == frase


def test_sem_rede_a_frase_diz_se_foi_o_nome_ou_a_porta(parcial, monkeypatch):
    """Dado um nome que não existe, um DNS parado ou uma porta fechada, cada um tem a sua frase."""
    assert falha(NINGUEM, parcial) == "o servidor recusou a conexão"

    def nao_acha(*args, **kwargs):
        time.sleep(1)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", nao_acha)
    assert falha("http://a.invalid", parcial, prazo=0.2) == "o servidor não respondeu a tempo"
    assert "do servidor não foi encontrado" in falha("http://a.invalid", parcial)
