"""Load our ONNX folders in what others use: onnxruntime-genai, transformers.js in Node, optimum. The same tokens, the
same chat template?

Run    python bench/onnx_loaders.py [genai] [transformers.js] [optimum]      (downloads packages; some minutes)
Writes bench/results/onnx_loaders.json: for each loader and model the ids of a greedy continuation against those of our
own runtime, and
       the text of a chat after the folder's template. A loader that isn't asked for keeps the rows that it has.

Each loader gets an environment of its own in a temporary folder; EDGEDISTILL_LOADERS=FOLDER keeps them. Models are the
families' tiny
random ones in q8_0, and a llama of width 256 on every grid, at accuracy level 0: with float activations, so that a
close second token doesn't decide. optimum needs transformers below 4.58, which is put before this environment's own;
the rest it takes from here.

optimum-onnx 0.1 makes empty caches by the config instead of by the graph's inputs, and knows of head_dim and
num_key_value_heads for
some families only (ORTModelForCausalLM.__init__): llama, mistral and qwen3 with heads of another size than width /
heads, and phi3 and olmo2 with fewer heads of keys than of queries, it can't start, whoever exported them. NAME-square
has heads of that size.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from edgedistill.export.onnx.build import write_onnx  # noqa: E402
from edgedistill.families import FAMILIES  # noqa: E402
from edgedistill.models.hf_folder import read_shape  # noqa: E402
from edgedistill.models.load import load_model  # noqa: E402
from edgedistill.quant.checkpoint import GridCheckpoint  # noqa: E402
from edgedistill.quant.fit import fit_ggml  # noqa: E402
from edgedistill.quant.grids import GRIDS  # noqa: E402
from edgedistill.runtimes.onnx import OnnxRuntime  # noqa: E402
from tests.tiny import make_tiny, make_tiny_llama  # noqa: E402

OUT = Path(__file__).parent / "results" / "onnx_loaders.json"
PROMPT = [int(token) for token in np.random.default_rng(0).integers(3, 400, 40)]  # longer than gemma's window
NEW = 24
SQUARE = ("llama", "mistral", "qwen3")  # families whose tiny models have heads of another size than width / heads
CHAT = [{"role": "user", "content": "What is the capital of France?"}]

GENAI = """
import json, sys
import onnxruntime, onnxruntime_genai as og
found = {}
jobs = json.loads(sys.stdin.read())
for name, folder in jobs["folders"].items():
    try:
        model = og.Model(folder)
        tokenizer = og.Tokenizer(model)
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=len(jobs["prompt"]) + jobs["new"], do_sample=False)
        generator = og.Generator(model, params)
        generator.append_tokens(jobs["prompt"])
        while not generator.is_done():
            generator.generate_next_token()
        ids = [int(i) for i in generator.get_sequence(0)][len(jobs["prompt"]):]
        chat = tokenizer.apply_chat_template(json.dumps(jobs["chat"]), add_generation_prompt=True)
        found[name] = {"ids": ids, "chat": chat}
    except Exception as error:
        found[name] = {"error": str(error)[:300]}
