"""How a model is asked unless someone says otherwise: by `chat`, `serve`, Ollama's Modelfile and a bundle's examples.

Two numbers of sampling, and the system message that the model was trained with, if there is one. What other programs
apply besides by themselves (a cut to the K likeliest, a penalty for repeated tokens) is switched off where it can be:
it would change what the measured file says.
"""

from dataclasses import dataclass

TEMPERATURE = 0.2
TOP_P = 0.9
MAX_TOKENS = 512  # of an answer; what ends one that repeats itself in Ollama, which doesn't watch for that
SWITCHED_OFF = {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}  # by llama.cpp's names


@dataclass(frozen=True)
class ChatDefaults:
    """Temperature, above 0; the share of the probability that the likeliest tokens kept have together, in (0, 1]; and
    the system message, None for the chat template's own.
    """

    temperature: float = TEMPERATURE
    top_p: float = TOP_P
    system: str | None = None

    @property
    def llama_sampling(self) -> dict[str, float]:
        """By llama.cpp's and Ollama's names."""
        return {"temperature": self.temperature, "top_p": self.top_p, **SWITCHED_OFF}
