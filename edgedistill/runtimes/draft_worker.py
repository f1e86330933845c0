"""The child process of a target and its draft model: `python -m edgedistill.runtimes.draft_worker`.

Both files are loaded in one process, as a runtime that drafts has them. The parent's class is `DraftPair` in draft.py.
"""

from dataclasses import asdict

from edgedistill.errors import InputError
from edgedistill.runtimes.llama_engine import LlamaEngine
from edgedistill.runtimes.prompt import PromptFormat, special_text, write_prompt
from edgedistill.runtimes.speculative import Drafting, Reader, speak
from edgedistill.runtimes.worker import Answer, Operation, serve


class DraftWorker:
    """The operations on a pair of GGUF files."""

    target: LlamaEngine
    draft: LlamaEngine

    def operations(self) -> dict[str, Operation]:
        """By the names that the parent sends."""
        return {"load": self.load, "speak": self.speak}

    def load(self, target: str, draft: str, threads: int) -> Answer:
        """Load both files.

        Raises:
            InputError: their tokens differ.
            ValueError: llama.cpp refuses one.
        """
        self.target, self.draft = LlamaEngine(target, threads), LlamaEngine(draft, threads)
        count = min(self.target.vocab, self.draft.vocab)
        texts = [[engine.piece(token, True) for token in range(count)] for engine in (self.target, self.draft)]
        for token, (ours, theirs) in enumerate(zip(*texts, strict=True)):
            if ours != theirs:
                raise InputError(
                    f"token {token} is {ours!r} in the target and {theirs!r} in the draft model; a draft model needs "
                    "the target's tokenizer, as its students have it"
                )
        self.stops = frozenset(self.target.stop_ids())
        return {"vocab": self.target.vocab}

    def speak(self, text: str, messages: bool, most_new: int, drafting: dict[str, float] | None) -> Answer:
        """One answer to a prompt, with the draft model or without it."""
        engine = self.target
        template = engine.chat_template() if messages else None
        if template is not None:
            import llama_cpp.llama_cpp as lib

            ends = (lib.llama_vocab_bos(engine.lib_vocab), lib.llama_vocab_eos(engine.lib_vocab))
            bos, eos = (special_text(token, lambda one: engine.piece(one, True)) for token in ends)
            text = write_prompt(PromptFormat(template, bos, eos, False), [{"role": "user", "content": text}], True)
        prompt = engine.tokenize(text, template is None, True)
        settings = Drafting() if drafting is None else Drafting(int(drafting["most"]), drafting["least_probability"])
        length = len(prompt) + most_new + settings.most + 1
        target = Reader(engine, length, settings.most + 1)
        draft = Reader(self.draft, length, 1) if drafting is not None else None
        return asdict(speak(target, draft, prompt, (most_new, self.stops), settings))


if __name__ == "__main__":
    serve(DraftWorker().operations())
