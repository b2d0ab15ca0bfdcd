#!/usr/bin/env bash
# From a folder of products to vectors that stay, and the tables that tell whether they do; see --help.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

usage() {
  cat <<'TEXT'
usage: ./launch/robust.sh FOLDER [OUTPUT] [pretraining flags …]

Trains and measures configs/k3m_robust.py on the products of FOLDER (products.jsonl and pictures,
docs/data.md), on a CPU or a GPU:

  1  makes .venv and installs requirements.txt and requirements-torch.txt in it
  2  extracts region features of the pictures with a frozen EfficientNet-Lite0
  3  builds shards
  4  pretrains
  5  measures the held-out products: the objectives, stability (docs/stability.md) and, by a small
     head on complete items, their categories when titles or pictures are missing or wrong

Everything is written under OUTPUT (default: runs/robust). Stop it at any time: the same command goes
on where it was. What follows OUTPUT goes to launch.pretrain, for example
--config.training.steps=9600.

Environment:
  K3M_PYTHON    the Python to make the environment with (default: the first >= 3.11 on PATH)
  K3M_VENV      the environment's folder (default: .venv)
TEXT
}

case "${1:-}" in
  "")
    usage >&2
    exit 2
    ;;
  -h | --help)
    usage
    exit
    ;;
esac
if [[ ! -f "$1/products.jsonl" ]]; then
  echo "error: $1 has no products.jsonl: name a folder as docs/data.md describes it" >&2
  exit 2
fi
folder="$(cd "$1" && pwd)"
shift
cd "$root"
run="runs/robust"
if [[ $# -gt 0 && "$1" != --* ]]; then
  run="$1"
  shift
fi

# shellcheck source=launch/environment.sh
source launch/environment.sh
prepare_environment requirements.txt requirements-torch.txt
python="$VENV/bin/python"

echo "== Regions"
"$python" -m launch.extract_regions --model=efficientnet_lite0 --size=128 --grid=4 \
  --input="$folder" --output="$run/regions"
if ! compgen -G "$run/shards/k3m_products/regions/*/build.json" >/dev/null; then
  echo "== Shards"
  "$python" -m launch.build_shards --format=jsonl --input="$folder" --front_end=regions \
    --region_features="$run/regions" --output="$run/shards"
fi
echo "== Pretraining"
"$python" -m launch.pretrain --config=configs/k3m_robust.py --workdir="$run/run" \
  --config.data.sources="('$run/shards',)" "$@"
echo "== Evaluation on products held out"
"$python" -m launch.evaluate --workdir="$run/run" --split=valid
"$python" -m launch.probe --workdir="$run/run" --task=classification --split=valid \
  --corruption=clean,TMR100,IMR100,TNR100,INR100
