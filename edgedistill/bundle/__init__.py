"""Artifacts + report -> the folder an app embeds: model files, README.md, LICENSE, SHA256SUMS."""

from edgedistill.bundle.folder import bundle_damage, write_bundle
from edgedistill.bundle.names import safe_name

__all__ = ["bundle_damage", "safe_name", "write_bundle"]
