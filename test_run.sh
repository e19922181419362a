#!/bin/sh
# Runs the tests: the quick ones, or with --all the slow ones as well. Other arguments go to pytest.
set -u
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
. "$ROOT/run_common.sh"
prepare requirements-dev.txt
export HF_HUB_OFFLINE=1
cd "$ROOT" || exit 1
exec "$PYTHON" -m pytest "$@"
