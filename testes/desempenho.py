"""Quanto custa cada jeito de fazer a mesma coisa, numa só execução e nas mesmas fotos: `make desempenho`.

(a) o laço dos tutoriais: aumento de dados e backbone congelado dentro do `fit`;
(b) extração com `Model.predict`;
(c) a extração do notebook, do TFRecord às partes em disco, com cada motor;
(d) o motor sozinho, com as fotos já prontas na memória: o limite do processador.

Cada medida roda num processo próprio, alternadas e repetidas; valem as medianas e, sobretudo, as razões. Usa
as fotos reais preparadas em TFDS_DATA_DIR (ou na pasta padrão do TFDS), ou a amostra se elas não existirem.
"""

import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from conftest import RAIZ, celulas

META = 0.985
REPETICOES = int(os.environ.get("REPETICOES", 3))


def definicoes():
    import types
    nb = types.ModuleType("detector_dogs_cats")
    for fonte in celulas("definicoes"):
        exec(compile(fonte, "<definicoes>", "exec"), nb.__dict__)
    nb.keras.utils.set_random_seed(0)
    return nb


def dados(nb, quantas=0):
    """Builder das fotos reais preparadas, ou da amostra; repetidas, se `quantas` são mais do que há."""
    construtor = nb.tfds.builder("cats_vs_dogs")
    if not construtor.is_prepared():
        construtor = nb.tfds.builder_from_directory(RAIZ / "amostra/cats_vs_dogs_amostra/1.0.0")
    return construtor if quantas <= construtor.info.splits["train"].num_examples else repete(nb, construtor, quantas)


