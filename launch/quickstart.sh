#!/usr/bin/env bash
# From nothing to a pretrained K3M and its held-out metrics; see --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'TEXT'
usage: ./launch/quickstart.sh [--help]

From nothing but Python >= 3.11 to a pretrained model, about 5 minutes on 2 CPU cores after the
installation:

  1  makes .venv and installs requirements.txt in it
  2  makes the embedded catalogue: products with drawn pictures, titles and triples
  3  builds its shards
  4  pretrains a small K3M (configs/quickstart.py)
  5  evaluates it on products held out: a table in which each metric stands next to its floor, the
     most frequent answer, and the curves of the run as a PNG

Everything is written under runs/quickstart. Run it twice and the steps that are finished are not
done again; stop it at any time and the same command goes on where it was. To start again, remove
runs/quickstart.

Environment:
  K3M_PYTHON    the Python to make the environment with (default: the first >= 3.11 on PATH)
  K3M_VENV      the environment's folder (default: .venv)
TEXT
}

case "${1:-}" in
  "") ;;
  -h | --help)
    usage
    exit
    ;;
  *)
    usage >&2
    exit 2
    ;;
esac

# shellcheck source=launch/environment.sh
source launch/environment.sh
prepare_environment requirements.txt
python="$VENV/bin/python"
run=runs/quickstart

# A catalogue and a data set appear under their names only once they are complete, and pretraining
# goes on from its last checkpoint: no step needs to remember whether it was cut short.
if [[ ! -d $run/catalogue ]]; then
  echo "== The embedded catalogue"
  "$python" -m launch.make_catalogue --output=$run/catalogue --products=2000
fi
if ! compgen -G "$run/shards/k3m_products/patches/*/build.json" >/dev/null; then
  echo "== Shards"
  "$python" -m launch.build_shards --format=jsonl --input=$run/catalogue --output=$run/shards \
    --image_size=96 --patch_size=16
fi
echo "== Pretraining"
"$python" -m launch.pretrain --config=configs/quickstart.py --workdir=$run/run \
  --config.data.sources=$run/shards
echo "== Evaluation on products held out"
# The best checkpoint was chosen on the split valid: the products of test had no part in any decision.
"$python" -m launch.evaluate --workdir=$run/run --split=test

cat <<TEXT

The checkpoint with the least held-out loss is in $PWD/$run/run/checkpoints,
the curves in $PWD/$run/run/curves.png.

What to do next, after \`source $VENV/bin/activate\`:

see what the model sees:
  python -m launch.show_batch --config=configs/quickstart.py --config.data.sources=$run/shards \\
      --output=$run/batch.png
build shards of your own products (docs/data.md):
  python -m launch.build_shards --help
pretrain a model of the paper's size on them:
  python -m launch.pretrain --config=configs/k3m_base.py --workdir=runs/base \\
      --config.image.front_end=patches --config.data.sources=FOLDER
TEXT
