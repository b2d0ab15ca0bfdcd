"""Runs a module as one of several processes, of which the first compiles for all.

    python -m tests.compiling_once MODULE [ARGUMENT …]

jax can do that, and keep what was compiled for the next run. But on CPUs its key of a compilation
depends on the process that asks (a topology there has the process' own devices alone), so that the
others would neither find what the first has left nor ever get it.
"""

import os
import runpy
import sys

os.environ["JAX_SHARE_BINARY_BETWEEN_HOSTS"] = "1"

from jax._src import cache_key

if __name__ == "__main__":
    cache_key._hash_accelerator_config = cache_key._hash_devices
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
