# shellcheck shell=sh
# Sourced by train_run.sh, infer_run.sh and test_run.sh: finds or makes the Python environment and
# leaves its interpreter in $PYTHON. POSIX sh.

say() { printf '%s\n' "darkroom: $*" >&2; }
die() { say "$*"; exit 1; }

python_is_supported() {
    "$1" -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 13)))' >/dev/null 2>&1
}

find_python() {
    for candidate in python3 python3.13 python3.12 python3.11 python; do
        if command -v "$candidate" >/dev/null 2>&1 && python_is_supported "$candidate"; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

# .env holds KEY=VALUE lines (HF_HOME, HF_TOKEN, CLEARML_*). It is read, not executed, and a variable
# that is already set wins. Values are never printed.
read_env_file() {
    [ -f "$1" ] || return 0
    carriage_return=$(printf '\r')
    while IFS= read -r line || [ -n "$line" ]; do
        line=${line%"$carriage_return"}
        line=${line#export }
        case $line in '' | '#'* | [0-9]*) continue ;; *=*) ;; *) continue ;; esac
        key=${line%%=*}
        value=${line#*=}
        case $key in '' | *[!A-Za-z0-9_]*) continue ;; esac
        case $value in
            \"*\") value=${value#\"} value=${value%\"} ;;
            \'*\') value=${value#\'} value=${value%\'} ;;
        esac
        eval "already=\${$key+set}"
        [ "$already" = set ] || export "$key=$value"
    done <"$1"
}

file_hash() {
    if command -v sha256sum >/dev/null 2>&1; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -c1-16
}

# A requirements file counts as installed when .venv holds its stamp. All of them come from one lock and
# each is a part of the next, so installing a larger one stamps the smaller ones, too.
stamp_of() { printf '%s/.venv/.darkroom-%s-%s' "$ROOT" "$1" "$(file_hash "$ROOT/$1")"; }

make_environment() {
    wanted=$1
    if [ -e "$(stamp_of "$wanted")" ] && [ -x "$ROOT/.venv/bin/python" ]; then return 0; fi
    if [ ! -x "$ROOT/.venv/bin/python" ]; then
        base=$(find_python) || die "Python 3.11, 3.12 or 3.13 is needed and none was found on PATH. Install one (python.org, pyenv, or your package manager), or set DARKROOM_PYTHON to an environment that has the packages."
        say "making .venv with $base ($("$base" -c 'import platform; print(platform.python_version())'))"
        # Debian's python3 without python3-venv gets as far as bin/python and then fails for want of pip.
        "$base" -m venv "$ROOT/.venv" || {
            rm -rf "$ROOT/.venv"
            die "could not make $ROOT/.venv with $base (on Debian and Ubuntu: apt install python3-venv)."
        }
    fi
    # Without pip it is one that was interrupted halfway, or another tool's.
    "$ROOT/.venv/bin/python" -m pip --version >/dev/null 2>&1 ||
        "$ROOT/.venv/bin/python" -m ensurepip >/dev/null 2>&1 ||
        die "$ROOT/.venv has no pip and none can be put there. Remove the folder and run the same command again (on Debian and Ubuntu: apt install python3-venv first)."
    # Whatever was installed is about to change, and an interrupted installation is none.
    rm -f "$ROOT"/.venv/.darkroom-*
    say "installing $wanted into .venv: about 6 GB, some minutes, once"
    "$ROOT/.venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$ROOT/$wanted" ||
        die "the installation failed; the lines above say why. Run the same command again to continue."
    for part in requirements.txt requirements-extras.txt requirements-dev.txt; do
        : >"$(stamp_of "$part")"
        [ "$part" != "$wanted" ] || break
    done
    say "installed"
}

prepare() {
    read_env_file "$ROOT/.env"
    # How long a thread of torch spins before it sleeps. The default (300,000 turns) starves the others as soon
    # as the machine has anything else to do; none at all halves the speed of small models.
    if [ -z "${OMP_WAIT_POLICY:-}" ]; then
        export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-1000}"
    fi
    if [ -n "${DARKROOM_PYTHON:-}" ]; then
        # Its path, because a mere name does not tell where the tools beside it are.
        PYTHON=$(command -v "$DARKROOM_PYTHON") || die "DARKROOM_PYTHON=$DARKROOM_PYTHON is not there or cannot be run."
        python_is_supported "$PYTHON" || die "DARKROOM_PYTHON=$DARKROOM_PYTHON is not Python 3.11 to 3.13."
    else
        make_environment "$1"
        PYTHON=$ROOT/.venv/bin/python
    fi
}
