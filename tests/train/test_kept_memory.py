"""Products in bfloat16 of ever other lengths don't fill the memory with kernels that are never used again."""

import os
import subprocess
import sys
from pathlib import Path

CHILD = """
import os
import edgedistill.train
import torch
from edgedistill.machine import release_memory
from edgedistill.runtimes.memory import rss_bytes

torch.set_num_threads(1)
weight = torch.randn(1536, 576).bfloat16()
def multiply(lengths):
    for length in lengths:
        torch.randn(length, 576).bfloat16() @ weight.T
multiply(range(200, 270))
release_memory()
before = rss_bytes()
multiply(range(300, 900))
release_memory()
print(os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"], rss_bytes() - before)
"""


def test_the_kernels_that_are_kept_are_few():
    own = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        env=environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    capacity, grown = done.stdout.split()
    assert capacity == "64"
    assert int(grown) < 100e6  # with the 1,024 of before: 391e6
