"""The teacher's writing in rounds, with a writer whose texts are made up: what is kept, split, and gone on with after a
kill.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgedistill.config import load_recipe
from edgedistill.config.conversation import Message, Prompt, shared_system
from edgedistill.config.prompts import read_prompts
from edgedistill.config.teach import Teach
from edgedistill.data.frame import make_frame
from edgedistill.data.prose import ProseWords
from edgedistill.data.starters import read_starters
from edgedistill.data.trace import SPLITS, Holdout, iter_traces
from edgedistill.errors import RunError
from edgedistill.models.tokenizer import load_tokenizer
from edgedistill.progress import QuietProgress
from edgedistill.results.report import Teaching
from edgedistill.runtimes.sampling import BatchSettings
from edgedistill.signals.shards import FREE, WRITTEN, iter_shards, load_split
from edgedistill.teach.drafts import START_TOKENS, Assignment
from edgedistill.teach.rounds import TOO_LONG, NothingKeptError, write_rounds
from edgedistill.teach.training_text import TeachInputs, teach, write_held_out
from edgedistill.teach.writers import Continuation

WORDS = "The old cat sees the red fox and the young dog hears a small bird near the quiet river at noon".split()
SETTINGS = Teach(style="chat", hints=("",), parallel=2, holdout=0.3, max_answer_tokens=40)


class MadeUp:
    """Writes words drawn by the seed, as many as it is asked for at most, and ends."""

    def __init__(self, tokenizer) -> None:
        self.tokenizer = tokenizer
        self.asked: list[list[int]] = []

    def __enter__(self) -> "MadeUp":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(
        self, prompts: Sequence[Sequence[int]], max_new: int, settings: BatchSettings, seed: int
    ) -> list[Continuation]:
        top_k = settings.top_k
        self.asked += [list(prompt) for prompt in prompts]
        written = []
        for number, prompt in enumerate(prompts):
            rng = random.Random(seed + number)
            ids = self.tokenizer(" ".join(rng.sample(WORDS, 8)), add_special_tokens=False)["input_ids"][: max_new - 1]
            tokens = [*ids, *list(settings.stop_ids)[:1]]
            rows = len(prompt) + len(tokens) - 1
            signal = (
                (torch.zeros(rows, top_k, dtype=torch.int32), torch.zeros(rows, top_k).half())
                if top_k
                else (None, None)
            )
            written.append(Continuation(tokens, "stop", *signal))
        return written


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path):
    return load_tokenizer(tiny_llama)


class Told(QuietProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class Words(ProseWords):
    """Prose of some words, in memory."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words

    def draw(self, rng: random.Random, count: int) -> str:
        at = rng.randrange(len(self.words) - count)
        return " ".join(self.words[at : at + count])


def asked_of(
    tokenizer,
    prompts: Sequence[str | Prompt] | None = None,
    words: Sequence[str] = WORDS,
    writer: type = MadeUp,
    top_k: int = 0,
    **changes: object,
) -> Assignment:
    settings = SETTINGS.model_copy(update=changes)
    given = None
    if prompts is not None:
        given = [Prompt((Message("user", each),)) if isinstance(each, str) else each for each in prompts]
    frame, holdout = make_frame(tokenizer, "tiny"), Holdout(0.15, 0.15)
    return Assignment(writer(tokenizer), tokenizer, "tiny", frame, given, Words(words), settings, top_k, holdout)


def test_free_texts_go_on_from_words_of_the_prose_and_count_from_there(tokenizer, tmp_path: Path):
    asked = asked_of(tokenizer)
    tally = write_rounds(asked, FREE, 300, tmp_path, QuietProgress())
    prose = " ".join(WORDS)
    starts = {tokenizer.decode(prompt) for prompt in asked.writer.asked}
    assert len(starts) > 3
    assert all(start in prose for start in starts)
    documents = [document for split in SPLITS for document in iter_shards(tmp_path / f"{FREE}{split}")]
    assert {int(document.positions[0]) for document in documents} == {START_TOKENS - 1}
    assert sum(document.kept for document in documents) == tally.tokens >= 300
    assert all(any(iter_shards(tmp_path / f"{FREE}{split}")) for split in SPLITS)


