"""Um servidor que entrega um arquivo por HTTP ou HTTPS, bem ou mal, e anota o que lhe pedem."""

import contextlib
import http.server
import threading


class Atende(http.server.BaseHTTPRequestHandler):
    """Responde a GET, e ao CONNECT de quem o toma por um proxy; recusa o resto, como um HEAD."""

    def do_CONNECT(self):
        self.send_error(self.server.status)

    def do_GET(self):
        servidor, faixa = self.server, self.headers["Range"]
        servidor.pedidos.append(f"GET {faixa}" if faixa else "GET")
        status = servidor.com_faixa if faixa else servidor.status
        inicio = int(faixa[len("bytes=") : -1]) if faixa and status == 206 else 0
        corpo, total = servidor.conteudo[inicio:], len(servidor.conteudo)
        self.send_response(status)
        if servidor.manda_para:
            self.send_header("Location", servidor.manda_para)
        self.send_header("Content-Type", servidor.tipo)
        self.send_header("Content-Length", str(len(corpo)))
        if status == 206:
            self.send_header("Content-Range", f"bytes {inicio}-{total - 1}/{total}")
        self.end_headers()
        if len(servidor.pedidos) > servidor.mal_ate:
            self.wfile.write(corpo)
            return
        self.wfile.write(corpo[: servidor.por_conexao])
        servidor.entregou = True
        if servidor.cala:
            servidor.acabou.wait()


class Servidor(http.server.ThreadingHTTPServer):
    """Entrega `conteudo` e guarda em `pedidos` o que lhe pedem.

    status, com_faixa: o que responde a quem pede tudo, e a quem pede uma parte.
    por_conexao, cala: só manda tantos bytes, e depois desliga ou se cala.
    mal_ate: depois de tantos pedidos, por_conexao e cala já não valem.
    certificado: o contexto do `ssl`, para atender por HTTPS.
    manda_para: com status 302, para onde. entregou: se alguém leu até o fim o que ele mandou.
    """

    daemon_threads = True
    status, com_faixa, tipo, certificado = 200, 206, "application/zip", None
    por_conexao, cala, mal_ate = None, False, 1000
    manda_para, entregou = None, False

    def handle_error(self, request, client_address):
        """Quem pediu desligou antes do fim: não é defeito do servidor."""


@contextlib.contextmanager
def servindo(conteudo, **jeito):
    """Atende enquanto o bloco roda."""
    servidor = Servidor(("127.0.0.1", 0), Atende)
    vars(servidor).update(jeito, conteudo=conteudo, pedidos=[])
    servidor.acabou = threading.Event()
    servidor.url = f"http://127.0.0.1:{servidor.server_port}/f.zip"
    if servidor.certificado:
        # O aperto de mãos fica para a thread de cada pedido: um que falhe não prende os outros.
        abre = {"server_side": True, "do_handshake_on_connect": False}
        servidor.socket = servidor.certificado.wrap_socket(servidor.socket, **abre)
        servidor.url = servidor.url.replace("http", "https", 1)
    threading.Thread(target=servidor.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield servidor
    finally:
        servidor.acabou.set()
        servidor.shutdown()
        servidor.server_close()
