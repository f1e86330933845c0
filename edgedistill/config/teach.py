"""A recipe's `teach` part: the training text. What the teacher writes, and what is read beside it, each with its budget
in tokens.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from edgedistill.config.fields import PositiveInt, Share, Text, no_duplicates
from edgedistill.config.yaml_file import Model, as_tuple, beside_the_file

OWN_PROMPTS = "teacher"  # teach.prompts: the teacher makes up the questions itself
# Tokens that a prompt may have beyond teach.max_prompt_tokens: for the chat template, and for longer user prompts.
PROMPT_SPARE = 512


def _texts(value: Any) -> Any:
    """One file or a list of them, as it stands in the file."""
    return (value,) if isinstance(value, str) else as_tuple(value)


class Teach(Model):
    """What the teacher is asked, how it answers, and what is read beside its writing."""

    style: Literal["auto", "chat", "text"] = Field(
        default="chat",
        description=(
            "chat: question and answer; text: plain continuation; auto: chat if the teacher has a chat template."
        ),
    )
    prompts: Text = Field(
        default=OWN_PROMPTS,
        description="'teacher' (it makes up the questions, or answers those of a task), or a file of prompts "
        "beside the recipe.",
    )
    hints: Annotated[tuple[str, ...], BeforeValidator(as_tuple), Field(min_length=1)] = Field(
        default=("", "Answer in one or two sentences.", "Answer in a short paragraph."),
        description=(
            "Added in turn to the questions that the teacher makes up: small models end short answers and get "
            "lost in long ones. One must be empty, since whoever uses the model asks without."
        ),
    )
    prompt_field: Text | None = Field(
        default=None, description="Field of the prompts file; null takes the first one known."
    )
    answers: Literal["teacher", "own", "both"] = Field(
        default="teacher",
        description=(
            "Of a prompts file or a task: teacher writes them all; own takes those that the file brings; both trains "
            "on either."
        ),
    )
    too_few_prompts: Literal["refuse", "accept"] = Field(
        default="refuse",
        description="When all prompts of a file give less than `tokens`: refuse, or go on with what they gave.",
    )
    tokens: Annotated[int, Field(ge=0)] = Field(
        default=40_000, description="Kept tokens of the teacher's own writing to collect; of chats the answers' alone."
    )
    free_tokens: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description=(
            "Kept tokens of free text beside them, which the teacher writes on from a few words of the text below."
        ),
    )
    new_tokens: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description=(
            "Kept tokens of answers to questions like a task's, which the specialised teacher makes up and answers "
            "with its likeliest tokens; the teacher's phases learn the rows' questions too."
        ),
    )
    text_tokens: Annotated[int, Field(ge=0)] = Field(
        default=8_000, description="Tokens of plain prose read beside them, as far as it goes; 0 for none."
    )
    text: Annotated[tuple[Text, ...] | None, BeforeValidator(_texts)] = Field(
        default=None,
        description="A text file to read, or a list of them, beside the recipe; null: prose that comes along.",
    )
    text_window: Annotated[int, Field(ge=16)] | None = Field(
        default=None,
        description="Tokens of a piece that the text is cut into; null: the seq_len that it is trained at.",
    )
    max_prompt_tokens: PositiveInt = Field(
        default=96, description="Longest question that it makes up; one from a file may have 512 more."
    )
    max_answer_tokens: PositiveInt = Field(default=320, description="Longest answer, and longest piece of free text.")
    cut_answers: Literal["drop", "keep"] = Field(
        default="drop",
        description="Answers that reach that limit. A student of them would learn not to end; recovery can use them.",
    )
    temperature: Annotated[float, Field(ge=0)] = Field(
        default=1.0, description="Of questions that it makes up, and of plain text."
    )
    answer_temperature: Annotated[float, Field(ge=0)] = Field(default=0.8, description="Of answers to questions.")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.95, description="Tokens are drawn from the likeliest with this share."
    )
    parallel: Annotated[int, Field(ge=1, le=256)] = Field(default=32, description="Answers written at the same time.")
    holdout: Share = Field(
        default=0.16,
        description=(
            "Share of prompts kept from training, at most: half validate it, half judge the result, neither more than "
            "is read."
        ),
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        default=1, description="Of all that is drawn; the same seed gives the same text."
    )

    @field_validator("prompts")
    @classmethod
    def _locate(cls, path: str, info: ValidationInfo) -> str:
        return path if path == OWN_PROMPTS else beside_the_file(path, info)

    @field_validator("text")
    @classmethod
    def _locate_texts(cls, paths: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        if paths == ():
            raise ValueError("a list must have at least one file")
        return paths if paths is None else no_duplicates(tuple(beside_the_file(path, info) for path in paths))

    @model_validator(mode="after")
    def _some_text(self) -> "Teach":
        if not self.tokens + self.free_tokens + self.text_tokens:
            raise ValueError("one of tokens, free_tokens and text_tokens must be above 0")
        if self.style == "text" and self.prompts == OWN_PROMPTS and self.free_tokens:
            raise ValueError("with style text the teacher writes freely already; set free_tokens to 0 and raise tokens")
        if self.prompts == OWN_PROMPTS and self.style != "text" and all(hint.strip() for hint in self.hints):
            raise ValueError(
                'none of hints is empty, so no question would be trained on as it is asked later; add "" to the list'
            )
        return self

    @property
    def longest_prompt(self) -> int:
        """Tokens of a prompt at most, with its template. One that is longer isn't asked."""
        return self.max_prompt_tokens + PROMPT_SPARE

    def styled(self, has_chat_template: bool) -> "Teach":
        """The same with `auto` decided; a teacher that doesn't chat writes free text for the budget of the chats
        too.
        """
        if self.style != "auto":
            return self
        if has_chat_template:
            return self.model_copy(update={"style": "chat"})
        free = self.free_tokens if self.prompts == OWN_PROMPTS else 0
        return self.model_copy(
            update={"style": "text", "tokens": self.tokens + free, "free_tokens": self.free_tokens - free}
        )
