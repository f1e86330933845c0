"""The Pareto front against its definition written out, and the recommendation on constructed reports, degenerate ones
too.
"""

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.report.recommend import NOTICEABLE_KL, RULE, mix_to_use, offered, recommend, row_troubles, why_none
from edgedistill.results.front import STEPS, beats, front_of, pareto_front
from edgedistill.results.planned import StudentFacts
from edgedistill.results.report import Report
from edgedistill.results.row import Row

JUDGES = ("chats", "prose")
MB = 10**6


def row(
    label: str,
    kind: str = "rounded",
    *,
    mix: str | None = "",
    size: float | None = 100,
    speed: float | None = 50.0,
    kl: Any = 0.01,
    task: float | None = None,
    runtime: str = "llama.cpp",
    **more: Any,
) -> Row:
    """A row of a report; `size` in MB, `kl` one for both judges or (chats, prose)."""
    kls = kl if isinstance(kl, tuple) else (kl, kl)
    tasks = (
        {}
        if task is None
        else {"tasks": {"quiz": {"items": 100, "right": 1, "share": task, "low": task, "high": task}}}
    )
    data = {
        "label": label,
        "kind": kind,
        "mix": label.split()[0] if mix == "" else mix,
        "runtime": runtime,
        "file_bytes": None if size is None else int(size * MB),
        "bits_per_weight": None,
        "quality": {
            judge: None if value is None else {"kl_student_mean": value}
            for judge, value in zip(JUDGES, kls, strict=True)
        },
        "speed": {
            "decode_tokens_per_s": None if speed is None else {"mean": speed, "std": 1.0, "trials": [speed]},
            "prefill_tokens_per_s": {"mean": 512.0, "std": 1.0, "trials": [512.0]},
            "busy": False,
        },
        **tasks,
        **more,
    }
    return Row.from_json(data)


def report(
    rows: list[Row],
    *,
    limits: dict[str, Any] | None = None,
    on_target: bool = False,
    usable_mb: float = 8000,
    quantized: str | None = None,
    decode: float | None = 100.0,
) -> Report:
    """A report whose plan foretells the rows' sizes, `decode` tokens/s and 10 MB of memory more than the weights."""
    mixes = {
        r.mix: {
            "ram_bytes": (r.file_bytes or 0) + 10 * MB,
            "weight_bytes": r.file_bytes or 0,
            "kv_bytes": 0,
            "fits": True,
            "why": "",
            "predicted_decode_full_context_tokens_per_s": decode,
            "predicted_ttft_s": None,
        }
        for r in rows
        if r.mix is not None
    }
    data = {
        "rows": [row.to_json() for row in rows],
        "mixes": mixes,
        "judges": [{"name": judge} for judge in JUDGES],
        "student": {"as_is": True},
        "teacher": {"quantized": quantized},
        "on_target": on_target,
        "machine": {"cpu": "Example CPU", "cores": 2},
        "target": {
            "name": "box",
            "title": "a box",
            "usable_memory_bytes": int(usable_mb * MB),
            "limits": {"context": 2048, "file": None, "ttft": None, "decode": None, **(limits or {})},
        },
    }
    return Report.from_json(data)


def brute_front(points: list[tuple[float, ...]]) -> set[int]:
    """Indices of points (smaller is better on each axis) that no other dominates, straight from the definition."""

    def dominated(i: int) -> bool:
        for j in range(len(points)):
            no_worse = all(a <= b for a, b in zip(points[j], points[i], strict=True))
            differs = any(a != b for a, b in zip(points[j], points[i], strict=True))
            if no_worse and differs:
                return True
        return False

    return {i for i in range(len(points)) if not dominated(i)}


@pytest.mark.parametrize("seed", range(30))
def test_the_front_is_that_of_the_definition(seed: int):
    rng = random.Random(seed)
    # Whole steps apart, so that what counts as equal is equal and what doesn't isn't; few values, so that ties happen.
    steps = [tuple(rng.randrange(5) for _ in range(4)) for _ in range(rng.randrange(1, 30))]
    rows = [
        row(
            f"m{n} x",
            size=100 * STEPS["file_bytes"] ** (2 * a),
            speed=50 * STEPS["decode_tokens_per_s"] ** (-2 * b),
            kl=0.01 * STEPS["kl"] ** (2 * c),
            task=0.9 - 0.02 * d,
        )
        for n, (a, b, c, d) in enumerate(steps)
    ]
    expected = brute_front([tuple(map(float, step)) for step in steps])
    assert pareto_front(rows, JUDGES) == [f"m{n} x" for n in sorted(expected)]


