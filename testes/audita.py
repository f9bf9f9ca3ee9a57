"""Procura falhas de segurança conhecidas nas versões exatas que estão instaladas: `make auditoria`.

Só informa: uma falha publicada hoje não deve impedir quem não mudou nada. Mas diz sempre quantos pacotes puderam ser
consultados, porque "nenhuma falha" sem consulta não quer dizer nada.
"""

import json
import subprocess
import sys
import tempfile

COMANDO = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json"]


def resumo(pacotes):
    """Texto do que o pip-audit disse dos `pacotes`, a lista `dependencies` do JSON dele."""
    consultados = [p for p in pacotes if "vulns" in p]
    texto = f"{len(consultados)} de {len(pacotes)} pacotes consultados na base de falhas conhecidas."
    if not consultados:
        return f"{texto} A base não está ao alcance: NADA foi auditado."
    falhas = [f"  {p['name']} {p['version']}: {falha['id']} (corrigida em {', '.join(falha['fix_versions']) or 'nenhuma ainda'})"
              for p in consultados for falha in p["vulns"]]
    return "\n".join([texto, *(falhas or ["Nenhuma falha conhecida neles."])])


def audita():
    """Audita o que `pip freeze` diz estar instalado e imprime o resumo."""
    congelado = subprocess.run([sys.executable, "-m", "pip", "freeze"], check=True, capture_output=True, text=True).stdout
    fixos = [linha for linha in congelado.splitlines() if "==" in linha]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as lista:
        lista.write("\n".join(fixos))
        lista.flush()
        processo = subprocess.run([*COMANDO, "-r", lista.name], capture_output=True, text=True)
    try:
        print(resumo(json.loads(processo.stdout)["dependencies"]))
    except ValueError:
        print(f"NADA foi auditado: {processo.stderr.strip().splitlines()[-1][:200] if processo.stderr else 'sem resposta'}")


if __name__ == "__main__":
    audita()
