"""`edgedistill compare` on tiny models, as a user types it: killed, continued, added to, from a run and from a foreign
file.
"""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

from edgedistill.report.recommend import recommend
from edgedistill.results.front import pareto_front
from edgedistill.results.report import Report
from tests.e2e.conftest import ENVIRONMENT, edgedistill

RECIPE = Path(__file__).with_name("compare.yaml")
LAPTOP = Path(__file__).parents[2] / "targets" / "laptop-cpu.yaml"


def words(model: Path, out: Path, *more: object) -> list[str]:
    return ["compare", *map(str, (model, "--recipe", RECIPE, "-o", out, *more))]


def bundle_bytes(run: Path) -> dict[str, bytes]:
    files = list((run / "bundle").glob("*.gguf"))
    assert files
    return {file.name: file.read_bytes() for file in files}


def rows_made(run: Path) -> dict[str, int]:
    """When each row was written, by its stage: a row that is measured again is another file."""
    return {path.parent.name: path.stat().st_mtime_ns for path in (run / "stages").glob("measure-*/row.json")}


def foretold(log: str) -> set[int]:
    """Of how many stages a run said that it was at one."""
    return {int(number) for number in re.findall(r"\(stage \d+ of (\d+), ", log)}


def chat(line: str) -> str:
    return str(json.loads(line)["prompt_id"])