values = st.one_of(st.none(), st.integers(0, 3).map(float))
keys = st.lists(st.tuples(values, values, values), min_size=1, max_size=8)


@given(keys)
def test_missing_figures_never_empty_the_front_nor_beat_anything_by_being_missing(found):
    assert [one for one in found if not any(beats(other, one) for other in found)], (
        "each file is beaten by another: a circle"
    )
    for a, b, c in itertools.product(found, repeat=3):
        if beats(a, b) and beats(b, c):
            assert beats(a, c)
    for a, b in itertools.product(found, repeat=2):
        if beats(a, b):
            assert not beats(b, a)
            assert all(theirs is None or mine is not None for mine, theirs in zip(a, b, strict=True))


def test_noise_and_metadata_put_no_file_beside_one_as_good():
    rounded = row("q4_0 rounded", size=91.7, speed=101.0, kl=0.2)
    recovered = row("q4_0 recovered", "recovered", size=91.7001, speed=99.0, kl=0.1)
    assert pareto_front([rounded, recovered], JUDGES) == ["q4_0 recovered"]


def test_rows_without_size_or_kl_are_on_no_front_and_a_teacher_of_another_shape_isnt_compared():
    rows = [
        row("a x", size=None),
        row("b x", kl=(0.1, None)),
        row("c x"),
        row("t", "teacher", mix=None, size=1, kl=0.0),
    ]
    assert pareto_front(rows, JUDGES) == ["c x"]
    assert front_of(report(rows)).labels == ("t",)  # as it is, the file given is one of them
    assert front_of(replace(report(rows), student=StudentFacts())).labels == ("c x",)
    assert pareto_front([], JUDGES) == []
    assert pareto_front([row("a x")], ()) == []


LADDER = [
    row("q8_0 rounded", size=144, kl=0.001),
    row("q5_0 rounded", size=105, kl=(0.012, 0.018)),
    row("q4_0 rounded", size=92, kl=0.2),
    row("q4_0 recovered", "recovered", size=92, kl=(0.03, 0.05)),
    row("q2_k rounded", size=88, kl=0.8),
]


def test_where_the_teacher_is_to_ship_it_says_which_of_the_students_files():
    assert recommend(report(LADDER)).sentence.startswith("Take ")
    told = recommend(report(LADDER), lost=True).sentence
    assert told.removeprefix("Of the student's files take ") == recommend(report(LADDER)).sentence.removeprefix("Take ")


def test_a_recovered_file_of_four_bits_is_taken_before_one_of_eight_that_is_hardly_better():
    found = recommend(report(LADDER))
    assert found is not None
    assert (found.label, found.mix, found.rule) == ("q4_0 recovered", "q4_0", RULE)
    assert found.sentence == (
        "Take q4_0 recovered (92.0 MB, 50.0 tokens/s): of 4 files that fit a box the smallest whose loss isn't "
        "noticeably above that of q8_0 rounded (144 MB, 50.0 tokens/s). Its KL to the float model is 0.0500 nats a "
        "token against 0.0010. Speed as measured on Example CPU with 2 cores."
    )
    assert f"at most {NOTICEABLE_KL:g} nats a token above the lowest" in RULE


def test_one_text_on_which_it_loses_is_enough():
    rows = [row("q8_0 rounded", size=144, kl=0.001), row("q5_0 rounded", size=105, kl=(0.0, 1.5 * NOTICEABLE_KL))]
    found = recommend(report(rows))
    assert found.mix == "q8_0"
    assert "the one that loses least, and every smaller one loses noticeably more. Its KL" in found.sentence


def test_the_margin_is_counted_from_the_lowest_of_the_files_that_fit():
    rows = [
        row("q8_0 rounded", size=144, kl=0.001),
        row("q5_0 rounded", size=105, kl=0.09),
        row("q4_0 rounded", size=92, kl=0.13),
    ]
    assert recommend(report(rows)).mix == "q8_0"
    found = recommend(report(rows, limits={"file": 110 * MB}))
    assert found.mix == "q4_0"
    assert "is 0.130 nats a token against 0.0900, a loss that is noticed." in found.sentence


