"""The order in which page and model card show rows."""

import math
from collections.abc import Sequence

from edgedistill.results.row import KINDS, LLAMA_CPP, Row


def in_order(rows: Sequence[Row]) -> list[Row]:
    """What the files are compared with first, then the mixes from the smallest to the largest, each rounded before
    recovered.
    """
    sizes: dict[str | None, float] = {}
    for row in rows:
        if row.packed:
            sizes[row.mix] = min(sizes.get(row.mix, math.inf), row.file_bytes or math.inf)
    places = {mix: place for place, mix in enumerate(sorted(sizes, key=lambda mix: sizes[mix]))}

    def place(row: Row) -> tuple[int, int, bool]:
        mix = places[row.mix] if row.packed else -1
        return mix, KINDS.index(row.kind), row.runtime != LLAMA_CPP

    return sorted(rows, key=place)
