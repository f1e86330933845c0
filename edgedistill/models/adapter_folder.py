"""An adapter's folder, as peft saves it: adapter_config.json and adapter_model.safetensors, of a base model. No torch.

It is merged onto its base into a folder of its own, among the downloads: neither the adapter nor the base is written
to. What can't be told from the adapter's own tensors is refused here, before anything runs.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from edgedistill.errors import InputError
from edgedistill.facts import ModelShape
from edgedistill.models.hf_folder import license_of, read_shape
from edgedistill.models.hf_weights import StoredTensor, header_of
from edgedistill.models.lora import WEIGHTS, LoraFolder
from edgedistill.models.templates import NAMED_FOLDER
from edgedistill.models.tokens import read_json
from edgedistill.reading import shown
from edgedistill.store.files import file_sha256
from edgedistill.store.whole import whole_folder

CONFIG = "adapter_config.json"
FORMAT = 1  # how it is merged: one more where that changes, so that it is merged again
LICENSES = ("LICENSE", "LICENSE.txt", "LICENSE.md")
# Of the base, and then of the adapter where it brings them: a tokenizer belongs together.
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
REMEDY = "merge it into its model with peft's merge_and_unload, and name that folder"
_MATRIX = re.compile(r"base_model\.model\.(.+)\.lora_(A|B)\.weight")
# Keys of adapter_config.json that add something else than low-rank matrices, and what they are where they add nothing.
_OTHERS: dict[str, tuple[object, ...]] = {
    "bias": (None, "none"),
    "modules_to_save": (None, []),
    "use_dora": (None, False),
    "fan_in_fan_out": (None, False),
    "trainable_token_indices": (None, []),
    "target_parameters": (None, []),
    "layer_replication": (None, []),
    "lora_bias": (None, False),
    "megatron_config": (None,),
    "alora_invocation_tokens": (None, []),
    "use_qalora": (None, False),
    "arrow_config": (None,),
}


def is_adapter(path: Path) -> bool:
    """Whether a folder holds an adapter and no whole model."""
    return (path / CONFIG).is_file() and not (path / "config.json").is_file()


def merged_folder(path: Path, base_of: Callable[[str], Path], cache: Path, deep: bool) -> Path:
    """The folder of an adapter's model: merged, or, unless `deep`, its config and tokenizer alone.

    Args:
        path: the adapter's folder.
        base_of: the name of a base, as the adapter has it -> its folder on this machine.
        cache: where the folder is made; it is found again by the content of adapter and base.
        deep: whether the weights are needed.
    Raises:
        InputError: the adapter is damaged, or of a kind that can't be merged; its base can't be found; or it was
            trained beside another model.
    """
    adapter = read_adapter(path, base_of)
    content = [str(FORMAT), *_hashes(path), *_hashes(adapter.base, weights=deep), "" if deep else "config"]
    key = hashlib.sha256("\n".join(content).encode()).hexdigest()[:16]
    place = cache / key / path.resolve().name
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(place) as folder:
            if deep:
                from edgedistill.models.merge import write_merged

                write_merged(adapter, folder)
            _write_side_files(adapter, folder)
    return place


def read_adapter(path: Path, base_of: Callable[[str], Path]) -> LoraFolder:
    """What an adapter's folder says, held against its base.

    Raises:
        InputError: as `merged_folder`.
    """
    config = read_json(path / CONFIG)
    kind, name = config.get("peft_type"), config.get("base_model_name_or_path")
    if kind != "LORA":
        raise InputError(f"{path}: it is an adapter of type {shown(kind)}, and only LORA is merged here; {REMEDY}")
    for key, nothing in _OTHERS.items():
        if config.get(key) not in nothing:
            raise InputError(f"{path}: its {key} is {shown(config[key])}, which isn't merged here; {REMEDY}")
    if not isinstance(name, str) or not name:
        raise InputError(f"{path}: it is an adapter that names no base model; write it into base_model_name_or_path")
    beside = path / name
    try:
        base = beside if beside.is_dir() else base_of(name)
    except InputError as error:
        raise InputError(f"{path}: it is an adapter of '{name}', which isn't here: {error}") from error
    if not base.is_dir() or is_adapter(base):
        raise InputError(f"{path}: it is an adapter of '{name}', which is no folder of a whole model; {REMEDY}")
    if not (path / WEIGHTS).is_file():
        raise InputError(f"{path}: it is an adapter without {WEIGHTS}; save it with safe_serialization")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise InputError(f"{path}: r is {shown(rank)} and lora_alpha {shown(alpha)}; they must be numbers above 0")
    targets = _targets(path, name, header_of(path / WEIGHTS), read_shape(base))
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    return LoraFolder(path, base, rank, alpha, ranks, alphas, bool(config.get("use_rslora")), targets)


def _targets(path: Path, base: str, tensors: dict[str, StoredTensor], shape: ModelShape) -> tuple[str, ...]:
    """The modules that have both matrices, of the sizes that the base's have."""
    linear = {tensor.name.removesuffix(".weight"): tensor for tensor in shape.tensors() if tensor.kind == "linear"}
    sides: dict[str, dict[str, list[int]]] = {}
    for name, tensor in tensors.items():
        match = _MATRIX.fullmatch(name)
        if match is None:
            raise InputError(f"{path}: {WEIGHTS} holds {name}, which is no low-rank matrix; {REMEDY}")
        sides.setdefault(match[1], {})[match[2]] = tensor.shape
    for module, found in sides.items():
        if module not in linear:
            raise InputError(
                f"{path}: the adapter was trained beside another model than '{base}': it has {module}, and '{base}' "
                "has no such matrix; name the model that it was trained on in base_model_name_or_path"
            )
        rows, cols = linear[module].rows, linear[module].cols
        a, b = found.get("A", []), found.get("B", [])
        if len(a) != 2 or len(b) != 2 or (b[0], a[1]) != (rows, cols) or a[0] != b[1]:
            raise InputError(
                f"{path}: the adapter was trained beside another model than '{base}': {module} is for a matrix of "
                f"{b[0] if b else 0} x {a[-1] if a else 0}, and that of '{base}' has {rows} x {cols}; name the model "
                "that it was trained on in base_model_name_or_path"
            )
    if not sides:
        raise InputError(f"{path}: {WEIGHTS} holds no matrices; the adapter is damaged")
    return tuple(sorted(sides))


