"""Quanto custa cada jeito de fazer a mesma coisa, numa só execução e nas mesmas fotos: `make desempenho`.

(a) o laço dos tutoriais: aumento de dados e backbone congelado dentro do `fit`;
(b) extração com `Model.predict`;
(c) a extração do notebook, do TFRecord às partes em disco, com cada motor;
(d) o motor sozinho, com as fotos já prontas na memória: o limite do processador.

Depois, o que cada backbone e cada motor alcança em validação cruzada, nas mesmas fotos e nos mesmos 5 grupos, e o que
o ajuste fino muda no teste, em três sementes, na amostra e nas fotos reais. Ao todo, perto de meia hora.

Cada medida roda num processo próprio, alternadas e repetidas; valem as medianas e, sobretudo, as razões. Usa
as fotos reais preparadas em TFDS_DATA_DIR (ou na pasta padrão do TFDS), ou a amostra se elas não existirem. O
resultado fica em testes/desempenho.json, de onde `testes/leiame.py` o leva ao README.
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
MOTORES = ("keras", "openvino", "openvino-bf16", "openvino-int8")
TRIO = "EfficientNetLite0+EfficientNetLite1+EfficientNetLite2"
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


def mede_backbone(nb, nome, motor):
    """Acurácia e log loss em validação cruzada de 5 grupos, com as épocas que a divisão do notebook escolhe."""
    construtor, backbone = dados(nb), nb.cria_backbone(nome)
    y, _ = nb.le_rotulos(construtor, 2000)
    with tempfile.TemporaryDirectory() as pasta:
        pasta = pathlib.Path(pasta)
        X, resumo = nb.extrai_caracteristicas(construtor, 2000, backbone, motor, pasta)
        _, historico = nb.treina_cabeca(X, y, range(1600), range(1600, 1800), 32, 100, pasta, "x")
        p = nb.validacao_cruzada(X, y, 32, nb.melhor_epoca(historico), 42, pasta, "x")
    acertos = int(((p > 0.5) == y).sum())
    return {"por_segundo": resumo["por_segundo"], "motor": resumo["motor"], "acuracia": acertos / 2000,
            "ic95": nb.intervalo(acertos, 2000), "log_loss": nb.log_loss(y, p), "mb": backbone.count_params() * 4 / 1e6}


def mede_ajuste(nb, semente, epocas, amostra):
    """O ajuste fino do notebook, do treino da cabeça à decisão da validação: acurácia de teste antes e depois."""
    construtor, backbone = nb.abre_amostra("medida") if amostra else dados(nb), nb.cria_backbone("EfficientNetLite0")
    y, _ = nb.le_rotulos(construtor, 2000)
    treino, validacao, teste = nb.np.arange(1600), nb.np.arange(1600, 1800), nb.np.arange(1800, 2000)
    nb.keras.utils.set_random_seed(semente)
    with tempfile.TemporaryDirectory() as pasta:
        pasta = pathlib.Path(pasta)
        X, _ = nb.extrai_caracteristicas(construtor, 2000, backbone, nb.escolhe_motor("auto"), pasta)
        cabeca, historico = nb.treina_cabeca(X, y, treino, validacao, 32, 100, pasta, "x")
        inicio = time.perf_counter()
        novo, nova, h, parte, perda = nb.ajusta_fino(construtor, backbone, cabeca, treino, validacao, 32, epocas, semente, pasta, "x")
        segundos = time.perf_counter() - inicio
        antes, depois = (nb.avalia(y[teste], nb.prediz(nb.junta(*par), construtor, (1800, 2000), pasta)[0])
                         for par in ((backbone, cabeca), (novo, nova)))
    perda_antes = min(e["val_log_loss"] for e in historico)
    return {"por_segundo": len(h) * 1600 / segundos, "segundos": segundos, "antes": antes["acuracia"], "sem_decisao": depois["acuracia"],
            "depois": (depois if perda < perda_antes else antes)["acuracia"], "aceito": perda < perda_antes, "parte": parte,
            "perdas": [perda_antes, *(e["val_log_loss"] for e in h), perda]}


MEDIDAS = {"a tutorial": mede_tutorial, "b predict": mede_predict}
for _motor in MOTORES:
    MEDIDAS[f"c {_motor}"] = lambda nb, m=_motor: mede_extracao(nb, m)
    MEDIDAS[f"d {_motor}"] = lambda nb, m=_motor: mede_limite(nb, m)
for _n in (500, 2000, 4000, 16000):
    MEDIDAS[f"n {_n}"] = lambda nb, n=_n: mede_extracao(nb, nb.escolhe_motor("auto"), n)
for _motor in MOTORES:
    MEDIDAS[f"v EfficientNetLite0 {_motor}"] = lambda nb, m=_motor: mede_backbone(nb, "EfficientNetLite0", m)
for _nome in ("EfficientNetLite1", "EfficientNetLite2", TRIO):
    MEDIDAS[f"v {_nome} openvino"] = lambda nb, nome=_nome: mede_backbone(nb, nome, "openvino")

for _semente in (1, 2, 3):
    MEDIDAS[f"f amostra {_semente}"] = lambda nb, s=_semente: mede_ajuste(nb, s, 5, True)
    MEDIDAS[f"f fotos reais {_semente}"] = lambda nb, s=_semente: mede_ajuste(nb, s, 3, False)


def em_processo_proprio(nome):
    processo = subprocess.run([sys.executable, __file__, nome], capture_output=True, text=True)
    if processo.returncode:
        sys.exit(f"a medida {nome} falhou:\n{processo.stderr[-2000:]}")
    return json.loads(processo.stdout.splitlines()[-1])


def desenha(linhas):
    import matplotlib.pyplot as plt
    figura, eixo = plt.subplots(figsize=(8, 3.6), facecolor="white", layout="constrained")
    nomes, valores, cores = zip(*reversed(linhas))
    barras = eixo.barh(nomes, valores, color=cores)
    eixo.bar_label(barras, fmt="%.0f", padding=3)
    eixo.set(xlabel="imagens por segundo (mais é melhor)", title="EfficientNet-Lite0 em 224×224, sem GPU")
    eixo.spines[["top", "right"]].set_visible(False)
    figura.savefig(RAIZ / "imagens/desempenho.png", dpi=90)


def resume(resultados):
    """Uma medida por nome: a mediana de cada número das voltas, e o que não é número tal como está."""
    def mediana(valores):
        return statistics.median(valores) if all(isinstance(v, (int, float)) for v in valores) else valores[0]
    return {nome: {chave: mediana([r[chave] for r in rs]) for chave in rs[0]} for nome, rs in resultados.items() if rs}


def mostra(r):
    """Imprime as tabelas do que `resume` devolveu."""
    padrao = r["n 2000"]["motor"]
    print(f"\n{'':<18} {'imagens/s':>10} {'÷ (b)':>7} {'÷ (d)':>7}   segundos até {META:.1%} na validação")
    for nome in [n for n in r if n[0] in "abcd"]:
        limite = r[nome]["por_segundo"] / r["d" + nome[1:]]["por_segundo"] if nome[0] == "c" else float("nan")
        ate = "" if nome[0] == "d" else f"{r[nome]['meta']:.1f}" if r[nome]["meta"] else "não chegou em 10 épocas"
        razao = r[nome]["por_segundo"] / r["b predict"]["por_segundo"]
        print(f"{nome:<18} {r[nome]['por_segundo']:>10.1f} {razao:>7.2f} {limite:>7.2f}   {ate}")
    meta = r[f"c {padrao}"]["meta"]
    print(f"\nMotor padrão nesta máquina: {padrao}")
    if r["a tutorial"]["meta"]:
        print(f"Tempo até a meta: (a) ÷ (c) = {r['a tutorial']['meta'] / meta:.1f}, (b) ÷ (c) = {r['b predict']['meta'] / meta:.1f}")
    print(f"\n{'imagens':>8} {'ms/imagem':>10} {'pico MB':>8} {'vetores MB':>11}")
    for n in (500, 2000, 4000, 16000):
        m = r[f"n {n}"]
        print(f"{n:>8} {1000 / m['por_segundo']:>10.2f} {m['pico_mb']:>8.0f} {m['vetores_mb']:>11.1f}")
    print(f"\n{'validação cruzada':<62} {'acurácia':>9} {'IC 95 %':>15} {'log loss':>9} {'MB':>6} {'imagens/s':>10}")
    for nome in [n for n in r if n[0] == "v"]:
        m = r[nome]
        print(f"{nome[2:]:<62} {m['acuracia']:>9.4f} {m['ic95'][0]:>7.4f}–{m['ic95'][1]:.4f} {m['log_loss']:>9.4f} "
              f"{m['mb']:>6.1f} {m['por_segundo']:>10.0f}")
    print(f"\n{'ajuste fino, semente':<24} {'teste antes':>12} {'depois':>8} {'decisão':>12} {'pesos novos':>12} {'segundos':>9}")
    for nome in [n for n in r if n[0] == "f"]:
        m = r[nome]
        decisao = "aceito" if m["aceito"] else "descartado"
        print(f"{nome[2:]:<24} {m['antes']:>12.3f} {m['depois']:>8.3f} {decisao:>12} {m['parte']:>12.0%} {m['segundos']:>9.0f}")


def main():
    resultados = {nome: [] for nome in MEDIDAS}
    for volta in range(REPETICOES):
        for nome in MEDIDAS:
            if volta and nome[0] in "avf":
                continue  # minutos por medida: uma só
            r = em_processo_proprio(nome)
            resultados[nome].append(r)
            print(f"  volta {volta + 1}  {nome:<64} {r['por_segundo']:7.1f} imagens/s  pico {r['pico_mb']:6.0f} MB", flush=True)
    r = resume(resultados)
    mostra(r)
    (RAIZ / "testes/desempenho.json").write_text(json.dumps(r, indent=1) + "\n", encoding="utf-8")
    barras = [("tutorial: backbone dentro do fit", "a tutorial", "#999999"), ("Model.predict", "b predict", "#999999")]
    barras += [(f"este notebook, motor {m}", f"c {m}", "#0072B2" if m == r["n 2000"]["motor"] else "#56B4E9") for m in MOTORES]
    desenha([(texto, r[nome]["por_segundo"], cor) for texto, nome, cor in barras])


if __name__ == "__main__":
    if len(sys.argv) == 2:
        resultado = MEDIDAS[sys.argv[1]](definicoes())
        resultado["pico_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(resultado), flush=True)
        os._exit(0)  # a medida está feita; uma biblioteca que aborta ao sair, como já se viu, não a estraga
    else:
        main()
