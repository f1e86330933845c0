"""What rounding and cutting cost, by rules fitted to records: mean KL to the float teacher, nats a token. No torch.

    rounding   floor + scale · mean over weights of 4^-bits        a built-in mix, by the bits of each weight's format
               floor + auto_scale · 4^-bits a weight               a mix fitted to a size
    a cut      scale · (share of the weights cut)^power / (1 + tokens / half)^learned
    a sibling  scale · (its weights^-power - the teacher's^-power)

and the two of a student add up. An error of rounding falls with 4^-bits, its variance; the floor is the runtime's own
rounding of activations. Fitted by bench/loss_rule.py to records of one model, SmolLM2-135M; ROUNDING_ERROR is the
factor by which the rules of rounding typically miss these. On another model the order of candidates is worth more than
the numbers. A sibling's rule is published: by how much a smaller model's loss on text is above a larger one's, at much
training of both.
"""

import math
from dataclasses import dataclass

from edgedistill.facts import ModelShape
from edgedistill.mixes import Mix, assign_formats


@dataclass(frozen=True)
class RoundingRule:
    """What rounding costs."""

    floor: float
    scale: float
    auto_scale: float

    def plain(self, share: float) -> float:
        """Of a built-in mix. `share`: its mean of 4^-bits over all weights."""
        return self.floor + self.scale * share

    def auto(self, bits: float) -> float:
        """Of a mix fitted to so many bits a weight."""
        return self.floor + self.auto_scale * math.pow(4, -bits)


@dataclass(frozen=True)
class CutRule:
    """What a cut costs after a training."""

    depth_scale: float
    width_scale: float
    power: float
    learned: float
    half_tokens: float

    def loss(self, cut: float, narrow: float, tokens: float) -> float:
        """Of a cut.

        Args:
            cut: share of the teacher's weights outside of the tables that is gone.
            narrow: of that, the share that is gone by narrower layers.
            tokens: of training.
        """
        if cut <= 0:
            return 0.0
        scale = self.depth_scale ** (1 - narrow) * self.width_scale**narrow
        return float(scale * cut**self.power / (1 + tokens / self.half_tokens) ** self.learned)


@dataclass(frozen=True)
class SizeRule:
    """What a smaller model that was trained for itself loses against a larger one."""

    scale: float
    power: float

    def loss(self, teacher: int, student: int) -> float:
        """By the number of weights of each; at least 0."""
        return max(0.0, self.scale * (math.pow(student, -self.power) - math.pow(teacher, -self.power)))


def error_share(shape: ModelShape, mix: str | Mix) -> float:
    """The mean of 4^-bits over a model's weights in a mix whose formats are known; norms and biases have no error."""
    formats = assign_formats(shape, mix)
    weights = (tensor for tensor in shape.tensors() if not tensor.flat)
    total = sum(t.size * math.pow(4, -formats[t.name].bits_per_weight) for t in weights)
    return total / shape.parameters


# By bench/loss_rule.py: bench/results/loss_rule.json.
ROUNDING = RoundingRule(floor=0.0026, scale=40.2, auto_scale=42.5)
# One cut is on record (26 of 30 layers after the demo's training), so what is cut costs in proportion.
CUTS = CutRule(depth_scale=2.87, width_scale=2.87, power=1.0, learned=0.0, half_tokens=36_864)
ROUNDING_ERROR = 1.4
# Source: Besiroglu et al. 2024, Chinchilla Scaling: A replication attempt (A and alpha).
SIBLINGS = SizeRule(scale=482.01, power=0.3478)
