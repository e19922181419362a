#!/bin/sh
# Trains an adapter. Arguments are Hydra overrides: sh train_run.sh --help
set -u
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
. "$ROOT/run_common.sh"
prepare "requirements${DARKROOM_EXTRAS:+-extras}.txt"
# accelerate=...: the program may become accelerate's launcher, which starts it once for each process.
export DARKROOM_LAUNCH=1
# exec: signals (Ctrl-C, Slurm's SIGTERM) must reach Python itself, which saves a checkpoint.
exec "$PYTHON" "$ROOT/train.py" "$@"
