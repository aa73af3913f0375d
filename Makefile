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
export PYTHON PIP_TORCH_ARGS

.DEFAULT_GOAL := help
.PHONY: help demo demo-clean install venv-test kernels test test-c test-arm test-py sanitize bench wheel lint deps clean

help: ## list the targets
	@echo "agq: quantize LLaMA, OPT and BLOOM models to INT4 and run them on CPUs."
	@echo
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'
	@echo
	@echo "Variables: PYTHON=python3.12   PIP_TORCH_ARGS='...'   CROSS=aarch64-linux-gnu- (kernels, wheel)   PYTEST_ARGS='-k gptq'"

demo: $(VENV)/.quantize ## install agq into .venv and run the whole pipeline on the demo model
	@$(BIN)/python demo/demo.py

demo-clean: ## remove what the demo made
	rm -rf .demo

install: $(VENV)/.quantize ## install agq with everything into .venv
	@echo
	@echo "agq is installed: $(BIN)/agq --help"

$(VENV)/.quantize: $(INSTALL_INPUTS)
	@scripts/deps.sh build --install
	@scripts/venv.sh $(VENV) quantize
	@touch $@

$(VENV)/.test: $(INSTALL_INPUTS)
	@scripts/deps.sh build --install
	@scripts/venv.sh $(VENV) test
	@touch $@ $(VENV)/.quantize

venv-test: $(VENV)/.test

kernels: ## compile the C libraries into kernels/build (CROSS=aarch64-linux-gnu- for a Raspberry Pi)
	@$(MAKE) --no-print-directory -C kernels -j$(JOBS) CROSS=$(CROSS)

test: ## all tests: C natively and under Arm emulation, then Python
	@scripts/deps.sh build
	@scripts/deps.sh arm
	@$(MAKE) --no-print-directory test-c
	@$(MAKE) --no-print-directory test-arm
	@$(MAKE) --no-print-directory test-py

test-c: ## the C tests, at each instruction-set level that this machine runs
	@$(MAKE) --no-print-directory -C kernels -j$(JOBS) --output-sync=target test

test-arm: ## the C tests under emulation: Cortex-A72 (Raspberry Pi 4), Cortex-A76 (Raspberry Pi 5)
	@scripts/deps.sh arm
	@$(MAKE) --no-print-directory -C kernels -j$(JOBS) --output-sync=target test-arm

test-py: venv-test kernels ## the Python tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

sanitize: ## the C tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(MAKE) --no-print-directory -C kernels -j$(JOBS) --output-sync=target sanitize

bench: ## measure the kernels on this machine
	@$(MAKE) --no-print-directory -C kernels bench

wheel: $(VENV)/.quantize ## build a wheel with compiled kernels into dist/ (CROSS=aarch64-linux-gnu- for a Raspberry Pi)
	AGQ_CROSS=$(CROSS) $(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w dist .
	@ls -l dist/*.whl

lint: venv-test ## check the style of the Python code
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt ruff
	$(BIN)/python -m ruff check agq demo tests setup.py

deps: ## install the Debian packages that building and testing need (as root)
	@scripts/deps.sh build --install
	@scripts/deps.sh arm --install

clean: ## remove everything that was built, the virtual environment included
	rm -rf $(VENV) .demo build dist kernels/build* *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
