#!/bin/sh
# Generates with an adapter. Arguments are Hydra overrides: sh infer_run.sh --help
set -u
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
. "$ROOT/run_common.sh"
prepare "requirements${DARKROOM_EXTRAS:+-extras}.txt"
# exec: signals (Ctrl-C, Slurm's SIGTERM) must reach Python itself, which saves a checkpoint.
exec "$PYTHON" "$ROOT/inference.py" "$@"
