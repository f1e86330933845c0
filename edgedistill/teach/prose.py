"""Prose beside the teacher's own writing, read a shard at a time: memory doesn't grow with the budget, and a killed run
goes on with the next shard.
"""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from edgedistill.config.teach import Teach
from edgedistill.data.example import counted_from
from edgedistill.data.prose import Stretch, plan_stretches
from edgedistill.data.trace import TRAIN, VALIDATION
from edgedistill.progress import Progress
from edgedistill.signals.shards import PROSE, count_kept, save_shard, shard_path
from edgedistill.teach.writers import Writer, read_signal

# Of prose, at most: it is run through at every validation, and more no longer moves the choice of a checkpoint.
VALIDATION_TOKENS = 8192
SHARD_TOKENS = 32_768  # about, in a file


def read_all_prose(
    writer: Writer | None,
    tokenizer: PreTrainedTokenizerBase,
    settings: Teach,
    top_k: int,
    work: Path,
    progress: Progress,
) -> int:
    """Write `prose-train` and `prose-validation`, with the teacher's signals where `top_k` is above 0.

    Returns:
        Tokens of the training split that count.
    """
    if not settings.text_tokens:
        return 0
    window = settings.text_window
    if window is None:
        raise ValueError("text_window isn't decided: see Recipe.decided")
    held_out = max(window, round(settings.text_tokens * settings.holdout))
    budgets = {TRAIN: settings.text_tokens, VALIDATION: min(VALIDATION_TOKENS, held_out)}
    progress.start("teach: read prose", sum(budgets.values()), "tokens")
    for split, tokens in budgets.items():
        folder = work / f"{PROSE}{split}"
        folder.mkdir(exist_ok=True)
        reader = writer if top_k else None
        stretches = plan_stretches(split, settings.text, tokens, window)
        for number, part in enumerate(_parts(stretches)):
            path = shard_path(folder, number)
            if not path.is_file():
                _write_shard(path, part, reader, tokenizer, window, top_k)
            progress.advance(sum(stretch.tokens for stretch in part))
    progress.finish()
    return count_kept(work / f"{PROSE}{TRAIN}")


def _parts(stretches: Sequence[Stretch]) -> list[list[Stretch]]:
    """The stretches in order, as many a part as give about SHARD_TOKENS."""
    per_part = max(1, SHARD_TOKENS // max(1, stretches[0].tokens)) if stretches else 1
    rest = iter(stretches)
    return list(iter(lambda: list(islice(rest, per_part)), []))


def _write_shard(
    path: Path,
    part: Sequence[Stretch],
    reader: Writer | None,
    tokenizer: PreTrainedTokenizerBase,
    window: int,
    top_k: int,
) -> None:
    """One shard of pieces, all of whose tokens count; with the log-probabilities of `reader`, if there is one."""
    examples = []
    for stretch in part:
        for piece in stretch.pieces(tokenizer, window):
            example = counted_from(torch.tensor(piece, dtype=torch.int32))
            if reader is not None:
                example = read_signal(reader, example, top_k)
            examples.append(example)
    save_shard(path, examples)
