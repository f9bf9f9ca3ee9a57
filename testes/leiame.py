"""Leva ao README os números medidos, para que nenhum seja copiado à mão.

Cada bloco entre `<!-- numeros: NOME -->` e `<!-- /numeros -->` é escrito por uma função deste arquivo: os que falam do
notebook, a partir do metricas.json da execução que está gravada nele (por `make notebook`); os de desempenho, a
partir de testes/desempenho.json (por `make desempenho`); os de resistência, a partir de testes/resistencia.json (por
`make resistencia`).
"""

import json
import pathlib
import re
import sys

RAIZ = pathlib.Path(__file__).resolve().parent.parent
LEIAME = RAIZ / "README.md"
NOMES = {"EfficientNetLite0": "`EfficientNetLite0`", "EfficientNetLite1": "`EfficientNetLite1`",
         "EfficientNetLite2": "`EfficientNetLite2`",
         "EfficientNetLite0+EfficientNetLite1+EfficientNetLite2": "os três, unidos por `+`"}


def num(valor, casas):
    """Número em português, entre crases."""
    return f"`{valor:.{casas}f}`".replace(".", ",")


def resultado(m):
    linhas = [f"| no teste ({m['n_teste']} fotos que ele nunca viu) | | intervalo de 95 % |", "| --- | --- | --- |"]
    for nome, chave in (("acurácia", "acuracia"), ("precisão", "precisao"), ("recall", "recall")):
        minimo, maximo = m[f"{chave}_ic95"]
        linhas.append(f"| {nome} | {num(m[chave], 4)} | {num(minimo, 4)} a {num(maximo, 4)} |")
    cv = m["validacao_cruzada"]
    n = m["n_treino"] + m["n_validacao"] + m["n_teste"]
    linhas += [f"| log loss | {num(m['log_loss'], 4)} | |",
               f"| quem chuta sempre a classe mais comum | {num(m['classe_mais_comum'], 4)} | |",
               f"| validação cruzada, nas {n} fotos | {num(cv['acuracia'], 4)} | {num(cv['acuracia_ic95'][0], 4)} a {num(cv['acuracia_ic95'][1], 4)} |",
               f"| erro de calibração (ECE), nas {n} fotos | {num(cv['ece'], 4)} | |", "",
               f"Tempo: {num(m['segundos_total'], 0)} segundos a execução inteira (motor `{m['motor']}`), com todas as figuras e exportações; a "
               f"segunda sessão não passa foto nenhuma pela rede."]
    return linhas


def honestidade(m):
    sem = m["sem_suspeitas"]
    return [f"Nas fotos desta execução ele encontrou {num(m['rotulos_suspeitos'], 0)} rótulos suspeitos e {num(m['copias'], 0)} par de "
            f"cópias. Sem as {num(m['n_teste'] - sem['n_teste'], 0)} fotos de teste sob suspeita a acurácia é {num(sem['acuracia'], 4)} "
            f"e a log loss {num(sem['log_loss'], 4)}: números otimistas, ao lado dos de cima. Dos gatos e cachorros do teste, "
            f"{num(m['recusadas_teste'], 0)} em {num(m['n_teste'], 0)} foram tomados por «nenhum dos dois»."]


def licao2(m):
    nomes = ("[0, 1], a certa", "0–255, sem normalizar", "[−1, 1], de outra rede")
    return ["| pixels que chegam ao modelo | acurácia | log loss |", "| --- | --- | --- |",
            *(f"| {nome} | {num(r['val_acuracia'], 3)} | {num(r['val_log_loss'], 3)} |"
              for nome, r in zip(nomes, m["licao_2"].values()))]


def licao3(m):
    n = m["n_treino"] + m["n_validacao"] + m["n_teste"]
    return [f"Nesta execução as {n} fotos passaram pela rede uma vez, a {num(m['imagens_por_segundo'], 0)} imagens/s. As dez passagens "
            f"de um treino comum de dez épocas levariam {num(10 * n / m['imagens_por_segundo'], 0)} s neste mesmo motor, a cada vez."]


def exportados(m):
    return ["| arquivo | MB | maior diferença para o Keras | acurácia | imagens/s |", "| --- | --- | --- | --- | --- |",
            *(f"| `{nome}` | {num(e['mb'], 1)} | {num(e['diferenca'], 6)} | {num(e['acuracia'], 4)} | {num(e['por_segundo'], 0)} |"
              for nome, e in m["exportados"].items())]


