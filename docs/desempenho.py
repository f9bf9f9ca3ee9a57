"""Quanto leva cada jeito de fazer a mesma coisa, numa execução só: `make desempenho`.

    python docs/desempenho.py DATA_DIR [DATA_DIR_GRANDE]   mede tudo e grava desempenho.json
    python docs/desempenho.py                              só refaz a página e a figura

DATA_DIR tem o `cats_vs_dogs` preparado; DATA_DIR_GRANDE, outro maior, em que se mede como o tempo e
a memória crescem. Cada número é a mediana de VEZES medidas alternadas; o que leva minutos, não. P,
a unidade das razões, é o tempo que `Model.predict` leva, na mesma execução, para as mesmas fotos.
"""

import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from unittest import mock

import gera
import textos

sys.path.insert(0, str(gera.RAIZ))
import detector

ARQUIVO = gera.RAIZ / "docs/desempenho.json"
FIGURA = gera.RAIZ / "imagens/desempenho.png"
VEZES = 3
META = 0.985  # acurácia de validação em que o treino para
MUITAS = 10_000  # fotos a partir das quais uma volta leva minutos, e se mede uma só
TAMANHOS = (500, 2000, 20000)


def segundos(faz: Callable[[], object]) -> float:
    inicio = time.perf_counter()
    faz()
    return time.perf_counter() - inicio


def medianas(jeitos: dict[str, Callable[[], float]]) -> dict[str, float]:
    """A mediana do que cada jeito devolve, em VEZES voltas em que eles se alternam."""
    voltas = []
    for _ in range(VEZES):
        voltas.append({nome: mede() for nome, mede in jeitos.items()})
        print({nome: round(valor, 2) for nome, valor in voltas[-1].items()}, flush=True)
    return {nome: statistics.median(volta[nome] for volta in voltas) for nome in jeitos}


def maquina() -> dict:
    """Processador, núcleos, memória, versões e data."""
    import keras
    import tensorflow as tf

    processador = platform.processor() or platform.machine()
    if (cpuinfo := pathlib.Path("/proc/cpuinfo")).is_file():
        linhas = dict(li.split(":", 1) for li in cpuinfo.read_text().splitlines() if ":" in li)
        processador = next((v.strip() for k, v in linhas.items() if k.startswith("model name")), "")
    return {
        "processador": processador,
        "nucleos": os.cpu_count(),
        "memoria_gb": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "data": time.strftime("%Y-%m-%d"),
    }


class Banco:
    """As fotos, o backbone e os motores, e cada jeito de passar por eles."""

    def __init__(self, data_dir: str, quantas: int | None = None):
        import tensorflow as tf

        self.tf = tf
        self.builder = detector.dados.abre("cats_vs_dogs", data_dir)
        self.fotos = detector.dados.lista(self.builder, quantas)
        self.backbone = detector.backbones.cria("EfficientNetLite0")
        self.backbone.trainable = False
        self.corte = detector.backbones.acha_corte(self.backbone)
        self.pasta = pathlib.Path(tempfile.mkdtemp())

    def preparadas(self, inicio: int = 0, fim: int | None = None):
        """tf.data com (foto pronta, rótulo), decodificadas em paralelo."""
        fatia = f"train[{inicio}:{fim or len(self.fotos)}]"
        lidas = detector.dados.le(self.builder, fatia)
        return lidas.map(detector.redimensiona_img, self.tf.data.AUTOTUNE)

    def em_lotes(self, *fatia: int):
        return self.preparadas(*fatia).batch(32).prefetch(self.tf.data.AUTOTUNE)

    def decodifica(self) -> float:
        return segundos(lambda: [None for _ in self.em_lotes()])

    def predict(self, com_ajuste: bool = False) -> float:
        """Segundos do `Model.predict`. com_ajuste: com o ajuste automático do tf.data ligado."""
        opcoes = self.tf.data.Options()
        opcoes.autotune.enabled = com_ajuste
        lotes = self.em_lotes().with_options(opcoes)
        self.backbone.predict(lotes.take(1), verbose=0)  # a primeira vez inclui preparar-se
        return segundos(lambda: self.backbone.predict(lotes, verbose=0))

    def extrai(self, motor: str) -> float:
        """Da foto aos vetores e mapas em disco, sem montar o motor."""
        for velho in (*self.pasta.glob("vetores-*"), *self.pasta.glob("mapas-*")):
            velho.unlink()
        return self.extracao(motor).segundos

    def extracao(self, motor: str):
        """O que `caracteristicas.extrai` devolve com este motor, e nenhum outro."""
        argumentos = (self.builder, self.fotos, detector.redimensiona_img, self.backbone)
        with mock.patch.object(detector.motores, "candidatos", lambda _: [motor]):
            return detector.caracteristicas.extrai(*argumentos, self.corte, motor, self.pasta)

    def motor_sozinho(self, motor: str) -> float:
        """As mesmas fotos já prontas na memória: o limite do processador."""
        quinhentas = self.tf.data.Dataset.from_tensor_slices(
            [foto for foto, _ in self.preparadas(0, 500)]
        ).map(lambda foto: (foto, foto[0, 0]))
        quinhentas = quinhentas.with_options(detector.leitura.SEM_AJUSTE)
        roda = detector.motores.monta(motor, self.backbone, self.corte, self.pasta, quinhentas)
        demora = segundos(lambda: [None for _ in roda(quinhentas)])
        return demora * len(self.fotos) / 500


