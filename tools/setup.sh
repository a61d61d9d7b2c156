#!/bin/sh
# Makes the virtual environment with the kernel, every plugin (editable) and the development tools. Safe to run twice:
# it does nothing while no list of requirements is newer than its last success.
set -eu
stamp="$VENV/.ready"
newer=""
[ -e "$stamp" ] && newer=$(find pyproject.toml requirements.lock plugins/*/pyproject.toml -newer "$stamp") || newer=all
[ -n "$newer" ] || exit 0
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
set -- --editable .
for project in plugins/*/pyproject.toml; do
    set -- "$@" --editable "${project%/pyproject.toml}"
done
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation "$@"
touch "$stamp"
