"""How many faults of each class are injected."""

import math
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Sizes:
    """Trials of each class."""

    mutations: int
    corruptions: int
    kills: int
    signals: int
    disks: int
    clients: int


FULL = Sizes(mutations=3000, corruptions=200, kills=300, signals=60, disks=50, clients=1000)


def share_of(sizes: Sizes, share: float) -> Sizes:
    """So large a share of them, at least one of each."""
    return Sizes(**{name: max(1, math.ceil(number * share)) for name, number in asdict(sizes).items()})
