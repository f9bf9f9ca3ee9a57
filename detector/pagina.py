"""A página que classifica no navegador: um HTML com o modelo dentro, de que nenhuma foto sai."""

import base64
import hashlib
import json
import os
import pathlib

import numpy as np

from detector.erros import ErroClaro

NOME = "pagina.html"
VERSAO = "1.30.0"  # do onnxruntime-web, que roda o ONNX no navegador
CDN = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{VERSAO}/dist/"
RUNTIME = {  # os arquivos dele e o SHA-256 de cada um, que o navegador confere antes de usar
    "ort.wasm.bundle.min.mjs": "EeZL2P/hG9GiovDWJ1/fu7pyYvC3a5m1PSKKiiLvPZA=",
    "ort-wasm-simd-threaded.wasm": "M5jBDQfSKb2Rs2RUjhMODlGo5XBLiMfAg+u+t4hC3uI=",
}


def monta(conteudo: bytes, runtime: str | os.PathLike | None = None) -> bytes:
    """O HTML, em UTF-8, feito de um ONNX `_0a255` de `exporta`, com os pesos em float16.

    runtime: a pasta `dist` do onnxruntime-web, para ele ir dentro; None o busca na internet.
    Levanta ErroClaro se nela falta um arquivo, ou se ele não é o desta VERSAO.
    """
    html = pathlib.Path(__file__).with_name(NOME).read_text("utf-8")
    modelo, textos = _em_float16(conteudo)
    dentro = {"modelo": modelo} | (_le(pathlib.Path(runtime).expanduser()) if runtime else {})
    base64s = {nome: base64.b64encode(bytes_).decode() for nome, bytes_ in dentro.items()}
    sabe = {"classes": textos["classes"].split("\n"), "limiar": float(textos.get("limiar", 0))}
    integridade = {nome: f"sha256-{resumo}" for nome, resumo in RUNTIME.items()}
    sabe = json.dumps(sabe | {"cdn": CDN, "integridade": integridade}).replace("<", "\\u003c")
    blocos = [f'<script type="application/json" id="sabe">{sabe}</script>']
    blocos += [f'<script type="text/plain" id="{nome}">{b}</script>' for nome, b in base64s.items()]
    html = html.replace("(de onde vem o programa)", "" if runtime else CDN)
    return html.replace("<!-- o que a página sabe -->", "\n".join(blocos)).encode()


def _em_float16(conteudo: bytes) -> tuple[bytes, dict[str, str]]:
    """O mesmo ONNX, com metade dos bytes (a conta continua em float32), e os seus metadados."""
    import onnx

    modelo = onnx.load_model_from_string(conteudo)
    for peso in modelo.graph.initializer:
        if peso.data_type == onnx.TensorProto.FLOAT and (np.prod(peso.dims) > 1000):
            nome, array = peso.name, onnx.numpy_helper.to_array(peso).astype("float16")
            peso.CopyFrom(onnx.numpy_helper.from_array(array, f"{nome}_16"))
            para_32 = onnx.helper.make_node("Cast", [peso.name], [nome], to=onnx.TensorProto.FLOAT)
            modelo.graph.node.insert(0, para_32)
    return modelo.SerializeToString(), {p.key: p.value for p in modelo.metadata_props}


def _le(pasta: pathlib.Path) -> dict[str, bytes]:
    """{nome: conteúdo} dos arquivos de RUNTIME, conferidos."""
    lidos = {nome: (pasta / nome).read_bytes() for nome in RUNTIME if (pasta / nome).is_file()}
    for nome, resumo in RUNTIME.items():
        sha256 = hashlib.sha256(lidos.get(nome, b"")).digest()
        if base64.b64encode(sha256).decode() != resumo:
            raise ErroClaro(
                f"{pasta / nome} falta ou não é o do onnxruntime-web {VERSAO}; indique a pasta "
                f"`dist` dele, que `npm pack onnxruntime-web@{VERSAO}` baixa."
            )
    return lidos
