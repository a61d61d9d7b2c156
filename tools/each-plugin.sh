#!/bin/sh
# Runs a command on the source of each plugin, one after the other; fails if any of them did.
set -u
status=0
for project in plugins/*/src; do
    echo "$project"
    "$@" "$project" || status=1
done
exit $status
