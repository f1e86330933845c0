"""The curvature of KL in each linear layer's weights: a matrix H [I, I] a layer, which shows how errors of a row add up
or cancel.

For a layer y = W x with independent rows, H = Σ_t c_t x_t x_tᵀ over tokens, with c_t = mean over
outputs of (∂/∂y_o)²: the Fisher information with its gradients averaged over rows. What GPTQ (arXiv 2210.17323) calls
the Hessian is the same with all c_t equal, which minimizes the error of the layer's output; here a token counts by what
its output changes. Groups of outputs with a matrix each, as in GuidedQuant (arXiv 2505.07004), measured no better.

A row of the output matrix is multiplied by the last hidden states h: its H is Σ_t c_t h_t h_tᵀ with c_t = 1 − Σ q²,
what the squared scores of the logits sum up to. A row of the embedding is a token's hidden state, with gradients g: its
H is Σ_t g_t g_tᵀ. Both are means over rows but for one factor, the size of the vocabulary, so a table that is both has
their sum.

H is kept with a mean diagonal of 1, and apart from it the scale that makes ½ · scale · Σ (w − ŵ)ᵀ H (w − ŵ) over rows
the KL in nats a token, to second order, and provided that rows and tokens of a text are independent. In the layers
tokens are not: the KL measured there is larger, in SmolLM2-135M 1.5 to 3.3 times by kind of layer, and 1.2 times for
the table.

A layer of I inputs takes 4·I² bytes, so a model's layers are measured some at a time, as many as fit in
CURVATURE_BYTES.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from edgedistill.config.recover import CURVATURE_BYTES
from edgedistill.facts import EMBEDDING, HEAD
from edgedistill.models.load import load_model
from edgedistill.progress import Progress
from edgedistill.quant.fit import Curvature
from edgedistill.recover.scores import ScoredText, See, linear_layers, watch_scores
from edgedistill.recover.triangle import from_triangle, to_triangle

PARTS = "curvature-{:05d}.safetensors"
FLOOR = 1e-6  # of the diagonal's mean: an error at an input that never occurred must still cost something
CORRELATION, DIAGONAL, SCALE = "correlation", "diagonal", "scale"
TRIANGLE = "triangle"  # in the place of CORRELATION: see triangle.py


def measure_curvature(
    student: Path, text: ScoredText, work: Path, progress: Progress, part_bytes: int = CURVATURE_BYTES
) -> None:
    """Write `curvature-*.safetensors`: by the weight's name H's correlations, float16 [I, I], its diagonal over its
    mean and its scale.

    Args:
        student: the float student's folder.
        text: what is read.
        work: the stage's folder; parts that a killed run left there are not measured again.
        progress: where it is shown.
        part_bytes: memory for the layers that are measured in one pass over the text.
    """
    model = load_model(student, device=text.device)
    model.requires_grad_(False)
    parts = _parts(list(linear_layers(model)), part_bytes)
    progress.start("how errors add up in each layer", text.tokens * len(parts), "tokens")
    for number, part in enumerate(parts):
        file = work / PARTS.format(number)
        if file.is_file():
            progress.advance(text.tokens)
            continue
        meters = {name: Meter(layer.in_features, layer.weight.device) for name, layer in part}
        rows = dict.fromkeys(meters, 1)
        watched: list[tuple[nn.Module, See]] = [(layer, meters[name].see) for name, layer in part]
        see_head = None
        if number == 0:  # its backward pass goes nearly to the embedding anyway
            tables = Tables(model, model.device)
            meters |= tables.meters
            rows |= dict.fromkeys(tables.meters, model.config.vocab_size)
            watched.append((model.get_input_embeddings(), tables.see_embedding))
            see_head = tables.see_head
        scored = watch_scores(model, text, watched, progress, see_head)
        partial = file.with_suffix(".partial")
        results = {name: meter.result(scored * rows[name]) for name, meter in meters.items()}
        tensors = {f"{name}.{key}": part for name, result in results.items() for key, part in result.items()}
        save_file({name: tensor.cpu() for name, tensor in tensors.items()}, partial)
        partial.replace(file)
        del (
            meters,
            watched,
            results,
            tensors,
        )  # the plan counts one part's matrices alone
    progress.finish()


class CurvatureFiles(Mapping[str, Curvature]):
    """What `measure_curvature` wrote, by tensor, each read at its use."""

    def __init__(self, folder: Path) -> None:
        """Read the names."""
        self.files: dict[str, Path] = {}
        for path in sorted(folder.glob(PARTS.replace("{:05d}", "*"))):
            with safe_open(path, "pt") as file:
                self.files |= {key.removesuffix(f".{DIAGONAL}"): path for key in file.keys() if key.endswith(DIAGONAL)}  # noqa: SIM118

    def __getitem__(self, name: str) -> Curvature:
        with safe_open(self.files[name], "pt") as file:
            diagonal, scale = (file.get_tensor(f"{name}.{key}") for key in (DIAGONAL, SCALE))
            if f"{name}.{TRIANGLE}" in file.keys():  # noqa: SIM118
                correlation = from_triangle(file.get_tensor(f"{name}.{TRIANGLE}"), len(diagonal))
            else:
                correlation = file.get_tensor(f"{name}.{CORRELATION}").float()
        root = diagonal.sqrt()
        return Curvature(correlation.mul_(root).mul_(root.unsqueeze(1)), float(scale))

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def _parts(layers: list[tuple[str, nn.Linear]], part_bytes: int) -> list[list[tuple[str, nn.Linear]]]:
    """The layers in order, as many at a time as fit, and at least one."""
    parts: list[list[tuple[str, nn.Linear]]] = []
    left = 0
    for name, layer in layers:
        size = 4 * layer.in_features**2
        if size > left:
            parts.append([])
            left = part_bytes
        parts[-1].append((name, layer))
        left -= size
    return parts


class Tables:
    """Meters of the embedding and of the output matrix, which may be one matrix."""

    def __init__(self, model: PreTrainedModel, device: torch.device) -> None:
        width = model.config.hidden_size
        tied = bool(model.config.tie_word_embeddings)
        self.embedding = Meter(width, device)
        self.head = self.embedding if tied else Meter(width, device)
        self.meters = {EMBEDDING: self.embedding} | ({} if tied else {HEAD: self.head})
        # Some families multiply the rows of the embedding by a constant.
        self.scale = float(getattr(model.get_input_embeddings(), "embed_scale", 1.0))

    def see_embedding(self, _ids: Tensor, gradients: Tensor) -> None:
        self.embedding.add(gradients.float() * self.scale)

    def see_head(self, hidden: Tensor, spread: Tensor) -> None:
        self.head.add(hidden.float() * spread.sqrt().unsqueeze(1))


class Meter:
    """Sum over tokens of c x xᵀ."""

    def __init__(self, inputs: int, device: torch.device) -> None:
        self.total = torch.zeros(inputs, inputs, device=device)

    def see(self, rows: Tensor, gradients: Tensor) -> None:
        self.add(rows.float() * gradients.float().square_().mean(-1, keepdim=True).sqrt_())

    def add(self, weighted: Tensor) -> None:
        self.total.addmm_(weighted.T, weighted)

    def result(self, count: int) -> dict[str, Tensor]:
        """What is kept. `count`: what the sum is divided by, tokens and rows that it is a mean over."""
        kept = self._kept(count)
        return {CORRELATION: self._correlation(self.total.clone()).half(), **kept}

    def triangle(self, count: int) -> dict[str, Tensor]:
        """The same, with the lower triangle in the place of the whole matrix; `total` is overwritten."""
        kept = self._kept(count)
        return {TRIANGLE: to_triangle(self._correlation(self.total)), **kept}

    def _kept(self, count: int) -> dict[str, Tensor]:
        mean = self.total.diagonal().mean().clamp_min(1e-30)
        return {DIAGONAL: (self.total.diagonal() / mean).clamp_min_(FLOOR), SCALE: mean / count}

    def _correlation(self, total: Tensor) -> Tensor:
        """Correlations are of one size, which is what float16 is good for; costs span many."""
        root = total.diagonal().clamp_min(1e-30).rsqrt()
        total.mul_(root).mul_(root.unsqueeze(1))
        total.diagonal().fill_(1.0)
        return total
