"""Um servidor do dataset de mentira: responde por HTTP ou, como proxy, no lugar de download.microsoft.com."""

import contextlib
import hashlib
import http.server
import importlib.util
import pathlib
import ssl
import threading
import time

import trustme


class Atende(http.server.BaseHTTPRequestHandler):
    """Um pedido; o que fazer com ele está nos atributos do servidor."""

    protocol_version = "HTTP/1.1"

    def do_CONNECT(self):
        """Em vez de ligar o cliente ao servidor de verdade, faz o papel dele, com TLS e tudo."""
        self.server.destinos.append(self.path)
        if self.server.mudo:
            return self.espera_o_fim()
        self.send_response(200)
        self.end_headers()
        self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        self.setup()  # daqui em diante, lê e escreve por dentro do TLS
        self.close_connection = False

    def finish(self):
        super().finish()
        self.connection.close()

    def do_HEAD(self):
        self.responde(self.server.do_head | {"corpo": b""})

    def do_GET(self):
        self.server.faixas.append(self.headers["Range"])
        self.responde(self.server.do_get)

    def responde(self, jeito):
        s, inicio, status = self.server, 0, jeito.get("status", 200)
        if s.continua and self.command == "GET" and status == 200 and (faixa := self.headers["Range"]):
            inicio = int(faixa.removeprefix("bytes=").removesuffix("-"))
            status = 206 if inicio < len(s.conteudo) else 416
        corpo = jeito.get("corpo", s.conteudo[inicio:])
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {inicio}-{len(s.conteudo) - 1}/{len(s.conteudo)}")
        cabecalhos = {"Content-Type": "application/zip", "Content-Length": len(corpo)} | jeito["cabecalhos"]
        for nome, valor in cabecalhos.items():
            if valor is not None:
                self.send_header(nome, valor)
        self.end_headers()
        self.close_connection = True
        self.wfile.write(corpo[:s.por_conexao])
        if s.depois == "cala" and self.command == "GET":
            self.espera_o_fim()
        if s.depois == "goteja" and self.command == "GET":
            for byte in corpo[s.por_conexao:]:
                time.sleep(s.pausa)
                self.wfile.write(bytes([byte]))

    def espera_o_fim(self):
        self.close_connection = True
        self.server.acabou.wait()

    def log_message(self, *a):
        pass


class Servidor(http.server.ThreadingHTTPServer):
    """Entrega `conteudo`. Com `por_conexao`, só esses bytes a cada pedido, e `depois` fecha, cala ou goteja."""

    daemon_threads = True

    def __init__(self, conteudo=b"", *, continua=True, por_conexao=None, depois="fecha", pausa=1.0, mudo=False,
                 do_head=None, do_get=None):
        super().__init__(("127.0.0.1", 0), Atende)
        self.conteudo, self.continua, self.por_conexao, self.depois = conteudo, continua, por_conexao, depois
        self.pausa, self.mudo = pausa, mudo
        self.do_head, self.do_get = ({"cabecalhos": {}} | (jeito or {}) for jeito in (do_head, do_get))
        self.faixas, self.destinos, self.acabou = [], [], threading.Event()  # o que foi pedido, e a quem

    def handle_error(self, request, client_address):
        """O cliente foi embora no meio: aqui é o esperado."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/f.zip"


@contextlib.contextmanager
def servindo(servidor):
    """Atende enquanto o bloco roda."""
    threading.Thread(target=servidor.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield servidor
    finally:
        servidor.acabou.set()
        servidor.shutdown()
        servidor.server_close()


class Internet:
    """O que um processo precisa no ambiente para tomar o servidor falso pelo verdadeiro, sem mudar nada nele."""

    def __init__(self, pasta, url, conteudo):
        """`pasta` recebe o certificado e um TFDS igual ao instalado, que só espera outro `conteudo` de `url`."""
        self.autoridade, self.certificado, self.modulos = trustme.CA(), pasta / "ca.pem", pasta / "modulos"
        self.autoridade.cert_pem.write_to_path(str(self.certificado))
        [verdadeiro] = importlib.util.find_spec("tensorflow_datasets").submodule_search_locations
        verdadeiro, copia = pathlib.Path(verdadeiro), self.modulos / "tensorflow_datasets"
        (copia / "url_checksums").mkdir(parents=True)
        for origem in (*verdadeiro.iterdir(), *(verdadeiro / "url_checksums").iterdir()):
            if origem.name not in ("url_checksums", "cats_vs_dogs.txt"):
                (copia / origem.relative_to(verdadeiro)).symlink_to(origem)
        registro = "\t".join([url, str(len(conteudo)), hashlib.sha256(conteudo).hexdigest(), url.rpartition("/")[2]])
        (copia / "url_checksums/cats_vs_dogs.txt").write_text(f"{registro}\n", encoding="utf-8")

    def liga(self, servidor, host):
        """Dá ao servidor o certificado de `host`."""
        servidor.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.autoridade.issue_cert(host).configure_cert(servidor.tls)
        return servidor

    def ambiente(self, proxy):
        """Variáveis que apontam um processo para o `proxy`, com a autoridade dele."""
        return {"https_proxy": proxy, "HTTPS_PROXY": proxy, "no_proxy": "", "NO_PROXY": "",
                "SSL_CERT_FILE": str(self.certificado), "REQUESTS_CA_BUNDLE": str(self.certificado),
                "PYTHONPATH": str(self.modulos)}
