"""What stands first: teacher and file side by side, and a warning where the file is a poor stand-in for its teacher."""

from pathlib import Path
from typing import Any

from edgedistill.bundle.card import model_card
from edgedistill.report.terminal import render_terminal
from edgedistill.runtimes.chat_defaults import ChatDefaults
from tests.report.sample import built, page_of, parts, report_of


def wrecked() -> dict[str, Any]:
    """Every row but the teacher's has twenty times its perplexity, with the records that vouch for it."""
    found = parts()
    for row in found["measure"]["rows"]:
        if row["kind"] == "teacher":
            continue
        for judge, quality in row["quality"].items():
            if quality is None:
                continue
            before, quality["ppl"] = quality["ppl"], 20 * quality["ppl"]
            for record in found["measure"]["records"]:
                if (record["artifact"], record["what"], record["text"]) == (row["label"], "ppl", judge):
                    assert record["value"] == before
                    record["value"] = quality["ppl"]
    return found


def test_the_teacher_stands_before_the_file_with_both_perplexities():
    line = render_terminal(report_of(**parts()), 200).splitlines()[0]
    words = line.replace("\u202f", " ")
    assert words.startswith("SmolLM2-135M-Instruct (134 515 008 weights, 98.9 MB, 72.0 tokens/s, perplexity 3.100) → ")
    assert "; KL to the teacher" in words
    assert 'class="lineage"' in page_of(built(**parts()))


def test_a_teacher_that_learned_labelled_answers_first_is_said_to_have():
    """Its figures aren't those of the model that was given."""
    found = parts()
    found["curves"].insert(0, {**found["curves"][0], "stage": "specialise"})
    report = report_of(**found)
    assert report.verdict.lineage is not None
    assert report.verdict.lineage.startswith("SmolLM2-135M-Instruct trained on labelled answers (134")
    card = model_card(report, "m", Path(), {}, {}, ChatDefaults())
    assert "the teacher was trained on labelled answers; its figures are of what that left." in card
    assert "labelled answers" not in model_card(report_of(**parts()), "m", Path(), {}, {}, ChatDefaults())


def test_a_wrecked_student_gets_a_warning_and_no_tick():
    report = built(**wrecked())
    assert report["verdict"]["fits"] is True
    assert "is a poor stand-in for its teacher: its perplexity on" in report["verdict"]["warning"]
    page = page_of(report)
    assert '<p class="headline">Warning: q8_0 recovered, llama.cpp is a poor stand-in' in page
    assert "fit" not in page.split('class="headline">')[1].split("</p>")[0]  # the cross is not beside what went well
    assert 'class="verdict fails"' in page
    assert "Warning: q8_0 recovered, llama.cpp is a poor stand-in" in render_terminal(report_of(**wrecked()), 200)


def test_blank_answers_are_a_reason_for_a_warning():
    found = parts()
    for sample in found["measure"]["samples"]:
        sample["answers"] = {label: " " for label in sample["answers"]}
    assert "sample answers are blank" in built(**found)["verdict"]["warning"]


def test_a_good_student_gets_none():
    report = built(**parts())
    assert report["verdict"].get("warning") is None
    assert 'class="verdict fits"' in page_of(report)


def test_fit_and_training_are_told_apart():
    found = parts()
    words = " ".join(built(**found)["verdict"]["sentences"])
    assert "the fit to its grid and the training on it won back 55 % of it on" in words
    curve = next(curve for curve in found["curves"] if curve["stage"] == "recover q4_0")
    rounded, start, best = (curve[name]["kl"] for name in ("rounded", "start", "best"))
    fit, training = (f"{100 * share:.0f} %" for share in (1 - start / rounded, (start - best) / rounded))
    assert f"on validation text the fit won back {fit}, the training {training}" in words
    for curve in found["curves"]:
        curve["points"] = []
    words = " ".join(built(**found)["verdict"]["sentences"])
    assert "the fit to its grid, without training, won back 55 % of it on" in words
    assert "the training on" not in words


def test_what_was_cut_stands_beside_the_students_weights():
    found = parts()
    found["plan"]["student"]["cut"] = "30 of 30 layers, ffn 768 of 1536"
    line = render_terminal(report_of(**found), 300).splitlines()[0].replace("\u202f", " ")
    assert " weights, 30 of 30 layers, ffn 768 of 1536, " in line.partition("→")[2]
    assert "ffn 768" not in render_terminal(report_of(**parts()), 300)
