"""O download do dataset numa rede que falha: continua de onde parou, ou decide logo pela amostra e diz por quê."""

import concurrent.futures
import contextlib
import hashlib
import io
import json
import resource
import subprocess
import time
import types

import psutil
import pytest
from conftest import COMPLETA, RAIZ, SEM_REDE, ambiente, comando, executa, prepara_pasta, resultados, saidas
from PIL import Image
from servidor_falso import Internet, Servidor, servindo
from test_dados import faz_zip

ARQUIVO = bytes(range(256)) * 1000
SHA = hashlib.sha256(ARQUIVO).hexdigest()
PAGINA = b"<html>entre na rede do hotel</html>"


@pytest.fixture(autouse=True)
def sem_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def destino(tmp_path):
    return tmp_path / "downloads/f.zip"


def parcial(destino, conteudo=None):
    """O que já chegou de `destino`; com `conteudo`, deixa isso lá, como uma sessão que foi morta."""
    caminho = destino.with_name("f.zip.parcial")
    if conteudo is not None:
        caminho.parent.mkdir(exist_ok=True)
        caminho.write_bytes(conteudo)
    return caminho.read_bytes()


def falha(nb, destino, mensagem, limite=8, url=None, **jeito):
    """Baixar assim tem de falhar com essa mensagem, e logo; devolve as faixas que o servidor viu."""
    with servindo(Servidor(**{"conteudo": ARQUIVO} | jeito)) as s:
        inicio = time.monotonic()
        with pytest.raises(ConnectionError, match=mensagem):
            nb.baixa(url or s.url, destino, len(ARQUIVO), SHA, espera=1)
        assert time.monotonic() - inicio < limite
    assert not destino.exists()
    return s.faixas


# A função

@pytest.mark.parametrize("continua", [True, False])
def test_baixa_inteiro_e_nao_deixa_sobra(nb, destino, continua):
    with servindo(Servidor(ARQUIVO, continua=continua)) as s:
        nb.baixa(s.url, destino, len(ARQUIVO), SHA)
    assert destino.read_bytes() == ARQUIVO and list(destino.parent.iterdir()) == [destino]
    assert s.faixas == ["bytes=0-"]


@pytest.mark.parametrize("continua", [True, False])
@pytest.mark.parametrize("ja", [1, 100_000, len(ARQUIVO) - 1])
def test_de_novo_continua_o_que_a_sessao_morta_deixou(nb, destino, ja, continua):
    parcial(destino, ARQUIVO[:ja])
    with servindo(Servidor(ARQUIVO, continua=continua)) as s:
        nb.baixa(s.url, destino, len(ARQUIVO), SHA)
    assert destino.read_bytes() == ARQUIVO and s.faixas == [f"bytes={ja}-"]


@pytest.mark.parametrize("onde", ["f.zip", "f.zip.parcial"])
def test_o_que_ja_chegou_inteiro_so_e_conferido(nb, destino, onde):
    parcial(destino, ARQUIVO)
    destino.with_name("f.zip.parcial").rename(destino.with_name(onde))
    nb.baixa("http://127.0.0.1:9/f.zip", destino, len(ARQUIVO), SHA)
    assert destino.read_bytes() == ARQUIVO and list(destino.parent.iterdir()) == [destino]


def test_conexao_que_cai_muitas_vezes_e_retomada_na_hora(nb, destino):
    inicio = time.monotonic()
    with servindo(Servidor(ARQUIVO, por_conexao=20_000)) as s:
        nb.baixa(s.url, destino, len(ARQUIVO), SHA)
    assert destino.read_bytes() == ARQUIVO
    assert s.faixas == [f"bytes={i}-" for i in range(0, len(ARQUIVO), 20_000)] and time.monotonic() - inicio < 5


