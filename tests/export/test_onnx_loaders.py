"""The exported folder in onnxruntime-genai, transformers.js in Node and optimum: the tokens of our own runtime, and the
same chat.

`EDGEDISTILL_LOADERS=FOLDER python bench/onnx_loaders.py` makes the environments that these tests run in, from packages
that it downloads; the same variable says here where they are.
"""

import importlib.util
import os
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "onnx_loaders.py"
# optimum-onnx 0.1 makes their empty caches in another shape: see bench/onnx_loaders.py.
OPTIMUM_CANNOT = ("llama", "mistral", "qwen3", "phi3", "olmo2")


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("onnx_loaders", BENCH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folders(bench, tmp_path_factory):
    return bench.make_families(tmp_path_factory.mktemp("loaders"))


@pytest.mark.slow
@pytest.mark.parametrize("loader", ["genai", "transformers.js", "optimum"])
def test_loaders_give_our_tokens_and_chat(loader, bench, folders):
    place = Path(os.environ.get("EDGEDISTILL_LOADERS", "/nowhere")) / loader
    if not place.is_dir():
        pytest.skip(
            f"{loader} has no environment; make it with bench/onnx_loaders.py and name it in EDGEDISTILL_LOADERS"
        )
    expected = {family: bench.ours(folder) for family, folder in folders.items()}
    rows = bench.try_loader(loader, place, folders, expected)
    wanted = [family for family in folders if loader != "optimum" or family not in OPTIMUM_CANNOT]
    assert [row["model"] for row in rows if row["ids_equal"] and row["chat_equal"]] == wanted