def test_free_texts_begin_with_the_prose_and_with_each_kind_of_starter_equally_often(tokenizer, tmp_path: Path):
    kinds = [["def add(", "import os"], ["La ville est"], ["A: Hi\nB:"]]
    asked = replace(asked_of(tokenizer), starters=kinds)
    write_rounds(asked, FREE, 600, tmp_path, QuietProgress())
    starts = [tokenizer.decode(prompt) for prompt in asked.writer.asked]
    prose = " ".join(WORDS)
    counts = [sum(start in prose for start in starts), *(sum(start in kind for start in starts) for kind in kinds)]
    assert sum(counts) == len(starts) >= 16
    assert max(counts) - min(counts) <= 1
    documents = [document for split in SPLITS for document in iter_shards(tmp_path / f"{FREE}{split}")]
    beginnings = {start for kind in kinds for start in kind}
    assert any(
        tokenizer.decode(document.tokens[: int(document.positions[0]) + 1]) in beginnings for document in documents
    )


def test_starters_are_of_many_kinds_and_none_comes_twice(tokenizer):
    kinds = read_starters()
    beginnings = [start for kind in kinds for start in kind]
    assert len(kinds) >= 6
    assert min(map(len, kinds)) >= 10
    assert len(set(beginnings)) == len(beginnings)
    assert all(start == start.lstrip() and 2 <= len(start) < 80 for start in beginnings)


def test_a_prompt_without_room_for_its_answer_is_not_asked(tokenizer, tmp_path: Path):
    prompts = [f"{WORDS[i % len(WORDS)]} {i}" for i in range(40)]
    prompts[3] = "word " * 900
    asked = asked_of(tokenizer, prompts, too_few_prompts="accept")
    tally = write_rounds(asked, WRITTEN, 5000, tmp_path, QuietProgress())
    assert tally.dropped == {TOO_LONG: 1}
    assert (tally.asked, tally.kept) == (40, 39)
    assert max(map(len, asked.writer.asked)) <= asked.settings.longest_prompt


def test_a_text_that_is_cut_within_a_character_is_kept_and_none_begins_with_half_of_one(tokenizer, tmp_path: Path):
    class CutInACharacter(MadeUp):
        def write(self, *arguments: object) -> list[Continuation]:
            whole = super().write(*arguments)
            half = self.tokenizer("猫", add_special_tokens=False)["input_ids"][:1]
            assert self.tokenizer.decode(half) == "\ufffd"
            return [Continuation([*found.tokens[:-1], *half], "length", None, None) for found in whole]

    # Eight tokens are a few characters here, and what begins with the same ones lies in one split.
    asked = asked_of(tokenizer, words=["猫が好き。", "犬も。"] * 40, writer=CutInACharacter)
    asked = replace(asked, holdout=Holdout(0.0, 0.0))
    tally = write_rounds(asked, FREE, 300, tmp_path, QuietProgress())
    assert tally.dropped == {}
    starts = [tokenizer.decode(prompt) for prompt in asked.writer.asked]
    assert not any("\ufffd" in start for start in starts)
    assert any("猫" in start for start in starts)


def test_no_text_is_in_two_splits(tokenizer, tmp_path: Path):
    write_rounds(asked_of(tokenizer), WRITTEN, 600, tmp_path, QuietProgress())
    texts = [tuple(document.tokens.tolist()) for split in SPLITS for document in iter_shards(tmp_path / split)]
    assert len(set(texts)) == len(texts) > 20
    held = [sum(1 for _ in iter_shards(tmp_path / split)) / len(texts) for split in ("validation", "judge")]
    assert held == pytest.approx([0.15, 0.15], abs=0.1)


