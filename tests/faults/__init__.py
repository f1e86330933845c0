"""Faults injected into whole commands: kills, full disks, corrupted runs, mutated inputs; a class of faults a file."""

import os

# Read when torch, transformers and llama.cpp are first imported: a process with several threads can't be forked.
os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive", TOKENIZERS_PARALLELISM="false")
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
