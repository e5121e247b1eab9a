#!/usr/bin/env bash
# Creates the virtual environment. Says what is missing and what to type, instead of failing half-way.
set -euo pipefail
python=$1
venv=$2

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "Python 3.11 or newer is needed and '$python' is not; on Debian 12: apt-get install python3 python3-venv" >&2
  echo "Another one can be named: make setup PYTHON=/path/to/python3.11" >&2
  exit 1
fi
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
  echo "'$python' cannot create virtual environments; on Debian: apt-get install python3-venv" >&2
  exit 1
fi
echo "setting up $venv (about a minute, once)"
"$python" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
touch "$venv/.complete"
