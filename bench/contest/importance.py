"""What llama.cpp calls an importance matrix: the mean square of each input of every linear layer on a calibration text.

Computed with transformers in float32 on windows of 512 tokens, as llama-imatrix does in its own runtime (its `values /
counts`), and named as GGUF names weights. The tables have none, as llama-imatrix has none for them.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from edgedistill.models.gguf_names import gguf_names
from edgedistill.models.hf_folder import read_shape
from edgedistill.progress import Progress

WINDOW, ROWS = 512, 4


@torch.no_grad()
def write_importance(folder: Path, text: str, out: Path, progress: Progress) -> int:
    """Write {GGUF name: [I] float32} to `out` as safetensors; returns the tokens that were read, whole windows of
    `text`.
    """
    ids = AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"]
    windows = torch.tensor(ids[: len(ids) // WINDOW * WINDOW]).view(-1, WINDOW)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    sums: dict[str, torch.Tensor] = {}

    def watch(name: str) -> None:
        def see(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
            sums[name] = sums.get(name, 0) + inputs[0].flatten(0, -2).double().square().sum(0)

        model.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(see)

    names = gguf_names(read_shape(folder))
    linear = [
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    ]
    for name in linear:
        watch(name)
    progress.start("importance matrix", windows.numel(), "tokens")
    for rows in windows.split(ROWS):
        model.model(input_ids=rows, use_cache=False)
        progress.advance(rows.numel())
    progress.finish()
    partial = out.with_name(out.name + ".part")
    save_file(
        {names[name]: (sums[name] / windows.numel()).float() for name in linear},
        partial,
        {"tokens": str(windows.numel())},
    )
    partial.replace(out)
    return windows.numel()
