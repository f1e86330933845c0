"""The store: a run folder of content-hashed stages, each built once, whole or not there, found again by its key. No
torch.
"""

from edgedistill.store.files import file_sha256, tree_sha256
from edgedistill.store.listing import StageListing, clean, list_runs, list_stages, run_bytes
from edgedistill.store.marks import StageResult
from edgedistill.store.run import RunFolder
from edgedistill.store.whole import atomic_write, settle, whole, whole_folder, write_json

__all__ = [
    "RunFolder",
    "StageListing",
    "StageResult",
    "atomic_write",
    "clean",
    "file_sha256",
    "list_runs",
    "list_stages",
    "run_bytes",
    "settle",
    "tree_sha256",
    "whole",
    "whole_folder",
    "write_json",
]