@pytest.fixture(scope="module")
def compared(talking_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of two mixes, rounded alone."""
    out = tmp_path_factory.mktemp("compare") / "whole"
    done = edgedistill(*words(talking_llama, out, "--mixes", "q8_0,q4_0"))
    assert done.returncode == 0, done.stderr
    assert foretold(done.stderr) == {len(list((out / "stages").iterdir()))}
    assert f"report  {out}/report.html" in done.stdout
    return out


def test_it_measures_rounded_files_and_recommends_one(compared: Path):
    report = json.loads((compared / "report.json").read_text())
    assert [row["label"] for row in report["rows"]] == ["float model", "q8_0 rounded", "q4_0 rounded"]
    assert [judge["name"] for judge in report["judges"]] == ["held-out chats", "held-out prose"]
    assert report["left_out"] == []
    for row in report["rows"]:
        assert len(row["speed"]["decode_tokens_per_s"]["trials"]) == 2
    assert report["front"]["labels"] == pareto_front(
        Report.from_json(report).rows, ["held-out chats", "held-out prose"]
    )
    assert report["recommendation"] == recommend(Report.from_json(report)).to_json()
    assert report["recommendation"]["mix"] in ("q8_0", "q4_0")
    assert not list((compared / "stages").glob("recover-*"))
    assert not list((compared / "stages").glob("teach-*"))
    with (compared / "compare.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["label"] for line in lines} == {"float model", "q8_0 rounded", "q4_0 rounded"}
    assert [line["label"] for line in lines if line["recommended"] == "yes"] == [report["recommendation"]["label"]]
    assert set(bundle_bytes(compared)) == {"talking-llama-q8_0.gguf", "talking-llama-q4_0.gguf"}


def test_verify_and_export_of_rounded_files_ask_for_recover(compared: Path, tmp_path: Path):
    for command in (("verify", str(compared)), ("export", str(compared), "-o", str(tmp_path / "out"))):
        done = edgedistill(*command)
        assert done.returncode == 2
        assert "its files were only rounded" in done.stderr
        assert "run `edgedistill compare` again with --recover" in done.stderr


def test_a_second_run_computes_nothing(compared: Path, talking_llama: Path):
    before = rows_made(compared), bundle_bytes(compared), (compared / "report.json").read_bytes()
    done = edgedistill(*words(talking_llama, compared, "--mixes", "q8_0,q4_0", "--json"))
    assert done.returncode == 0, done.stderr
    assert "done in" not in done.stderr
    assert (rows_made(compared), bundle_bytes(compared), (compared / "report.json").read_bytes()) == before
    found = json.loads(done.stdout)
    assert found["schema"] == "edgedistill.compare/1"
    assert Path(found["recommendation"]["file"]).is_file()
    assert len(found["rows"]) == 3


def test_a_target_file_of_this_machine_is_held_to_what_was_measured(
    compared: Path, talking_llama: Path, tmp_path: Path
):
    """A laptop's own file, with figures to predict from: `this_machine` makes measured speeds count instead of them."""
    run = Path(shutil.copytree(compared, tmp_path / "run"))
    laptop = (LAPTOP.read_text(encoding="utf-8")).replace("name: laptop-cpu", "name: my-laptop")
    file, options = tmp_path / "my-laptop.yaml", ("--mixes", "q8_0,q4_0", "--target", tmp_path / "my-laptop.yaml")
    rows = json.loads((compared / "report.json").read_text())["rows"]
    fastest = max(row["speed"]["decode_tokens_per_s"]["mean"] for row in rows)
    too_fast, slow = f"decode: {2 * fastest:.0f} tokens/s", "decode: 0.001 tokens/s"

    file.write_text(laptop.replace("decode: 8 tokens/s", too_fast), encoding="utf-8")
    elsewhere = edgedistill(*words(talking_llama, run, *options))
    assert elsewhere.returncode == 0, elsewhere.stderr
    report = json.loads((run / "report.json").read_text())
    assert report["on_target"] is False
    assert report["recommendation"]["mix"], "the predicted speeds are fast enough"
    assert ", which isn't the target:" in report["verdict"]["sentences"][0]

    file.write_text(laptop.replace("decode: 8 tokens/s", too_fast) + "this_machine: true\n", encoding="utf-8")
    here = edgedistill(*words(talking_llama, run, *options))
    assert here.returncode == 3
    assert "tokens/s measured" in here.stderr
    assert "speeds: complete already" in here.stderr
    report = json.loads((run / "report.json").read_text())
    assert (report["on_target"], report["recommendation"], report["verdict"]["fits"]) == (True, None, False)

    file.write_text(laptop.replace("decode: 8 tokens/s", slow) + "this_machine: true\n", encoding="utf-8")
    here = edgedistill(*words(talking_llama, run, *options))
    assert here.returncode == 0, here.stderr
    report = json.loads((run / "report.json").read_text())
    assert (report["on_target"], report["verdict"]["fits"]) == (True, True)
    assert ", which is the target:" in report["verdict"]["sentences"][0]


def test_another_mix_and_recovery_make_and_judge_only_what_is_new(compared: Path, talking_llama: Path, tmp_path: Path):
    run = Path(shutil.copytree(compared, tmp_path / "run"))
    first = rows_made(run)
    done = edgedistill(*words(talking_llama, run, "--mixes", "q8_0,q4_0,q5_1"))
    assert done.returncode == 0, done.stderr
    second = rows_made(run)
    assert first.items() <= second.items()
    assert len(second) == len(first) + 1
    for stage in (
        "student",
        "float-gguf",
        "held-out",
        "judges",
        "reference-student",
        "rounded-q8_0",
        "measure-q4_0-rounded",
    ):
        assert f"{stage}: complete already" in done.stderr
    assert "speeds: done in" in done.stderr  # trials of two sittings can't be compared
    done = edgedistill(
        *words(talking_llama, run, "--mixes", "q8_0,q4_0,q5_1", "--recover", "512", "--target", "laptop-cpu")
    )
    assert done.returncode == 0, done.stderr
    assert foretold(done.stderr) == {len(json.loads((run / "run.json").read_text())["current"])}
    third = rows_made(run)
    assert second.items() <= third.items()
    assert len(third) == len(second) + 3
    report = json.loads((run / "report.json").read_text())
    assert [row["kind"] for row in report["rows"]] == ["float", *(["rounded", "recovered"] * 3)]
    assert report["target"]["limits"]["decode"] == 8.0
    # None of the chats that judge was trained on.
    texts = [
        {
            line
            for path in run.glob(f"stages/{stage}-*/traces-*.jsonl")
            for line in map(chat, path.read_text().splitlines())
        }
        for stage in ("held-out", "teach")
    ]
    assert all(texts)
    assert not texts[0] & texts[1]


def test_killed_twice_it_ends_the_same_and_measures_no_file_twice(talking_llama: Path, tmp_path: Path):
    options = ("--mixes", "q8_0,q4_0", "--recover", "1k")
    whole = tmp_path / "whole"
    assert edgedistill(*words(talking_llama, whole, *options)).returncode == 0
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "edgedistill", *words(talking_llama, out, *options)]
    seen: dict[str, int] = {}
    for stage in ("recover-q4_0", "measure-q4_0-rounded"):
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not any((out / "stages").glob(f".{stage}-*.partial")):
            assert process.poll() is None, f"it ended before stage {stage} began"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        seen |= rows_made(out)
    assert seen, "the second kill came after some rows"
    done = edgedistill(*words(talking_llama, out, *options))
    assert done.returncode == 0, done.stderr
    assert bundle_bytes(out) == bundle_bytes(whole)
    assert seen.items() <= rows_made(out).items()
    assert set(rows_made(out)) == set(rows_made(whole))
    rows = [json.loads((run / "report.json").read_text())["rows"] for run in (whole, out)]
    for one, other in zip(*rows, strict=True):
        assert (one["label"], one["sha256"], one["quality"]) == (other["label"], other["sha256"], other["quality"])
    assert not list((out / "stages").glob(".*.partial"))


