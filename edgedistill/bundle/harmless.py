"""Hostile text made harmless for a model card's Markdown and YAML."""

import re

from edgedistill.show import DASH, visible


def text(value: object) -> str:
    """Hostile text on one line, with nothing that Markdown or HTML acts upon."""
    flat = DASH if value is None else visible(value, lines=False)
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # An underscore within a word, as in q4_0, is only itself.
    return re.sub(r"[\\`*\[\]|~$]|(?<!\w)_|_(?!\w)|^[#+=-]", r"\\\g<0>", flat)


def word(value: object) -> str:
    """A licence's identifier: letters, digits, point, dash and plus, as SPDX has them; all else dropped."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", str(value)).strip("-")[:60] if value else ""
