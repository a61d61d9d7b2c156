# Two commands do everything on a fresh Debian-like machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test clean

setup:
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh tools/setup.sh

demo: setup
	@sh tools/system-packages.sh
	@$(BIN)/calico lab run examples/recipes

test: setup
	@sh tools/system-packages.sh --test
	@$(BIN)/tox run -q

clean:
	rm -rf $(VENV) .tox build dist