def repete(nb, construtor, quantas):
    """Dataset com pelo menos `quantas` fotos: os mesmos TFRecords, ligados várias vezes sob outros nomes."""
    origem, copia = pathlib.Path(construtor.data_dir), pathlib.Path(tempfile.mkdtemp()) / "1.0.0"
    copia.mkdir()
    info = json.loads((origem / "dataset_info.json").read_text(encoding="utf-8"))
    [divisao] = info["splits"]
    vezes = -(-quantas // sum(map(int, divisao["shardLengths"])))
    registros = sorted(p for p in origem.iterdir() if ".tfrecord" in p.name)
    prefixo = registros[0].name.split("-train")[0]
    for i in range(vezes * len(registros)):
        destino = copia / f"{prefixo}-train.tfrecord-{i:05}-of-{vezes * len(registros):05}"
        destino.symlink_to(registros[i % len(registros)])
    divisao["shardLengths"] = divisao["shardLengths"] * vezes
    (copia / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    for nome in ("features.json", "label.labels.txt"):
        (copia / nome).write_bytes((origem / nome).read_bytes())
    return nb.tfds.builder_from_directory(copia)


def epoca_da_meta(nb, X, y):
    """Segundos que a cabeça leva até META na validação (None se não chega) sobre vetores prontos."""
    cabeca, inicio = nb.cria_cabeca(X.shape[1]), time.perf_counter()
    treino, validacao = nb.lotes(X[:1600], y[:1600], 32), nb.lotes(X[1600:1800], y[1600:1800], 32)
    for epoca in range(100):
        h = cabeca.fit(treino, validation_data=validacao, verbose=0, shuffle=False)
        if h.history["val_acuracia"][0] >= META:
            return time.perf_counter() - inicio
    return None


def mede_tutorial(nb):
    """(a) como nos tutoriais: RandomFlip e RandomRotation(0,2), base congelada, média, Dropout(0,2), Adam 1e-4, lote 32."""
    keras, construtor = nb.keras, dados(nb)
    fotos = lambda a, b: nb.le_fotos(construtor, (a, b)).map(nb.prepara, nb.tf.data.AUTOTUNE).map(
        lambda img, label: (img, label[None])).batch(32).prefetch(nb.tf.data.AUTOTUNE)
    entrada = keras.Input((224, 224, 3))
    x = keras.layers.RandomRotation(0.2)(keras.layers.RandomFlip("horizontal")(entrada))
    x = keras.layers.Dropout(0.2)(nb.cria_backbone("EfficientNetLite0")(x, training=False))
    modelo = keras.Model(entrada, keras.layers.Dense(1, activation="sigmoid")(x))
    modelo.compile(keras.optimizers.Adam(1e-4), "binary_crossentropy", metrics=["accuracy"])
    inicio, meta, segundos_por_epoca = time.perf_counter(), None, []
    for _ in range(10):
        marca = time.perf_counter()
        h = modelo.fit(fotos(0, 1600), validation_data=fotos(1600, 1800), verbose=0)
        segundos_por_epoca.append(time.perf_counter() - marca)
        if h.history["val_accuracy"][0] >= META:
            meta = time.perf_counter() - inicio
            break
    return {"por_segundo": 1600 / statistics.median(segundos_por_epoca), "meta": meta,
            "epocas": len(segundos_por_epoca), "validacao": h.history["val_accuracy"][0]}


def mede_predict(nb):
    """(b) os mesmos vetores com `Model.predict` sobre o mesmo tf.data."""
    construtor, backbone = dados(nb), nb.cria_backbone("EfficientNetLite0")
    y, _ = nb.le_rotulos(construtor, 2000)
    fotos = nb.le_fotos(construtor, (0, 2000)).map(lambda e: nb.prepara(e)[0], nb.tf.data.AUTOTUNE).batch(32).prefetch(2)
    backbone.predict(fotos.take(1), verbose=0)
    inicio = time.perf_counter()
    X = backbone.predict(fotos, verbose=0)
    segundos = time.perf_counter() - inicio
    return {"por_segundo": 2000 / segundos, "meta": segundos + (epoca_da_meta(nb, X, y) or float("nan"))}


def mede_extracao(nb, motor, n=2000):
    """(c) a extração do notebook inteira, do TFRecord às partes gravadas."""
    construtor, backbone = dados(nb, n), nb.cria_backbone("EfficientNetLite0")
    with tempfile.TemporaryDirectory() as pasta:
        inicio = time.perf_counter()
        X, resumo = nb.extrai_caracteristicas(construtor, n, backbone, motor, pathlib.Path(pasta))
        total = time.perf_counter() - inicio
    y, _ = nb.le_rotulos(construtor, n)
    return {"por_segundo": n / resumo["segundos"], "com_preparo": total, "motor": resumo["motor"],
            "meta": total + (epoca_da_meta(nb, X, y) or float("nan")) if n == 2000 else None, "vetores_mb": X.nbytes / 1e6}


def mede_limite(nb, motor):
    """(d) o motor com 512 fotos prontas na memória, quatro voltas."""
    construtor, backbone = dados(nb), nb.cria_backbone("EfficientNetLite0")
    fotos = nb.le_fotos(construtor, (0, 512)).map(lambda e: nb.prepara(e)[0]).cache()
    prontas = nb.np.stack(list(fotos.as_numpy_iterator()))
    roda = nb.cria_motor(backbone, motor, fotos)

    class NaMemoria:
        """O pedaço de tf.data que um motor usa, sobre um array."""

        def __init__(self, fotos):
            self.fotos = fotos

        def batch(self, tamanho):
            return NaMemoria([self.fotos[i:i + tamanho] for i in range(0, len(self.fotos), tamanho)])

        def prefetch(self, _):
            return self

        def as_numpy_iterator(self):
            return iter(self.fotos)

        __iter__ = as_numpy_iterator

    list(roda(NaMemoria(prontas[:64])))
    inicio = time.perf_counter()
    for _ in range(4):
        assert sum(1 for _ in roda(NaMemoria(prontas))) == 512
    return {"por_segundo": 4 * 512 / (time.perf_counter() - inicio)}


MEDIDAS = {"a tutorial": mede_tutorial, "b predict": mede_predict}
for _motor in ("keras", "openvino", "openvino-int8"):
    MEDIDAS[f"c {_motor}"] = lambda nb, m=_motor: mede_extracao(nb, m)
    MEDIDAS[f"d {_motor}"] = lambda nb, m=_motor: mede_limite(nb, m)
for _n in (500, 2000, 4000, 16000):
    MEDIDAS[f"n {_n}"] = lambda nb, n=_n: mede_extracao(nb, "openvino", n)


def em_processo_proprio(nome):
    processo = subprocess.run([sys.executable, __file__, nome], capture_output=True, text=True)
    if processo.returncode:
        sys.exit(f"a medida {nome} falhou:\n{processo.stderr[-2000:]}")
    return json.loads(processo.stdout.splitlines()[-1])


def desenha(linhas):
    import matplotlib.pyplot as plt
    figura, eixo = plt.subplots(figsize=(8, 3.4), facecolor="white", layout="constrained")
    nomes, valores, cores = zip(*reversed(linhas))
    barras = eixo.barh(nomes, valores, color=cores)
    eixo.bar_label(barras, fmt="%.0f", padding=3)
    eixo.set(xlabel="imagens por segundo (mais é melhor)", title="EfficientNet-Lite0 em 224×224, sem GPU")
    eixo.spines[["top", "right"]].set_visible(False)
    figura.savefig(RAIZ / "imagens/desempenho.png", dpi=90)


def main():
    resultados = {nome: [] for nome in MEDIDAS}
    for volta in range(REPETICOES):
        for nome in MEDIDAS:
            if volta and nome[0] == "a":
                continue  # minutos por medida: uma só
            r = em_processo_proprio(nome)
            resultados[nome].append(r)
            print(f"  volta {volta + 1}  {nome:<18} {r['por_segundo']:7.1f} imagens/s  pico {r['pico_mb']:6.0f} MB", flush=True)
    mediana = {nome: statistics.median(r["por_segundo"] for r in rs) for nome, rs in resultados.items()}
    meta = {nome: rs[0].get("meta") and statistics.median(r["meta"] for r in rs) for nome, rs in resultados.items()}
    print(f"\n{'':<18} {'imagens/s':>10} {'÷ (b)':>7} {'÷ (d)':>7}   segundos até {META:.1%} na validação")
    for nome in [n for n in MEDIDAS if n[0] != "n"]:
        limite = mediana[nome] / mediana["d" + nome[1:]] if nome[0] == "c" else float("nan")
        ate = "" if nome[0] == "d" else f"{meta[nome]:.1f}" if meta[nome] else "não chegou em 10 épocas"
        print(f"{nome:<18} {mediana[nome]:>10.1f} {mediana[nome] / mediana['b predict']:>7.2f} {limite:>7.2f}   {ate}")
    if meta["a tutorial"]:
        print(f"\nTempo até a meta: (a) ÷ (c openvino) = {meta['a tutorial'] / meta['c openvino']:.1f}, "
              f"(b) ÷ (c openvino) = {meta['b predict'] / meta['c openvino']:.1f}")
    print(f"\n{'imagens':>8} {'ms/imagem':>10} {'pico MB':>8} {'vetores MB':>11}")
    for n in (500, 2000, 4000, 16000):
        rs = resultados[f"n {n}"]
        print(f"{n:>8} {1000 / mediana[f'n {n}']:>10.2f} {statistics.median(r['pico_mb'] for r in rs):>8.0f} {rs[0]['vetores_mb']:>11.1f}")
    desenha([("tutorial: backbone dentro do fit", mediana["a tutorial"], "#999999"), ("Model.predict", mediana["b predict"], "#999999"),
             ("este notebook, motor keras", mediana["c keras"], "#56B4E9"), ("este notebook, OpenVINO (padrão)", mediana["c openvino"], "#0072B2"),
             ("este notebook, OpenVINO int8", mediana["c openvino-int8"], "#0072B2")])


if __name__ == "__main__":
    if len(sys.argv) == 2:
        resultado = MEDIDAS[sys.argv[1]](definicoes())
        resultado["pico_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(resultado))
    else:
        main()
