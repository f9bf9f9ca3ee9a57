# make ajuda   mostra o que cada alvo faz
#
# Parâmetros do notebook:  make PARAMETROS="-p ARQUIVO_ZIP fotos.zip -p MAX_IMAGENS 2000"

PYTHON ?= python3
# Cada Python que se escolhe tem o ambiente dele: make testes PYTHON=python3.13 usa .venv-3.13.
VERSAO = $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null)
VENV ?= .venv$(if $(filter-out python3,$(PYTHON)),-$(VERSAO))
PARAMETROS ?=
NOTEBOOK = detector_dogs_cats.ipynb
BIN = $(VENV)/bin
REQUISITOS_TESTES ?= testes/requirements.txt

.PHONY: rodar testes testes-minimo jupyter notebook desempenho endereco formata ajuda limpar-cache limpar

rodar: $(VENV)/pronto  ## (o padrão) prepara o ambiente, roda o notebook e mostra as métricas
	@mkdir -p modelos
	$(BIN)/papermill --log-level ERROR --no-progress-bar --stdout-file /dev/stdout \
	    -k python3 $(PARAMETROS) $(NOTEBOOK) modelos/detector_dogs_cats.executado.ipynb

testes: $(VENV)/pronto-testes  ## prepara o ambiente, confere o estilo e roda todos os testes
	$(BIN)/ruff check && $(BIN)/ruff format --check
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder testes

testes-minimo:  ## os testes nas versões mais antigas aceitas (PYTHON=python3.10)
	$(MAKE) testes VENV=.venv-minimo REQUISITOS_TESTES=testes/requirements-minimo.txt

jupyter: $(VENV)/pronto  ## abre o notebook no JupyterLab
	$(BIN)/jupyter lab $(NOTEBOOK)

notebook: $(VENV)/pronto  ## refaz as saídas gravadas no notebook, as imagens e os números do README
	$(BIN)/python docs/gera.py notebook

DADOS ?= ~/tensorflow_datasets
desempenho: $(VENV)/pronto  ## refaz docs/desempenho.md (DADOS="pasta [pasta_maior]", do TFDS)
	$(BIN)/python docs/desempenho.py $(DADOS)

REPOSITORIO ?= $(shell git remote get-url origin 2> /dev/null)
endereco: $(VENV)/bin/python  ## escreve REPOSITORIO=https://… no notebook e os selos do Colab
	$(BIN)/python docs/gera.py endereco "$(REPOSITORIO)"

formata: $(VENV)/pronto-testes  ## arruma o estilo do código
	$(BIN)/ruff check --fix && $(BIN)/ruff format

limpar-cache: $(VENV)/pronto  ## apaga de modelos/ o que a última execução não usou
	$(BIN)/python -m detector --limpa

limpar:  ## apaga os ambientes
	rm -rf .venv .venv-*

ajuda:  ## mostra esta lista
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
	    { echo "É preciso Python 3.10 ou mais novo. Instale-o e rode: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	    { rm -rf $(VENV); echo "Este Python não cria ambientes virtuais. No Debian: sudo apt install python3-venv"; exit 1; }

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