def caminhos(banco: Banco) -> dict:
    """Segundos para passar todas as fotos, de cada jeito."""
    motores = detector.motores.candidatos("openvino")
    jeitos = {
        "Model.predict": banco.predict,
        "o mesmo, com o ajuste automático do tf.data": lambda: banco.predict(com_ajuste=True),
        "só decodificar": banco.decodifica,
    }
    for motor in motores:
        jeitos[f"extração, {motor}"] = lambda motor=motor: banco.extrai(motor)
        jeitos[f"só o motor, {motor}"] = lambda motor=motor: banco.motor_sozinho(motor)
    return medianas(jeitos)


def ate_a_meta(banco: Banco) -> dict:
    """Segundos até META na validação: mesma cabeça, mesmo otimizador, mesma regra de parar."""
    import keras
    import numpy as np

    n = len(banco.fotos)
    treino, validacao = slice(0, n * 8 // 10), slice(n * 8 // 10, n)
    y = banco.fotos["rotulo"].to_numpy("float32")[:, np.newaxis]

    class Para(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = logs["val_acuracia"] >= META
            self.epocas = epoch + 1

    def treina(camadas, dados, de_validacao):
        keras.utils.set_random_seed(42)
        l2 = keras.regularizers.L2(1e-3)
        modelo = keras.Sequential(
            [*camadas, keras.layers.Dense(1, activation="sigmoid", kernel_regularizer=l2)]
        )
        acuracia = keras.metrics.BinaryAccuracy(name="acuracia")
        modelo.compile(keras.optimizers.Adam(3e-3), "binary_crossentropy", metrics=[acuracia])
        para = Para()
        modelo.fit(
            **dados,
            validation_data=de_validacao,
            epochs=20,
            shuffle=False,
            callbacks=[para],
            verbose=0,
        )
        epocas.append(para.epocas)

    def comum():
        lotes = banco.em_lotes(0, treino.stop), banco.em_lotes(treino.stop, n)
        treina([banco.backbone], {"x": lotes[0]}, lotes[1])

    def com_vetores(X):
        dados = {"x": X[treino], "y": y[treino], "batch_size": 32}
        treina([], dados, (X[validacao], y[validacao]))

    def do_predict():
        com_vetores(banco.backbone.predict(banco.em_lotes(), verbose=0))

    epocas: list[int] = []
    motor = detector.motores.candidatos("auto")[0]
    X = banco.extracao(motor).vetores
    demoras = medianas(
        {
            "laço comum": lambda: segundos(comum),
            "vetores do Model.predict": lambda: segundos(do_predict),
            f"vetores do {motor}": lambda: banco.extrai(motor) + segundos(lambda: com_vetores(X)),
        }
    )
    return {"segundos": demoras, "epocas": epocas[: len(demoras)], "meta": META}


def notebook(data_dir: str, modelos: str, **parametros: object) -> dict:
    """As medidas de uma execução do notebook inteiro, num processo próprio."""
    with tempfile.NamedTemporaryFile(suffix=".json") as saida:
        parametros |= {"DATA_DIR": data_dir, "MODELOS": modelos}
        opcoes = [f"{nome}={valor}" for nome, valor in parametros.items()]
        comando = [sys.executable, gera.__file__, "mede", saida.name, *opcoes]
        subprocess.run(comando, check=True, capture_output=True)
        return json.loads(pathlib.Path(saida.name).read_text(encoding="utf-8"))


def sessoes(data_dir: str) -> dict:
    """Segundos por seção da primeira sessão e da segunda, que aproveita o que ela deixou."""
    voltas = []
    for _ in range(VEZES):
        with tempfile.TemporaryDirectory() as modelos:
            voltas.append([notebook(data_dir, modelos) for _ in range(2)])
        print([round(m["segundos_total"], 1) for m in voltas[-1]], flush=True)
    return {
        nome: _mediana([volta[i] for volta in voltas])
        for i, nome in enumerate(("primeira", "segunda"))
    }


def _mediana(medidas: list[dict]) -> dict:
    """A mediana de cada número de várias medidas iguais, também dos que estão em sub-dicts."""
    juntas = {}
    for chave, valor in medidas[0].items():
        valores = [m[chave] for m in medidas if chave in m]
        if isinstance(valor, dict):
            juntas[chave] = _mediana(valores)
        elif isinstance(valor, int | float):
            juntas[chave] = statistics.median(valores)
    return juntas


def crescimento(data_dir: str, total: int) -> dict:
    """Segundos e memória do notebook inteiro, de 500 fotos a todas as que há."""
    medidas = {}
    for n in (n for n in TAMANHOS if n <= total):
        voltas = []
        for _ in range(VEZES if n < MUITAS else 1):
            with tempfile.TemporaryDirectory() as modelos:
                voltas.append(notebook(data_dir, modelos, MAX_IMAGENS=n))
        medidas[n] = _mediana(voltas)
        print(n, round(medidas[n]["segundos_total"], 1), round(medidas[n]["pico_mb"]), flush=True)
    return medidas


def vizinhos_e_copias(n: int) -> dict[str, float]:
    """Segundos das cópias e da semelhança em n fotos de mentira, com 100 cópias plantadas."""
    import numpy as np

    acaso = np.random.default_rng(0)
    miniaturas = acaso.integers(0, 256, (n, 16, 16), "uint8")
    vetores = acaso.standard_normal((n, 1280), dtype="float32")
    miniaturas[-100:], vetores[-100:] = miniaturas[:100], vetores[:100]
    achadas: list = []
    demoras = medianas(
        {
            "copias": lambda: segundos(
                lambda: achadas.extend(detector.auditoria.copias(miniaturas, vetores))
            ),
            "semelhanca": lambda: segundos(
                lambda: detector.semelhanca.semelhanca(
                    vetores, detector.semelhanca.unitarios(vetores[:4000])
                )
            ),
        }
    )
    certas = {(i, n - 100 + i) for i in range(100)}
    return demoras | {"plantadas_achadas": len(certas & set(achadas))}


def mede(data_dir: str, grande: str | None = None) -> None:
    """Mede tudo e grava o json, a página e a figura."""
    detector.prepara(42)
    banco = Banco(data_dir)
    medidas = {"vezes": VEZES, "maquina": maquina(), "fotos": len(banco.fotos)}
    medidas["caminhos"] = caminhos(banco)
    medidas["ate_a_meta"] = ate_a_meta(banco)
    medidas["sessoes"] = sessoes(data_dir)
    grande = grande or data_dir
    maior = Banco(grande)
    medidas["crescimento"] = crescimento(grande, len(maior.fotos))
    medidas["predict_grande"] = maior.predict()  # uma vez só: leva minutos
    medidas["fotos_grande"] = len(maior.fotos)
    medidas["vizinhos"] = {str(n): vizinhos_e_copias(n) for n in (20_000, 200_000)}
    ARQUIVO.write_text(json.dumps(medidas, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    desenha(medidas)
    textos.escreve()


def desenha(m: dict) -> None:
    """A figura da página: quem leva quanto, onde vão os segundos, e como eles crescem."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figura = Figure(figsize=(12, 4.2), layout="constrained")
    barras, secoes, cresce = figura.subplots(1, 3)
    demoras = m["ate_a_meta"]["segundos"]
    desenho = barras.barh([*demoras], [*demoras.values()], color="tab:blue")
    barras.bar_label(desenho, fmt="%.0f s", padding=3)
    barras.set(
        title=f"Até {textos.num(100 * META, 1)} % na validação",
        xlim=(0, max(demoras.values()) * 1.2),
    )
    barras.invert_yaxis()
    base, cores = [0.0, 0.0], iter(colormaps["tab20"].colors)
    for secao in m["sessoes"]["primeira"]["segundos_por_secao"]:
        dois = [m["sessoes"][s]["segundos_por_secao"][secao] for s in ("segunda", "primeira")]
        nome = secao if max(dois) > 2 else None
        secoes.barh(["segunda", "primeira"], dois, left=base, label=nome, color=next(cores))
        base = [b + t for b, t in zip(base, dois, strict=True)]
    secoes.set(title="Uma sessão, por seção (s)", ylim=(-3, 1.6))
    secoes.legend(fontsize=8, loc="lower right")
    n = [int(n) for n in m["crescimento"]]
    cresce.plot(n, [v["segundos_total"] for v in m["crescimento"].values()], "o-")
    gb = cresce.twinx()
    gb.plot(n, [v["pico_mb"] / 1000 for v in m["crescimento"].values()], "s--", color="tab:orange")
    cresce.set(title="Conforme o número de fotos", xlabel="fotos", ylim=(0, None))
    cresce.set_ylabel("segundos", color="tab:blue")
    gb.set_ylabel("memória (GB)", color="tab:orange")
    gb.set_ylim(0, 2.5)
    figura.savefig(FIGURA, dpi=90)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        mede(*sys.argv[1:])
    else:
        desenha(json.loads(ARQUIVO.read_text(encoding="utf-8")))
        textos.escreve()