def test_a_certain_loss_on_a_task_counts_before_size():
    lost = {"quiz": {"items": 200, "difference": -0.05, "low": -0.09, "high": -0.01}}
    chance = {"quiz": {"items": 200, "difference": -0.05, "low": -0.11, "high": 0.01}}
    harmless = {"refusals unsafe": {"difference": -0.2, "low": -0.3, "high": -0.1}}
    prim = {"refusals safe": {"difference": 0.2, "low": 0.1, "high": 0.3}}
    for differences, expected in (
        (lost, "q8_0"),
        (chance, "q5_0"),
        (harmless, "q8_0"),
        (prim, "q8_0"),
    ):
        rows = [
            row("q8_0 rounded", size=144, kl=0.001),
            row("q5_0 rounded", size=105, kl=0.01, differences=differences),
        ]
        assert recommend(report(rows)).mix == expected
    only = recommend(report([row("q5_0 rounded", kl=0.01, differences=lost)]))
    assert "; it is certainly worse on quiz." in only.sentence
    # Where the file with the lowest KL has the loss too, it tells nothing against the smaller one.
    both = [row("q8_0 rounded", size=144, differences=lost), row("q5_0 rounded", size=105, differences=lost)]
    assert recommend(report(both)).mix == "q5_0"


def test_the_losses_that_rule_smaller_files_out_are_told():
    lost = {"quiz": {"items": 200, "difference": -0.05, "low": -0.09, "high": -0.01}}
    prim = {"refusals safe": {"difference": 0.2, "low": 0.1, "high": 0.3}}
    worse = row("q2_k rounded", size=88, kl=0.03, differences=lost)
    found = recommend(report([row("q8_0 rounded", size=144, kl=0.003), worse]))
    assert found.sentence.startswith(
        "Take q8_0 rounded (144 MB, 50.0 tokens/s): of 2 files that fit a box the one that loses least, and every "
        "smaller one loses noticeably more or is certainly worse on quiz. Its KL"
    )
    rows = [row("q8_0 rounded", size=144, kl=0.003), row("q4_0 rounded", size=92, kl=0.02), worse]
    found = recommend(report(rows))
    assert found.sentence.startswith(
        "Take q4_0 rounded (92.0 MB, 50.0 tokens/s): of 3 files that fit a box the smallest whose loss isn't "
        "noticeably above that of q8_0 rounded (144 MB, 50.0 tokens/s) and that isn't certainly worse on quiz. Its KL"
    )
    # The file with the lowest KL may itself be ruled out.
    found = recommend(report([row("q8_0 rounded", size=144, kl=0.02), row("q5_0 rounded", kl=0.001, differences=lost)]))
    assert found.mix == "q8_0"
    assert (
        "that of q5_0 rounded (100 MB, 50.0 tokens/s) and that isn't certainly worse on quiz. Its KL" in found.sentence
    )
    assert "is 0.0200 nats a token against 0.0010" in found.sentence
    # What the choice loses too, or a larger file, rules nothing out.
    rows = [
        row("q8_0 rounded", size=144, kl=0.001, differences=lost | prim),
        row("q4_0 rounded", size=92, kl=0.003, differences=lost),
        row("q2_k rounded", size=88, kl=0.002, differences=lost | prim),
    ]
    found = recommend(report(rows))
    assert found.mix == "q4_0"
    assert "and that isn't certainly worse on refusals safe. Its KL" in found.sentence
    rows = [row("q8_0 rounded", size=144, kl=0.001, differences=lost), row("q4_0 rounded", size=92, kl=0.003)]
    assert "the smallest whose loss isn't noticeably above that of q8_0 rounded (144 MB, 50.0 tokens/s). Its" in (
        recommend(report(rows)).sentence
    )


def test_limits_come_first():
    found = recommend(report(LADDER, limits={"file": 90 * MB}))
    assert found.label == "q2_k rounded"
    assert "the only file to choose that fits a box. Its KL to the float model is 0.800 nats a token, a loss" in (
        found.sentence
    )
    rows = [row("q8_0 rounded", size=144, kl=0.001, speed=20.0), row("q4_0 rounded", size=92, kl=0.3, speed=40.0)]
    assert recommend(report(rows, on_target=True)).mix == "q8_0"
    assert recommend(report(rows, limits={"decode": 30.0}, on_target=True)).mix == "q4_0"