def velocidade(r):
    padrao = r["n 2000"]["motor"]
    linhas = ["| | imagens/s | vezes o `Model.predict` | segundos até 98,5 % na validação |", "| --- | --- | --- | --- |"]
    nomes = {"a tutorial": "tutorial: backbone dentro do `fit`, com aumento de dados", "b predict": "`Model.predict` uma vez, depois a cabeça"}
    nomes |= {n: f"este notebook, motor `{n[2:]}`" + " (o padrão nela)" * (n[2:] == padrao) for n in r if n[0] == "c"}
    for nome, texto in nomes.items():
        m = r[nome]
        meta = num(m["meta"], 1) if m["meta"] else "não chegou"
        linhas.append(f"| {texto} | {num(m['por_segundo'], 0)} | {num(m['por_segundo'] / r['b predict']['por_segundo'], 2)} | {meta} |")
    aproveita = r[f"c {padrao}"]["por_segundo"] / r[f"d {padrao}"]["por_segundo"]
    memoria = r["n 16000"]["pico_mb"] - r["n 500"]["pico_mb"]
    return [*linhas, "", f"Até a meta, o motor padrão é {num(r['a tutorial']['meta'] / r[f'c {padrao}']['meta'], 1)} vezes mais rápido que o "
            f"tutorial. Do arquivo ao disco, ele chega a {num(100 * aproveita, 0)} % do que o processador faz com as fotos já prontas na "
            f"memória. De 500 a 16.000 fotos, a memória cresce {num(memoria, 0)} MB, dos quais {num(r['n 16000']['vetores_mb'], 0)} são os "
            f"próprios vetores; o tempo por foto vai de {num(1000 / r['n 500']['por_segundo'], 2)} a "
            f"{num(1000 / r['n 16000']['por_segundo'], 2)} ms."]


def backbones(r):
    linhas = ["| backbone | motor | acurácia | intervalo de 95 % | log loss | pesos (MB) | imagens/s |",
              "| --- | --- | --- | --- | --- | --- | --- |"]
    for nome in [n for n in r if n[0] == "v"]:
        m = r[nome]
        linhas.append(f"| {NOMES[nome.split()[1]]} | `{nome.split()[2]}` | {num(m['acuracia'], 4)} | {num(m['ic95'][0], 4)} a "
                      f"{num(m['ic95'][1], 4)} | {num(m['log_loss'], 4)} | {num(m['mb'], 1)} | {num(m['por_segundo'], 0)} |")
    return linhas


def ajuste(r):
    linhas = ["| dados, semente | acurácia de teste antes | depois | a validação | pesos novos na mistura |",
              "| --- | --- | --- | --- | --- |"]
    nomes = [n for n in r if n[0] == "f"]
    for nome in nomes:
        m = r[nome]
        linhas.append(f"| {nome[2:-2]}, {nome[-1]} | {num(m['antes'], 3)} | {num(m['depois'], 3)} | {'aceitou' if m['aceito'] else 'descartou'} "
                      f"| {num(100 * m['parte'], 0)} % |")
    amostra = [r[n]["depois"] for n in nomes if "amostra" in n]
    return [*linhas, "", f"Média na amostra: {num(sum(amostra) / len(amostra), 3)}."]


def resistencia(linhas):
    return ["| o que se fez | vezes | sobreviveu | trabalho perdido | métricas iguais |", "| --- | --- | --- | --- | --- |",
            *(f"| {r['caso']} | `{r['tentativas']}` | `{r['sobreviveu']}` | {r['perdido']} | {'sim' if r['iguais'] else '**não**'} |"
              for r in linhas)]


DO_NOTEBOOK = (resultado, honestidade, licao2, licao3, exportados)
DO_DESEMPENHO = (velocidade, backbones, ajuste)
DA_RESISTENCIA = (resistencia,)


def com_numeros(texto, funcoes, dados):
    """O README com os blocos das `funcoes` refeitos."""
    for funcao in funcoes:
        bloco = "\n".join([f"<!-- numeros: {funcao.__name__} -->", *funcao(dados), "<!-- /numeros -->"])
        texto, vezes = re.subn(rf"<!-- numeros: {funcao.__name__} -->.*?<!-- /numeros -->", lambda _: bloco, texto, flags=re.DOTALL)
        assert vezes == 1, funcao.__name__
    return texto


def atualiza(metricas=None):
    """Refaz os blocos de desempenho e de resistência e, com `metricas`, também os do notebook."""
    texto = LEIAME.read_text(encoding="utf-8")
    texto = com_numeros(texto, DO_DESEMPENHO, json.loads((RAIZ / "testes/desempenho.json").read_text(encoding="utf-8")))
    texto = com_numeros(texto, DA_RESISTENCIA, json.loads((RAIZ / "testes/resistencia.json").read_text(encoding="utf-8")))
    LEIAME.write_text(com_numeros(texto, DO_NOTEBOOK, metricas) if metricas else texto, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(atualiza())