def test_a_round_of_speeds_that_a_kill_broke_off_goes_on(talking_llama: Path, compared: Path, tmp_path: Path):
    run = Path(shutil.copytree(compared, tmp_path / "run"))
    (speeds,) = run.glob("stages/speeds-*")
    kept = {path.name: path.read_bytes() for path in speeds.glob("round-*.json")}
    assert len(kept) == 2 * 3
    # As a kill leaves it after four trials: unmarked, under its partial name, with the note of what it was begun from.
    (speeds / "stage.json").unlink()
    (speeds / "speeds.json").unlink()
    gone = sorted(kept)[4:]
    for name in gone:
        (speeds / name).unlink()
    speeds.rename(speeds.with_name(f".{speeds.name}.partial"))
    speeds.with_name(f".{speeds.name}.origin.json").write_text("{}")
    done = edgedistill(*words(talking_llama, run, "--mixes", "q8_0,q4_0"))
    assert done.returncode == 0, done.stderr
    (again,) = run.glob("stages/speeds-*")
    assert {path.name for path in again.glob("round-*.json")} == set(kept)
    for name in sorted(kept)[:4]:
        assert (again / name).read_bytes() == kept[name]


def test_a_run_of_ours_is_compared_by_its_float_student(compiled: Path, tmp_path: Path):
    done = edgedistill(*words(compiled, tmp_path / "run", "--mixes", "q4_0"))
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    theirs = json.loads((compiled / "report.json").read_text())
    assert report["student"]["layers"] == theirs["student"]["layers"]
    assert report["teacher"]["source"] == str(compiled)
    assert report["teacher"]["name"] == f"talking-llama {theirs['student']['layers']} layers"
    rounded = {row["label"]: row for row in report["rows"]}["q4_0 rounded"]
    before = {row["label"]: row for row in theirs["rows"]}["q4_0 rounded"]
    assert rounded["quality"]["held-out prose"]["ppl"] == pytest.approx(
        before["quality"]["held-out prose"]["ppl"], rel=1e-6
    )