def _hashes(folder: Path, weights: bool = True) -> list[str]:
    """The names and contents of what is read of a folder."""
    suffixes = {".json", ".jinja", ".md", *((".safetensors",) if weights else ())}
    files = sorted(file for file in folder.iterdir() if file.suffix in suffixes and file.is_file())
    return [f"{file_sha256(file)}  {file.name}" for file in files]


def _write_side_files(adapter: LoraFolder, folder: Path) -> None:
    """Config, tokenizer, template and licence: the base's, or the adapter's own where it brings them."""
    words = adapter.path if (adapter.path / "tokenizer.json").is_file() else adapter.base
    template = adapter.path / "chat_template.jinja"
    for name in (*TOKENIZER, "config.json", "generation_config.json"):
        source = (words if name in TOKENIZER else adapter.base) / name
        if source.is_file():
            shutil.copyfile(source, folder / name)
    if words != adapter.path and template.is_file():
        shutil.copyfile(template, folder / template.name)
    if (words / NAMED_FOLDER).is_dir():
        shutil.copytree(words / NAMED_FOLDER, folder / NAMED_FOLDER, dirs_exist_ok=True)
    licence = license_of(adapter.path) or license_of(adapter.base)
    if licence is not None:
        (folder / "README.md").write_text(f"---\nlicense: {json.dumps(licence)}\n---\n", encoding="utf-8")
    for name in LICENSES:
        for whose in (adapter.base, adapter.path):
            if (whose / name).is_file():
                shutil.copyfile(whose / name, folder / name)
