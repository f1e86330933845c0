"""How many launches a training step takes on a device where each operation is one: counted, and held.

The model has the shape of Qwen2.5-1.5B and no values. What torch fuses on CUDA alone, attention above all, counts as
the operations that it is made of.
"""

from collections import Counter
from typing import Any

import pytest
import torch
from torch.nn.utils import clip_grad
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from edgedistill.config.recover import Recover
from edgedistill.data.packing import Batch
from edgedistill.formats import FORMATS
from edgedistill.losses import head
from edgedistill.losses.head import head_loss
from edgedistill.losses.objective import STUDENT, of_recipe
from edgedistill.quant import latent
from edgedistill.quant.grids import GridTensor
from edgedistill.quant.latent import GridLinear, Learned
from edgedistill.signals.sources import StoredHidden, views
from edgedistill.train.adamw import AdamW, AdamWSettings
from edgedistill.train.forward import kept_hidden
from tests.device.elsewhere import VIEWS

WIDTH, FFN, LAYERS, VOCABULARY = 1536, 8960, 28, 151_936
ROWS, SEQ_LEN = 8, 512
# Of a q4_0 step, in float32, all weights, scales and norms trained.
MOST = 7_500


class Launches(TorchDispatchMode):
    """Counts operations by name; not those that look at a tensor in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in VIEWS:
            self.count[name] += 1
        return func(*args, **(kwargs or {}))


def nothing(*shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def on_grid(grid: str) -> LlamaForCausalLM:
    """The model with its linear layers on a grid."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=FFN,
        num_hidden_layers=LAYERS,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config).eval()
    stored = FORMATS[grid]
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            rows, cols = module.weight.shape
            packed = nothing(rows, cols // stored.block * stored.block_bytes, dtype=torch.uint8)
            model.set_submodule(name, GridLinear(module.weight, GridTensor(grid, packed), Learned()))
    model.get_input_embeddings().weight.requires_grad_(False)
    return model


@pytest.fixture
def without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks at values is left out; clipping goes by torch's lists, as on CUDA."""
    monkeypatch.setattr(latent, "towards_codes", lambda weight, fitted: weight)
    monkeypatch.setattr(head, "_checked", lambda weights, tokens: weights.float())
    monkeypatch.setattr(clip_grad, "_has_foreach_support", lambda *_: True)


@pytest.mark.usefixtures("without_values")
def test_a_step_of_a_model_of_one_and_a_half_billion_weights():
    model = on_grid("q4_0")
    parameters = {name: each for name, each in model.named_parameters() if each.requires_grad}
    optimizer = AdamW(parameters, AdamWSettings())
    kept = ROWS * SEQ_LEN - 16
    batch = Batch(
        nothing(ROWS, SEQ_LEN),
        nothing(ROWS, SEQ_LEN),
        (SEQ_LEN // 2,) * (2 * ROWS),
        torch.ones(ROWS, SEQ_LEN, dtype=torch.bool),
        nothing(kept),
        nothing(kept),
        nothing(kept, dtype=torch.float32),
        {"hidden": nothing(kept, WIDTH, dtype=torch.bfloat16)},
    )
    table, objective = nothing(VOCABULARY, WIDTH, dtype=torch.float32), of_recipe(Recover().loss)

    def step() -> Counter[str]:
        with Launches() as launches:
            hidden = kept_hidden(model, batch, torch.float32)
            seen = views({STUDENT: StoredHidden(table, torch.float32)}, objective.needs, batch)
            weight = model.get_output_embeddings().weight.detach()
            head_loss(hidden, weight, objective.loss(seen), batch.weights).backward()
            torch.nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
            optimizer.step(dict.fromkeys(parameters, 1e-4))
        return launches.count

    step()  # what is kept from one step to the next is made in the first
    launches = step()
    assert launches["mm"] >= 3 * 7 * LAYERS
    assert launches.total() <= MOST, launches.most_common(12)
