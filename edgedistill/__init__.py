"""edgedistill: compile a language model for a device, so that what was trained is what ships."""

import os

# Any import of onnxruntime in this process comes after this one; without it a report goes to its maker at import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
