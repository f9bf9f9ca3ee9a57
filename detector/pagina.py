"""A página que classifica no navegador: um HTML com o modelo dentro, de que nenhuma foto sai."""

import base64
import hashlib
import json
import pathlib
from collections.abc import Mapping

import numpy as np

from detector.ambiente import ErroClaro

NOME = "pagina.html"
VERSAO = "1.30.0"  # do onnxruntime-web, que roda o ONNX no navegador
CDN = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{VERSAO}/dist/"
RUNTIME = {  # os arquivos dele e o SHA-256 de cada um, que o navegador confere antes de usar
    "ort.wasm.bundle.min.mjs": "sha256-EeZL2P/hG9GiovDWJ1/fu7pyYvC3a5m1PSKKiiLvPZA=",
    "ort-wasm-simd-threaded.wasm": "sha256-M5jBDQfSKb2Rs2RUjhMODlGo5XBLiMfAg+u+t4hC3uI=",
}


def monta(
    onnx: bytes, textos: Mapping[str, str], programa: Mapping[str, bytes] | None = None
) -> bytes:
    """O HTML, em UTF-8, com o modelo dentro.

    onnx, textos: o `_0a255` de `exporta`, e o que ele diz de si. programa: o de `le_runtime`, para
    ir dentro também; None, e a página o busca na internet.
    """
    sabe = {"classes": textos["classes"].split("\n"), "limiar": float(textos.get("limiar", 0))}
    sabe |= {"cdn": CDN, "integridade": RUNTIME}
    sem_tags = json.dumps(sabe).replace("<", "\\u003c")
    blocos = [f'<script type="application/json" id="sabe">{sem_tags}</script>']
    for nome, conteudo in {"modelo": _em_float16(onnx), **(programa or {})}.items():
        texto = base64.b64encode(conteudo).decode()
        blocos.append(f'<script type="text/plain" id="{nome}">{texto}</script>')
    html = pathlib.Path(__file__).with_name(NOME).read_text("utf-8")
    html = html.replace("(de onde vem o programa)", "" if programa else CDN)
    return html.replace("<!-- o que a página sabe -->", "\n".join(blocos)).encode()


def le_runtime(pasta: pathlib.Path) -> dict[str, bytes]:
    """Os arquivos de RUNTIME lidos da `pasta`; ErroClaro se falta um, ou é de outra versão."""
    lidos = {}
    for nome, integridade in RUNTIME.items():
        arquivo = pasta / nome
        lidos[nome] = arquivo.read_bytes() if arquivo.is_file() else b""
        sha256 = base64.b64encode(hashlib.sha256(lidos[nome]).digest()).decode()
        if f"sha256-{sha256}" != integridade:
            raise ErroClaro(
                f"{arquivo} {'é de outra versão' if lidos[nome] else 'não existe'}; indique a "
                f"pasta `dist` do onnxruntime-web {VERSAO}, que `npm pack` baixa."
            )
    return lidos


def _em_float16(conteudo: bytes) -> bytes:
    """O mesmo ONNX, com metade dos bytes: os pesos em float16, a conta ainda em float32."""
    import onnx

    modelo = onnx.load_model_from_string(conteudo)
    grandes = [peso for peso in modelo.graph.initializer if np.prod(peso.dims) > 1000]
    for peso in grandes:
        nome, array = peso.name, onnx.numpy_helper.to_array(peso)
        peso.CopyFrom(onnx.numpy_helper.from_array(array.astype("float16"), f"{nome}_16"))
        para_32 = onnx.helper.make_node("Cast", [peso.name], [nome], to=onnx.TensorProto.FLOAT)
        modelo.graph.node.insert(0, para_32)
    return modelo.SerializeToString()