def test_equal_sizes_take_the_better():
    rows = [row("a rounded", size=110, kl=0.1), row("b rounded", size=100, kl=0.1005)]
    found = recommend(report(rows))
    assert found.mix == "b"
    rows = [row("a rounded", size=100.001, kl=0.011), row("b rounded", size=100, kl=0.012)]
    found = recommend(report(rows))
    assert found.mix == "a"
    assert "the one that loses least, and none is smaller. " in found.sentence


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"limits": {"file": 10 * MB}}, "q8_0 rounded: the file has 144 MB, at most 10.0 MB are allowed"),
        ({"usable_mb": 50}, "q8_0 rounded: needs 154 MB of memory, 50.0 MB are usable"),
        ({"limits": {"decode": 200.0}}, "q8_0 rounded: at most 100 tokens/s, 200 tokens/s are wanted"),
        (
            {"limits": {"decode": 200.0}, "on_target": True},
            "q8_0 rounded: 50.0 tokens/s measured, 200 tokens/s are wanted",
        ),
        (
            {"limits": {"ttft": 0.5}, "on_target": True},
            "q8_0 rounded: 1.0 s to the first token, at most 0.50 s are allowed",
        ),
    ],
)
def test_nothing_fits(changes: dict[str, Any], words: str):
    found = report(LADDER, **changes)
    assert recommend(found) is None
    assert why_none(found).startswith("Nothing here fits a box (")
    assert words in why_none(found)


def test_where_this_machine_is_the_target_what_was_measured_decides():
    rows = [row("q8_0 rounded", size=144, kl=0.001, speed=20.0), row("q4_0 rounded", size=92, kl=0.1, speed=40.0)]
    limits = {"decode": 30.0}
    assert recommend(report(rows, limits=limits)).mix == "q8_0"
    assert recommend(report(rows, limits=limits, on_target=True)).mix == "q4_0"


def test_a_report_without_limits_goes_by_the_plans_own_verdict():
    found = report(LADDER)
    no_limits = replace(found.target, limits=None)
    too_big = replace(found.mixes["q5_0"], fits=False, why="too big for it")
    found = replace(found, target=no_limits, mixes=found.mixes | {"q5_0": too_big})
    assert row_troubles(LADDER[1], found) == ["too big for it"]
    assert [each for each in LADDER if row_troubles(each, found)] == [LADDER[1]]


def test_degenerate_reports():
    assert recommend(report([])) is None
    assert why_none(report([])) == "Nothing was judged, so nothing is recommended."
    assert recommend(report([row("float model", "float", mix=None)])) is None
    assert recommend(report([row("q8_0 rounded", kl=None)])) is None
    assert recommend(report([row("q8_0 rounded", size=None)])) is None
    one = recommend(report([row("q8_0 rounded", speed=None, kl=0.0)]))
    assert one.sentence == (
        "Take q8_0 rounded (100 MB): the only file to choose that fits a box. Its KL to the float model is 0 nats a "
        "token."
    )


def test_a_file_that_came_quantized_may_be_the_one_to_keep():
    given = row("model as given", "teacher", mix=None, size=99, kl=0.0004)
    rows = [given, row("float model", "float", mix=None, size=270, kl=0.0), *LADDER[:2], LADDER[4]]
    found = recommend(report(rows, quantized="q4_1"))
    assert (found.label, found.mix) == ("model as given", None)
    assert found.sentence.startswith("Keep the model as given (99.0 MB, 50.0 tokens/s): of 4 files")
    # A float file isn't one to ship, and a limit may leave the given one out.
    assert recommend(report(rows)).mix == "q5_0"
    assert recommend(report(rows, quantized="q4_1", limits={"file": 95 * MB})).mix == "q2_k"
    assert row_troubles(given, report(rows, quantized="q4_1", usable_mb=108)) == [
        "needs 109 MB of memory, 108 MB are usable"
    ]


def test_the_mix_to_use_is_the_recommended_one_else_what_a_bundle_can_hold():
    assert mix_to_use(report(LADDER)) == "q4_0"
    given = row("model as given", "teacher", mix=None, size=90, kl=0.0004)
    found = report([given, *LADDER], quantized="q4_1")
    assert recommend(found).mix is None
    assert mix_to_use(found) == "q4_0"
    unjudged = report([row("q8_0 rounded", kl=None), row("q4_0 rounded", kl=None)])
    assert mix_to_use(unjudged) == "q8_0"
    too_big = replace(unjudged.mixes["q8_0"], fits=False)
    assert mix_to_use(replace(unjudged, mixes=unjudged.mixes | {"q8_0": too_big})) == "q4_0"
    assert mix_to_use(report([])) is None


def test_recovered_ships_before_rounded_and_llama_cpp_before_onnxruntime():
    rows = [
        row("q4_0 rounded"),
        row("q4_0 recovered, onnxruntime", "recovered", runtime="onnxruntime"),
        row("q4_0 recovered, llama.cpp", "recovered"),
        row("q8_0 rounded"),
    ]
    assert [found.label for found in offered(report(rows))] == ["q4_0 recovered, llama.cpp", "q8_0 rounded"]
