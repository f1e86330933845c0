"""Lists on the command line."""


def words_of(text: str) -> tuple[str, ...]:
    """The words of a list, each once, in lower case: llama.cpp's own Q4_K_M is our q4_k_m."""
    return tuple(dict.fromkeys(word.strip().lower() for word in text.split(",") if word.strip()))
