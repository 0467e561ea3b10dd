#!/usr/bin/env bash
# Everything that a GPU is to answer, in one call of at most 9 minutes: benchmarks/README.md.
#
#   benchmarks/gpu.sh [--wheels DIR] [--out DIR] [--reference DIR] [--seconds N] [--only PART ...]
#
# --wheels DIR: install what gpu_wheels.txt names from the wheels in DIR, into a temporary folder;
# nothing of this Python's own is changed. Without it, this Python must have all of it.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
if [ "${1:-}" = --wheels ]; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "${PYTHON:-python3}" -m pip install --quiet --no-index --no-deps --no-compile \
    --disable-pip-version-check --target "$site" --find-links "$2" -r benchmarks/gpu_wheels.txt
  PYTHONPATH="$PYTHONPATH:$site"
  shift 2
fi
status=0
"${PYTHON:-python3}" benchmarks/gpu.py "$@" || status=$?
exit "$status"
