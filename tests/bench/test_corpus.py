"""The texts of the comparison: what is cut out of the sources, and that nothing judged is learned from."""

import json

import pytest
from contest import chats, corpus


def test_wiki_loses_marked_sentences_alone():
    good = "A sentence of some length that stays , since every word of it is known to the list of words . "
    raw = f" \n = A heading = \n = <unk> = \n \n {good}The <unk> is gone . {good.strip()} \n Short . \n"
    assert corpus.wiki_text(raw) == f" = A heading = \n {good}{good.strip()} \n"


def test_book_is_unwrapped_between_its_marks():
    paragraph = "A line of a paragraph\nthat goes on for a while " * 6
    inner = f"CHAPTER I\n\n{paragraph}\n\n{paragraph}"
    raw = f"Licence\n*** START OF THIS PROJECT GUTENBERG EBOOK X ***\n\n{inner}\n\nEnd of the Project Gutenberg\nmore"
    text = corpus.book_text(raw.replace("\n", "\r\n"))
    assert text == "\n\n".join([" ".join(paragraph.split())] * 2) + "\n"


def test_book_without_marks_is_refused():
    with pytest.raises(ValueError, match="its START and END marks are missing"):
        corpus.book_text("Some other text")


def test_spread_takes_whole_lines_from_all_of_a_text():
    lines = [f"line {i} " + "x" * 492 + "\n" for i in range(100)]
    taken = corpus.spread("".join(lines), 10_000)
    assert 8_000 <= len(taken) <= 12_000
    found = [int(line.split()[1]) for line in taken.splitlines()]
    assert found == sorted(set(found))
    assert min(found) < 25
    assert max(found) > 75
    assert corpus.spread("short\n", 100) == "short\n"


def test_no_judged_prompt_is_learned_from(tmp_path):
    shared = "What  is a Shared prompt?"
    rows = {
        "mt_bench/mt_bench_question.jsonl": [{"turns": [f"bench {i}", "then"]} for i in range(30)]
        + [{"turns": [shared]}],
        "self_instruct/user_oriented_instructions.jsonl": [
            {"instruction": f"do {i}", "instances": [{"input": "it"}]} for i in range(30)
        ],
        "arena_hard/arena_hard_v0.1.jsonl": [
            {"prompt": "what is a shared prompt?"},
            {"prompt": "x" * 700},
            {"prompt": "arena"},
        ],
        "arena_hard/arena_hard_v2.0.jsonl": [
            {"prompt": "new\u2028line"},
            {"prompt": "Arena"},
            {"prompt": "do 3\n\nit"},
        ],
        "self_instruct/seed_tasks.jsonl": [
            {"instruction": "do 3", "instances": [{"input": "it"}]},
            {"instruction": "seed", "instances": [{"input": ""}]},
        ],
    }
    for name, entries in rows.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("\n".join(json.dumps(e, ensure_ascii=False) for e in entries), encoding="utf-8")
    judged = chats.judge_prompts(tmp_path)
    assert len(judged) == chats.JUDGE_PROMPTS
    assert chats.learn_prompts(tmp_path, [*judged, shared, "do 3\n\nit"]) == ["arena", "seed"]
    assert chats.training_prompts(tmp_path, [*judged, shared]) == ["Arena", "new\u2028line", "seed"]
