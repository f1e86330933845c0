"""The bundle: files that sha256sum accepts, papers that say what was measured, names that stay inside."""

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from edgedistill.bundle import folder as folder_module
from edgedistill.bundle.folder import bundle_damage, write_bundle
from edgedistill.bundle.names import safe_name
from edgedistill.errors import InputError, RunError
from edgedistill.show import show
from tests.bundle.conftest import tiny_gguf
from tests.report.sample import parts, report_of, sha
from tests.tiny import make_tokenizer

Q4 = tiny_gguf()
# Beside the artifacts: what is in every bundle with a GGUF, and with a GGUF and an ONNX folder.
EXAMPLES = [
    "examples/README.md",
    "examples/android/README.md",
    "examples/browser/README.md",
    "examples/browser/chat.mjs",
    "examples/browser/engine.mjs",
    "examples/browser/index.html",
    "examples/browser/package.json",
    "examples/browser/repetition.mjs",
    "examples/browser/serve.py",
    "examples/chat_llama_cpp.py",
    "examples/chat_openai.py",
    "examples/repetition.py",
    "examples/cpp/CMakeLists.txt",
    "examples/cpp/README.md",
    "examples/cpp/main.cpp",
]
WITH_GGUF = [
    "LICENSE",
    "MODEL_CARD.md",
    "Modelfile",
    "README.md",
    "SHA256SUMS",
    "bundle.json",
    "chat_template.jinja",
    *EXAMPLES,
    "tokenizer.json",
    "tokenizer_config.json",
]
WITH_BOTH = [*WITH_GGUF, "examples/chat_onnxruntime.py", "examples/node/chat.mjs", "examples/node/package.json"]
WITH_BOTH += ["examples/node/repetition.mjs"]


@pytest.fixture
def artifacts(tmp_path):
    made = tmp_path / "stages"
    (made / "q4" / "onnx").mkdir(parents=True)
    (made / "model-q4.gguf").write_bytes(Q4)
    (made / "q4" / "onnx" / "model_q4.onnx").write_bytes(b"graph")
    (made / "q4" / "onnx" / "model_q4.onnx_data").write_bytes(b"weights")
    (made / "q4" / "config.json").write_text("{}")
    make_tokenizer().save_pretrained(made / "q4")
    return {"gguf-q4_0": made / "model-q4.gguf", "onnx-q4_0": made / "q4"}


def report():
    return report_of(**measured())


def measured():
    """The sample's findings, of the file that is here: its hash of a file is that of a name."""
    return json.loads(json.dumps(parts()).replace(sha("smollm2-26-q4_0.gguf"), hashlib.sha256(Q4).hexdigest()))


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_bundle_holds_the_files_and_sha256sum_agrees(tmp_path, artifacts):
    out = write_bundle(artifacts, report(), tmp_path / "run" / "bundle", "SmolLM2 26")
    onnx = ["config.json", "onnx/model_q4.onnx", "onnx/model_q4.onnx_data"]
    onnx += ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]
    assert files(out) == sorted([*WITH_BOTH, "SmolLM2-26-q4_0.gguf", *(f"onnx-q4_0/{name}" for name in onnx)])
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert (out / "SmolLM2-26-q4_0.gguf").samefile(artifacts["gguf-q4_0"])
    checked = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=out, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.count(": OK") == len(files(out)) - 1
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]


def test_a_flipped_byte_is_seen_by_sha256sum(tmp_path, artifacts):
    out = write_bundle(artifacts, report(), tmp_path / "bundle", "m")
    (out / "onnx-q4_0" / "onnx" / "model_q4.onnx_data").write_bytes(b"weightz")
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=out, capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert "model_q4.onnx_data: FAILED" in checked.stdout


