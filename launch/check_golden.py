"""Compares the `release` preset with numbers of the authors' PyTorch code.

  python -m launch.check_golden --golden=tests/golden/k3m_release

FOLDER has config.json, model.safetensors, inputs.npz and outputs_MODE.npz, and, if the gradients
and the losses of some steps are to be compared too, grads_MODE.npz and trajectory_MODE.json. Sizes
are those of config.json. docs/fidelity.md says what relative error means.

Exit codes: 0 all within their limits; 1 something is not; 2 a mistake in the command.
"""

import dataclasses
import sys

from k3m_jax.reproductions.release.golden import compare, table
from k3m_jax.settings.schema import required
from launch import cli


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of the command."""

    golden: str = required("the folder of golden values")


def main(flags: Flags) -> int:
    """Compares and prints."""
    differences = compare(flags.golden)
    print(table(differences))
    beyond = [each for each in differences if not each.within]
    for each in beyond:
        print(
            f"error: {each.kind} of {each.mode}, {each.tensor}: relative error {each.error:.1e} is "
            f"more than {each.limit:.0e}",
            file=sys.stderr,
        )
    return 1 if beyond else 0


if __name__ == "__main__":
    cli.run(main)
