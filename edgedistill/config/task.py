"""A recipe's `task` part: labelled rows of the user's own, which the teacher's text is about and every file is judged
by.
"""

import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from edgedistill.config.fields import PositiveInt, Text
from edgedistill.config.yaml_file import Model, as_tuple, beside_the_file

TaskKind = Literal["classify", "extract", "text"]
AUTO: Literal["auto"] = "auto"
CLASSIFY: Literal["classify"] = "classify"
EXTRACT: Literal["extract"] = "extract"
TEXT: Literal["text"] = "text"


def _share_or_file(test: Any) -> Any:
    """A share of the prompts, or a path."""
    if isinstance(test, str) and test:
        return test
    if isinstance(test, float) and 0 < test < 1:
        return test
    raise ValueError("it must be a share of the prompts above 0 and below 1, or a file of rows")


class Task(Model):
    """What the model is for: rows of prompts with their right answers."""

    file: Text = Field(
        description=(
            "Rows with `prompt` and `answer`, or `messages` that end with the assistant's, and `system` if you like: "
            ".jsonl, .json, .csv or .parquet, beside the recipe. An answer is a text or an object."
        )
    )
    kind: Literal["auto", "classify", "extract", "text"] = Field(
        default=AUTO,
        description=(
            "classify: one of a few labels; extract: a JSON object; text: anything else. auto: extract where all "
            "answers are objects, classify where few short ones come again and again, else text."
        ),
    )
    test: Annotated[float | str, BeforeValidator(_share_or_file)] = Field(
        default=0.2,
        description=(
            "Share of the prompts that no training sees and all files are asked; or a file of rows of its own. "
            "A prompt that comes twice is never on both sides."
        ),
    )
    items: PositiveInt = Field(default=200, description="Test rows that each file is asked, evenly over them.")
    max_answer_tokens: PositiveInt = Field(
        default=128, description="Tokens after which an answer is cut off; no row's own answer may be longer."
    )
    prompt_field: Text | None = Field(default=None, description="Field of the prompt; null takes the first one known.")
    answer_field: Text | None = Field(default=None, description="Field of the answer; null takes the first one known.")
    verify: Annotated[tuple[Text, ...], BeforeValidator(as_tuple)] | None = Field(
        default=None,
        description=(
            "Of kind text: a program of yours and its arguments, which reads a JSON object with prompt, answer and "
            "expected, and exits with 0 where the answer is right, 1 where it is wrong. null: right is what equals "
            "the row's answer."
        ),
    )
    verify_seconds: Annotated[float, Field(gt=0, le=600)] = Field(
        default=10.0, description="Time that this program has for an answer."
    )

    @field_validator("file")
    @classmethod
    def _locate(cls, path: str, info: ValidationInfo) -> str:
        return beside_the_file(path, info)

    @field_validator("test")
    @classmethod
    def _locate_test(cls, test: float | str, info: ValidationInfo) -> float | str:
        return beside_the_file(test, info) if isinstance(test, str) else test

    @field_validator("verify")
    @classmethod
    def _locate_program(cls, words: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        """Words that are files beside the recipe become absolute paths."""
        if words is None:
            return None
        if not words:
            raise ValueError("it must name a program, such as [python3, check.py]; null for none")
        located = []
        for word in words:
            path = Path(beside_the_file(word, info))
            located.append(str(path) if info.context and path.is_file() else word)
        return tuple(located)

    @model_validator(mode="after")
    def _text_alone_is_verified(self) -> "Task":
        if self.verify is not None and self.kind != TEXT:
            raise ValueError(
                f"verify is for kind text, and kind is '{self.kind}'; set kind to text, or leave out verify"
            )
        if self.verify is not None and shutil.which(self.verify[0]) is None:
            raise ValueError(f"verify names '{self.verify[0]}', and there is no such program; give one that can be run")
        return self

    @property
    def name(self) -> str:
        """What tables call it: the file's name without its suffix."""
        return Path(self.file).stem

    @property
    def verify_files(self) -> tuple[Path, ...]:
        """The words of `verify` that are files: what it does depends on them."""
        return tuple(Path(word) for word in self.verify or () if Path(word).is_absolute() and Path(word).is_file())