def test_where_the_disk_cannot_link_the_files_are_copied(tmp_path, artifacts, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(folder_module.os, "link", refuse)
    out = write_bundle(artifacts, report(), tmp_path / "bundle", "m")
    assert (out / "m-q4_0.gguf").read_bytes() == Q4
    assert not (out / "m-q4_0.gguf").samefile(artifacts["gguf-q4_0"])


def test_a_damaged_gguf_is_named_and_nothing_is_left(tmp_path, artifacts):
    artifacts["gguf-q4_0"].write_bytes(b"GGUF and no more")
    with pytest.raises(InputError, match=r"m-q4_0\.gguf: "):
        write_bundle({"gguf-q4_0": artifacts["gguf-q4_0"]}, replace(report(), rows=()), tmp_path / "bundle", "m")
    assert not (tmp_path / "bundle").exists()


def test_a_full_disk_is_one_sentence_and_the_old_bundle_stays(tmp_path, artifacts, monkeypatch):
    out = write_bundle(artifacts, report(), tmp_path / "bundle", "old")
    before = files(out)

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder_module.os, "link", refuse)
    with pytest.raises(RunError, match=r"bundle: it cannot be written \(No space left on device\)"):
        write_bundle(artifacts, report(), out, "new")
    assert files(out) == before
    monkeypatch.undo()
    assert "new-q4_0.gguf" in files(write_bundle(artifacts, report(), out, "new"))  # the torn attempt is no hindrance
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "stages"]


def test_a_newer_bundle_replaces_the_older_one_wholly(tmp_path, artifacts):
    out = write_bundle(artifacts, report(), tmp_path / "bundle", "old")
    write_bundle({"gguf-q4_0": artifacts["gguf-q4_0"]}, report(), out, "new")
    assert files(out) == sorted([*WITH_GGUF, "new-q4_0.gguf"])


def test_what_ships_names_no_path_of_the_machine_that_made_it(tmp_path, artifacts):
    def shipped(folder: str) -> dict[str, bytes]:
        (tmp_path / folder / "teacher").mkdir(parents=True)
        teacher = f"{tmp_path / folder}/teacher"
        made = report()
        made = replace(
            made,
            teacher=replace(made.teacher, source=teacher),
            provenance=replace(
                made.provenance,
                teacher=teacher,
                command=f"edgedistill compile {teacher} --target org/name -o {tmp_path / folder / 'run'}",
            ),
        )
        out = write_bundle(artifacts, made, tmp_path / folder / "bundle", "tiny")
        return {name: (out / name).read_bytes() for name in files(out)}

    here, there = shipped("here"), shipped("there")
    assert not [name for name, content in here.items() if str(tmp_path).encode() in content]
    assert b"edgedistill compile teacher --target org/name -o run" in here["README.md"]
    assert here == there


@pytest.mark.parametrize("removed", ["SHA256SUMS", "bundle.json"])
def test_a_bundle_without_one_of_its_papers_is_still_a_bundle(tmp_path, artifacts, removed):
    out = write_bundle(artifacts, report(), tmp_path / "bundle", "tiny")
    before = files(out)
    (out / removed).unlink()
    assert bundle_damage(out) == f"{removed} is missing"
    write_bundle(artifacts, report(), out, "tiny")
    assert files(out) == before
    (out / "SHA256SUMS").write_bytes(b"\xff\xfe")
    assert bundle_damage(out) == "SHA256SUMS isn't text"


def test_a_folder_that_is_no_bundle_is_left_alone(tmp_path, artifacts):
    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    with pytest.raises(InputError, match="holds files but no SHA256SUMS, so it is no bundle and stays untouched"):
        write_bundle(artifacts, report(), precious, "m")
    assert files(precious) == ["thesis.txt"]
    link = tmp_path / "link"
    link.symlink_to(precious)
    with pytest.raises(InputError, match="it is no folder"):
        write_bundle(artifacts, report(), link, "m")


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd", "etc-passwd"),
        ("SmolLM2-135M Instruct", "SmolLM2-135M-Instruct"),
        ("", "model"),
        ("..", "model"),
        ("/abs", "abs"),
        ("a\x00b\nc", "a-b-c"),
        ("-rf", "rf"),
        (".hidden", "hidden"),
        ("naïve", "naive"),
        ("模型", "model"),
        ("a..b", "a.b"),
        ("x" * 500, "x" * 80),
        ("C:\\windows", "C-windows"),
        ("$(rm -rf ~)", "rm-rf"),
        ("a\u202eb", "ab"),
    ],
)
def test_a_hostile_name_becomes_one_harmless_part_of_a_path(name, safe, tmp_path, artifacts):
    assert safe_name(name) == safe
    out = write_bundle({"gguf-q4_0": artifacts["gguf-q4_0"]}, report(), tmp_path / "bundle", name)
    assert f"{safe}-q4_0.gguf" in files(out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "stages"]


