"""Os números dos textos: cada bloco entre `<!-- numeros: NOME -->` e `<!-- /numeros -->`.

Cada bloco é escrito pela função de mesmo nome, a partir do que foi medido e está em `docs/*.json`:
metricas (a execução gravada no notebook), metricas_20000 e metricas_amostra (`gera.py mede`),
desempenho e comparacoes (os programas de mesmo nome).
"""

import json
import pathlib
import re

RAIZ = pathlib.Path(__file__).resolve().parent.parent
TEXTOS = (RAIZ / "README.md", RAIZ / "docs/como_funciona.md", RAIZ / "docs/desempenho.md")
BLOCOS = {  # de que json sai cada um
    **dict.fromkeys(["resultado", "escolhas", "tempo"], "todas"),
    **dict.fromkeys(["licao2", "disco"], "metricas"),
    **dict.fromkeys(["condicoes", "caminhos", "meta", "sessoes"], "desempenho"),
    **dict.fromkeys(["crescimento", "vizinhos", "licao3"], "desempenho"),
    **dict.fromkeys(["ajuste_fino", "ganho", "ganho_curto", "amostra"], "comparacoes"),
}
FAIXAS = {
    "[0, 1]": "[0, 1], a certa",
    "0–255": "0–255, sem normalizar",
    "[−1, 1]": "[−1, 1], de outra rede",
}


def medidas() -> dict[str, dict]:
    """O que há em cada json de docs/."""
    arquivos = (RAIZ / "docs").glob("*.json")
    return {a.stem: json.loads(a.read_text(encoding="utf-8")) for a in arquivos}


def num(valor: float, casas: int = 4) -> str:
    """O número em português: 0,9900."""
    return f"{valor:.{casas}f}".replace(".", ",").replace("-", "−")


def _linha(nome: str, m: dict) -> str:
    minimo, maximo = m["acuracia_ic95"]
    acuracia = f"{num(m['acuracia'])} ({num(minimo)} a {num(maximo)})"
    outras = " | ".join(num(m[chave]) for chave in ("precisao", "recall", "log_loss"))
    return f"| {nome} | {m['n']} | {acuracia} | {outras} |"


EXECUCOES = {
    "metricas": "2.000 reais",
    "metricas_20000": "20.000 pequenas",
    "metricas_amostra": "amostra, miniaturas",
}


