"""Artifacts + report -> the folder an app embeds: model files, README.md, LICENSE, SHA256SUMS."""