def test_servidor_que_cai_e_nao_sabe_continuar_nao_prende(nb, destino):
    faixas = falha(nb, destino, "a conexão caiu", continua=False, por_conexao=len(ARQUIVO) // 2)
    assert 2 <= len(faixas) <= 5 and parcial(destino) == ARQUIVO[:len(ARQUIVO) // 2]


@pytest.mark.parametrize("jeito", [
    {"por_conexao": 100_000, "depois": "cala"}, {"por_conexao": 100_000, "depois": "goteja", "pausa": 0.1}], ids=str)
def test_servidor_que_cala_ou_goteja_nao_prende_e_o_que_veio_fica(nb, destino, jeito):
    assert falha(nb, destino, "parou de mandar, ou manda devagar", **jeito) == ["bytes=0-"]
    assert len(parcial(destino)) >= 100_000 and ARQUIVO.startswith(parcial(destino))


def test_devagar_depois_de_um_comeco_rapido_tambem_e_devagar(nb, destino):
    """A média é a dos últimos instantes: um começo rápido não paga horas de conta-gotas."""
    parcial(destino, ARQUIVO[:1])
    falha(nb, destino, "devagar", conteudo=ARQUIVO, por_conexao=200_000, depois="goteja", pausa=0.01)
    assert len(parcial(destino)) > 200_000 and ARQUIVO.startswith(parcial(destino))


@pytest.mark.parametrize("jeito,mensagem", [
    ({"do_get": {"status": 404}}, "404"),
    ({"do_get": {"status": 500}}, "500"),
    ({"do_get": {"corpo": PAGINA, "cabecalhos": {"Content-Type": "text/html"}}}, "outra coisa"),
    ({"do_get": {"corpo": PAGINA + bytes(len(ARQUIVO) - len(PAGINA)), "cabecalhos": {"Content-Type": "text/html"}}},
     "outra coisa"),
    ({"do_get": {"corpo": ARQUIVO[:-1]}, "continua": False}, "outra coisa"),
    ({"do_get": {"cabecalhos": {"Content-Length": None}}, "continua": False}, "outra coisa"),
    ({"do_get": {"corpo": b"\x1f\x8b" + bytes(500), "cabecalhos": {"Content-Encoding": "gzip"}}, "continua": False},
     "outra coisa"),
    ({"conteudo": ARQUIVO[:150_000]}, "outra coisa"),
    ({"conteudo": ARQUIVO[:50_000]}, "416"),
    ({"conteudo": ARQUIVO * 2}, "outra coisa"),
    ({"do_get": {"cabecalhos": {"Content-Range": f"bytes 7-{len(ARQUIVO) - 1}/{len(ARQUIVO)}"}, "status": 206}},
     "outra coisa"),
], ids=["404", "500", "html", "html-do-tamanho", "menor", "sem-tamanho", "gzip", "encolheu", "encolheu-416", "cresceu",
        "outra-faixa"])
def test_o_que_nao_e_o_arquivo_nao_toca_no_que_ja_chegou(nb, destino, jeito, mensagem):
    ja = parcial(destino, ARQUIVO[:100_000])
    assert len(falha(nb, destino, mensagem, **jeito)) == 3
    assert parcial(destino) == ja


def test_conteudo_diferente_do_mesmo_tamanho_e_apagado(nb, destino):
    falha(nb, destino, "diferente do original", conteudo=ARQUIVO[::-1])
    assert not list(destino.parent.iterdir())


def test_sobra_maior_que_o_arquivo_e_apagada(nb, destino):
    parcial(destino, ARQUIVO * 2)
    falha(nb, destino, "diferente do original")
    assert not list(destino.parent.iterdir())


def test_servidor_que_recusa_ou_que_nao_fala_http(nb, destino):
    falha(nb, destino, "refused", url="http://127.0.0.1:9/f.zip")
    falha(nb, destino, "", url="http://nao-existe.invalid/f.zip")
    assert parcial(destino) == b""


def test_redirecionamento_so_para_onde_e_seguro(nb, destino):
    with servindo(Servidor(ARQUIVO)) as outro:
        daqui = {"status": 302, "corpo": b"", "cabecalhos": {"Location": outro.url.replace("127.0.0.1", "localhost")}}
        with servindo(Servidor(do_get=daqui)) as s:
            parcial(destino, ARQUIVO[:1000])
            nb.baixa(s.url, destino, len(ARQUIVO), SHA)
    assert destino.read_bytes() == ARQUIVO and s.faixas == outro.faixas == ["bytes=1000-"], "a faixa segue junto"
    destino.unlink()
    for ruim in ("ftp://127.0.0.1:9/f.zip", RAIZ.joinpath("LICENSE").as_uri(), "data:,oi"):
        falha(nb, destino, "", do_get={"status": 302, "corpo": b"", "cabecalhos": {"Location": ruim}})
        assert parcial(destino) == b""


def test_de_https_nao_se_volta_para_http(nb):
    pedido = nb.urllib.request.Request("https://exemplo.invalid/f.zip")
    segue = lambda url: nb.RedirecionaSeguro().redirect_request(pedido, None, 302, "", {}, url)
    assert segue("https://outro.invalid/f.zip").full_url == "https://outro.invalid/f.zip"
    with pytest.raises(OSError, match="sem https"):
        segue("http://exemplo.invalid/f.zip")


@contextlib.contextmanager
def disco_de(tamanho):
    """Nenhum arquivo pode passar de `tamanho` bytes: para quem grava, o mesmo que um disco cheio."""
    antes = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (tamanho, antes[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, antes)


def test_disco_cheio_e_erro_claro_e_o_que_veio_serve_depois(nb, destino, monkeypatch):
    zip_ = destino.with_name("kagglecatsanddogs_5340.zip")
    with servindo(Servidor(ARQUIVO)) as s:
        registro = types.SimpleNamespace(size=len(ARQUIVO), checksum=SHA)
        monkeypatch.setattr(nb.cats_vs_dogs, "_URL", s.url)
        monkeypatch.setattr(nb.cats_vs_dogs.CatsVsDogs, "url_infos", {s.url: registro})
        mensagem = "passa do tamanho permitido.*mude DATA_DIR.*continua de onde parou"
        with disco_de(150_000), pytest.raises(nb.ErroClaro, match=mensagem):
            nb.escolhe_dados("cats_vs_dogs", str(destino.parent.parent), None)
        veio = zip_.with_name(f"{zip_.name}.parcial").stat().st_size
        assert 0 < veio <= 150_000
        nb.baixa(s.url, zip_, len(ARQUIVO), SHA)
        assert s.faixas == ["bytes=0-", f"bytes={veio}-"] and zip_.read_bytes() == ARQUIVO


# O notebook inteiro, com o servidor falso no lugar do verdadeiro

@pytest.fixture(scope="module")
def conteudo(nb, amostra, tmp_path_factory):
    """Bytes de um zip como o do dataset: 30 fotos de cada classe, em JPEG."""
    fotos, quantas = {}, {"Cat": 0, "Dog": 0}
    for foto, rotulo in nb.le_fotos(amostra, (0, 200)).map(nb.decodifica).as_numpy_iterator():
        classe, saida = ("Cat", "Dog")[rotulo], io.BytesIO()
        if quantas[classe] < 30:
            Image.fromarray(foto).resize((200, 200)).save(saida, "JPEG", quality=90)
            fotos[f"PetImages/{classe}/{quantas[classe]}.jpg"] = saida.getvalue()
            quantas[classe] += 1
    return faz_zip(tmp_path_factory.mktemp("zip") / "f.zip", fotos).read_bytes()


@pytest.fixture(scope="module")
def internet(nb, conteudo, tmp_path_factory):
    return Internet(tmp_path_factory.mktemp("internet"), nb.cats_vs_dogs._URL, conteudo)


HOST = "download.microsoft.com"
METADE = 100_000  # quanto o servidor entrega antes de falhar
CALA = {"por_conexao": METADE, "depois": "cala"}
PARAMETROS = {"MAX_IMAGENS": 60, "EPOCAS": 1}
HTML = {"corpo": PAGINA, "cabecalhos": {"Content-Type": "text/html"}}


def no_proxy(servidor):
    return f"http://127.0.0.1:{servidor.server_port}"


@pytest.mark.parametrize("rede,motivo", [
    ("http://127.0.0.1:9", "não respondeu em 5 segundos"),
    ("http://proxy.invalid:3128", "não respondeu em 5 segundos"),
    ({"do_head": HTML, "do_get": HTML}, "não respondeu em 5 segundos"),
    ({"do_head": {"status": 404}}, "não respondeu em 5 segundos"),
    ({"do_get": {"status": 404}}, "404"),
    ({"do_get": {"status": 500}}, "500"),
    ({"continua": False, "por_conexao": METADE}, "a conexão caiu"),
    ("outro conteúdo", "diferente do original"),
], ids=str)
def test_cada_rede_ruim_acaba_na_amostra(nb, internet, conteudo, tmp_path, monkeypatch, capsys, rede, motivo):
    """Só a escolha dos dados, com o mesmo proxy e o mesmo TLS das execuções inteiras, abaixo."""
    jeito = rede if isinstance(rede, dict) else {}
    with servindo(internet.liga(Servidor(conteudo if jeito else conteudo[::-1], **jeito), HOST)) as s:
        proxy = rede if "://" in rede else no_proxy(s)
        for nome, valor in (dict.fromkeys(SEM_REDE, proxy) | internet.ambiente(proxy)).items():
            monkeypatch.setenv(nome, valor)
        nb.urllib.request.install_opener(None)  # o proxy é lido uma vez só por processo
        registro = types.SimpleNamespace(size=len(conteudo), checksum=hashlib.sha256(conteudo).hexdigest())
        monkeypatch.setattr(nb.cats_vs_dogs.CatsVsDogs, "url_infos", {nb.cats_vs_dogs._URL: registro})
        monkeypatch.chdir(RAIZ)
        inicio = time.monotonic()
        assert nb.escolhe_dados("cats_vs_dogs", str(tmp_path), None).info.name == "cats_vs_dogs_amostra"
        assert time.monotonic() - inicio < 20
    nb.urllib.request.install_opener(None)
    texto = capsys.readouterr().out
    assert "AMOSTRA EMBUTIDA" in texto and motivo in texto
    assert set(s.destinos) == ({f"{HOST}:443"} if "://" not in rede else set())


def inicia(pasta, internet, proxy):
    """Começa a rodar o notebook em `pasta` com a rede que passa por `proxy`."""
    return subprocess.Popen(comando(prepara_pasta(pasta), **PARAMETROS), cwd=pasta, text=True,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                            env=ambiente(pasta) | dict.fromkeys(SEM_REDE, proxy) | internet.ambiente(proxy))


def mata(processo):
    for filho in (*psutil.Process(processo.pid).children(recursive=True), processo):
        filho.kill()
    processo.communicate()


def roda(pasta, internet, servidor):
    """Roda o notebook até o fim; devolve as métricas, o que imprimiu e em quantos segundos escolheu os dados."""
    processo = inicia(pasta, internet, no_proxy(servidor))
    try:
        _, erros = processo.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        mata(processo)
        raise
    assert processo.returncode == 0, erros[-3000:]
    executado = json.loads((pasta / "executado.ipynb").read_text(encoding="utf-8"))
    [escolha] = [c for c in executado["cells"] if "".join(c["source"]).startswith("construtor = escolhe_dados(")]
    metricas = json.loads((pasta / "modelos/metricas.json").read_text(encoding="utf-8"))
    return metricas, saidas(pasta / "executado.ipynb"), escolha["metadata"]["papermill"]["duration"]


def do_kill_ao_fim(pasta, internet, conteudo):
    """kill -9 com o download no meio; depois, um hotel que mostra uma página; depois, uma rede que só cai às vezes."""
    with servindo(internet.liga(Servidor(conteudo, **CALA), HOST)) as s:
        processo, prazo, chegou = inicia(pasta, internet, no_proxy(s)), time.monotonic() + 120, 0
        while chegou < METADE // 2 and time.monotonic() < prazo:
            time.sleep(0.05)
            chegou = sum(p.stat().st_size for p in pasta.glob("tfds/downloads/*.parcial"))
        mata(processo)
        [chegou] = [p.stat().st_size for p in pasta.glob("tfds/downloads/*.parcial")]
        s.por_conexao, s.depois, certo, s.do_get = len(conteudo) // 4, "fecha", s.do_get, HTML
        pagina = roda(pasta, internet, s)
        s.do_get, antes = certo, len(s.faixas)
        inteira = roda(pasta, internet, s)
        assert set(s.destinos) == {f"{HOST}:443"}, "o notebook falou com outro servidor"
        return chegou, pagina, inteira, s.faixas[:1] + s.faixas[antes:]


def mudo_e_depois_cala(pasta, internet, conteudo):
    """Um proxy que aceita e não diz nada (só na suíte completa); depois, um servidor que cala com metade entregue."""
    with servindo(internet.liga(Servidor(conteudo, mudo=COMPLETA, **CALA), HOST)) as s:
        mudo = roda(pasta, internet, s) if COMPLETA else None
        s.mudo = False
        return mudo, roda(pasta, internet, s), s.faixas


@pytest.fixture(scope="module")
def historias(internet, conteudo, tmp_path_factory):
    """As duas histórias, ao mesmo tempo: quem espera o servidor não ocupa a máquina."""
    raiz = tmp_path_factory.mktemp("rede")
    with concurrent.futures.ThreadPoolExecutor() as fila:
        yield [fila.submit(historia, raiz / historia.__name__, internet, conteudo)
               for historia in (do_kill_ao_fim, mudo_e_depois_cala)]


def confere_amostra(execucao, motivo, limite):
    """A execução acabou na amostra, disse por quê e não demorou; devolve o que achou."""
    metricas, texto, segundos = execucao
    assert metricas["dataset"].startswith("cats_vs_dogs_amostra/") and metricas["n_treino"] == 48
    assert "AMOSTRA EMBUTIDA" in texto and motivo in texto and segundos < limite
    return resultados(metricas)


def test_o_notebook_inteiro_numa_rede_que_falha(registra, historias, conteudo, tmp_path):
    """Morto com o download no meio, outra sessão pede só o resto; sem servidor que preste, acaba na amostra e sem demora."""
    chegou, pagina, (metricas, texto, segundos), faixas = historias[0].result()
    assert METADE // 2 <= chegou <= METADE < len(conteudo)
    pedidos = [int(faixa[6:-1]) for faixa in faixas]
    assert pedidos[:2] == [0, chegou] and len(pedidos) > 3, "depois da página, só o resto é pedido"
    assert pedidos == sorted(set(pedidos)), "e nada é pedido de novo"
    assert metricas["dataset"].startswith("cats_vs_dogs/") and metricas["n_treino"] == 48
    assert "AMOSTRA EMBUTIDA" not in texto and segundos < 40
    mudo, cala, faixas = historias[1].result()
    assert faixas == ["bytes=0-"]
    na_amostra = [confere_amostra(pagina, "outra coisa", 20), confere_amostra(cala, "parou de mandar", 50)]
    assert na_amostra[0] == na_amostra[1]
    if not COMPLETA:
        return
    na_amostra.append(confere_amostra(mudo, "não respondeu em 5 segundos", 20))
    (tmp_path / "f.zip").write_bytes(conteudo)
    for pasta, parametros in (("zip", {"ARQUIVO_ZIP": tmp_path / "f.zip"}), ("amostra", {"DATASET": "amostra"})):
        processo, _ = executa(tmp_path / pasta, **PARAMETROS, **parametros)
        assert processo.returncode == 0, processo.stderr[-3000:]
    registra("rede: kill -9 com o download no meio, e depois conexões que caem", 1, "nada; outra sessão pede só o resto",
             resultados(metricas) == resultados(tmp_path / "zip"))
    registra("rede: HTML no lugar do zip, servidor mudo, servidor que cala no meio", 3, "nada; acaba na amostra, e diz por quê",
             na_amostra[0] == resultados(tmp_path / "amostra"))
