"""The training text in a student's own ids, against transformers' rendering of its template."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from edgedistill.config.teach import Teach
from edgedistill.data.example import Example, counted_from
from edgedistill.data.frame import make_frame
from edgedistill.data.tokenize import tokenize
from edgedistill.data.trace import ASSISTANT, SYSTEM, TEXT, USER, Trace, Turn, save_traces
from edgedistill.errors import RunError
from edgedistill.models.tokenizer import load_tokenizer
from edgedistill.progress import Progress
from edgedistill.signals.shards import iter_shards, save_shard
from edgedistill.teach.student_text import UNREADABLE, Reader, restarted, write_student_text
from tests.pairs import OWN_CHATS, make_words

TOP_K = 4
SPLITS = ("train", "validation", "judge")
QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."
CHAT = (Turn(USER, QUESTION, train=0.0), Turn(ASSISTANT, ANSWER))


def settings(**changes: object) -> Teach:
    return Teach(style="chat", text_window=32, text_tokens=64, **changes)


def signal(example: Example) -> Example:
    """The same with made-up signals, the token that follows likeliest."""
    torch.manual_seed(len(example.tokens))
    ids = torch.randint(3, 500, (example.kept, TOP_K), dtype=torch.int32)
    ids[:, 0] = example.labels.int()
    log_probs = torch.randn(example.kept, TOP_K).log_softmax(-1).half()
    return example.with_signal(ids=ids, log_probs=log_probs)


def taught(folder: Path, words: Path, *conversations: tuple[Turn, ...]) -> Path:
    """What a teach stage leaves of conversations: each in all three splits, and a piece of free text and of prose."""
    tokenizer = load_tokenizer(words)
    frame = make_frame(tokenizer, "teacher")
    traces = []
    for number, split in enumerate(SPLITS):
        examples = []
        for place, turns in enumerate(conversations):
            trace = Trace(f"written-{number}-{place}", "0" * 16, turns)
            example = tokenize(trace, tokenizer, frame)
            examples.append(signal(Example(example.tokens, example.weight, {}, trace.id)))
            traces.append(trace)
        (folder / split).mkdir(parents=True)
        save_shard(folder / split / "signals-00000.safetensors", examples)
        free = Trace(f"free-{number}", "1" * 16, (Turn(TEXT, "The cat", train=0.0), Turn(TEXT, " sees the fox.")))
        (folder / f"free-{split}").mkdir()
        example = tokenize(free, tokenizer, None)
        save_shard(folder / f"free-{split}" / "signals-00000.safetensors", [signal(example)])
        save_traces(folder / f"free-traces-{number:05d}.jsonl", [free])
    every = [Trace(f"free-{number}", "1" * 16, free.turns) for number in range(len(SPLITS))]
    save_traces(folder / "free-traces-00000.jsonl", every)
    save_traces(folder / "traces-00000.jsonl", traces)
    for split in ("train", "validation"):
        (folder / f"prose-{split}").mkdir()
        ids = torch.tensor(tokenizer("Once upon a time there was a small house.")["input_ids"], dtype=torch.int32)
        save_shard(folder / f"prose-{split}" / "signals-00000.safetensors", [signal(counted_from(ids))])
    counts = {"asked": 3, "kept": 6, "split_tokens": {"written-": {}, "free-": {}}, "dropped": {}, "system": "x"}
    (folder / "teach.json").write_text(json.dumps(counts | {"bytes_per_token": TOP_K * 6}))
    return folder


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return make_words(tmp_path / "teacher")


def read(tmp_path: Path, teacher: Path, student: Path, same_words: bool, *turns: tuple[Turn, ...], context: int = 256):
    """What the student reads of some conversations: the folder, the examples before and after."""
    source, work = taught(tmp_path / "teach", teacher, *turns), tmp_path / "work"
    work.mkdir()
    write_student_text(Reader(teacher, student, "student", settings(), same_words, context), source, work, Progress())
    return work, list(iter_shards(source / "train")), list(iter_shards(work / "train"))


def test_another_tokenizer_reads_the_answer_in_its_own_words_and_template(tmp_path: Path, teacher: Path):
    student = make_words(tmp_path / "student", vocab=400, template=OWN_CHATS)
    work, _, (example,) = read(tmp_path, teacher, student, False, CHAT)
    theirs = AutoTokenizer.from_pretrained(student)
    chat = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    assert theirs.decode(example.tokens) == theirs.apply_chat_template(chat, tokenize=False)
    assert theirs.decode(example.labels) == f"{ANSWER}<|endoftext|>"
    assert example.signal == {}
    (free,) = iter_shards(work / "free-train")
    assert (theirs.decode(free.tokens), theirs.decode(free.labels)) == ("The cat sees the fox.", " sees the fox.")
    prose = list(iter_shards(work / "prose-train"))
    assert sum(each.kept for each in prose) > 32
    assert max(int(each.tokens.max()) for each in prose) < 400
    counts = json.loads((work / "teach.json").read_text())
    assert (counts["kept"], counts["bytes_per_token"]) == (6, 0)
    assert counts["split_tokens"]["written-"]["train"] == example.kept
    assert "system" not in counts, "the student's template has no place for it"


def test_the_teachers_answer_and_its_signals_go_into_the_students_template(tmp_path: Path, teacher: Path):
    """The ids of the answer and all that the teacher thinks of them stay; the end of an answer is the student's."""
    student = make_words(tmp_path / "student", template=OWN_CHATS)
    _, (before,), (after,) = read(tmp_path, teacher, student, True, CHAT)
    theirs = AutoTokenizer.from_pretrained(student)
    chat = [{"role": "user", "content": QUESTION}]
    prompt = theirs.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert theirs.decode(after.tokens[: int(after.positions[0]) + 1]) == prompt
    assert torch.equal(after.labels[:-1], before.labels[:-1])
    end, own = theirs.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert (int(before.labels[-1]), int(after.labels[-1])) == (end, own)
    swapped = [own if token == end else end if token == own else token for token in before.signal["ids"].flatten()]
    assert after.signal["ids"].flatten().tolist() == [int(token) for token in swapped]
    assert torch.equal(after.signal["log_probs"], before.signal["log_probs"])


