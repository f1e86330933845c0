"""The environment of the processes that we start: what they need of ours, without the user's secrets, and with the
telemetry of libraries switched off.

A list of what is allowed, since nobody can list all names under which people keep tokens and passwords.
"""

import os

# onnxruntime reports to its maker from its import on, and keeps a device id under ~/.cache, unless this is set before.
# The package sets it for its own process; examples of a bundle set it for theirs.
NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
# A child is given files that are here already.
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
NAMES = frozenset(
    ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TERM", "TMPDIR", "TEMP", "TMP", "VIRTUAL_ENV")
)
# Libraries find themselves by these, or read from them how many threads and which devices to use.
PREFIXES = ("LC_", "LD_", "DYLD_", "PYTHON", "XDG_", "TOKENIZERS_", "MALLOC_", "GLIBC_") + (
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "GGML_", "LLAMA_", "CUDA_", "NVIDIA_", "HIP_", "HSA_", "VK_"),
)
# pip's own settings and certificates, with which it reaches the index that the user chose.
PIP_PREFIXES = ("PIP_", "SSL_CERT_")
PIP_NAMES = frozenset(("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC"))
PROXY = ("_PROXY", "_proxy")


def child_environment(**more: str) -> dict[str, str]:
    """What a runtime's process gets; `more` is added or replaces."""
    needed = {name: value for name, value in os.environ.items() if _needed(name)}
    return {**needed, **NO_TELEMETRY, **OFFLINE, **more}


def pip_environment() -> dict[str, str]:
    """What pip gets: that, and its own settings; passwords of an index may be among these, tokens of others aren't."""
    return {name: value for name, value in os.environ.items() if _needed(name) or _of_pip(name)}


def _needed(name: str) -> bool:
    return name in NAMES or name.startswith(PREFIXES)


def _of_pip(name: str) -> bool:
    return name in PIP_NAMES or name.startswith(PIP_PREFIXES) or name.endswith(PROXY)
