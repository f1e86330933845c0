"""How many tokens a run's texts have: what is taught, judged and asked. By the recipe's budgets, and by the characters
of a task's rows where these give less.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from edgedistill.config.task_data import Labelled
from edgedistill.pipeline.context import Context

# Tokens of a labelled conversation, for each token of its answer, where its rows aren't known yet.
PROMPT_SHARE = 3
# Tokens of a question of openbookqa with its options, and of a request with its template and the start of an answer.
QUESTION_TOKENS, REQUEST_TOKENS = 24, 64
# Of a task's rows: tokens of a chat template, and characters a token, of which JSON and names have fewer.
TEMPLATE_TOKENS, TOKEN_CHARACTERS, ANSWER_CHARACTERS = 32, 4, 3


@dataclass(frozen=True)
class TextTokens:
    """The texts of one run."""

    context: Context

    @property
    def budget(self) -> int:
        """Tokens of the training text at most."""
        teach = self.context.recipe.teach
        return teach.tokens + teach.new_tokens + teach.free_tokens + teach.text_tokens

    @property
    def taught(self) -> int:
        """Tokens of the training text that count."""
        teach = self.context.recipe.teach
        return self.answers + teach.new_tokens + teach.free_tokens + teach.text_tokens

    @cached_property
    def answers(self) -> int:
        """Of them the answers in chats: the budget, or less where a task's rows, each answered once by everybody who
        answers, give less. A teacher's answers are taken to be as long as the rows' own.
        """
        teach, task = self.context.recipe.teach, self.context.task
        if task is None:
            return teach.tokens
        times = 2 if teach.answers == "both" else 1
        return min(teach.tokens, times * _answer_tokens(task.learn, teach.max_answer_tokens))

    @property
    def conversations(self) -> int:
        """Tokens of these answers with their prompts."""
        task, most = self.context.task, self.context.recipe.teach.max_answer_tokens
        if task is None or not task.learn:
            return PROMPT_SHARE * self.answers
        share = self.answers / _answer_tokens(task.learn, most)
        return self.answers + round(share * _prompt_tokens(task.learn))

    @property
    def new_share(self) -> float:
        """Tokens written for each token of an answer to a question like the task's: the question's too."""
        task, most = self.context.task, self.context.recipe.teach.max_answer_tokens
        if task is None or not task.learn:
            return PROMPT_SHARE
        words = sum(row.prompt.characters // TOKEN_CHARACTERS for row in task.learn)
        return 1 + words / _answer_tokens(task.learn, most)

    @property
    def judged(self) -> int:
        """Tokens of all judges."""
        recipe = self.context.recipe
        if not self.context.recovering:
            return recipe.measure.tokens * (2 if recipe.teach.style == "chat" else 1)
        return (1 + bool(recipe.teach.tokens) + bool(recipe.teach.free_tokens)) * recipe.measure.tokens

    @property
    def questions(self) -> int:
        """Tokens of questions and requests that each file reads and writes."""
        measure = self.context.recipe.measure
        chats = self.context.origin.tokenizer.has_chat_template
        requests = 2 * measure.refusal_items * REQUEST_TOKENS if chats else 0
        return len(measure.tasks) * measure.task_items * QUESTION_TOKENS + requests

    @property
    def task(self) -> tuple[int, int]:
        """Tokens of the user's task that each file reads and writes."""
        settings, task = self.context.recipe.task, self.context.task
        if settings is None or task is None:
            return 0, 0
        rows = task.asked(settings.items)
        return _prompt_tokens(rows), _answer_tokens(rows, settings.max_answer_tokens)


def _prompt_tokens(rows: Iterable[Labelled]) -> int:
    return sum(TEMPLATE_TOKENS + row.prompt.characters // TOKEN_CHARACTERS for row in rows)


def _answer_tokens(rows: Iterable[Labelled], most: int) -> int:
    """With the token that ends each."""
    return sum(1 + min(most, len(row.answer) // ANSWER_CHARACTERS) for row in rows)
