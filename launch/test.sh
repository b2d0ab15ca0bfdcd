#!/usr/bin/env bash
# Runs the tests in an environment of their own; --help tells more.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'TEXT'
usage: ./launch/test.sh [--fast] [pytest arguments …]

Makes .venv and installs requirements.txt and requirements-dev.txt in it, where that is still to be
done, then runs the whole test suite: some 35 minutes on 2 cores.

  --fast        leave out the tests marked slow
  --help        this text

Everything else goes to pytest, for example: ./launch/test.sh --fast tests/test_metrics.py -k ties

Environment:
  K3M_SHARED    folder of the real products and golden values that some tests read (default:
                ../shared); they are skipped where it is absent
  K3M_PYTHON    the Python to make the environment with (default: the first >= 3.11 on PATH)
  K3M_VENV      the environment's folder (default: .venv)
TEXT
}

selection=()
if [[ "${1:-}" == "--help" || "${1:-}" == "-h" ]]; then
  usage
  exit
elif [[ "${1:-}" == "--fast" ]]; then
  selection=(-m "not slow")
  shift
fi

# shellcheck source=launch/environment.sh
source launch/environment.sh
prepare_environment requirements.txt requirements-dev.txt
# One process per core, 4 at most: each compiles much, and holds up to 3 GB. The tests of a file stay
# together, so that they share what its fixtures compiled, and files go out in their own order: by the
# number of their tests, the one long test of the quickstart would begin when all others are done.
exec "$VENV/bin/python" -m pytest -n auto --maxprocesses=4 --dist loadfile --no-loadscope-reorder \
  ${selection[@]+"${selection[@]}"} "$@"
