#!/usr/bin/env bash
# Runs the tests in an environment of their own; --help says more.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'TEXT'
usage: ./launch/test.sh [--fast | --long] [pytest arguments …]

Makes .venv and installs requirements.txt and requirements-dev.txt in it, where that is still to be
done, then runs the test suite.

  --fast        the quick part: 6 to 7 minutes on 2 busy cores with nothing compiled before
  --long        in addition kills, hangs, Beam, the wheel, artefacts of other platforms, sweeps and
                what the quickstart must learn
  --help        this text

Everything else goes to pytest, for example: ./launch/test.sh --fast tests/test_link_prediction.py -k values
docs/testing.md says what each part holds.

Environment:
  K3M_SHARED    folder of the real products and golden values that some tests read (default:
                ../shared); they are skipped where it is absent
  K3M_PYTHON    the Python to make the environment with (default: the first >= 3.11 on PATH)
  K3M_VENV      the environment's folder (default: .venv)
TEXT
}

selection="not long"
case "${1:-}" in
  -h | --help)
    usage
    exit
    ;;
  --fast)
    selection="not slow and not long"
    shift
    ;;
  --long)
    selection=""
    shift
    ;;
esac

# shellcheck source=launch/environment.sh
source launch/environment.sh
prepare_environment requirements.txt requirements-dev.txt
# One process per core, 4 at most: each compiles much, and holds up to 3 GB. The tests of a file stay
# together, so that they share what its fixtures compiled.
exec "$VENV/bin/python" -m pytest -n auto --maxprocesses=4 --dist loadfile -m "$selection" "$@"
