"""AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) whose moments may be kept in bfloat16: half of what training
needs beside weights and gradients.

bfloat16 keeps eight bits of a number. A moment moves by a share 1 − β of the new gradient in each step, so that much
must be above what rounding to eight bits loses, 2⁻⁹: with the betas of short training runs, 0.9 and 0.95, it is; with
0.999 a second moment would stand still. The arithmetic is torch's own, in float32; on the processor on pieces that stay
in a core's cache, as fast as with moments in float32.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adamw import adamw

PIECE = 1 << 18
TOGETHER = 1 << 27  # numbers at a time on another device: their moments in float32 are a GiB
SIDES = ("mean", "square")
STEPS = "steps"
LEAST_SHARE = 2.0**-5  # of a gradient, that a moment takes up in a step: sixteen times what rounding to bfloat16 loses


@dataclass(frozen=True)
class AdamWSettings:
    """Its numbers. `decay` is decoupled from the gradient and multiplied by the rate."""

    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    decay: float = 0.0


def _together(
    names: Sequence[str], parameters: Mapping[str, Tensor], rates: Mapping[str, float]
) -> Iterator[tuple[list[str], float]]:
    """Parameters of one rate, as many as TOGETHER holds and at least one."""
    for rate in dict.fromkeys(rates[name] for name in names):
        chosen: list[str] = []
        left = TOGETHER
        for name in (name for name in names if rates[name] == rate):
            if chosen and parameters[name].numel() > left:
                yield chosen, rate
                chosen, left = [], TOGETHER
            chosen.append(name)
            left -= parameters[name].numel()
        yield chosen, rate


class AdamW:
    """Moments of parameters by name, and the step."""

    def __init__(
        self, parameters: Mapping[str, Tensor], settings: AdamWSettings, dtype: torch.dtype = torch.bfloat16
    ) -> None:
        """Begin with zero moments.

        Args:
            parameters: float32, contiguous.
            settings: its numbers.
            dtype: of the moments.
        Raises:
            ValueError: a beta is too near to one for moments in bfloat16.
        """
        if dtype == torch.bfloat16 and 1 - max(settings.betas) < LEAST_SHARE:
            raise ValueError(f"betas {settings.betas}: moments in bfloat16 need betas of at most {1 - LEAST_SHARE}")
        self.parameters, self.settings, self.steps = parameters, settings, 0
        self.moments = {
            name: (torch.zeros_like(p, dtype=dtype), torch.zeros_like(p, dtype=dtype)) for name, p in parameters.items()
        }

    @torch.no_grad()
    def step(self, rates: Mapping[str, float]) -> None:
        """Move every parameter that has a gradient against it, by its rate, and drop the gradient."""
        elsewhere = [name for name, p in self.parameters.items() if p.grad is not None and p.device.type != "cpu"]
        for names, rate in _together(elsewhere, self.parameters, rates):
            self._step_together(names, rate)
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            sides = (parameter.detach(), parameter.grad, *self.moments[name])
            for weight, grad, first, second in zip(*(side.reshape(-1).split(PIECE) for side in sides), strict=True):
                mean, square = first.float(), second.float()
                self._move([weight], [grad], ([mean], [square]), rates[name])
                first.copy_(mean)
                second.copy_(square)
            parameter.grad = None
        self.steps += 1

    def _step_together(self, names: Sequence[str], rate: float) -> None:
        """The same for several parameters of another device than the processor, in one launch an operation."""
        weights = [self.parameters[name] for name in names]
        grads = [weight.grad for weight in weights if weight.grad is not None]
        first, second = ([self.moments[name][side] for name in names] for side in (0, 1))
        means, squares = ([torch.empty_like(weight) for weight in weights] for _ in SIDES)
        torch._foreach_copy_(means, first)
        torch._foreach_copy_(squares, second)
        self._move(weights, grads, (means, squares), rate)
        torch._foreach_copy_(first, means)
        torch._foreach_copy_(second, squares)
        for weight in weights:
            weight.grad = None

    def _move(
        self, weights: list[Tensor], grads: list[Tensor], moments: tuple[list[Tensor], list[Tensor]], rate: float
    ) -> None:
        """torch's own step of some tensors of one device, whose moments are float32."""
        before = torch.full((len(weights),), float(self.steps), device=weights[0].device)
        beta1, beta2 = self.settings.betas
        adamw(
            weights,
            grads,
            *moments,
            [],
            list(before.unbind()),
            fused=True,
            amsgrad=False,
            maximize=False,
            beta1=beta1,
            beta2=beta2,
            lr=rate,
            weight_decay=self.settings.decay,
            eps=self.settings.eps,
        )

    def state(self) -> dict[str, Tensor]:
        """The moments, for a checkpoint."""
        state = {
            f"{name}/{side}": moment
            for name, pair in self.moments.items()
            for side, moment in zip(SIDES, pair, strict=True)
        }
        return state | {STEPS: torch.tensor(self.steps)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.steps = int(state[STEPS])
        for name, pair in self.moments.items():
            for side, moment in zip(SIDES, pair, strict=True):
                moment.copy_(state[f"{name}/{side}"])