versions = {"onnxruntime-genai": og.__version__, "onnxruntime": onnxruntime.__version__}
print(json.dumps({"versions": versions, "found": found}))
"""

JAVASCRIPT = """
import { readFileSync } from 'node:fs';
import { AutoModelForCausalLM, AutoTokenizer, Tensor, env } from '@huggingface/transformers';
const jobs = JSON.parse(readFileSync(0, 'utf8'));
env.allowRemoteModels = false;
env.localModelPath = jobs.root + '/';
const found = {};
for (const [name, folder] of Object.entries(jobs.folders)) {
  try {
    const model = await AutoModelForCausalLM.from_pretrained(name, { dtype: jobs.dtypes[name], device: 'cpu' });
    const tokenizer = await AutoTokenizer.from_pretrained(name);
    const tensor = (values) => new Tensor('int64', BigInt64Array.from(values.map(BigInt)), [1, values.length]);
    const inputs = { input_ids: tensor(jobs.prompt), attention_mask: tensor(jobs.prompt.map(() => 1)) };
    const out = await model.generate({ ...inputs, max_new_tokens: jobs.new, do_sample: false });
    const ids = Array.from(out.data, Number).slice(jobs.prompt.length);
    const chat = tokenizer.apply_chat_template(jobs.chat, { tokenize: false, add_generation_prompt: true });
    found[name] = { ids, chat };
    await model.dispose();
  } catch (error) {
    found[name] = { error: String(error).slice(0, 300) };
  }
}
const version = (name) => JSON.parse(readFileSync(`node_modules/${name}/package.json`, 'utf8')).version;
const versions = {
  node: process.version,
  'transformers.js': version('@huggingface/transformers'), 'onnxruntime-node': version('onnxruntime-node'),
};
console.log(JSON.stringify({ versions, found }));
"""

OPTIMUM = """
import json, sys
from importlib.metadata import version
import torch
from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer
found = {}
jobs = json.loads(sys.stdin.read())
for name, folder in jobs["folders"].items():
    try:
        options = {"subfolder": "onnx", "file_name": jobs["files"][name], "use_io_binding": False}
        model = ORTModelForCausalLM.from_pretrained(folder, **options)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        prompt = torch.tensor([jobs["prompt"]])
        mask = torch.ones_like(prompt)
        out = model.generate(prompt, attention_mask=mask, max_new_tokens=jobs["new"], do_sample=False)
        chat = tokenizer.apply_chat_template(jobs["chat"], tokenize=False, add_generation_prompt=True)
        found[name] = {"ids": out[0, len(jobs["prompt"]):].tolist(), "chat": chat}
    except Exception as error:
        found[name] = {"error": f"{type(error).__name__}: {error}"[:300]}
names = ("optimum-onnx", "optimum", "transformers", "onnxruntime")
print(json.dumps({"versions": {name: version(name) for name in names}, "found": found}))
"""


@dataclass(frozen=True)
class Loader:
    """How to make a loader's environment in a folder, and the command and environment variables that run its program
    there.
    """

    install: Callable[[Path], None]
    command: Callable[[Path], list[str]]
    variables: Callable[[Path], dict[str, str]] = lambda folder: {}


def run(command: list[str], **more: Any) -> str:
    """A command's output; its last words where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed: {(done.stderr or done.stdout)[-1500:]}")
    return done.stdout


def pip(folder: Path, *packages: str) -> None:
    run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder / "packages"), *packages])


def program(name: str, text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(text, encoding="utf-8")
        return folder / name

    return write


def install_javascript(folder: Path) -> None:
    if shutil.which("npm") is None:
        raise SystemExit("transformers.js needs npm, which isn't installed")
    (folder / "package.json").write_text('{"type": "module"}')
    run(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "@huggingface/transformers@4"], cwd=folder)


def path_of(folder: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(folder / "packages")}


OPTIMUM_PACKAGES = (
    "optimum-onnx==0.1.*",
    "optimum==2.0.*",
    "transformers==4.57.*",
    "huggingface-hub<1",
    "tokenizers==0.22.*",
)
LOADERS = {
    "genai": Loader(
        lambda folder: pip(folder, "onnxruntime-genai==0.18.*"),
        lambda folder: [sys.executable, str(program("try.py", GENAI)(folder))],
        path_of,
    ),
    "transformers.js": Loader(install_javascript, lambda folder: ["node", str(program("try.mjs", JAVASCRIPT)(folder))]),
    "optimum": Loader(
        lambda folder: pip(folder, *OPTIMUM_PACKAGES),
        lambda folder: [sys.executable, str(program("try.py", OPTIMUM)(folder))],
        path_of,
    ),
}