def test_of_several_answers_each_counts_with_its_own_signals(tmp_path: Path, teacher: Path):
    turns = (Turn(USER, "Hi", train=0.0), Turn(ASSISTANT, "Hello."), Turn(USER, "Who?", train=0.0))
    student = make_words(tmp_path / "student", template=OWN_CHATS)
    _, (before,), (after,) = read(tmp_path, teacher, student, True, (*turns, Turn(ASSISTANT, "The cat.")))
    theirs = AutoTokenizer.from_pretrained(student)
    assert theirs.decode(after.labels) == "Hello.<|endoftext|>The cat.<|endoftext|>"
    assert torch.equal(after.signal["log_probs"], before.signal["log_probs"])


@pytest.mark.parametrize("same_words", [True, False])
def test_a_system_message_that_the_student_refuses_is_left_out(tmp_path: Path, teacher: Path, same_words: bool):
    student = make_words(tmp_path / "student", 512 if same_words else 400, OWN_CHATS)
    led = (Turn(SYSTEM, "Be brief.", train=0.0), *CHAT)
    _, _, (example,) = read(tmp_path, teacher, student, same_words, led)
    assert "Be brief" not in AutoTokenizer.from_pretrained(student).decode(example.tokens)


def test_an_answer_that_was_cut_off_doesnt_end(tmp_path: Path, teacher: Path):
    source = taught(tmp_path / "teach", teacher, CHAT)
    for split in SPLITS:
        path = source / split / "signals-00000.safetensors"
        (whole,) = iter_shards(source / split)
        save_shard(path, [whole.cut(len(whole.tokens) - 1)])
    student, work = make_words(tmp_path / "student", vocab=400), tmp_path / "work"
    work.mkdir()
    write_student_text(Reader(teacher, student, "student", settings(), False, 256), source, work, Progress())
    (example,) = iter_shards(work / "train")
    assert AutoTokenizer.from_pretrained(student).decode(example.labels) == ANSWER


def test_texts_beyond_the_students_context_are_counted_or_refused(tmp_path: Path, teacher: Path):
    long = (Turn(USER, "cat " * 120, train=0.0), Turn(ASSISTANT, "Yes."))
    student = make_words(tmp_path / "student", vocab=400)
    work, before, after = read(tmp_path, teacher, student, False, CHAT, long, context=90)
    assert (len(before), len(after)) == (2, 1)
    assert json.loads((work / "teach.json").read_text())["dropped"] == {UNREADABLE: 3}
    with pytest.raises(RunError, match=r"student: none of the teacher's train text can be read .* 90 tokens"):
        read(tmp_path / "again", teacher, student, False, long, context=90)


def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path, teacher: Path):
    student = make_words(tmp_path / "student", vocab=400)
    work, _, _ = read(tmp_path, teacher, student, False, CHAT)
    files = {path.relative_to(work): path.read_bytes() for path in work.rglob("*") if path.is_file()}
    for name in ("teach.json", "judge/signals-00000.safetensors", "prose-train/signals-00000.safetensors"):
        (work / name).unlink()
    reader = Reader(teacher, student, "student", settings(), False, 256)
    write_student_text(reader, tmp_path / "teach", work, Progress())
    assert {path.relative_to(work): path.read_bytes() for path in work.rglob("*") if path.is_file()} == files


@pytest.mark.parametrize(
    ("old", "new", "tokens", "weight"),
    [
        ([1], [9], [9, 5, 6, 7], [1.0, 0.5, 1.0]),
        ([1], [], [5, 6, 7], [0.5, 1.0]),
        ([], [9], [9, 1, 5, 6, 7], [0.0, 1.0, 0.5, 1.0]),
        ([], [], [1, 5, 6, 7], [1.0, 0.5, 1.0]),
        ([2], [], [1, 5, 6, 7], [1.0, 0.5, 1.0]),
    ],
)
def test_a_text_begins_as_the_students_texts_do(old, new, tokens, weight):
    example = Example(
        torch.tensor([1, 5, 6, 7], dtype=torch.int32),
        torch.tensor([1.0, 0.5, 1.0], dtype=torch.float16),
        {"ids": torch.arange(3).unsqueeze(-1)},
    )
    begun = restarted(example, old, new)
    assert begun.tokens.tolist() == tokens
    assert begun.weight.tolist() == weight
    assert len(begun.signal["ids"]) == begun.kept
    assert begun.signal["ids"][-1].item() == 2
