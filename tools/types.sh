#!/bin/sh
# mypy --strict on the kernel, the benchmarks, the tools, the cluster tests and the source of each plugin (the sample too);
# fails if any of them does.
set -u
status=0
mypy -p calico_kernel -p bench -p tools -p tests.e2e || status=1
for source in plugins/*/src examples/*/src; do
    for package in "$source"/*/__init__.py; do
        MYPYPATH="$source" mypy -p "$(basename "$(dirname "$package")")" || status=1
    done
done
exit $status
