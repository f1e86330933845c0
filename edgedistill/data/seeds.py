"""One seed of the recipe, a seed of its own for each purpose: another order of the rows isn't another text."""

import hashlib

ROW_ORDER = "order of the training rows"


def derived_seed(seed: int, purpose: str) -> int:
    """A seed in [0, 2**31) for one purpose, by a hash of both: no two purposes draw the same numbers."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
