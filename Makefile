# Every target sets up what it needs; the second time it finds it there.
VENV := .venv
PY := $(VENV)/bin/python
# Which build of PyTorch is in .venv: the name of a file there ends with it.
BUILT := $(patsubst .ready-%,%,$(notdir $(wildcard $(VENV)/.ready-*)))
# Which is wanted: `cpu`, `cu132` or another that uv knows, or `pypi` for the one on PyPI (on Linux: CUDA).
override TORCH := $(or $(TORCH),$(BUILT),pypi)
READY := $(VENV)/.ready-$(TORCH)
TORCH_OPTIONS := $(if $(filter-out pypi,$(TORCH)),--torch-backend $(TORCH)) \
	$(if $(filter $(TORCH),$(BUILT)),,--reinstall-package torch)
# Where the environment forbids Python to keep its bytecode, a worker takes 6 s to start in place of 3.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test test-slow faults attack check format bench audit clean
help:
	@echo "make demo    run the whole job on this machine: Kafka, traffic, training, worker, live view"
	@echo "make demo TORCH=cpu  the same with PyTorch for the CPU, which is much smaller; .venv keeps it"
	@echo "make test    run the fast tests (starts a real Kafka, no Docker needed)"
	@echo "make test-slow  run the slow ones: faults, take-overs, trouble, overload, security, the demo"
	@echo "make faults  half an hour of faults under load, judged from outside (FAULTS_SECONDS, FAULTS_SEED, FAULTS_GUARANTEE)"
	@echo "make attack  what a hostile producer can send, against a real worker"
	@echo "make check   lint, formatting, types, which room may import which"
	@echo "make bench   the benchmarks behind the README's figures"
	@echo "make audit   known vulnerabilities of the packages that are pinned (needs the network)"

$(READY): pyproject.toml constraints.txt
	@test -x $(PY) || python3 -m venv $(VENV)
	@$(PY) -m uv --version >/dev/null 2>&1 || $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	@$(PY) -m uv pip install --quiet --python $(PY) --constraint constraints.txt $(TORCH_OPTIONS) --editable '.[dev]'
ifeq ($(TORCH),cpu)
# The CPU build needs none of these, and uv does not remove what nothing needs: 4 GB.
	@left=$$($(PY) -m uv pip freeze --python $(PY) | grep -oE '^(nvidia-|cuda-|triton)[^= ]*'); \
		test -z "$$left" || $(PY) -m uv pip uninstall --quiet --python $(PY) $$left
endif
	@rm -f $(VENV)/.ready*
	@touch $@

demo: $(READY)
	@$(VENV)/bin/foreclick demo $(ARGS)

# Most tests wait for Kafka, so two processes are twice as fast as one; each has a broker of its own. tests/conftest.py
# puts the longest files first, so xdist must keep that order.
PYTEST := $(PY) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: $(READY)
	@$(PYTEST) -m "not slow" $(ARGS)

test-slow: $(READY)
	@$(PYTEST) -m slow $(ARGS)

faults: $(READY)
	@$(PY) -m tests.faults

attack: $(READY)
	@$(PY) -m tests.attack

check: $(READY)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports --no-logo

format: $(READY)
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

bench: $(READY)
	@$(VENV)/bin/foreclick bench $(ARGS)

# Asks PyPI's list of vulnerabilities. A package that it could not ask about is a failure, not a pass.
audit: $(READY)
	@$(PY) -m uv tool run pip-audit --strict --no-deps --disable-pip -r constraints.txt $(ARGS)

clean:
	rm -rf $(VENV) .foreclick
