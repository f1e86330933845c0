"""Artifacts + report -> the folder an app embeds: model files, README.md, LICENSE, SHA256SUMS."""

from edgedistill.bundle.folder import SUMS, bundle_damage, sums_sha256, write_bundle
from edgedistill.bundle.names import safe_name

__all__ = ["SUMS", "bundle_damage", "safe_name", "sums_sha256", "write_bundle"]
