"""Make the environment of one of the other tools, with the versions that were measured.

Run    python bench/rivals/setup.py NAME [--where DIR]
Writes DIR/NAME, a virtual environment; DIR is bench/.venvs unless told, which git ignores.

Each tool has its own, since they pin other versions of transformers than edgedistill. PyTorch comes first and alone: on
a machine without a GPU the tools' own requirements may otherwise draw in its CUDA build, gigabytes of it.
"""

import argparse
import subprocess
import sys
import venv
from pathlib import Path

TORCH = "torch==2.13.0"
PINS = {
    "autoround": (
        "auto-round==0.16.1",
        "gguf==0.19.0",
        "sentencepiece==0.2.3",
        "protobuf==7.36.2",
        "transformers==5.23.0",
    ),
    "torchao": ("torchao==0.18.0", "transformers==5.23.0", "accelerate==1.15.0"),
    "gptq": ("llmcompressor==0.14.0.1", "compressed-tensors==0.19.0", "transformers==5.17.0"),
    "trl": ("trl==1.16.0", "transformers==5.23.0", "accelerate==1.15.0", "datasets==5.2.0"),
}


def main() -> None:
    """Create it and install."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=PINS)
    parser.add_argument("--where", type=Path, default=Path(__file__).resolve().parents[1] / ".venvs")
    arguments = parser.parse_args()
    folder = arguments.where / arguments.name
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, TORCH], check=True)
    subprocess.run([*pip, TORCH, *PINS[arguments.name]], check=True)
    sys.stdout.write(f"{folder / 'bin' / 'python'}\n")


if __name__ == "__main__":
    main()