@pytest.mark.parametrize("key", ["q4_0", "gguf-../x", "gguf-", "zip-q4_0", "onnx-Q4 0"])
def test_a_key_that_is_none_is_refused_by_name(key, tmp_path, artifacts):
    with pytest.raises(InputError, match="must be named gguf-MIX or onnx-MIX") as error:
        write_bundle({key: artifacts["gguf-q4_0"]}, report(), tmp_path / "bundle", "m")
    assert f"'{key}'" in str(error.value)
    assert not (tmp_path / "bundle").exists()


def test_missing_artifacts_are_named_before_anything_is_written(tmp_path, artifacts):
    with pytest.raises(InputError, match="needs at least one artifact"):
        write_bundle({}, report(), tmp_path / "bundle", "m")
    with pytest.raises(InputError, match="the bundle's gguf-q8_0 must be a file, and there is none"):
        write_bundle({"gguf-q8_0": tmp_path / "none.gguf"}, report(), tmp_path / "bundle", "m")
    with pytest.raises(InputError, match="the bundle's onnx-q4_0 must be a folder"):
        write_bundle({"onnx-q4_0": artifacts["gguf-q4_0"]}, report(), tmp_path / "bundle", "m")
    assert not (tmp_path / "bundle").exists()


def test_a_file_that_was_not_the_measured_one_does_not_ship(tmp_path, artifacts):
    artifacts["gguf-q4_0"].write_bytes(tiny_gguf("another"))
    with pytest.raises(RunError, match=r"m-q4_0.gguf: its content is not what was measured"):
        write_bundle(artifacts, report(), tmp_path / "bundle", "m")
    assert not (tmp_path / "bundle").exists()


def test_links_and_odd_names_in_an_artifact_are_refused(tmp_path, artifacts):
    odd = artifacts["onnx-q4_0"] / "a\nb"
    odd.write_text("x")
    with pytest.raises(RunError, match="file names hold only"):
        write_bundle(artifacts, report(), tmp_path / "bundle", "m")
    odd.unlink()
    (artifacts["onnx-q4_0"] / "secret").symlink_to("/etc/passwd")
    with pytest.raises(RunError, match="it is a link"):
        write_bundle(artifacts, report(), tmp_path / "bundle", "m")


def test_the_card_tells_origin_licence_files_and_figures(tmp_path, artifacts):
    out = write_bundle(artifacts, report(), tmp_path / "bundle", "m", license_text="Apache License, in full")
    card = (out / "README.md").read_text(encoding="utf-8")
    assert (out / "MODEL_CARD.md").read_text(
        encoding="utf-8"
    ) == card  # a hub finds the one, who has the folder the other
    front = yaml.safe_load(card.split("---")[1])
    assert front == {
        "license": "apache-2.0",
        "base_model": "SmolLM2-135M-Instruct",
        "base_model_relation": "finetune",
        "pipeline_tag": "text-generation",
        "library_name": "gguf",
        "tags": ["edgedistill", "distillation", "quantization-aware-training", "gguf", "onnx"],
    }
    assert f"| `m-q4_0.gguf` | {show(len(Q4), 'bytes')} | `{hashlib.sha256(Q4).hexdigest()}` |" in card
    row = "| q4_0 recovered, llama.cpp | llama.cpp | 81.6 MB | 4.520 | 0.141 | 0.980 | 80 % | 117 | 379 | 211 MB |"
    assert row in card.splitlines()
    assert "Measured on Example CPU @ 2.6 GHz with 2 cores, which isn't the target (Linux 6.1)." in card
    assert 'Llama(model_path="m-q4_0.gguf"' in card
    license_file = (out / "LICENSE").read_text(encoding="utf-8")
    assert "The teacher's licence is apache-2.0" in license_file
    assert "Apache License, in full" in license_file


def test_an_unknown_licence_is_said(tmp_path, artifacts):
    found = measured()
    found["provenance"]["license"] = None
    out = write_bundle(artifacts, report_of(**found), tmp_path / "bundle", "m")
    assert "The model names no licence: ask its makers" in (out / "LICENSE").read_text(encoding="utf-8")


