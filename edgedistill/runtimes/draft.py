"""A target and its draft model in llama.cpp, in one child process."""

from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from edgedistill.runtimes.child import Child
from edgedistill.runtimes.llama import check_gguf
from edgedistill.runtimes.speculative import Drafting, Spoken

DRAFT_WORKER = "edgedistill.runtimes.draft_worker"


class DraftPair:
    """`with DraftPair(target, draft, threads=2) as pair: pair.speak("Hi", 64, Drafting())`."""

    def __init__(self, target: Path, draft: Path, threads: int) -> None:
        """Load both files.

        Raises:
            InputError: there is no such file, it is no GGUF, or their tokens differ.
            RunError: llama.cpp refuses one.
        """
        for path in (target, draft):
            check_gguf(path)
        self._child = Child(DRAFT_WORKER, target, threads)
        self._child.call("load", target=str(target.resolve()), draft=str(draft.resolve()), threads=threads)

    def speak(self, prompt: str, most_new: int, drafting: Drafting | None, chats: bool = True) -> Spoken:
        """The target's greedy answer to a user's message.

        Args:
            most_new: tokens at most.
            drafting: how much is drafted; None: the target writes alone.
            chats: whether the message goes through the file's chat template, where it has one.
        """
        how = None if drafting is None else asdict(drafting)
        answer, _ = self._child.call("speak", text=prompt, messages=chats, most_new=most_new, drafting=how)
        return Spoken(**answer)

    def close(self) -> None:
        """End the child."""
        self._child.close()

    def __enter__(self) -> "DraftPair":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
