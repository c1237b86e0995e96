#!/usr/bin/env bash
# Builds the project's virtual environment from the hash-pinned requirement files.
#
#   tools/venv.sh [python]
#
# Does nothing when the environment was made from these very files. Called by `make venv`.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${1:-python3}
venv=.venv
stamp=$venv/.requirements.sha256

say() { printf '%s\n' "venv: $*" >&2; }

command -v "$python" >/dev/null || { say "no $python on PATH; install Python 3.11, 3.12 or 3.13"; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  say "$("$python" --version) is too old: 3.11 or newer is needed (make venv PYTHON=python3.12)"
  exit 1
}

# Everything the environment depends on: the locks, the package's own metadata, the interpreter.
wanted=$({ cat requirements/dev.txt pyproject.toml; "$python" -VV; pwd; } | sha256sum | cut -d' ' -f1)
[[ -f $stamp && $(<"$stamp") == "$wanted" && -x $venv/bin/python ]] && exit 0

# Debian ships Python without ensurepip; the package that carries it is one apt call away for root.
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    say "this Python has no ensurepip; installing python3-venv"
    apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
  fi
  "$python" -c 'import ensurepip, venv' 2>/dev/null || {
    say "this Python has no ensurepip; on Debian: apt-get install python3-venv"
    exit 1
  }
fi

# A new lock is installed over the old one, so that whoever uses the environment meanwhile keeps it.
# Another interpreter or another place means a new environment.
if ! [[ -x $venv/bin/python ]] || ! diff -q <("$python" -VV) <("$venv/bin/python" -VV) >/dev/null; then
  say "creating $venv with $("$python" --version)"
  "$python" -m venv --clear "$venv"
fi
say "installing the locked packages"
pip=("$venv/bin/python" -m pip --disable-pip-version-check -qq)
"${pip[@]}" install --require-hashes -r requirements/dev.txt
# The build backend comes from the lock as well, hence no isolated build.
"${pip[@]}" install --no-deps --no-build-isolation --editable .
printf '%s\n' "$wanted" >"$stamp"
say "ready"
