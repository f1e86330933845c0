"""Training loops, and what they compute in."""

import os

# PyTorch's CPU products in bfloat16 keep a kernel with its buffers for each shape, 1,024 of them, and batches have
# ever other lengths: a training of 36 steps kept about a gigabyte. One step's shapes fit into 64. Read at the first
# product, so before any of ours.
for _name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(_name, "64")
