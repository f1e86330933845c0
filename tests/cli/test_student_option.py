"""--student, --max-size, --max-memory and --min-decode of `plan`: what is chosen, and what is refused."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgedistill.cli.main import cli
from tests.pairs import make_sibling
from tests.tiny import make_tiny_llama


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("models") / "teacher", width=256, ffn=512)


def plan(teacher: Path, *words: str) -> Result:
    return CliRunner().invoke(cli, ["plan", str(teacher), "-t", "laptop-cpu", "-r", "tiny", *words])


def test_the_planner_chooses_within_the_limits(teacher: Path):
    free = json.loads(plan(teacher, "--student", "auto", "--json").stdout)
    small = json.loads(plan(teacher, "--student", "auto", "--max-size", "1.2MB", "--json").stdout)
    assert free["choice"]["chosen"]["kind"] == small["choice"]["chosen"]["kind"] == "same"
    assert free["choice"]["chosen"]["file_bytes"] > 1.2e6 >= small["choice"]["chosen"]["file_bytes"]
    cut = json.loads(plan(teacher, "--student", "depth,width", "--mix", "q8_0", "--json").stdout)
    assert {candidate["kind"] for candidate in cut["choice"]["candidates"]} == {"depth", "width"}
    assert {candidate["mix"] for candidate in cut["choice"]["candidates"]} == {"q8_0"}


def test_one_kind_or_a_number_of_layers_leaves_no_choice(teacher: Path):
    same = json.loads(plan(teacher, "--student", "same", "--json").stdout)
    assert (same["student"]["as_is"], same["choice"]) == (True, None)
    depth = json.loads(plan(teacher, "--layers", "2", "--json").stdout)
    assert (depth["student"]["layers"], depth["choice"]) == (2, None)


def test_limits_hold_for_a_student_that_nobody_chose(teacher: Path):
    refused = plan(teacher, "--student", "same", "--max-size", "100kB")
    assert refused.exit_code == 3
    assert "at most 100 kB are allowed" in refused.output


def test_where_the_teacher_fits_well_in_fewer_bits_it_is_recovered(teacher: Path, tmp_path: Path):
    text = " ".join(plan(teacher, "--student", "auto", "--max-size", "1.2MB").stdout.split())
    assert "nothing to distil: recover it" in text
    words = ["compile", str(teacher), "-t", "laptop-cpu", "-r", "tiny", "-o", str(tmp_path / "run"), "--dry-run"]
    stages = CliRunner().invoke(cli, [*words, "--student", "auto", "--max-size", "1.2MB"]).stdout
    assert "recover-auto_limit" in stages
    assert "distill" not in stages
    cut = CliRunner().invoke(cli, [*words, "--student", "depth", "--max-size", "1.2MB"]).stdout
    assert "distill" in cut


def test_a_sibling_is_chosen_on_the_command_line(teacher: Path, tmp_path: Path):
    sibling = make_sibling(tmp_path / "sibling")
    words = ("--sibling", str(sibling), "--student", "depth", "--mix", "q8_0,q4_0", "--max-size", "150kB", "--json")
    found = json.loads(plan(teacher, *words).stdout)
    assert found["choice"]["chosen"]["kind"] == "sibling"
    assert found["choice"]["chosen"]["start"] == found["student"]["start"]["source"] == str(sibling)
    assert {candidate["kind"] for candidate in found["choice"]["candidates"]} == {"depth", "sibling"}
    assert found["choice"]["runners_up"][0]["lost"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--student", "auto", "--max-size", "50kB"), 3, "The nearest is"),
        (("--student", "auto", "--min-decode", "99999999"), 3, "The nearest is"),
        (("--student", "auto", "--max-memory", "1MB"), 3, "1.00 MB are usable (off by"),
        (("--student", "deep"), 2, "--student names 'deep'; it must be one of same, depth, width, depth+width, auto."),
        (("--student", "same,auto"), 2, "--student names 'auto'; it must be one of same, depth, width, depth+width."),
        (("--student", "width", "--layers", "2"), 2, "--layers cuts the student in depth, and --student is width"),
        (
            ("--student", "auto", "--max-size", "2MB", "--max-memory", "1MB"),
            2,
            "--max-size is 2MB and --max-memory 1MB",
        ),
        (("--student", "same", "--sibling", "other"), 2, "--student same leaves it no choice"),
        (("--layers", "2", "--sibling", "other"), 2, "--layers leaves the planner no choice, and --sibling names"),
        (("--sibling", "nowhere/at-all.gguf"), 2, "nowhere/at-all.gguf"),
        (("--max-size", "80"), 2, "--max-size is '80'; it must be a number with a unit"),
        (("--min-decode", "fast"), 2, "it must be a number with a unit"),
        (("--min-decode", "-5"), 2, "--min-decode is '-5'; it must be a number with a unit"),
        (("--min-decode", "0"), 2, "--min-decode is '0'; it must be above 0"),
    ],
)
def test_what_cannot_be_is_one_sentence(teacher: Path, words: tuple[str, ...], code: int, said: str):
    result = plan(teacher, *words)
    assert result.exit_code == code, result.output
    assert said in " ".join(result.output.split())
