"""A figure enters the report only with a record of the same label, file and value; the verdict says what is so."""

import json
import math

import pytest

from edgedistill.errors import RunError
from tests.report.sample import CHATS, PROSE, built, parts, sha


def row_of(report, label):
    return next(row for row in report["rows"] if row["label"] == label)


def test_every_figure_of_the_sample_is_vouched_for():
    report = built(**parts())
    assert report["schema"] == "edgedistill.report/1"
    assert report["left_out"] == []
    row = row_of(report, "q4_0 recovered, llama.cpp")
    assert row["quality"][CHATS]["kl_student_mean"] == 0.141
    assert row["speed"]["decode_tokens_per_s"] == {"mean": 117.3, "std": pytest.approx(2.346), "trials": [117.3] * 5}
    assert row["bits_per_weight"] == pytest.approx(81_600_000 * 8 / 120_350_976)
    assert row_of(report, "teacher (Q4_1 GGUF)")["bits_per_weight"] == pytest.approx(98_900_000 * 8 / 134_515_008)


@pytest.mark.parametrize("change", ["no record", "other file", "other value", "other label", "other text"])
def test_a_figure_without_its_record_is_left_out_and_named(change):
    found = parts()
    records = found["measure"]["records"]
    one = next(
        r
        for r in records
        if r["artifact"] == "q4_0 recovered, llama.cpp" and r["what"] == "kl_student_mean" and r["text"] == CHATS
    )
    changes = {
        "other file": ("file_sha256", sha("stale")),
        "other value": ("value", 0.2),
        "other label": ("artifact", "x"),
        "other text": ("text", PROSE),
    }
    if change == "no record":
        records.remove(one)
    else:
        name, value = changes[change]
        one[name] = value
    report = built(**found)
    assert row_of(report, "q4_0 recovered, llama.cpp")["quality"][CHATS]["kl_student_mean"] is None
    assert report["left_out"] == ["q4_0 recovered, llama.cpp: held-out chats, kl_student_mean"]
    # The share stands on that figure, so it goes too; prose keeps its own.
    assert list(report["recovered"]["q4_0"]) == [PROSE]


def test_tasks_refusals_worst_tokens_and_layer_errors_are_passed_on():
    found = parts()
    measured = next(r for r in found["measure"]["rows"] if r["label"] == "q4_0 rounded")
    report = built(**found)
    row = row_of(report, "q4_0 rounded")
    for key in ("tasks", "refusals", "differences", "worst"):
        assert row[key] == measured[key]
    assert report["layers"] == found["measure"]["layers"]
    assert report["layers_by"] == "inputs"
    assert [sets["name"] for sets in report["task_sets"]] == ["openbookqa", "unsafe", "safe"]
    assert "refusals" not in row_of(report, "q4_0 recovered, onnxruntime")
    json.dumps(report, allow_nan=False)


def test_a_measure_without_them_makes_a_report_without_them():
    report = built(**parts(extras=False))
    assert (report["layers"], report["layers_by"], report["task_sets"]) == ({}, None, [])
    assert not any({"tasks", "refusals", "differences", "worst"} & set(row) for row in report["rows"])
    assert report["left_out"] == []


def test_a_task_without_its_record_goes_and_takes_its_difference_along():
    found = parts()
    records = found["measure"]["records"]
    records[:] = [
        r
        for r in records
        if not (r["artifact"] == "q4_0 rounded" and r["what"] in ("task openbookqa", "refusals safe"))
    ]
    report = built(**found)
    row = row_of(report, "q4_0 rounded")
    assert "tasks" not in row
    assert set(row["refusals"]) == {"unsafe"}
    assert set(row["differences"]) == {"refusals unsafe"}
    assert report["left_out"] == [
        "q4_0 rounded: openbookqa, tasks share",
        "q4_0 rounded: safe, refusals share",
        "q4_0 rounded: openbookqa, difference",
        "q4_0 rounded: refusals safe, difference",
    ]


def test_a_difference_that_is_not_the_shares_is_left_out():
    found = parts()
    row = next(r for r in found["measure"]["rows"] if r["label"] == "q4_0 rounded")
    row["differences"]["openbookqa"]["difference"] += 0.01
    report = built(**found)
    assert set(row_of(report, "q4_0 rounded")["differences"]) == {"refusals unsafe", "refusals safe"}
    assert report["left_out"] == ["q4_0 rounded: openbookqa, difference"]


def test_lists_stand_on_the_record_of_their_mean():
    found = parts()
    found["measure"]["layers"]["q4_0"][5]["recovered"] *= 1.1
    next(r for r in found["measure"]["rows"] if r["label"] == "q4_0 rounded")["worst"].pop()
    report = built(**found)
    assert {entry["recovered"] for entry in report["layers"]["q4_0"]} == {None}
    assert None not in {entry["rounded"] for entry in report["layers"]["q4_0"]}
    assert "worst" not in row_of(report, "q4_0 rounded")
    assert report["left_out"] == ["q4_0 rounded: worst tokens", "q4_0 recovered: layer errors"]