@pytest.fixture(scope="module")
def foreign(compared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Q5_0 file whose matrices the gguf package rounded, not we: keys and vocabulary copied from a float file."""
    (source,) = compared.glob("stages/float-gguf-*/model.gguf")
    out = tmp_path_factory.mktemp("foreign") / "someones.Q5_0.gguf"
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind = field.types[0]
        writer.add_key_value(
            field.name, field.contents(), kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        )
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if values.ndim == 1:
            writer.add_tensor(tensor.name, values.astype(np.float32))
        else:
            packed = gguf.quantize(values.astype(np.float32), gguf.GGMLQuantizationType.Q5_0)
            writer.add_tensor(tensor.name, packed, raw_dtype=gguf.GGMLQuantizationType.Q5_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def test_a_foreign_quantized_file_is_a_row_and_its_weights_the_reference(foreign: Path, tmp_path: Path):
    done = edgedistill(*words(foreign, tmp_path / "run", "--mixes", "q8_0,q4_0"))
    assert done.returncode == 0, done.stderr
    assert "its weights are already rounded, most of them to q5_0; everything is compared with" in done.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    rows = {row["label"]: row for row in report["rows"]}
    assert list(rows) == ["model as given", "float model", "q8_0 rounded", "q4_0 rounded"]
    given = rows["model as given"]
    assert given["kind"] == "teacher"
    assert given["file_bytes"] == foreign.stat().st_size
    for judge in report["judges"]:
        # The same weights, read by llama.cpp from its own blocks: only the products are rounded otherwise.
        assert (
            given["quality"][judge["name"]]["kl_student_mean"]
            < rows["q4_0 rounded"]["quality"][judge["name"]]["kl_student_mean"] / 3
        )
    assert "model as given" in done.stdout
    assert report["recommendation"] == recommend(Report.from_json(report)).to_json()
    if report["recommendation"]["mix"] is None:
        assert f"keep    {foreign}" in done.stdout


def test_where_nothing_fits_it_says_so_with_exit_code_3_and_shows_the_table(
    compared: Path, talking_llama: Path, tmp_path: Path
):
    run = Path(shutil.copytree(compared, tmp_path / "run"))
    text = (
        (Path(__file__).parents[2] / "targets" / "phone.yaml")
        .read_text(encoding="utf-8")
        .replace("usable: 3 GiB", "usable: 1 MiB")
    )
    (tmp_path / "watch.yaml").write_text(text.replace("name: phone", "name: watch"), encoding="utf-8")
    done = edgedistill(*words(talking_llama, run, "--mixes", "q8_0,q4_0", "--target", tmp_path / "watch.yaml"))
    assert done.returncode == 3
    assert "q8_0 rounded" in done.stdout
    assert "Error: Nothing here fits" in done.stderr
    assert rows_made(run) == rows_made(compared)


def test_own_text_judges_and_a_folder_needs_no_name(talking_llama: Path, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("In this file the fox runs. " * 200, encoding="utf-8")
    command = ["compare", talking_llama, "-r", RECIPE, "--mixes", "q4_0", "--text", "mine.txt"]
    done = subprocess.run(
        [sys.executable, "-m", "edgedistill", *map(str, command)],
        env={**ENVIRONMENT, "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert f"comparing q4_0 of talking-llama in runs/compare-{talking_llama.name}" in done.stderr
    report = json.loads((tmp_path / "runs" / f"compare-{talking_llama.name}" / "report.json").read_text())
    assert [judge["name"] for judge in report["judges"]] == ["held-out chats", "held-out own text"]


def test_a_file_of_a_bundle_is_asked_behind_the_system_message_of_its_training(compared: Path, tmp_path: Path):
    (tmp_path / "bundle").mkdir()
    (file,) = (compared / "bundle").glob("*-q8_0.gguf")
    shutil.copy(file, tmp_path / "bundle")
    held = json.loads((compared / "bundle" / "bundle.json").read_text())
    assert held["system"] is None
    (tmp_path / "bundle" / "bundle.json").write_text(json.dumps(held | {"system": "Be brief."}))
    done = edgedistill(*words(tmp_path / "bundle" / file.name, tmp_path / "run", "--mixes", "q4_0"))
    assert done.returncode == 0, done.stderr
    assert "was trained on began with a system message; it is asked behind it here too" in done.stderr
    assert json.loads((tmp_path / "run" / "bundle" / "bundle.json").read_text())["system"] == "Be brief."
    assert "training began with: “Be brief.”" in (tmp_path / "run" / "report.html").read_text()
    traces = [path.read_text() for path in (tmp_path / "run" / "stages").glob("held-out-*/traces-*.jsonl")]
    assert all("Be brief." in trace for trace in traces)