def main() -> None:
    """Try the loaders named on the command line, all of them without a name, and write the JSON."""
    logging.disable_progress_bar()
    wanted = sys.argv[1:] or list(LOADERS)
    old = json.loads(OUT.read_text(encoding="utf-8"))["rows"] if OUT.is_file() else []
    rows = [row for row in old if row["loader"] not in wanted]
    with tempfile.TemporaryDirectory() as scratch:
        environments = Path(os.environ.get("EDGEDISTILL_LOADERS", scratch))
        folders = make_folders(Path(scratch) / "models")
        expected = {name: ours(folder) for name, folder in folders.items()}
        for loader in wanted:
            rows += try_loader(loader, environments / loader, folders, expected)
    rows.sort(key=lambda row: (list(LOADERS).index(row["loader"]), row["model"]))
    # Of the whole record; the rows of a loader have the one that made them.
    record = {"schema": "edgedistill.onnx_loaders/1", "command": "python bench/onnx_loaders.py", "rows": rows}
    OUT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def make_folders(root: Path) -> dict[str, Path]:
    """An export folder of each family, and of each grid."""
    made = make_families(root)
    wide = make_tiny_llama(root / "wide-source", width=256, ffn=512, layers=2, heads=4, kv_heads=2, tied=False, seed=5)
    for grid in GRIDS:
        made[f"llama-{grid}"] = export(wide, grid, root / f"llama-{grid}")
    return made


def make_families(root: Path) -> dict[str, Path]:
    """An export folder of each family."""
    made = {family: export(make_tiny(family, root / f"{family}-source"), "q8_0", root / family) for family in FAMILIES}
    for family in SQUARE:
        name = f"{family}-square"
        made[name] = export(make_tiny(family, root / f"{name}-source", head_dim=16), "q8_0", root / name)
    return made


def export(source: Path, grid: str, out: Path) -> Path:
    shape, state = read_shape(source), load_model(source).state_dict()
    tensors = {t.name: state[t.name] if t.flat else fit_ggml(state[t.name], grid) for t in shape.tensors()}
    return write_onnx(GridCheckpoint(grid, tensors), source, shape, out, {}, accuracy_level=0)


def ours(folder: Path) -> dict[str, Any]:
    """What every loader must say."""
    from transformers import AutoTokenizer

    with OnnxRuntime(folder, threads=1) as model:
        ids = model.generate(PROMPT, NEW, stop_ids=None)
        stops = model.info().stop_ids
    chat = AutoTokenizer.from_pretrained(folder).apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    return {"stops": stops, "ids": ids, "chat": chat}


def try_loader(name: str, place: Path, folders: dict[str, Path], expected: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each model."""
    loader = LOADERS[name]
    if not place.is_dir():
        place.mkdir(parents=True)
        loader.install(place)
    files = {model: next((folder / "onnx").glob("*.onnx")).name for model, folder in folders.items()}
    dtypes = {"model_q4.onnx": "q4", "model_quantized.onnx": "q8", "model.onnx": "fp32"}
    jobs = {
        "folders": {model: str(folder) for model, folder in folders.items()},
        "root": str(next(iter(folders.values())).parent),
        "files": files,
        "dtypes": {model: dtypes[file] for model, file in files.items()},
        "prompt": PROMPT,
        "new": NEW,
        "chat": CHAT,
    }
    variables = {**os.environ, **loader.variables(place)}
    answer = json.loads(run(loader.command(place), input=json.dumps(jobs), cwd=place, env=variables).splitlines()[-1])
    rows = []
    for model, found in answer["found"].items():
        wanted = expected[model]
        # Some end with the stop token, some before it.
        said, meant = ([i for i in ids or [] if i not in wanted["stops"]] for ids in (found.get("ids"), wanted["ids"]))
        row = {
            "loader": name,
            "model": model,
            "file": files[model],
            "tokens": len(meant),
            "ids_equal": said == meant,
            "chat_equal": found.get("chat") == wanted["chat"],
            "error": found.get("error"),
            "versions": answer["versions"],
            "command": f"python bench/onnx_loaders.py {name}",
        }
        if not row["ids_equal"]:
            row |= {"expected": meant, "found": said}
        print(f"{name:16} {model:14} ids {row['ids_equal']} chat {row['chat_equal']} {row['error'] or ''}", flush=True)
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
