"""A model of any size, a layer in memory at a time: each layer reads its weights, runs over all inputs, and drops them.

The sums are those of the whole model, to the bit: the same modules are called with the same arguments in the same
order; only which layer meets which batch first is another. What is kept for each batch instead of the weights is its
state between two layers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgedistill.data.packing import Batch
from edgedistill.facts import EMBEDDING, FINAL_NORM, HEAD
from edgedistill.models.load import empty_model
from edgedistill.models.tensors import ModelTensors
from edgedistill.train.forward import by_document, compute_in
from edgedistill.train.lean import lean

# Is told the number of the inputs that a layer is about to read.
Before = Callable[[int], None]


@dataclass(frozen=True)
class Started:
    """What the model makes of some inputs before its first layer.

    Attributes:
        state: [B, T, D] float32, what the first layer reads.
        calls: of each layer, its other arguments.
    """

    state: Tensor
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]


class LayeredModel:
    """A causal language model whose weights are read as they are needed, in float32; none of them is trained."""

    def __init__(self, path: Path, weights: Mapping[str, Tensor] | None = None, device: str = "cpu") -> None:
        """Read what isn't a layer's.

        Args:
            path: a Hugging Face folder or a .gguf file.
            weights: tensors by Hugging Face name, used instead of the model's own; read at each use.
            device: what computes; each layer goes there when it is read.
        Raises:
            InputError: as `load_model`.
        """
        self.weights: Mapping[str, Tensor] = ModelTensors(path) if weights is None else weights
        self.device = torch.device(device)
        self.model = empty_model(path)
        torch.nn.Module.to(self.model.model.rotary_emb, self.device)
        self.model.requires_grad_(False)
        self.layers: list[nn.Module] = list(self.model.model.layers)
        self.scale = float(getattr(self.model.config, "logits_scaling", 1.0))
        self._tied = bool(self.model.config.tie_word_embeddings)
        self.model.model.norm.weight = _frozen(self.weights[FINAL_NORM].to(self.device))

    def head(self) -> Tensor:
        """The output matrix, float32 [V, D]."""
        return self.weights[EMBEDDING if self._tied else HEAD].to(self.device).float()

    def embedded(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """What the embedding makes of token ids [B, T] each: float32 [B, T, D]."""
        ids, places = torch.unique(torch.cat([each.flatten().cpu() for each in inputs]), return_inverse=True)
        # Of a large vocabulary a text has few words: the others stay in the file's type.
        rows = self.weights[EMBEDDING][ids].to(self.device).float()
        scale = getattr(self.model.get_input_embeddings(), "embed_scale", None)
        states = []
        for each, at in zip(inputs, places.split([each.numel() for each in inputs]), strict=True):
            state = rows[at.to(self.device)].view(*each.shape, -1)
            states.append(state if scale is None else state * scale.to(device=state.device, dtype=state.dtype))
        return states

    def start(self, state: Tensor, arguments: Mapping[str, Any]) -> Started:
        """What reaches the first layer of an embedded text, and with which arguments each layer is called.

        Args:
            state: [B, T, D] of `embedded`; the result has its graph.
            arguments: what else the model is called with.
        """
        seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def layer(state: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            seen.append(((state, *args), kwargs))
            return state

        norm = self.model.model.norm
        changed = [*self.layers, norm]
        for module in self.layers:
            module.forward = layer
        norm.forward = lambda state: state
        try:
            self.model.model(inputs_embeds=state, use_cache=False, **arguments)
        finally:
            for module in changed:
                del module.forward  # the class's is seen again
        return Started(seen[0][0][0], [(args[1:], kwargs) for args, kwargs in seen])

    @contextmanager
    def layer(self, number: int) -> Iterator[nn.Module]:
        """A layer with its weights."""
        layer = self.layers[number]
        places = [(name, *_place(layer, name)) for name, _ in layer.named_parameters()]
        empty = {name: module._parameters[leaf] for name, module, leaf in places}
        for name, module, leaf in places:
            module._parameters[leaf] = _frozen(self.weights[f"model.layers.{number}.{name}"].to(self.device))
        try:
            yield layer
        finally:
            for name, module, leaf in places:
                module._parameters[leaf] = empty[name]

    def last_states(
        self,
        tokens: Sequence[Tensor],
        arguments: Sequence[Mapping[str, Any]],
        before: Before | None = None,
        after_layer: Callable[[int], None] | None = None,
    ) -> list[Tensor]:
        """The model's last hidden states [B, T, D] of token ids [B, T], after the final norm.

        Args:
            tokens: the inputs.
            arguments: what else the model is called with for each.
            before: called before a layer reads one of the inputs.
            after_layer: called after each layer.
        """
        started = [self.start(state, each) for state, each in zip(self.embedded(tokens), arguments, strict=True)]
        states = [each.state for each in started]
        calls = [each.calls for each in started]
        del started
        for number in range(len(self.layers)):
            with self.layer(number) as layer:
                for index, call in enumerate(calls):
                    if before is not None:
                        before(index)
                    states[index] = called(layer, states[index], call[number])
            if after_layer is not None:
                after_layer(number)
        for index, state in enumerate(states):
            states[index] = self.model.model.norm(state)
        return states


@contextmanager
def packed_rows(layered: LayeredModel, dtype: torch.dtype) -> Iterator[None]:
    """Read packed batches within, with products in `dtype`: as `forward.kept_hidden` does."""
    with compute_in(dtype, layered.device), by_document(layered.model), lean(layered.model):
        yield


def arguments_of(batch: Batch) -> dict[str, Any]:
    """What a model is called with for a packed batch, beside its tokens."""
    return {"position_ids": batch.positions, "documents": batch.documents}


def layered_hidden(
    layered: LayeredModel,
    batches: Sequence[Batch],
    dtype: torch.dtype,
    before: Before | None = None,
    after_layer: Callable[[int], None] | None = None,
    stored: torch.dtype | None = None,
) -> list[Tensor]:
    """`forward.kept_hidden` of all batches: [N, D] of `dtype` each, or of `stored`."""
    with torch.no_grad(), packed_rows(layered, dtype):
        states = layered.last_states(
            [batch.tokens for batch in batches], [arguments_of(batch) for batch in batches], before, after_layer
        )
    # Each is put in its state's place, so that there is no second copy of all.
    for number, batch in enumerate(batches):
        states[number] = kept_of(layered, states[number], batch, dtype).to(stored or dtype)
    return states


def kept_of(layered: LayeredModel, state: Tensor, batch: Batch, dtype: torch.dtype) -> Tensor:
    """The rows [N, D] of a last hidden state [B, T, D] at the positions that count."""
    return (state.flatten(0, 1)[batch.kept] / layered.scale).to(dtype)


def called(layer: nn.Module, state: Tensor, call: tuple[tuple[Any, ...], dict[str, Any]]) -> Tensor:
    """What a layer makes of a state [B, T, D]."""
    args, kwargs = call
    output = layer(state, *args, **kwargs)
    return output[0] if isinstance(output, tuple) else output


def _place(layer: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that a parameter of a layer is in, and its name there."""
    inside, _, leaf = name.rpartition(".")
    return layer.get_submodule(inside), leaf


def _frozen(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.float(), requires_grad=False)
