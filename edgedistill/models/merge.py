"""An adapter merged onto its base, through peft, in float32."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from edgedistill.errors import InputError
from edgedistill.facts import HEAD
from edgedistill.models.load import WEIGHTS as MODEL
from edgedistill.models.load import load_model
from edgedistill.models.lora import WEIGHTS, LoraFolder

NAME = "default"  # peft's own for a model's only adapter


def write_merged(adapter: LoraFolder, folder: Path) -> None:
    """Write the weights of base and adapter together to `folder`, as one safetensors file.

    Raises:
        InputError: a matrix has another rank than the adapter's config says.
    """
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    model = load_model(adapter.base)
    patterns: dict[str, Any] = {"rank_pattern": adapter.ranks, "alpha_pattern": adapter.alphas}
    alpha: Any = adapter.alpha
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=alpha,
        target_modules=list(adapter.targets),
        use_rslora=adapter.rslora,
        **patterns,
    )
    tuner = LoraModel(model, config, NAME)
    state = {
        name.removeprefix("base_model.model.").replace(".weight", f".{NAME}.weight"): value.float()
        for name, value in load_file(adapter.path / WEIGHTS).items()
    }
    for name, parameter in model.named_parameters():
        if name in state and state[name].shape != parameter.shape:
            raise InputError(
                f"{adapter.path}: {name} has shape {list(state[name].shape)}, and by its config it must be "
                f"{list(parameter.shape)}; the adapter is damaged"
            )
    model.load_state_dict(state, strict=False)
    merged: Any = tuner.merge_and_unload()
    tied = merged.config.tie_word_embeddings
    tensors = {
        name: value.detach().contiguous() for name, value in merged.state_dict().items() if not (tied and name == HEAD)
    }
    save_file(tensors, folder / MODEL, metadata={"format": "pt"})