def resultado(m: dict) -> list[str]:
    """A tabela do começo do README."""
    linhas = [
        "| | avaliadas | acurácia (intervalo de 95 %) | precisão | recall | log loss |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for arquivo, fotos in EXECUCOES.items():
        linhas.append(_linha(f"**{fotos}: teste**", m[arquivo]))
        linhas.append(_linha("validação cruzada, congelado", m[arquivo]["validacao_cruzada"]))
    return linhas


def escolhas(m: dict) -> list[str]:
    """O que não cabe na tabela: a linha de base, o fine-tuning e as recusas."""
    linhas = []
    for arquivo in ("metricas", "metricas_20000"):
        v = m[arquivo]
        linhas.append(
            f"- **{EXECUCOES[arquivo]}**: quem diz sempre a classe mais comum do treino acerta "
            f"{num(v['linha_de_base'])} no teste. Fine-tuning {v['ajuste_fino']}, com "
            f"{num(100 * v['parte_nova'], 0)} % de pesos novos. Recusados como «nenhum dos dois»: "
            f"{v['recusadas_teste']} dos {v['n_teste']} gatos e cachorros do teste, e "
            f"{v['outras_coisas_recusadas']} de 6 imagens de outras coisas."
        )
    return linhas


def tempo(m: dict) -> list[str]:
    """Quanto demora e quanta memória pede cada execução."""
    linhas = [
        "| | até a primeira acurácia | até a última célula | memória | motor |",
        "| --- | --- | --- | --- | --- |",
    ]
    execucoes = [(fotos, m[nome], f"`{m[nome]['motor']}`") for nome, fotos in EXECUCOES.items()]
    segunda = m["desempenho"]["sessoes"]["segunda"]
    for fotos, v, motor in [*execucoes, ("2.000 reais, segunda sessão", segunda, "–")]:
        linhas.append(
            f"| {fotos} | {num(v['segundos_ate_metrica'], 0)} s | "
            f"{num(v['segundos_total'], 0)} s | {num(v['pico_mb'] / 1000, 1)} GB | {motor} |"
        )
    return linhas


def licao2(m: dict) -> list[str]:
    """A tabela da segunda lição."""
    linhas = [
        "| pixels que chegam à rede | acurácia (intervalo de 95 %) | log loss |",
        "| --- | --- | --- |",
    ]
    for faixa, r in m["licao_2"].items():
        acuracia = "{} ({} a {})".format(num(r["acuracia"]), *map(num, r["acuracia_ic95"]))
        linhas.append(f"| {FAIXAS[faixa]} | {acuracia} | {num(r['log_loss'])} |")
    return linhas


def licao3(m: dict) -> list[str]:
    """O treino de horas contra o daqui, com os segundos de cada um."""
    demoras, meta = m["ate_a_meta"]["segundos"], num(100 * m["ate_a_meta"]["meta"], 1)
    comum, do_predict, daqui = demoras.values()
    epocas = ", ".join(map(str, m["ate_a_meta"]["epocas"]))
    p, cabeca = m["caminhos"]["Model.predict"], m["sessoes"]["primeira"]["segundos_por_secao"]
    return [
        f"Com as {m['fotos']} fotos, até {meta} % na validação, com a mesma cabeça e o mesmo "
        f"otimizador, um laço comum levou {num(comum, 0)} s. Com os vetores guardados, "
        f"{num(do_predict, 0)} s; e com o motor do notebook, {num(daqui, 0)} s: "
        f"{num(comum / daqui, 1)} vezes menos (épocas: {epocas}). Cada época a mais passa tudo de "
        f"novo pela rede: as 20 da cabeça seriam {num(20 * p / 60, 0)} minutos, só de ida (conta, "
        f"não medida: 20 × {num(p, 0)} s); no notebook, a seção da cabeça leva "
        f"{num(cabeca['A cabeça'], 0)} s."
    ]


def disco(m: dict) -> list[str]:
    """Quanto ocupa a pasta de modelos."""
    inteiro = m["kb_por_foto"] * 23262 / 1000
    return [
        f"**Espaço**: com {m['fotos']} fotos, a pasta inteira ocupou {num(m['mb_modelos'], 0)} MB. "
        f"Vetores e mapas ocupam {num(m['kb_por_foto'], 1)} kB por foto; com as 23.262 do dataset "
        f"inteiro, a conta dá {num(inteiro, 0)} MB.",
    ]


def condicoes(m: dict) -> list[str]:
    """Onde e com que se mediu."""
    onde = m["maquina"]
    return [
        f"Medido em {onde['data']}: {onde['processador']}, {onde['nucleos']} núcleos, sem GPU, "
        f"{num(onde['memoria_gb'], 0)} GB de memória; Python {onde['python']}, TensorFlow "
        f"{onde['tensorflow']}, Keras {onde['keras']}. Medianas de {m['vezes']}, alternadas (o que "
        "passa de 10.000 fotos, medido uma vez); "
        f"{m['fotos']} fotos reais. P = {num(m['caminhos']['Model.predict'], 1)} s."
    ]


def caminhos(m: dict) -> list[str]:
    """Cada jeito de passar as fotos pela parte congelada."""
    p = m["caminhos"]["Model.predict"]
    linhas = [
        "| para passar todas as fotos | segundos | fotos/s | P / isto |",
        "| --- | --- | --- | --- |",
    ]
    for nome, t in m["caminhos"].items():
        linhas.append(f"| {nome} | {num(t, 1)} | {num(m['fotos'] / t, 0)} | {num(p / t, 2)} |")
    d = m["caminhos"]["só decodificar"]
    for nome in m["caminhos"]:
        if nome.startswith("extração, openvino"):
            motor = nome.removeprefix("extração, ")
            limite = d + m["caminhos"][f"só o motor, {motor}"]
            linhas.append(
                f"| *decodificar e depois {motor}, sem se ajudarem* | {num(limite, 1)} | "
                f"{num(m['fotos'] / limite, 0)} | {num(p / limite, 2)} |"
            )
    return linhas


def meta(m: dict) -> list[str]:
    """O que os vetores guardados dão, à parte do que o motor dá."""
    demoras = m["ate_a_meta"]["segundos"]
    comum = demoras["laço comum"]
    meta = num(100 * m["ate_a_meta"]["meta"], 1)
    linhas = [
        f"| até {meta} % na validação | segundos | épocas | vezes mais rápido |",
        "| --- | --- | --- | --- |",
    ]
    for (nome, t), epocas in zip(demoras.items(), m["ate_a_meta"]["epocas"], strict=True):
        linhas.append(f"| {nome} | {num(t, 1)} | {epocas} | {num(comum / t, 1)} |")
    return linhas


def sessoes(m: dict) -> list[str]:
    """Onde vão os segundos do notebook."""
    primeira, segunda = m["sessoes"]["primeira"], m["sessoes"]["segunda"]
    linhas = ["| seção | primeira sessão (s) | segunda (s) |", "| --- | --- | --- |"]
    for secao, t in primeira["segundos_por_secao"].items():
        linhas.append(f"| {secao} | {num(t, 1)} | {num(segunda['segundos_por_secao'][secao], 1)} |")
    ate = [num(s["segundos_ate_metrica"], 1) for s in (primeira, segunda)]
    tudo = [num(s["segundos_total"], 1) for s in (primeira, segunda)]
    com = [num(s["segundos_com_o_jupyter"], 1) for s in (primeira, segunda)]
    linhas.append(f"| **da primeira célula à primeira acurácia** | {ate[0]} | {ate[1]} |")
    linhas.append(f"| **da primeira célula à última** | {tudo[0]} | {tudo[1]} |")
    linhas.append(f"| **com o Jupyter** | {com[0]} | {com[1]} |")
    return linhas


def crescimento(m: dict) -> list[str]:
    """Tempo e memória, de poucas fotos a muitas."""
    linhas = [
        "| fotos (de 200×200) | segundos | ms por foto | memória (GB) |",
        "| --- | --- | --- | --- |",
    ]
    for n, v in m["crescimento"].items():
        t = v["segundos_total"]
        linhas.append(
            f"| {n} | {num(t, 1)} | {num(1000 * t / int(n), 1)} | {num(v['pico_mb'] / 1000, 2)} |"
        )
    ultimo = m["crescimento"][str(m["fotos_grande"])]["segundos_total"]
    linhas += [
        "",
        f"`Model.predict` leva {num(m['predict_grande'], 0)} s para as {m['fotos_grande']}: a "
        f"execução inteira custa {num(ultimo / m['predict_grande'], 2)} disso.",
        "",
        *_custo(m),
    ]
    return linhas


def _custo(m: dict) -> list[str]:
    """A extração e o fine-tuning, em P, com as fotos reais e com as pequenas."""
    poucas = m["sessoes"]["primeira"], m["caminhos"]["Model.predict"], m["fotos"]
    muitas = m["crescimento"][str(m["fotos_grande"])], m["predict_grande"], m["fotos_grande"]
    return [
        f"- {n} fotos: a extração custa {num(v['segundos_extracao'] / p, 2)} P, e a seção do "
        f"fine-tuning inteira, {num(v['segundos_por_secao']['Fine-tuning'] / p, 2)} P."
        for v, p, n in (poucas, muitas)
    ]


def vizinhos(m: dict) -> list[str]:
    """Cópias e semelhança, em 20 mil e 200 mil fotos de mentira."""
    linhas = [
        "| fotos | cópias (s) | semelhança (s) | plantadas e achadas |",
        "| --- | --- | --- | --- |",
    ]
    for n, v in m["vizinhos"].items():
        linhas.append(
            f"| {n} | {num(v['copias'], 2)} | {num(v['semelhanca'], 2)} | "
            f"{v['plantadas_achadas']} de 100 |"
        )
    return linhas


def ajuste_fino(m: dict) -> list[str]:
    """Congelado, sem mistura e entregue, em fotos que não decidiram nada."""
    linhas = [
        "| fotos | treino | modelo | teste | acurácia (intervalo de 95 %) | precisão | recall | "
        "log loss |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    nomes = {
        "congelado": "congelado (0 % de pesos novos)",
        "sem_mistura": "sem mistura (100 %)",
        "escolhido": "**entregue**",
    }
    for fotos, v in _comparacoes(m).items():
        onde = f"{fotos} | {v['n_treino']}"
        for chave, nome in nomes.items():
            linhas.append(_linha(nome, v["todos"][chave]).replace("| ", f"| {onde} | ", 1))
    return linhas


def _comparacoes(m: dict) -> dict[str, dict]:
    return {
        "2.000 reais, 5 divisões": m["2000"],
        "20.000 pequenas, 3 divisões": m["20000"],
        "amostra, 5 divisões": m["amostra"]["padrao"],
        "amostra, corte mais fundo": m["amostra"]["fundo"],
    }


def _ganho(g: dict) -> str:
    minimo, maximo = g["log_loss_ic95"]
    return (
        (
            f"{g['log_loss']:+.4f} ({minimo:+.4f} a {maximo:+.4f}) | {g['passou_a_acertar']} | "
            f"{g['passou_a_errar']} | {g['mcnemar_p']:.3f}"
        )
        .replace(".", ",")
        .replace("-", "−")
    )


def ganho(m: dict) -> list[str]:
    """As mesmas fotos, antes e depois: log loss com intervalo pareado, acertos por McNemar."""
    linhas = [
        "| fotos | pesos novos escolhidos | mudança na log loss (intervalo pareado de 95 %) | "
        "passou a acertar | passou a errar | p (McNemar) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for fotos, v in _comparacoes(m).items():
        partes = ", ".join(f"{100 * parte:.0f} %" for parte in v["parte_nova"])
        linhas.append(f"| {fotos} | {partes} | {_ganho(v['ganho'])} |")
    return linhas


def ganho_curto(m: dict) -> list[str]:
    """O que o README diz do fine-tuning."""
    linhas = []
    for fotos, v in list(_comparacoes(m).items())[:3]:
        antes, depois = v["todos"]["congelado"], v["todos"]["escolhido"]
        minimo, maximo = v["ganho"]["log_loss_ic95"]
        linhas.append(
            f"- **{fotos}** ({v['n_teste']} fotos de teste): log loss de {num(antes['log_loss'])} "
            f"para {num(depois['log_loss'])} (a mudança fica entre {num(minimo)} e {num(maximo)}); "
            f"acurácia de {num(antes['acuracia'])} para {num(depois['acuracia'])}: "
            f"{v['ganho']['passou_a_acertar']} de erro a acerto, {v['ganho']['passou_a_errar']} de "
            f"acerto a erro (p = {num(v['ganho']['mcnemar_p'], 3)})."
        )
    return linhas


def amostra(m: dict) -> list[str]:
    """O corte padrão contra o mais fundo, na amostra."""
    g, padrao, fundo = (m["amostra"][k] for k in ("padrao_para_fundo", "padrao", "fundo"))
    return [
        "| do corte padrão para o mais fundo | mudança na log loss (intervalo pareado de 95 %) | "
        "passou a acertar | passou a errar | p (McNemar) |",
        "| --- | --- | --- | --- | --- |",
        f"| amostra, {padrao['n_teste']} fotos de teste | {_ganho(g)} |",
        "",
        f"O `fit` do fine-tuning leva {num(padrao['segundos_ajuste'], 0)} s com o corte padrão e "
        f"{num(fundo['segundos_ajuste'], 0)} s com o mais fundo (uma medida de "
        "cada). O padrão continua o mesmo para "
        "todas as fotos; quem fica com a amostra o troca numa linha (exercício 4 do notebook).",
    ]


def com_numeros(texto: str, medidas: dict[str, dict]) -> str:
    """O texto com todos os blocos refeitos."""

    def refaz(bloco: re.Match) -> str:
        arquivo = BLOCOS[bloco[1]]
        linhas = globals()[bloco[1]](medidas if arquivo == "todas" else medidas[arquivo])
        return "\n".join([f"<!-- numeros: {bloco[1]} -->", *linhas, "<!-- /numeros -->"])

    return re.sub(r"<!-- numeros: (\w+) -->.*?<!-- /numeros -->", refaz, texto, flags=re.DOTALL)


def escreve() -> None:
    """Refaz os números de todos os textos."""
    for arquivo in TEXTOS:
        texto = arquivo.read_text(encoding="utf-8")
        arquivo.write_text(com_numeros(texto, medidas()), encoding="utf-8")
