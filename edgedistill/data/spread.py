"""A sample of examples: taken evenly over a list, and evenly over the sources that a text has."""

from collections.abc import Mapping, Sequence

from edgedistill.data.example import Example


def read_tokens(example: Example, seq_len: int) -> int:
    """How many of an example's tokens a row of `seq_len` tokens takes."""
    return min(len(example.tokens), seq_len)


def spread_documents(examples: Sequence[Example], tokens: int, seq_len: int) -> list[Example]:
    """Examples of about `tokens` tokens in all, at least one, taken evenly over the list; all of them if they have no
    more.
    """
    total = sum(read_tokens(example, seq_len) for example in examples)
    if total <= tokens:
        return list(examples)
    spread = [e for i, e in enumerate(examples) if (i + 1) * tokens // total > i * tokens // total]
    return spread or [examples[len(examples) // 2]]


def spread_sources(sources: Mapping[str, Sequence[Example]], tokens: int, seq_len: int) -> dict[str, list[Example]]:
    """A sample of about `tokens` tokens in all, the same share of it from each source; sources without examples are
    left out.

    A source that has less than its share gives all that it has, and the others share the rest.
    """
    totals = {name: sum(read_tokens(e, seq_len) for e in examples) for name, examples in sources.items()}
    shares: dict[str, int] = {}
    left = tokens
    smallest_first = sorted((name for name in sources if totals[name]), key=lambda name: (totals[name], name))
    for position, name in enumerate(smallest_first):
        shares[name] = min(totals[name], left // (len(smallest_first) - position))
        left -= shares[name]
    return {name: spread_documents(sources[name], shares[name], seq_len) for name in sources if name in shares}