def test_without_any_record_no_measured_number_is_left():
    found = parts()
    found["measure"]["records"] = []
    report = built(**found)
    for row in report["rows"]:
        assert {
            value for judge in row["quality"].values() for name, value in (judge or {}).items() if name != "tokens"
        } <= {None}
        assert not any(row.get(key) for key in ("tasks", "refusals", "differences", "worst"))
        assert {
            row["speed"][name] for name in ("prefill_tokens_per_s", "decode_tokens_per_s", "load_s", "peak_rss_bytes")
        } == {None}
    assert (report["recovered"], report["layers"]) == ({}, {})
    assert "tokens/s" not in json.dumps(report["verdict"])


def test_missing_parts_make_a_report_all_the_same():
    found = parts()
    found["teach"], found["curves"] = None, []
    found["measure"].update(rows=[], records=[], samples=None, recovered=None, judges=None, machine=None)
    found["provenance"] = {}
    report = built(**found)
    assert report["verdict"]["sentences"] == []
    assert report["verdict"]["headline"] == "q4_0 and q8_0 fit a laptop's CPU."


def test_numbers_that_are_none_become_null_in_json():
    found = parts()
    found["curves"][0]["points"][3]["loss"] = math.nan
    found["plan"]["mixes"]["q4_0"]["predicted_decode_tokens_per_s"] = math.inf
    report = built(**found)
    json.dumps(report, allow_nan=False)
    assert report["curves"][0]["points"][3]["loss"] is None
    assert report["predictions"][2]["predicted"] is None


def test_predictions_stand_beside_the_llama_cpp_file_that_ships():
    by_name = {(p["mix"], p["what"]): (p["predicted"], p["measured"]) for p in built(**parts())["predictions"]}
    assert by_name["q4_0", "decode"] == (131.0, 117.3)
    assert by_name["q8_0", "memory"] == (280_000_000, 268_000_000)


def test_the_verdict_says_fit_speed_and_what_training_won():
    verdict = built(**parts())["verdict"]
    assert verdict["fits"] is True
    assert verdict["headline"] == "q4_0 and q8_0 fit a laptop's CPU."
    speed, won, nothing = verdict["sentences"]
    assert speed == (
        "Measured on Example CPU @ 2.6 GHz with 2 cores, which isn't the target: q4_0 (81.6 MB) writes 117 tokens/s "
        "and q8_0 (128 MB) writes 62.1 tokens/s (llama.cpp, 1 thread)."
    )
    assert "55 % of it on held-out chats (0.312 → 0.141) and 53 % of it on prose (0.296 → 0.139)" in won
    assert (
        nothing
        == "Nothing beat plain rounding for q8_0: no checkpoint of the training had a lower KL on validation text."
    )


def test_the_verdict_says_so_when_the_packed_file_got_worse():
    found = parts()
    found["curves"] = []
    found["measure"]["recovered"]["q4_0"] = {
        CHATS: {"kl_share": -0.1, "ppl_share": 0.0},
        PROSE: {"kl_share": 0.53, "ppl_share": 0.8},
    }
    found["measure"]["recovered"]["q8_0"] = {CHATS: {"kl_share": -0.02, "ppl_share": 0.0}}
    _, mixed, lost = built(**found)["verdict"]["sentences"]
    assert "but did not beat plain rounding on held-out chats" in mixed
    assert lost.startswith(
        "Nothing beat plain rounding for q8_0: KL to the float student, in nats per token, went 0.0051 → 0.0051"
    )


def test_the_verdict_says_what_does_not_fit_and_why():
    found = parts()
    found["plan"]["mixes"]["q8_0"].update(fits=False, why="needs 280 MB, 250 MB are free")
    assert (
        built(**found)["verdict"]["headline"]
        == "q4_0 fits a laptop's CPU; q8_0 does not (q8_0: needs 280 MB, 250 MB are free)."
    )
    found["plan"]["mixes"]["q4_0"].update(fits=False, why="too big")
    verdict = built(**found)["verdict"]
    assert verdict["fits"] is False
    assert verdict["headline"].startswith("It doesn't fit a laptop's CPU (q4_0: too big; q8_0: needs")


def test_on_the_target_it_is_the_measured_speed_that_fits_or_not():
    found = parts()
    found["plan"]["target"]["limits"] = {"context": 2048, "file": None, "ttft": None, "decode": 100.0}
    assert built(**found)["verdict"]["headline"] == "q4_0 and q8_0 fit a laptop's CPU."
    found["measure"]["on_target"] = True
    assert built(**found)["verdict"]["headline"] == (
        "q4_0 fits a laptop's CPU; q8_0 does not (q8_0: 62.1 tokens/s measured, 100 tokens/s are wanted)."
    )


def test_on_the_target_it_says_so():
    found = parts()
    found["measure"]["on_target"] = True
    assert built(**found)["verdict"]["sentences"][0].startswith(
        "Measured on Example CPU @ 2.6 GHz with 2 cores, which is the target: q4_0"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": None}, "rows\\[0\\]: label is 'None'; it must be a text"),
        ({"kind": "best"}, "of kind 'best'; it must be one of teacher, rival, float, rounded, recovered"),
    ],
)
def test_a_row_that_does_not_say_what_it_is_is_an_error(change, words):
    found = parts()
    found["measure"]["rows"][0].update(change)
    with pytest.raises(RunError, match=words):
        built(**found)