def test_hostile_words_do_nothing_in_the_card(tmp_path, artifacts):
    found = measured()
    evil = "<script>x</script> [a](http://evil.example) | ![i](y) `c` \x1b[31m\u202e\n# heading\n---\nlicense: mit"
    found["plan"]["teacher"].update(name=evil, source=evil)
    found["plan"]["target"]["title"] = evil
    found["provenance"].update(license=evil, command=f"x\n```\n{evil}")
    out = write_bundle(artifacts, report_of(**found), tmp_path / "bundle", "m")
    card = (out / "README.md").read_text(encoding="utf-8")
    front = card.split("\n---\n")[0].removeprefix("---\n")
    assert "base_model" not in yaml.safe_load(front)  # no name that the hub could have
    assert yaml.safe_load(front)["license"] == "other"
    before_code = card.split("\n---\n", 1)[1].split("\n## Run it")[0]
    assert "<script>" not in before_code
    assert "\\[a\\](http" in before_code
    assert not re.search(r"(?<!\\)\[a\]", before_code)
    assert "# heading" not in [line[:9] for line in card.splitlines()[:40]]
    assert "\x1b" not in card
    assert "\u202e" not in card
    assert "````sh" in card  # its own three backticks don't end the block


def test_the_onnxruntime_program_in_the_card_runs_as_it_stands(tmp_path):
    """On a graph of our own with an exporter's names, whose answer is known: each token's successor."""
    model = tmp_path / "onnx"
    model.mkdir()
    expected = make_counting_model(model)
    out = write_bundle({"onnx-q4_0": model}, report(), tmp_path / "bundle", "m")
    card = (out / "README.md").read_text(encoding="utf-8")
    program = re.search(r"## Run it with onnxruntime\n\n```python\n(.*?)```", card, re.S).group(1)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=out,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip("\n") == expected


def test_the_llama_program_in_the_card_is_python(tmp_path, artifacts):
    out = write_bundle(artifacts, report(), tmp_path / "bundle", "m")
    program = re.search(
        r"```python\n(from llama_cpp.*?)```", (out / "README.md").read_text(encoding="utf-8"), re.S
    ).group(1)
    compile(program, "README.md", "exec")


def make_counting_model(folder: Path, chain: list[int] | None = None) -> str:
    """An ONNX graph that answers with the ids of `chain`, and whose cache must grow with the mask; returns their
    text.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    tokenizer = make_tokenizer()
    size = len(tokenizer)
    eos = tokenizer.eos_token_id
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    last = tokenizer(prompt, add_special_tokens=False)["input_ids"][-1]
    chain = chain or list(range(100, 110))
    follow = {last: chain[0], **dict(zip(chain, [*chain[1:], eos], strict=True))}
    table = np.zeros((size, size), np.float32)
    for token in range(size):
        table[token, follow.get(token, 5)] = 1.0
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["logits"]),
            helper.make_node("Cast", ["input_ids"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["floats", "axes"], ["new"]),
            helper.make_node("Concat", ["past_key_values.0.key", "new"], ["present.0.key"], axis=2),
            helper.make_node("Concat", ["past_key_values.0.value", "new"], ["present.0.value"], axis=2),
            # Stacking them fails where the mask is not as long as the cache.
            helper.make_node("Squeeze", ["present.0.key", "axes"], ["flat"]),
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Concat", ["flat", "mask"], ["stacked"], axis=0),
        ],
        "counting",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "new"]),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "all"]),
            helper.make_tensor_value_info("past_key_values.0.key", TensorProto.FLOAT, ["batch", 1, "past", 1]),
            helper.make_tensor_value_info("past_key_values.0.value", TensorProto.FLOAT, ["batch", 1, "past", 1]),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "new", size]),
            helper.make_tensor_value_info("present.0.key", TensorProto.FLOAT, ["batch", 1, "all", 1]),
            helper.make_tensor_value_info("present.0.value", TensorProto.FLOAT, ["batch", 1, "all", 1]),
            helper.make_tensor_value_info("stacked", TensorProto.FLOAT, ["both", "all"]),
        ],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1, 3], np.int64), "axes")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, folder / "model.onnx")
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return tokenizer.decode(chain)
