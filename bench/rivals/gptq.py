"""GPTQ (PyPI llmcompressor) on the CPU, int4 in symmetric groups of 32: rounding that corrects each column by what the
ones before lost.

Run in its own environment (bench/rivals/setup.py gptq):
    python bench/rivals/gptq.py FOLDER TEXT -o OUT/rounded
then, in edgedistill's environment, for each mix:
    python bench/rivals/pack.py OUT/rounded FOLDER -o OUT/q4_0.gguf --mix q4_0 --codes

Written are, as by torchao_qat.py:
    OUT/rounded/model.safetensors   the rounded weights as floats
    OUT/rounded/codes.safetensors   NAME.codes int8 [O, I] in -8..7 and NAME.scale float32 [O, I/32]
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from record import Cost, text_facts, versions, write_record
from text_rows import token_rows

GROUP = 32


def main() -> None:
    """Quantize and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--observer", default="mse", help="How a group's scale is chosen: minmax, or mse (a search).")
    parser.add_argument("--actorder", default="weight", choices=("none", "weight", "static"))
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    cost = Cost()
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(arguments.threads)
    tokenizer = AutoTokenizer.from_pretrained(arguments.folder)
    rows = token_rows(tokenizer, arguments.text, arguments.rows, arguments.length)
    model = AutoModelForCausalLM.from_pretrained(arguments.folder, dtype=torch.float32)
    weights = {
        "num_bits": 4,
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": GROUP,
        "observer": arguments.observer,
        "actorder": None if arguments.actorder == "none" else arguments.actorder,
    }
    modifier = GPTQModifier(config_groups={"group_0": {"targets": ["Linear"], "weights": weights}}, ignore=["lm_head"])
    data = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * arguments.length] * len(rows)})
    oneshot(
        model=model,
        dataset=data,
        recipe=modifier,
        max_seq_length=arguments.length,
        num_calibration_samples=len(rows),
        shuffle_calibration_samples=False,
    )
    save(model, arguments.output)
    settings = {
        "modifier": "GPTQModifier",
        "weights": weights,
        "num_calibration_samples": len(rows),
        "max_seq_length": arguments.length,
        "threads": arguments.threads,
    }
    facts = {
        "versions": versions("llmcompressor", "compressed-tensors", "torch", "transformers"),
        "settings": settings,
        "tokens": arguments.rows * arguments.length,
        "text": text_facts(arguments.text),
        **cost.to_dict(),
    }
    write_record(arguments.output / "record.json", "llmcompressor GPTQ", "int4", facts)


def save(model: Any, folder: Path) -> None:
    """Write each quantized layer's weights, which the tool leaves rounded in the model, and their codes and scales.

    Raises:
        SystemExit: a layer's weights aren't its scales times whole numbers from -8 to 7.
    """
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    codes, floats = {}, {}
    for name, module in model.named_modules():
        scale = getattr(module, "weight_scale", None)
        if scale is None:
            continue
        weight = module.weight.detach().float()
        steps = weight.view(weight.shape[0], -1, GROUP) / scale.detach().float().unsqueeze(-1)
        whole = steps.round()
        if (steps - whole).abs().max() > 0.01 or whole.min() < -8 or whole.max() > 7:
            raise SystemExit(
                f"{name}: the weights aren't on the grid of its scales (off by {(steps - whole).abs().max():.3f} steps)"
            )
        floats[f"{name}.weight"] = weight.contiguous()
        codes[f"{name}.weight.codes"] = whole.flatten(1).to(torch.int8)
        codes[f"{name}.weight.scale"] = scale.detach().float().contiguous()
    save_file(floats, folder / "model.safetensors", metadata={"format": "pt"})
    save_file(codes, folder / "codes.safetensors", metadata={"facts": json.dumps({"bits": 4, "group": GROUP})})


if __name__ == "__main__":
    main()
