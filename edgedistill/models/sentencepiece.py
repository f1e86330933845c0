"""Scores and merges: two ways to order the joins of sentencepiece's BPE, and how to get from one to the other.

llama.cpp (llm_tokenizer_spm) joins two neighbours whenever what they make is a token, the one of highest score first
and of equals the leftmost. `tokenizers` joins two neighbours only if that pair is in its list, in the list's order. The
two
are the same where the list holds every pair that makes a token, and all the pairs of one token stand together: so
transformers makes the list from a tokenizer.model, and so we make it from a GGUF file's scores.
"""

from collections.abc import Sequence
from pathlib import Path

from edgedistill.errors import InputError
from edgedistill.models.tokens import NORMAL, SPACE

UNFORMED = -1e9  # score of what no merge makes: never joined before anything else
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))


def scores_of(
    path: Path, tokens: Sequence[str], merges: Sequence[tuple[str, str]], added: frozenset[str]
) -> list[float]:
    """The scores with which llama.cpp joins as `merges` say: 0, -1, -2, ... in the order of each token's first merge.

    Args:
        tokens: every id's text.
        merges: pairs of tokens, most important first.
        added: tokens that are found before any merge, and so needn't be made by one.
    Raises:
        InputError: llama.cpp would join something that the merges don't, or in another order.
    """
    listed = set(merges)
    order: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, (left, right) in enumerate(merges):
        token = left + right
        order.setdefault(token, index)
        last[token] = index
    for token in tokens:
        if token in added and token not in order:
            continue
        for left, right in splits(token):
            if (left, right) not in listed and _formable(left, order) and _formable(right, order):
                raise InputError(
                    f"{path}: llama.cpp would join {left!r} and {right!r} to the token {token!r}, which its merges "
                    "don't say; the tokenizer wasn't made from a sentencepiece model, and can't be given to llama.cpp "
                    "unchanged"
                )
    latest, of = -1, ""
    for token, index in order.items():
        if index < latest and not (_run(token, added) and _run(of, added)):
            raise InputError(
                f"{path}: its merges make {token!r} partly before and partly after {of!r}, which llama.cpp can't; "
                "the tokenizer wasn't made from a sentencepiece model, and can't be given to llama.cpp unchanged"
            )
        if last[token] > latest:
            latest, of = last[token], token
    ranks = {token: float(-rank) for rank, token in enumerate(order)}
    return [ranks.get(token, UNFORMED) for token in tokens]


def merges_of(
    path: Path, tokens: Sequence[str], types: Sequence[int], scores: Sequence[float]
) -> list[tuple[str, str]]:
    """The merges with which `tokenizers` joins as llama.cpp does by `scores`.

    Of the pairs that make one token, those with the longer left half come first: in a run of one character the leftmost
        is so taken.

    Raises:
        InputError: a token could be made of a character that is no token, which merges can't say.
    """
    texts = set(tokens)
    joins: list[tuple[float, int, int, str, str]] = []
    for index, token in enumerate(tokens):
        if " " in token:
            continue  # found before any merge, as Gemma's runs of spaces are: merges see ▁ in their place
        for left, right in splits(token):
            if left in texts and right in texts:
                joins.append((-scores[index], index, -len(left), left, right))
            elif (left in texts or len(left) == 1) and (right in texts or len(right) == 1) and types[index] == NORMAL:
                raise InputError(
                    f"{path}: the token {token!r} is made of {left!r} and {right!r}, one of which is no token; "
                    "its tokenizer can't be rebuilt from the file"
                )
    joins.sort()
    return [(left, right) for *_, left, right in joins]


def check_bytes(path: Path, tokens: Sequence[str]) -> None:
    """Raise InputError unless every byte has its token: llama.cpp dies of a character that it can't spell."""
    if missing := set(BYTE_TOKENS) - set(tokens):
        count = len(missing)
        raise InputError(
            f"{path}: {count} of the 256 byte tokens are missing, among them {min(missing)}; llama.cpp can't do without"
        )


def splits(token: str) -> list[tuple[str, str]]:
    """Every way to cut a token in two."""
    return [(token[:at], token[at:]) for at in range(1, len(token))]


def _formable(part: str, order: dict[str, int]) -> bool:
    return len(part) == 1 or part in order


def _run(token: str, added: frozenset[str]) -> bool:
    """Whether merges of this token may stand among those of another.

    True of a run of one character (in Gemma ▁, newlines and tabs), which meets only its like, and of an added token,
    which is matched before any merge.
    """
    return len(set(token)) == 1 or (token in added and SPACE not in token)
