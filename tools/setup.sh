#!/bin/sh
# Makes the virtual environment with the kernel, every plugin (editable) and the development tools. Safe to run twice.
set -eu
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
set -- --editable .
for project in plugins/*/pyproject.toml; do
    set -- "$@" --editable "${project%/pyproject.toml}"
done
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation "$@"