def test_an_answer_that_is_cut_is_dropped_or_kept(tokenizer, tmp_path: Path):
    class Cut(MadeUp):
        def write(self, *arguments: object) -> list[Continuation]:
            return [
                Continuation(found.tokens[:-1], "length", found.ids, found.log_probs)
                for found in super().write(*arguments)
            ]

    for kept, words in (("drop", r"nothing .* could be kept \(24 cut off\)"), ("keep", None)):
        prompts = [f"Question {number}?" for number in range(100)]
        asked = asked_of(tokenizer, prompts, writer=Cut, cut_answers=kept)
        (tmp_path / kept).mkdir()
        if words is None:
            assert write_rounds(asked, WRITTEN, 600, tmp_path / kept, QuietProgress()).dropped == {}
        else:
            with pytest.raises(RunError, match=words):
                write_rounds(asked, WRITTEN, 600, tmp_path / kept, QuietProgress())


def test_rounds_after_a_kill_are_those_of_one_that_went_through(tokenizer, tmp_path: Path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    write_rounds(asked_of(tokenizer), FREE, 600, whole, QuietProgress())

    class Killed(Exception):
        pass

    class KillAfter(MadeUp):
        def write(self, *arguments: object) -> list[Continuation]:
            if len(self.asked) >= 16:  # two rounds of eight
                raise Killed
            return super().write(*arguments)

    broken = asked_of(tokenizer, writer=KillAfter)
    with pytest.raises(Killed):
        write_rounds(broken, FREE, 600, killed, QuietProgress())
    again = asked_of(tokenizer)
    write_rounds(again, FREE, 600, killed, QuietProgress())
    assert again.writer.asked[0] != broken.writer.asked[0], "the first rounds aren't written again"
    contents = [
        {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()} for folder in (whole, killed)
    ]
    assert contents[0] == contents[1]


def test_too_few_prompts_are_refused_or_accepted(tokenizer, tmp_path: Path):
    prompts = [f"Question {number}?" for number in range(20)]
    words = (
        "tiny: all 20 prompts gave .* kept tokens of the 5000 that teach.tokens asks for .* set "
        "teach.too_few_prompts to accept"
    )
    for name in ("refused", "accepted"):
        (tmp_path / name).mkdir()
    with pytest.raises(RunError, match=words):
        write_rounds(asked_of(tokenizer, prompts), WRITTEN, 5000, tmp_path / "refused", QuietProgress())
    told: list[str] = []
    progress = QuietProgress()
    progress.note = told.append  # type: ignore[method-assign]
    tally = write_rounds(
        asked_of(tokenizer, prompts, too_few_prompts="accept"), WRITTEN, 5000, tmp_path / "accepted", progress
    )
    assert tally.asked == 20
    assert "all 20 prompts gave" in told[0]
    assert "training goes over them more often" in told[0]


def test_prompts_that_are_all_too_long_name_the_limit_and_its_key(tokenizer, tmp_path: Path):
    prompts = [f"{number} " * 700 for number in range(60)]
    with pytest.raises(NothingKeptError, match=r"prompt too long, where 608 tokens are the most .* teach\.max_prompt"):
        write_rounds(asked_of(tokenizer, prompts), WRITTEN, 5000, tmp_path, QuietProgress())


def prompt_of(system: str | None, question: str) -> Prompt:
    led = () if system is None else (Message("system", system),)
    return Prompt((*led, Message("user", question)))


def test_a_system_message_that_all_prompts_share_is_the_one_to_ask_with():
    both = [prompt_of("Be brief.", "a"), prompt_of("Be brief.", "b")]
    assert shared_system(both) == "Be brief."
    assert shared_system([*both, prompt_of("Be long.", "c")]) is None
    assert shared_system([*both, prompt_of(None, "c")]) is None
    assert shared_system([prompt_of(None, "a")]) is None
    assert shared_system([]) is None


@pytest.mark.parametrize(("systems", "shared"), [(("Be brief.",), "Be brief."), (("Be brief.", "Be long."), None)])
def test_teach_keeps_the_system_message_of_a_prompts_file(tokenizer, tiny_llama: Path, tmp_path: Path, systems, shared):
    rows = [{"system": systems[n % len(systems)], "prompt": f"{WORDS[n % len(WORDS)]} {n}"} for n in range(60)]
    counts, notes = taught_on(rows, tokenizer, tiny_llama, tmp_path)
    assert counts.get("system") == shared
    assert Teaching.from_json(counts).system == shared
    assert any("and not all the same" in line for line in notes) is (shared is None)


def taught_on(rows: Sequence[dict[str, str]], tokenizer, model: Path, folder: Path, **changes: object):
    """What teach counts and says of a prompts file."""
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = {"prompts": str(folder / "asked.jsonl"), "tokens": 60, "text_tokens": 0, "too_few_prompts": "accept"}
    recipe = load_recipe("tiny").model_copy(update={"teach": SETTINGS.model_copy(update=settings | changes)})
    (folder / "work").mkdir()
    progress = Told()
    teach(
        TeachInputs(MadeUp(tokenizer), model, "tiny", recipe, 0, read_prompts(folder / "asked.jsonl")),
        folder / "work",
        progress,
    )
    return json.loads((folder / "work" / "teach.json").read_text()), progress.notes


def test_prompts_that_are_left_out_have_no_say_in_the_system_message(tokenizer, tiny_llama: Path, tmp_path: Path):
    rows = [
        {"system": "Be brief.", "prompt": f"{WORDS[n % len(WORDS)]} {n}", "answer": f"The old cat sees {n} dogs."}
        for n in range(60)
    ]
    rows.append({"system": "Be long.", "prompt": "Without an answer?"})
    counts, notes = taught_on(rows, tokenizer, tiny_llama, tmp_path, answers="own")
    assert counts["system"] == "Be brief."
    assert any("1 of 61 prompts bring no answer and are left out" in line for line in notes)
    assert not any("and not all the same" in line for line in notes)


def test_a_model_that_never_saw_a_chat_without_a_system_message_makes_up_its_questions_behind_it(
    tokenizer, tiny_llama: Path, tmp_path: Path
):
    led = make_frame(tokenizer, "tiny", "Be brief.").opening
    assert "Be brief." in tokenizer.decode(led)
    settings = SETTINGS.model_copy(update={"tokens": 60, "text_tokens": 0})
    recipe = load_recipe("tiny").model_copy(update={"teach": settings})
    for name, write in (("taught", teach), ("held", write_held_out)):
        (tmp_path / name).mkdir()
        writer = MadeUp(tokenizer)
        write(
            TeachInputs(writer, tiny_llama, "tiny", recipe, 0, None, system="Be brief."),
            tmp_path / name,
            QuietProgress(),
        )
        assert all(tuple(prompt[: len(led)]) == led for prompt in writer.asked)
        turns = [trace.turns for trace in iter_traces(tmp_path / name, "traces-*.jsonl")]
        assert {(first.role, first.text, first.train) for first, *_ in turns} == {("system", "Be brief.", 0.0)}
    assert json.loads((tmp_path / "taught" / "teach.json").read_text())["system"] == "Be brief."


def test_text_alone_asks_nobody(tiny_llama: Path, tmp_path: Path):
    from edgedistill.config import load_recipe
    from edgedistill.config.overrides import Overrides
    from edgedistill.config.recovery import recovery_recipe

    text = tmp_path / "own.txt"
    text.write_text(" ".join(f"word{number}" for number in range(2000)), encoding="utf-8")
    recipe = recovery_recipe(load_recipe("recover"), Overrides(texts=[str(text)], text_only=True, tokens="2k")).decided(
        True
    )
    (tmp_path / "work").mkdir()
    teach(TeachInputs(None, tiny_llama, "tiny", recipe, 0, None), tmp_path / "work", QuietProgress())
    counts = json.loads((tmp_path / "work" / "teach.json").read_text())
    documents = load_split(tmp_path / "work", "train")
    assert counts["asked"] == 0
    assert counts["train_tokens"] == sum(len(document.tokens) for document in documents)
    assert max(len(document.tokens) for document in documents) == recipe.recover.seq_len
    assert all(document.signal == {} for document in documents)
    assert any(load_split(tmp_path / "work", "validation"))
