"""Prompts from a file, for the rooms that make data of them; the reader is in config/, where the plan can use it
too.
"""

from edgedistill.config.prompts import read_prompts

__all__ = ["read_prompts"]
