# make          prepara o ambiente, roda o notebook inteiro e mostra as métricas
# make testes   prepara o ambiente e roda todos os testes
# make jupyter  abre o notebook no JupyterLab
#
# Parâmetros do notebook:  make PARAMETROS="-p ARQUIVO_ZIP fotos.zip -p BACKBONE MobileNetV2"

PYTHON ?= python3
VENV ?= .venv
PARAMETROS ?=
NOTEBOOK = detector_dogs_cats.ipynb
BIN = $(VENV)/bin

.PHONY: rodar testes testes-minimo resistencia auditoria jupyter desempenho notebook limpar

rodar: $(VENV)/pronto
	@mkdir -p modelos
	$(BIN)/papermill --log-level WARNING --no-progress-bar --stdout-file /dev/stdout --stderr-file /dev/stderr \
	    -k python3 $(PARAMETROS) $(NOTEBOOK) modelos/detector_dogs_cats.executado.ipynb

testes: $(VENV)/pronto-testes
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder testes

# As versões mais antigas aceitas (as do Colab); precisa de um Python 3.10 a 3.12 em PYTHON.
testes-minimo:
	$(MAKE) testes VENV=.venv-minimo REQUISITOS_TESTES=testes/requirements-minimo.txt

# Tudo o que pode dar errado, com muito mais repetições que `make testes` (uma a duas horas); refaz a tabela do README.
resistencia: $(VENV)/pronto-testes
	RESISTENCIA=completa $(BIN)/python -m pytest -n 2 --dist worksteal testes/test_resistencia.py \
	    testes/test_rede.py
	$(BIN)/python testes/leiame.py

# Falhas de segurança conhecidas nas versões instaladas (precisa de internet).
auditoria: $(VENV)/pronto-testes
	$(BIN)/python testes/audita.py

jupyter: $(VENV)/pronto
	$(BIN)/jupyter lab $(NOTEBOOK)

desempenho: $(VENV)/pronto-testes
	$(BIN)/python testes/desempenho.py
	$(BIN)/python testes/leiame.py

# Refaz as saídas do notebook no próprio arquivo e os números do README (usa o que houver em DATA_DIR/TFDS_DATA_DIR).
notebook: $(VENV)/pronto
	$(BIN)/python testes/executa_notebook.py

limpar:
	rm -rf $(VENV) .venv-minimo

REQUISITOS_TESTES ?= testes/requirements.txt

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
	    { echo "É preciso Python 3.10 ou mais novo. Instale-o e rode: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	    { rm -rf $(VENV); echo "Este Python não cria ambientes virtuais. No Debian ou Ubuntu: sudo apt install python3-venv"; exit 1; }

# Um ambiente que se interrompeu antes de receber o pip, ou com ele pela metade, é refeito.
TEM_PIP = $(BIN)/python -m pip install --help > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)

$(VENV)/pronto: requirements.txt | $(VENV)/bin/python
	@$(TEM_PIP)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt
	@touch $@

$(VENV)/pronto-testes: $(REQUISITOS_TESTES) requirements.txt | $(VENV)/bin/python
	@$(TEM_PIP)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r $(REQUISITOS_TESTES)
	@touch $@
