# make ajuda   mostra o que cada alvo faz
#
# Parâmetros do notebook:  make PARAMETROS="-p ARQUIVO_ZIP fotos.zip -p MAX_IMAGENS 2000"

# O Python é o da máquina; se ele não serve, outro que sirva. Cada um que se escolhe tem o ambiente
# dele: make testes PYTHON=python3.13 usa .venv-3.13.
SERVE = -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'
ACHADO := $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
    $$p $(SERVE) 2> /dev/null && echo $$p && break; done)
PYTHON ?= $(or $(ACHADO),python3)
VERSAO := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null)
VENV ?= .venv$(if $(filter-out python3 $(ACHADO),$(PYTHON)),-$(VERSAO))
PY = $(VENV)/bin/python
PARAMETROS ?=
NOTEBOOK = detector_dogs_cats.ipynb
EXECUTADO = modelos/detector_dogs_cats.executado.ipynb
REQUISITOS_TESTES ?= testes/requirements.txt
DADOS ?= $(error diga DADOS="pasta pasta_maior", onde o TFDS preparou as 2.000 e as 20.000 fotos)
export PIP_DISABLE_PIP_VERSION_CHECK = 1
unexport PYTHONDONTWRITEBYTECODE  # com ela, cada processo compilaria o TensorFlow de novo

.PHONY: rodar testes testes-minimo jupyter notebook desempenho formata ajuda limpar-cache limpar

rodar: $(VENV)/pronto  ## (o padrão) prepara o ambiente, roda o notebook e mostra as métricas
	@mkdir -p modelos
	@$(PY) -m papermill --log-level ERROR --no-progress-bar --stdout-file - -k python3 \
	    $(PARAMETROS) $(NOTEBOOK) $(EXECUTADO) 2> $(VENV)/erros || \
	    { grep '^ERRO: ' $(VENV)/erros || cat $(VENV)/erros; exit 1; }

testes: $(VENV)/pronto-testes  ## prepara o ambiente, confere o estilo e roda todos os testes
	$(PY) -m ruff check && $(PY) -m ruff format --check
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder testes

testes-minimo:  ## os testes nas versões mais antigas aceitas (PYTHON=python3.10)
	$(MAKE) testes VENV=.venv-minimo REQUISITOS_TESTES=testes/requirements-minimo.txt

# O servidor do Jupyter recusa mensagens de mais de 10 MB, e as fotos escolhidas vão todas numa só.
jupyter: $(VENV)/pronto  ## abre o notebook no JupyterLab
	$(PY) -m jupyterlab $(NOTEBOOK) \
	    --ServerApp.tornado_settings='{"websocket_max_message_size": 300000000}'

notebook: $(VENV)/pronto  ## refaz as saídas gravadas no notebook, as imagens e os números do README
	$(PY) docs/gera.py

desempenho: $(VENV)/pronto  ## refaz docs/desempenho.md (DADOS="pasta pasta_maior", do TFDS)
	$(PY) docs/desempenho.py $(DADOS)

formata: $(VENV)/pronto-testes  ## arruma o estilo do código
	$(PY) -m ruff check --fix && $(PY) -m ruff format

D = ????????????# o resumo que há no nome do que foi guardado
limpar-cache:  ## apaga de modelos/ o que se pode refazer; o modelo fica
	cd modelos && rm -rf motor-$(D).npz vetores-$(D)-*.npz *-$(D)-???.npz *.dados .incompleto-* .nova-*

limpar:  ## apaga os ambientes
	rm -rf .venv .venv-*

ajuda:  ## mostra esta lista
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

# Um ambiente só vale na pasta em que foi feito e com o Python que o fez: `feito` guarda os dois.
ONDE = -c 'import sys; print(sys.prefix, sys.version_info[:2])'
ifneq ($(shell cat $(VENV)/feito 2> /dev/null),$(shell $(PY) $(ONDE) 2> /dev/null))
.PHONY: $(VENV)/feito
endif

$(VENV)/feito:
	@$(PYTHON) $(SERVE) 2> /dev/null || { \
	    echo "É preciso Python de 3.10 a 3.13, e $(PYTHON) $(if $(VERSAO),é o $(VERSAO),não roda aqui)." \
	    "$(if $(ACHADO),Use o que há,Instale um e rode): make PYTHON=$(or $(ACHADO),python3.12)"; exit 1; }
	@[ "$(origin PYTHON) $(PYTHON)" != "file $(ACHADO)" ] || [ $(PYTHON) = python3 ] || \
	    echo "O python3 daqui não serve (é preciso de 3.10 a 3.13): uso o $(PYTHON)."
	@[ ! -d $(VENV) ] || echo "$(VENV) ficou pela metade, mudou de pasta ou perdeu o Python dele: vou refazê-lo."
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
	    echo "Este Python não cria ambientes virtuais. No Debian: sudo apt install python3-venv"; exit 1; }
	@mkdir -p $(VENV)/etc/ipython  # o kernel avisa que conversa sem cifra, e é só com esta máquina
	@echo 'c.IPKernelApp.log_level = "ERROR"' > $(VENV)/etc/ipython/ipython_kernel_config.py
	@$(PY) $(ONDE) > $@

# O uv instala em meio minuto o que o pip instala em alguns. Ele não lê a configuração do pip: o
# índice dela vai pelo ambiente, e onde isso não basta quem instala é o pip.
INDICE = $$($(PY) -m pip config list | sed -nE "s/^(:env:|global|install)\.index-url='(.*)'/\2/p" | head -n 1)
define instala
@echo "Instalando em $(VENV) o que está em $(1)…"
@$(PY) -m pip install -q uv 2> /dev/null && UV_INDEX_URL="$${UV_INDEX_URL:-$(INDICE)}" \
    $(PY) -m uv pip install -q --python $(PY) -r $(1) 2> /dev/null || \
    { echo "O uv não serviu aqui: instalo com o pip, em alguns minutos."; \
    $(PY) -m pip install -qq --upgrade pip && $(PY) -m pip install -qq -r $(1); }
@touch $@
endef

$(VENV)/pronto: requirements.txt $(VENV)/feito
	$(call instala,requirements.txt)

$(VENV)/pronto-testes: $(REQUISITOS_TESTES) requirements.txt requirements-ray.txt $(VENV)/feito
	$(call instala,$(REQUISITOS_TESTES))
