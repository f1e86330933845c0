"""The text of an on-policy round: the model in training, as a GGUF file in llama.cpp, answers the training prompts.

Whatever it writes is kept, its mistakes too: what the teacher thinks of these is what it can't learn elsewhere.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from edgedistill.config.on_policy import OnPolicy
from edgedistill.config.teach import Teach
from edgedistill.data.example import Example
from edgedistill.data.frame import make_frame
from edgedistill.runtimes.sampling import BatchSettings
from edgedistill.teach.drafts import START_TOKENS
from edgedistill.teach.kept import written_example
from edgedistill.teach.rounds import WAVES
from edgedistill.teach.writers import Writer


@dataclass(frozen=True)
class Answering:
    """How the model in training answers.

    Attributes:
        prompts: token ids of each; see `prompts_of`.
        settings: the recipe's.
        tokens: of answers to write a round.
        longest: tokens of an answer at most.
        stops: tokens that end one.
        parallel: answers at the same time.
    """

    prompts: Sequence[Sequence[int]]
    settings: OnPolicy
    tokens: int
    longest: int
    stops: tuple[int, ...]
    parallel: int

    @property
    def room(self) -> int:
        """Tokens of the longest prompt with its answer."""
        return max(map(len, self.prompts)) + self.longest


def prompts_of(examples: Iterable[Example], longest: int) -> list[list[int]]:
    """What the training text asks, each prompt once: of a chat all before the first answer that counts, of plain text
    its first tokens. Those of `longest` tokens and more are left out.
    """
    prompts: dict[tuple[int, ...], None] = {}
    for example in examples:
        if not example.kept:
            continue
        length = max(int(example.positions[0]) + 1, START_TOKENS)
        if length < min(longest, len(example.tokens)):
            prompts[tuple(example.tokens[:length].tolist())] = None
    return [list(prompt) for prompt in prompts]


def stops_of(tokenizer: PreTrainedTokenizerBase, teach: Teach, name: str, system: str | None) -> tuple[int, ...]:
    """Tokens that end an answer: those of the chat template, or of plain text the tokenizer's end."""
    if teach.style == "chat":
        return tuple(make_frame(tokenizer, name, system).stop_ids)
    return () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)


def write_own_text(writer: Writer, answering: Answering, seed: int) -> list[Example]:
    """A model's answers, without signals, in the order in which prompts were drawn.

    Args:
        writer: the model in training.
        answering: how it answers.
        seed: of the prompts' order and of all that is drawn.
    """
    settings = answering.settings
    order = list(range(len(answering.prompts)))
    random.Random(seed).shuffle(order)
    wave, kept, asked = WAVES * answering.parallel, 0, 0
    examples: list[Example] = []
    while kept < answering.tokens:
        # Prompts that were all asked are asked again: the seed of each text is another.
        prompts = [answering.prompts[order[(asked + number) % len(order)]] for number in range(wave)]
        drawing = BatchSettings(settings.temperature, settings.top_p, answering.stops)
        written = writer.write(prompts, answering.longest, drawing, seed + asked)
        for prompt, continuation in zip(prompts, written, strict=True):
            if kept < answering.tokens:
                example = written_example(prompt, continuation, len(prompt) - 1)
                examples.append(example)
                kept += example.kept
        asked += wave
    return examples


def own_kept(examples: Sequence[Example]) -> int:
    """Tokens of answers."""
    return int(sum(torch.count_nonzero(example.weight).item() for example in examples))
