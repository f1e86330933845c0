"""What a teacher's licence demands of whoever passes the compiled files on: a summary, no legal advice.

Weights that were trained from a model's weights, or on its outputs, derive from it, so its terms go with the files.
Keys are SPDX identifiers, or those of the Hugging Face hub where SPDX has none, in small letters. Sources: the
licences' own texts, as apache.org, opensource.org, creativecommons.org, llama.com, ai.google.dev/gemma/terms and the
models' LICENSE files have them.
"""

from dataclasses import dataclass

UNKNOWN = "unknown"  # what stands for a licence that a model doesn't name
NO_ADVICE = "This is a summary, no legal advice; the text of the licence counts."

_SHARE_ALIKE = (
    "Name the authors, link the licence, say what was changed, and pass your own adaptations on under the same licence."
)
_LLAMA = (
    "Pass on the agreement with the files, show “{built}”, begin the model's name with “{start}”, keep Meta's notice, "
    "hold to Meta's acceptable use policy, and ask Meta for a licence of your own above 700 million monthly users."
)
_QWEN = (
    "Pass on the agreement and its notice with the files, say that they were changed, and show “Built with Qwen” "
    "or “Improved using Qwen”"
)
_OTHERS = " What it writes may not improve other language models."


@dataclass(frozen=True)
class Licence:
    """A licence: its full name, what it demands, whether it allows commercial use (None: under conditions)."""

    name: str
    demands: str
    commercial: bool | None


KNOWN: dict[str, Licence] = {
    "apache-2.0": Licence(
        "Apache License 2.0",
        "Pass on a copy of the licence, keep the copyright and NOTICE texts, and say that the files were changed.",
        True,
    ),
    "mit": Licence("MIT License", "Keep the copyright line and the text of the licence with every copy.", True),
    "bsd-3-clause": Licence(
        "BSD 3-Clause License",
        "Keep the copyright line and the text of the licence; don't advertise with the authors' names.",
        True,
    ),
    "cc0-1.0": Licence("CC0 1.0", "Nothing: the authors have given up their rights.", True),
    "cc-by-4.0": Licence(
        "Creative Commons Attribution 4.0", "Name the authors, link the licence, and say what was changed.", True
    ),
    "cc-by-sa-4.0": Licence("Creative Commons Attribution-ShareAlike 4.0", _SHARE_ALIKE, True),
    "cc-by-nc-4.0": Licence(
        "Creative Commons Attribution-NonCommercial 4.0",
        "Name the authors, link the licence, say what was changed; no commercial use.",
        False,
    ),
    "cc-by-nc-sa-4.0": Licence(
        "Creative Commons Attribution-NonCommercial-ShareAlike 4.0", f"{_SHARE_ALIKE} No commercial use.", False
    ),
    "llama2": Licence(
        "Llama 2 Community License",
        "Pass on the agreement with the files, keep Meta's notice, hold to Meta's acceptable use policy, and ask Meta "
        f"for a licence of your own above 700 million monthly users.{_OTHERS}",
        None,
    ),
    "llama3": Licence(
        "Meta Llama 3 Community License",
        _LLAMA.format(built="Built with Meta Llama 3", start="Llama 3") + _OTHERS,
        None,
    ),
    "llama3.1": Licence("Llama 3.1 Community License", _LLAMA.format(built="Built with Llama", start="Llama"), None),
    "llama3.2": Licence("Llama 3.2 Community License", _LLAMA.format(built="Built with Llama", start="Llama"), None),
    "llama3.3": Licence("Llama 3.3 Community License", _LLAMA.format(built="Built with Llama", start="Llama"), None),
    "gemma": Licence(
        "Gemma Terms of Use",
        "Pass on the terms with the files, bind whoever receives them to Google's prohibited use policy, and say that "
        "the files were changed.",
        None,
    ),
    "qwen-research": Licence(
        "Qwen Research License",
        f"No commercial use. {_QWEN}.",
        False,
    ),
    "qwen": Licence(
        "Qwen License", f"{_QWEN}, and ask for a licence of your own above 100 million monthly users.", None
    ),
}
# Other names under which models give these.
_SAME = {
    "apache-2": "apache-2.0",
    "apache2": "apache-2.0",
    "apache2.0": "apache-2.0",
    "apache-license-2.0": "apache-2.0",
    "cc-by-sa": "cc-by-sa-4.0",
    "cc-by": "cc-by-4.0",
    "meta-llama-3": "llama3",
    "llama-2": "llama2",
    "llama-3": "llama3",
    "llama-3.1": "llama3.1",
    "llama-3.2": "llama3.2",
    "llama-3.3": "llama3.3",
    "tongyi-qianwen": "qwen",
    "tongyi-qianwen-research": "qwen-research",
}


def licence_of(identifier: object) -> Licence | None:
    """The licence of that identifier, in any case of letters; None for one that isn't known here, or for none."""
    key = str(identifier).strip().lower().replace(" ", "-").replace("_", "-") if identifier else ""
    return KNOWN.get(_SAME.get(key, key))


def demands(identifier: object) -> str:
    """What that licence demands of whoever passes the files on, in plain sentences; for any identifier, or none."""
    if not identifier:
        return "The model names no licence: ask its makers before you pass these files on."
    licence = licence_of(identifier)
    if licence is None:
        return (
            "edgedistill doesn't know this licence: read its text, or ask the model's makers, before you pass "
            "these files on."
        )
    return f"{licence.demands} {NO_ADVICE}"
