"""Holds the `release` preset against numbers of the authors' PyTorch code.

  python -m launch.check_golden --golden=tests/golden/k3m_release

FOLDER has config.json, model.safetensors, inputs.npz and outputs_MODE.npz, and, if the gradients
and the losses of some steps are to be compared too, grads_MODE.npz and trajectory_MODE.json. Sizes
are those of config.json. docs/fidelity.md says what relative error means.

Exit codes: 0 all within their limits; 1 something is not; 2 a mistake in the command.
"""

import sys

from absl import app, flags

from k3m_jax.reproductions.release.golden import compare, table
from launch import cli

GOLDEN = flags.DEFINE_string("golden", None, "the folder of golden values")
flags.mark_flags_as_required(["golden"])


def main(argv: list[str]) -> int | None:
    """Compares and prints."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    differences = compare(GOLDEN.value)
    print(table(differences))
    beyond = [each for each in differences if not each.within]
    if not beyond:
        return None
    for each in beyond:
        print(
            f"error: {each.kind} of {each.mode}, {each.tensor}: relative error {each.error:.1e} is "
            f"more than {each.limit:.0e}",
            file=sys.stderr,
        )
    return 1


if __name__ == "__main__":
    cli.run(main)
