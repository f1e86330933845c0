"""The texts of the comparison: what every tool may learn or calibrate on, and what none of them may see.

    learn/        wiki.txt, pride-and-prejudice.txt, moby-dick.txt, chats.txt and prompts.jsonl (written by chats.py)
    calibration.txt   about 50,000 tokens of the four, evenly taken from the whole of each: the same text for every tool
    judge/        wiki.test.raw, book.txt

WikiText-2's validation split marks rare words as <unk>, which no model ever sees in use: sentences with such a mark are
left out. Books are unwrapped, without Project Gutenberg's licence. Everything follows from the data folder alone, so
that two runs write the same bytes.
"""

import re
from collections.abc import Sequence
from pathlib import Path

LEARN_BOOKS = {"pride-and-prejudice": "1342-0.txt", "moby-dick": "2701-0.txt"}
JUDGE_BOOK = "1661.txt"  # The Adventures of Sherlock Holmes: the book that judges in the package's own texts too
SHORTEST = 200  # characters: below are headings, verses and the table of contents
CALIBRATION_CHARACTERS = 54_000  # of each text; about 12,500 tokens
BOOK_CHARACTERS = 260_000  # of each book to learn from: as much as there is of the encyclopedia
STRETCH = 2_000  # characters that calibration takes in a row


def wiki_text(raw: str) -> str:
    """WikiText's tokenized split as its raw one reads: one line a heading or paragraph, without sentences that hold
    <unk>.
    """
    lines = []
    for line in raw.splitlines():
        if line.strip().startswith("="):
            lines += [] if "<unk>" in line else [f" {line.strip()} "]
            continue
        sentences = [s for s in re.split(r"(?<= [.?!]) ", line.strip()) if "<unk>" not in s]
        kept = " ".join(sentences)
        if len(kept) >= SHORTEST // 2:
            lines.append(f" {kept} ")
    return "\n".join(lines) + "\n"


def book_text(raw: str) -> str:
    """A book of Project Gutenberg as unwrapped paragraphs with an empty line between them.

    Raises:
        ValueError: the marks that the book stands between aren't there.
    """
    found = re.search(
        r"\*\*\* ?START OF TH.*?\*\*\*(.*)(?:\*\*\* ?END|End of (?:the )?Project)", raw.replace("\r\n", "\n"), re.DOTALL
    )
    if found is None:
        raise ValueError("the text isn't Project Gutenberg's: its START and END marks are missing")
    paragraphs = (" ".join(block.split()) for block in re.split(r"\n\s*\n", found[1]))
    return "\n\n".join(p for p in paragraphs if len(p) >= SHORTEST) + "\n"


def spread(text: str, characters: int) -> str:
    """About so many characters of a text, in stretches of whole lines taken evenly from all of it."""
    if len(text) <= characters:
        return text
    pieces, piece = [], ""
    for line in text.splitlines(keepends=True):
        piece += line
        if len(piece) >= STRETCH:
            pieces.append(piece)
            piece = ""
    share = characters / sum(map(len, pieces))
    return "".join(p for i, p in enumerate(pieces) if int((i + 1) * share) > int(i * share))


def write_texts(data: Path, out: Path) -> None:
    """Write all but the chats under `out`; files that are there are left."""
    wiki = data / "wikitext2"
    makers = {
        "learn/wiki.txt": lambda: wiki_text((wiki / "valid.txt").read_text(encoding="utf-8")),
        "judge/wiki.test.raw": lambda: (wiki / "wiki.test.raw").read_text(encoding="utf-8"),
        "judge/book.txt": lambda: book_text((data / "gutenberg" / JUDGE_BOOK).read_text(encoding="utf-8-sig")),
    }
    for name, file in LEARN_BOOKS.items():
        makers[f"learn/{name}.txt"] = lambda file=file: spread(
            book_text((data / "gutenberg" / file).read_text(encoding="utf-8-sig")), BOOK_CHARACTERS
        )
    for name, make in makers.items():
        if not (out / name).is_file():
            put(out / name, make())


def calibration(texts: Sequence[str]) -> str:
    """The calibration text: about the same amount of each text."""
    return "\n".join(spread(text, CALIBRATION_CHARACTERS) for text in texts)


def put(path: Path, content: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(content, encoding="utf-8", newline="")
    partial.replace(path)
