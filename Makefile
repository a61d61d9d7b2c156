# Two commands do everything on a fresh Debian-like machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test system clean

setup:
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh tools/setup.sh

system:
	@sh tools/system-packages.sh

demo: system setup
	@$(BIN)/calico lab run examples/recipes

test: system setup
	@$(BIN)/tox run -q

clean:
	rm -rf $(VENV) .tox build dist
