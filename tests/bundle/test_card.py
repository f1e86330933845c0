"""The model card: front matter that Hugging Face's own reader takes, the page's facts, honest limits, the licence's
demands.
"""

import re

import pytest
from huggingface_hub import ModelCard

from edgedistill.bundle.card import model_card
from edgedistill.machine import machine_facts
from edgedistill.plan.here import here
from edgedistill.results.report import Report
from edgedistill.runtimes.chat_defaults import ChatDefaults
from edgedistill.show import show_machine
from tests.report.full_sample import comparison, full_report
from tests.report.sample import built, parts


@pytest.fixture
def card(tmp_path):
    """The card of a report, read by the hub's library."""
    file = tmp_path / "m-q4_0.gguf"
    file.write_bytes(b"weights")

    def write(report):
        return ModelCard(
            model_card(
                Report.from_json(report), "m", tmp_path, {"gguf-q4_0": file}, {file.name: "0" * 64}, ChatDefaults()
            )
        )

    return write


def test_the_hubs_library_reads_the_front_matter(card):
    found = card(full_report())
    assert found.data.license == "apache-2.0"
    assert found.data.base_model == "SmolLM2-135M-Instruct"
    assert found.data.to_dict()["base_model_relation"] == "finetune"
    assert found.data.pipeline_tag == "text-generation"
    assert found.data.eval_results is None
    assert f"| `m-q4_0.gguf` | 7 B | `{'0' * 64}` |" in found.text


def test_an_existing_model_on_its_grid_is_a_quantization_of_it(card):
    report = comparison()
    report["teacher"]["source"] = "HuggingFaceTB/SmolLM2-135M-Instruct"
    data = card(report).data.to_dict()
    assert data["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert data["base_model_relation"] == "quantized"
    assert data["tags"] == ["edgedistill", "quantization-aware-training", "gguf"]
    text = card(comparison(recover=False)).text
    assert "rounded to the number grid of its file" in text
    assert "Training on the grid" not in text


@pytest.mark.parametrize(
    ("stated", "front"),
    [
        ("llama3.2", {"license": "llama3.2"}),
        ("qwen-research", {"license": "other", "license_name": "qwen-research", "license_link": "LICENSE"}),
        (None, {"license": "unknown"}),
        ("My Own: licence!", {"license": "other", "license_name": "My-Own-licence", "license_link": "LICENSE"}),
    ],
)
def test_only_licences_that_the_hub_knows_are_named_as_such(card, stated, front):
    report = full_report()
    report["provenance"]["license"] = stated
    data = card(report).data.to_dict()
    assert {key: value for key, value in data.items() if key.startswith("license")} == front


def test_the_page_and_the_card_tell_the_same_facts(card):
    report = full_report()
    text = card(report).text
    for fact in (
        report["verdict"]["headline"],
        report["recommendation"]["sentence"],
        "3\u202f000 tokens, texts the teacher wrote, never trained on",
        "| q4_0 rounded | 54 % (47 % to 61 %) | 67 % (60 % to 74 %) | 68 % (58 % to 78 %) | 12 % (4.9 % to 19 %) |",
        "All stages took 14 min and at most 2.40 GB of memory.",
        "15\u202f040\u202f512 blocks, 0 differences",
        "edgedistill 0.1.0, torch 2.13.0",
        "Pass on a copy of the licence",
        "no legal advice",
        "Measured on Example CPU @ 2.6 GHz with 2 cores, which isn't the target (Linux 6.1).",
        "Speed and memory were measured on Example CPU @ 2.6 GHz with 2 cores, which isn't the target;",
        "The machine was busy with other work while some speeds were measured.",
    ):
        assert fact in text, fact
    assert "was not measured" not in text
    labels = re.findall(r"^\| ([^|]*) \| llama\.cpp", text, re.M)
    assert labels[:4] == ["teacher (Q4_1 GGUF)", "float student", "q4_0 rounded", "q4_0 recovered, llama.cpp"]


def test_what_was_not_measured_is_said(card):
    found = parts()
    found["measure"]["on_target"] = True
    report = built(**found)
    for row in report["rows"]:
        for key in ("tasks", "refusals"):
            row.pop(key, None)
        row["speed"]["busy"] = False
    text = card(report).text
    assert "No task was measured" in text
    assert "refuses unsafe requests as its teacher does was not measured" in text
    assert "isn't the target" not in text
    assert "busy" not in text


def test_nothing_in_it_is_said_to_be_here(card):
    """The card is read elsewhere than where the figures were measured."""
    for on_target in (False, True):
        found = parts()
        found["measure"]["on_target"] = on_target
        text = card(built(**found)).text
        assert not re.search(r"\bhere\b|this machine|this computer", text, re.I)
        assert "on Example CPU @ 2.6 GHz with 2 cores" in text


def test_this_machine_as_a_target_is_called_by_its_name(card):
    target = here()
    found = parts()
    found["plan"]["target"] = target.to_dict() | {"usable_memory_bytes": 10**10, "context_tokens": 2048}
    text = card(built(**found)).text
    assert "this machine" not in text
    assert f"fit {show_machine(machine_facts())}" in text


def test_examples_that_lie_in_the_folder_are_listed(tmp_path):
    (tmp_path / "examples" / "node").mkdir(parents=True)
    for name in ("chat.py", "node/chat.mjs"):
        (tmp_path / "examples" / name).write_text("x")
    text = model_card(Report.from_json(full_report()), "m", tmp_path, {}, {}, ChatDefaults())
    assert "- `examples/chat.py`\n- `examples/node/chat.mjs`" in text
    assert "## Examples" not in model_card(
        Report.from_json(full_report()), "m", tmp_path / "examples", {}, {}, ChatDefaults()
    )
