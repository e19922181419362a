#!/bin/sh
# Runs the tests: the quick ones, or with --all the slow ones as well. Other arguments go to pytest.
# One process a core, each with one thread; `-n 0` runs all in one process, for a debugger.
set -u
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
. "$ROOT/run_common.sh"
prepare requirements-dev.txt
export HF_HUB_OFFLINE=1
cd "$ROOT" || exit 1
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$PYTHON" -m pytest -n auto --dist loadfile --no-loadscope-reorder "$@"
