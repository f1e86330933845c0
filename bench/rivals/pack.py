"""Another tool's weights as a GGUF file: llama.cpp's own quantizer, and the tool's own int4 codes where q4_0 can hold
them.

Run in edgedistill's environment:
    python bench/rivals/pack.py WEIGHTS FOLDER -o OUT/q4_0.gguf --mix q4_0 [--codes] [--record FILE.json]

WEIGHTS holds model.safetensors (float weights under Hugging Face names; what it lacks is taken from FOLDER, the float
model) and, for `--codes`, codes.safetensors: NAME.codes int8 [O, I] in -8..7 and NAME.scale [O, I/32]. A symmetric
group of 32 int4 codes with a scale is a q4_0 block but for the scale's rounding to float16, so with `--codes` every
tensor that the mix stores as q4_0 holds the tool's own codes. No released tool does that; llama.cpp's quantizer rounds
weights that are on such a grid a second time. It is the kinder of the two. Without `--codes`, the weights go through
the quantizer as they are. `--record` names the tool's record, copied into the file's own.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
from record import Cost, gguf_facts, write_record
from safetensors.torch import load_file

from edgedistill.export.gguf.write import float_checkpoint, write_gguf
from edgedistill.models.gguf_names import gguf_names, permuted_heads, to_gguf_rows
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import load_model
from edgedistill.quant import q4_0
from edgedistill.quant.parts import Parts

FILE_TYPES = {"q4_0": 2, "q8_0": 7, "q2_k": 10, "q3_k_m": 12, "q4_k_m": 15}  # llama.h, enum llama_ftype


def float_gguf(weights: Path, folder: Path, out: Path) -> list[str]:
    """The folder's model with the given weights as an F32 GGUF file; returns the names that were replaced."""
    shape = read_shape(folder)
    state = {name: tensor.float() for name, tensor in load_model(folder).state_dict().items()}
    given = load_file(weights / "model.safetensors")
    if unknown := sorted(given.keys() - state.keys()):
        raise SystemExit(f"{weights}: {len(unknown)} tensors aren't the model's, first {unknown[0]}")
    state |= {name: tensor.float() for name, tensor in given.items()}
    checkpoint = float_checkpoint({tensor.name: state[tensor.name] for tensor in shape.tensors()}, "f32")
    write_gguf(checkpoint, folder, shape, out, {"name": folder.name})
    return sorted(given)


def put_codes(path: Path, weights: Path, folder: Path) -> int:
    """Overwrite the q4_0 tensors of a GGUF file by the tool's own codes and scales; returns how many."""
    shape = read_shape(folder)
    names = {other: name for name, other in gguf_names(shape).items()}
    codes = load_file(weights / "codes.safetensors")
    replaced = 0
    reader = gguf.GGUFReader(path, "r+")
    for tensor in reader.tensors:
        name = names.get(tensor.name, "")
        if tensor.tensor_type != gguf.GGMLQuantizationType.Q4_0 or f"{name}.codes" not in codes:
            continue
        rows = q4_0_bytes(codes[f"{name}.codes"], codes[f"{name}.scale"])
        heads = permuted_heads(name, shape)
        tensor.data[:] = to_gguf_rows(rows, heads) if heads else rows
        replaced += 1
    reader.data.flush()
    return replaced


def q4_0_bytes(codes: torch.Tensor, scale: torch.Tensor) -> np.ndarray:
    """Symmetric int4 codes [O, I] in -8..7 and scales [O, I/32] as q4_0 rows, uint8 [O, I/32 * 18]."""
    if codes.min() < -8 or codes.max() > 7:
        raise SystemExit(f"codes reach from {codes.min()} to {codes.max()}; q4_0 holds -8 to 7")
    return q4_0.pack(Parts((codes + 8).to(torch.uint8), scale.half())).numpy()


def main() -> None:
    """Write the file and its record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("weights", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--mix", choices=FILE_TYPES, required=True)
    parser.add_argument("--codes", action="store_true")
    parser.add_argument("--record", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    from edgedistill.runtimes.llama_engine import requantize

    cost = Cost()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pack-", dir=arguments.output.parent) as work:
        floats = Path(work) / "f32.gguf"
        float_gguf(arguments.weights, arguments.folder, floats)
        part = Path(work) / "part.gguf"
        requantize(str(floats), str(part), FILE_TYPES[arguments.mix], arguments.threads)
        replaced = put_codes(part, arguments.weights, arguments.folder) if arguments.codes else 0
        part.replace(arguments.output)
    tool = json.loads(arguments.record.read_text(encoding="utf-8")) if arguments.record else {}
    packing = {"quantizer": "llama.cpp", "tensors_with_own_codes": replaced, **cost.to_dict()}
    facts = {**tool, "tool_command": tool.get("command"), "packing": packing, **gguf_facts(arguments.output)}
    for key in ("tool", "mix", "command"):
        facts.pop(key, None)
    write_record(arguments.output.with_suffix(".json"), tool.get("tool", arguments.weights.name), arguments.mix, facts)
    sys.stdout.write(
        f"{arguments.output} {facts['tensor_bytes']} bytes of tensors, {replaced} with the tool's own codes\n"
    )


if __name__ == "__main__":
    main()
