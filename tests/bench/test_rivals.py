"""What the scripts of bench/rivals and bench/trl_step.py compute themselves: blocks, rows, tensor types, ratios, the
stepping protocol.
"""

import importlib.util
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

BENCH = Path(__file__).parents[2] / "bench"


def load(path: Path):
    """A script as a module; scripts beside it can import each other."""
    sys.path.insert(0, str(path.parent))
    try:
        spec = importlib.util.spec_from_file_location(f"bench_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


class Letters:
    """A tokenizer of one token a character."""

    def __call__(self, text: str, **_):
        return {"input_ids": [ord(letter) for letter in text]}


def test_int4_codes_become_q4_0_blocks_that_gguf_reads_back():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-8, 8, (6, 96), generator=generator).to(torch.int8)
    scale = torch.rand(6, 3, generator=generator) + 0.01
    rows = load(BENCH / "rivals" / "pack.py").q4_0_bytes(codes, scale)
    read = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType.Q4_0)
    expected = codes.numpy().astype(np.float32) * np.repeat(scale.half().float().numpy(), 32, axis=1)
    assert np.array_equal(read, expected)


def test_codes_that_q4_0_cannot_hold_are_refused():
    with pytest.raises(SystemExit, match="codes reach from -9 to 0; q4_0 holds -8 to 7"):
        load(BENCH / "rivals" / "pack.py").q4_0_bytes(torch.tensor([[-9] + [0] * 31]), torch.ones(1, 1))


def test_rows_are_whole_windows_of_the_text_in_a_fixed_order(tmp_path):
    token_rows = load(BENCH / "rivals" / "text_rows.py").token_rows
    (tmp_path / "text.txt").write_text("".join(chr(100 + i) for i in range(50)), encoding="utf-8")
    rows = token_rows(Letters(), tmp_path / "text.txt", rows=5, length=4)
    assert rows == token_rows(Letters(), tmp_path / "text.txt", rows=5, length=4)
    # 12 windows of 4: five spread evenly over them are the windows 0, 2, 4, 7 and 9.
    assert sorted(rows) == [list(range(100 + 4 * w, 104 + 4 * w)) for w in (0, 2, 4, 7, 9)]


def test_a_text_that_is_too_short_is_refused(tmp_path):
    (tmp_path / "text.txt").write_text("abc", encoding="utf-8")
    with pytest.raises(SystemExit, match="has 3 tokens; 2 rows of 2 need 4"):
        load(BENCH / "rivals" / "text_rows.py").token_rows(Letters(), tmp_path / "text.txt", rows=2, length=2)


def test_types_are_read_by_module(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    kinds = gguf.GGMLQuantizationType
    writer.add_tensor(
        "blk.7.ffn_down.weight", gguf.quants.quantize(np.ones((2, 64), np.float32), kinds.Q5_0), raw_dtype=kinds.Q5_0
    )
    writer.add_tensor("blk.7.attn_norm.weight", np.ones(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = load(BENCH / "rivals" / "autoround_gguf.py").types_of(tmp_path / "x.gguf")
    assert found == {"model.layers.7.mlp.down_proj": "gguf:q5_0"}
    facts = load(BENCH / "rivals" / "record.py").gguf_facts(tmp_path / "x.gguf")
    assert facts["tensor_bytes"] == 2 * 2 * 22 + 64 * 4
    assert facts["types"] == {"Q5_0": 1, "F32": 1}


def test_ratios_are_medians_of_the_rounds():
    row = {"dtype": "float32", "tokens_per_s": 0}
    rows = [
        row | {"variant": "q4_0", "all_seconds": [1.0, 2.0, 4.0], "peak_bytes": 100},
        row | {"variant": "capture", "all_seconds": [1.0, 2.0, 4.0], "peak_bytes": 50},
        row | {"variant": "trl fastest", "all_seconds": [3.0, 4.0, 20.0], "peak_bytes": 400},
    ]
    found = load(BENCH / "trl_step.py").compare(rows)
    assert found == {"trl fastest": {"rate_ratio": 3.0, "rate_ratio_with_capture": 1.5, "peak_ratio": 0.25}}


def test_a_child_steps_when_told(tmp_path):
    script = tmp_path / "child.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(BENCH / 'rivals')!r})\n"
        "from stepping import Stepper\n"
        "stepper = Stepper()\n"
        "print('a library that prints')\n"
        "stepper.ready()\n"
        "while True:\n    stepper.wait()\n    kept = bytes(50 << 20)\n    stepper.done()\n    del kept\n",
        encoding="utf-8",
    )
    child = load(BENCH / "trl_step.py").Child([sys.executable, str(script)], 1, {})
    assert set(child.ask("step")) == {"seconds", "cpu_seconds"}
    assert child.ask("peak")["peak_bytes"] > 0
    child.quit()
    assert child.process.returncode == 0


def test_a_child_that_ends_early_is_said(tmp_path):
    (tmp_path / "child.py").write_text("raise SystemExit(3)", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"child.py ended with 3"):
        load(BENCH / "trl_step.py").Child([sys.executable, str(tmp_path / "child.py")], 1, {})
