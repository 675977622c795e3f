PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TOOLS := out/tools

# First the tests that start no nodes, which fill both cores: two processes share them out, file by
# file. As they come: to begin with the files of most tests would leave the longest tests for the end,
# and for one process. Then the others, whose nodes wait for each other most of the time: four processes,
# and who is done early takes over what another has not begun.
NODELESS := $(addprefix tests/,api benchmarks cluster deploy dispatch guard learning mutants proto \
	scheduler security store tasks telemetry worker)
FILLING := --numprocesses 2 --dist loadfile --no-loadscope-reorder
WAITING := --numprocesses 4 --dist worksteal

.PHONY: audit browser demo docs pictures test test-newest mutants seeds trial lint type proto bench figures lock validate-deploy bundle clean install

install: $(INSTALLED)

# A fresh machine needs only Python >= 3.11 and make. torch is pinned to its CPU build here alone: a
# Jetson container brings its own, so no lock holds its hash. All else comes as constraints-dev.txt
# has it, or with NEWEST=1 as the newest that pyproject.toml allows.
ifdef NEWEST
INSTALL = $(BIN)/pip install --upgrade --constraint constraints-cpu.txt --editable '.[dev]'
else
INSTALL = $(BIN)/pip install --require-hashes --no-deps --requirement constraints-dev.txt \
	&& $(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
endif
$(INSTALLED): pyproject.toml constraints-cpu.txt constraints-dev.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=python3.12"; exit 1; }
	@echo "Setting up $(VENV), once: some minutes, and about 2 GB. Step 1 of 3: Python"
	$(PYTHON) -m venv $(VENV)
	@echo "Setting up $(VENV), step 2 of 3: torch"
	$(BIN)/pip install --constraint constraints-cpu.txt torch
	@echo "Setting up $(VENV), step 3 of 3: what the nodes, the tests and the tools need"
	$(INSTALL)
	touch $@

demo: install
	$(BIN)/dedgeai demo --out out

# What tests/page look with: Debian's chromium, where apt is there and one is root. Elsewhere these
# tests are skipped and say so; PAGE_BROWSER=required fails them.
browser:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes \
			--no-install-recommends chromium >/dev/null; } \
		|| echo "There is no chromium: the tests of the page will be skipped"

# What README.md shows of the page, by the test that kills a device while it draws.
pictures: install browser
	PAGE_BROWSER=required PAGE_PICTURES=docs $(BIN)/python -m pytest tests/page/test_losses.py -k dies

test: install browser
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(FILLING) $(NODELESS)
	$(BIN)/python -m pytest $(WAITING) $(addprefix --ignore=,$(NODELESS))

# Small defects that no test finds: in files changed against main, or in FILES="...", or of a sample
# over all rooms: make mutants ARGS="--sample 300 --seed 1 --out benchmarks/results/mutants.json".
mutants: install
	$(BIN)/python -m tests.mutants $(FILES) $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd proto && ../$(BIN)/buf lint
	cd proto && ../$(BIN)/buf breaking --against ../tests/golden/v0.1.0/wire.binpb

type: install
	$(BIN)/mypy

# Regenerates the committed stubs; a test holds that they match the .proto files.
proto: install
	cd proto && ../$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. \
		--grpc_python_out=. --plugin=../$(BIN)/protoc-gen-mypy_grpc --mypy_grpc_out=. \
		dedgeai/v1/node.proto dedgeai/v1/worker.proto dedgeai/v1/load_report.proto

# The simulated cluster through N seeds, or through one again: make seeds SEED=17.
N ?= 1000
seeds: install
	$(BIN)/python -m tests.cluster --seeds $(N) $(if $(SEED),--seed $(SEED))

# The pages of docs/ and the API guide as a site in out/site; anything that leads nowhere fails it.
docs: install
	$(BIN)/pip install --quiet --require-hashes --no-deps --requirement docs/site/requirements.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file .mkdocs.yml

# Every fault at three real nodes under load, in rounds: as root, who may mount the small disk.
trial: install
	$(BIN)/python -m tests.faults.trial

# The quick ones; each script's --help says how to run the long ones.
bench: install
	$(BIN)/python -m benchmarks.node_footprint
	$(BIN)/python -m benchmarks.tiny_sd3_adherence
	$(BIN)/python -m benchmarks.simulator_speed
	$(BIN)/python -m benchmarks.decision_latency
	$(BIN)/python -m benchmarks.replay_flickr8k --start tiny:3 --paces 0.16,0.1,0.3 --to one \
		--tasks 100 --name tiny3

# The paper's Figs. 5 to 8 from small samples and short trainings, in minutes; to out/figures.
figures: install
	$(BIN)/python -m benchmarks.figures --out out/figures --again --episodes 10 --measured 4 \
		--learned lad_ts --jobs 2

# Says early when a new release of something breaks us: the same tests, in an environment of its own.
test-newest:
	rm -rf out/newest
	$(MAKE) test VENV=out/newest NEWEST=1

# What images install, and what development does, with hashes, for any architecture. Versions that
# still fit are kept; `make lock UPGRADE=--upgrade` takes the newest.
UV_COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate --quiet $(UPGRADE)
lock: install
	$(UV_COMPILE) --config-file docker/uv.toml --no-emit-package torch --extra worker \
		--extra learner --extra embedded-store --extra mdns --extra mcp --extra otel \
		pyproject.toml -o docker/requirements.txt
	$(UV_COMPILE) --config-file docker/uv.toml --no-emit-package torch --extra dev \
		pyproject.toml -o constraints-dev.txt
	$(UV_COMPILE) --constraint constraints-dev.txt docs/site/requirements.in \
		-o docs/site/requirements.txt
	$(UV_COMPILE) docker/requirements-build.in -o docker/requirements-build.txt
	$(BIN)/python deploy/licences.py

# Known holes in what a device gets and in what works on this project; asks a service on the internet.
audit: install
	$(BIN)/uv tool run pip-audit --requirement docker/requirements.txt --require-hashes --disable-pip
	$(BIN)/uv tool run pip-audit --requirement constraints-dev.txt --require-hashes --disable-pip

# Everything that checks deploy/ and docker/, with its tools: Debian's packages, as root.
# DEPLOY_TOOLS: a tool that is missing fails its test, which skips itself in `make test`.
validate-deploy: install
	deploy/validate/install-tools.sh $(TOOLS)
	PATH="$(CURDIR)/$(TOOLS)/usr/bin:$(CURDIR)/$(TOOLS)/usr/sbin:$$PATH" \
		DEPLOY_TOOLS=required DEPLOY_BUILD_IMAGE=1 $(BIN)/python -m pytest tests/deploy

# For devices without internet: out/dedgeai-<version>-aarch64.tar.
bundle: install
	$(BIN)/python deploy/bundle.py --out out

clean:
	rm -rf $(VENV) out build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
