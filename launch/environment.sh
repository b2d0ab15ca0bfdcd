# The one place that makes a virtual environment. Sourced by the scripts; does nothing by itself.
#
#   K3M_PYTHON   the Python to make it with (default: the first >= 3.11 of python3, python3.14 … 3.11)
#   K3M_VENV     its folder (default: .venv in the project's root)
# shellcheck shell=bash

VENV="${K3M_VENV:-.venv}"

# Whether $1 runs and is a Python >= 3.11. It is tried, not looked up: the shims of version managers
# stand on PATH also for versions that they do not run.
usable_python() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# Prints the Python to make the environment with.
find_python() {
  local name
  for name in ${K3M_PYTHON:+"$K3M_PYTHON"} python3 python3.14 python3.13 python3.12 python3.11; do
    if usable_python "$name"; then
      echo "$name"
      return
    elif [[ "$name" == "${K3M_PYTHON:-}" ]]; then
      echo "error: K3M_PYTHON=$name is not a Python >= 3.11 that runs" >&2
      return 2
    fi
  done
  echo "error: no Python >= 3.11 found: install one, or name it in K3M_PYTHON" >&2
  return 2
}

# Makes $VENV and installs the requirements files $@ in it, as far as that is still to be done. A
# copy of each file is kept in the environment once it is installed: pip runs only for those that
# differ from their copy.
prepare_environment() {
  local python file missing=()
  if ! usable_python "$VENV/bin/python"; then
    if [[ -e "$VENV" && ! -f "$VENV/pyvenv.cfg" ]]; then
      echo "error: $VENV is not a virtual environment: name another folder in K3M_VENV" >&2
      return 2
    fi
    python="$(find_python)" || return
    echo "Making $VENV with $("$python" --version)"
    "$python" -m venv --clear "$VENV" || {
      echo "error: $python -m venv failed: on Debian and Ubuntu it needs the package python3-venv" >&2
      return 2
    }
  fi
  for file in "$@"; do
    cmp -s "$file" "$VENV/.installed/$file" || missing+=("$file")
  done
  if ((${#missing[@]})); then
    echo "Installing ${missing[*]} in $VENV: the first time takes some minutes"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "${missing[@]/#/-r}"
    mkdir -p "$VENV/.installed"
    cp "${missing[@]}" "$VENV/.installed/"
  fi
}
