"""Um servidor que entrega um arquivo por HTTP, bem ou mal."""

import contextlib
import http.server
import threading
import time


class Atende(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.cabecalho(200, len(self.server.conteudo))

    def do_GET(self):
        servidor, faixa = self.server, self.headers["Range"]
        servidor.faixas.append(faixa)
        inicio = int(faixa.removeprefix("bytes=").removesuffix("-")) if faixa else 0
        corpo = servidor.conteudo[inicio:]
        self.cabecalho(206 if faixa else 200, len(corpo), inicio)
        corpo = corpo[: servidor.por_conexao]
        for i in range(0, len(corpo), 10_000):
            self.wfile.write(corpo[i : i + 10_000])
            time.sleep(servidor.pausa)
        if servidor.cala:
            servidor.acabou.wait()

    def cabecalho(self, status, tamanho, inicio=0):
        fim = inicio + tamanho
        self.send_response(status)
        self.send_header("Content-Type", self.server.tipo)
        self.send_header("Content-Length", str(tamanho))
        self.send_header("Content-Range", f"bytes {inicio}-{fim - 1}/{fim}")
        self.end_headers()


class Servidor(http.server.ThreadingHTTPServer):
    """Entrega `conteudo`: `por_conexao` bytes a cada pedido, `pausa` segundos a cada 10 kB.

    Depois fecha a conexão ou, se `cala`, fica em silêncio.
    """

    daemon_threads = True

    def __init__(self, conteudo, *, por_conexao=None, pausa=0, cala=False, tipo="zip"):
        super().__init__(("127.0.0.1", 0), Atende)
        self.conteudo, self.por_conexao, self.pausa = conteudo, por_conexao, pausa
        self.cala, self.tipo = cala, tipo
        self.url = f"http://127.0.0.1:{self.server_port}/f.zip"
        self.faixas, self.acabou = [], threading.Event()


@contextlib.contextmanager
def servindo(*args, **kwargs):
    """Atende enquanto o bloco roda."""
    servidor = Servidor(*args, **kwargs)
    threading.Thread(target=servidor.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield servidor
    finally:
        servidor.acabou.set()
        servidor.shutdown()
        servidor.server_close()
