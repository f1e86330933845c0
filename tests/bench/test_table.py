"""Which files are compared, and the shares that the table states, by hand."""

import json

import pytest
from contest import layout, table


def measured(tool, mix, kl, ppl, tensor_bytes=100, made=None):
    quality = {"text": {"kl": kl, "kl_p99": 2 * kl, "top1": 0.9, "ppl": ppl}}
    return {
        "tool": tool,
        "mix": mix,
        "bytes": 150,
        "tensor_bytes": tensor_bytes,
        "made": made or {},
        "quality": quality,
    }


def test_shares_are_of_plain_roundings_loss():
    rows = table.flat_rows(
        [
            measured("edgedistill 10k", "q4_0", 0.1, 12.0, made={"tokens": 10_000}),
            measured("float", "f32", 0.001, 10.0, 600),
            measured("llama.cpp", "q4_0", 0.4, 15.0),
            measured("other", "q4_0", 0.5, 16.0, 103),
            measured("other", "q8_0", 0.1, 11.0),
        ]
    )
    by_name = {(row["tool"], row["mix"]): row for row in rows}
    ours = by_name["edgedistill 10k", "q4_0"]
    assert (ours["recovered_kl"], ours["recovered_ppl"]) == (pytest.approx(0.75), pytest.approx(0.6))
    assert (ours["tokens"], ours["bytes_over_plain"], ours["kl_p99"]) == (10_000, 0, 0.2)
    assert by_name["llama.cpp", "q4_0"]["recovered_kl"] == 0
    other = by_name["other", "q4_0"]
    assert (other["recovered_kl"], other["recovered_ppl"]) == (pytest.approx(-0.25), pytest.approx(-0.2))
    assert other["bytes_over_plain"] == 3
    assert by_name["other", "q8_0"]["recovered_kl"] is None
    assert [(row["mix"], row["tool"]) for row in rows] == [
        ("q4_0", "other"),
        ("q4_0", "llama.cpp"),
        ("q4_0", "edgedistill 10k"),
        ("q8_0", "other"),
        ("f32", "float"),
    ]
    lines = table.to_text(rows).splitlines()
    assert len(lines) == 6
    assert lines[1].endswith("+3 bytes")
    assert "0.750   0.600" in lines[3]


def test_entries_are_named_by_their_folders(tmp_path):
    for name in ("float/f32", "made/llama.cpp/q4_0", "ours/10k/q4_0", "rivals/AutoRound/q4_0"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / f"{name}.gguf").write_bytes(b"GGUF")
    (tmp_path / "ours" / "10k" / "q4_0.json").write_text(json.dumps({"tokens": 10_240}))
    found = layout.entries(tmp_path, [f"hqq=q4_0={tmp_path}/float/f32.gguf"], "*")
    assert [entry.name for entry in found] == [
        "float.f32",
        "llama.cpp.q4_0",
        "edgedistill 10k.q4_0",
        "AutoRound.q4_0",
        "hqq.q4_0",
    ]
    assert found[2].made == {"tokens": 10_240}
    assert [entry.tool for entry in layout.entries(tmp_path, [], "edgedistill*")] == ["edgedistill 10k"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("hqq=q4_0", r"it must be NAME=MIX=PATH or NAME=MIX=PATH=JSON"),
        ("hqq=q4_0=missing.gguf", r"there is no file missing.gguf"),
        ("llama.cpp=q4_0=HERE", r"two files are named llama.cpp.q4_0"),
        ("hqq=q4_0=HERE=LIST", r"list.json: it holds a JSON list; it must be an object"),
        ("hqq=q4_0=HERE=HERE", r"it isn't JSON"),
    ],
)
def test_bad_rivals_are_refused(tmp_path, given, words):
    here = tmp_path / "made" / "llama.cpp" / "q4_0.gguf"
    here.parent.mkdir(parents=True)
    here.write_bytes(b"GGUF")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(SystemExit, match=words):
        layout.entries(tmp_path, [given.replace("HERE", str(here)).replace("LIST", str(tmp_path / "list.json"))], "*")


def test_the_plot_depends_on_the_rows_alone(tmp_path):
    pytest.importorskip("matplotlib")
    from contest.plot import draw

    rows = table.flat_rows(
        [
            measured("llama.cpp", "q4_0", 0.4, 15.0),
            measured("edgedistill fit", "q4_0", 0.2, 13.0),
            measured("other", "q8_0", 0.1, 11.0),
        ]
    )
    draw(rows, tmp_path / "one.svg")
    draw(rows, tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert (
        b"KL to the float model" in (tmp_path / "one.svg").read_bytes()
        or b"<path" in (tmp_path / "one.svg").read_bytes()
    )
