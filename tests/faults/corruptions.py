"""A file of a finished run is changed, cut, emptied, removed or replaced: the same command makes the run whole again,
or refuses it in a sentence.
"""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.faults.counts import Counts
from tests.faults.forked import fresh_copy, run
from tests.faults.material import Material, compile_words, weights_of

Damage = Callable[[Path, random.Random], None]


def flip(path: Path, rng: random.Random) -> None:
    """Change a bit."""
    content = bytearray(path.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    _replace(path, bytes(content))


def cut(path: Path, rng: random.Random) -> None:
    """Leave the beginning."""
    content = path.read_bytes()
    _replace(path, content[: rng.randrange(len(content) + 1)])


def empty(path: Path, rng: random.Random) -> None:
    """Leave nothing in it."""
    _replace(path, b"")


def lengthen(path: Path, rng: random.Random) -> None:
    """Add bytes at the end."""
    _replace(path, path.read_bytes() + rng.randbytes(rng.randint(1, 100)))


def remove(path: Path, rng: random.Random) -> None:
    """Take it away."""
    path.unlink()


def link(path: Path, rng: random.Random) -> None:
    """Put a link in its place."""
    path.unlink()
    path.symlink_to("/etc/hostname")


def garbage(path: Path, rng: random.Random) -> None:
    """Put other bytes in it."""
    _replace(path, rng.randbytes(rng.randint(1, 5000)))


def remove_folder(path: Path, rng: random.Random) -> None:
    """Take away the folder that it lies in."""
    shutil.rmtree(path.parent)


DAMAGES: tuple[Damage, ...] = (flip, cut, empty, lengthen, remove, link, garbage, remove_folder)


def inject(material: Material, number: int, rng: random.Random) -> Counts:
    """So many damaged copies of the finished run."""
    counts = Counts("corruptions of a finished run")
    expected = weights_of(material.run / "bundle")
    for _ in range(number):
        copy = fresh_copy(material.run, material.root / "spoilt")
        files = sorted(path for path in copy.rglob("*") if path.is_file() and path.name != ".lock")
        path, damage = rng.choice(files), rng.choice(DAMAGES)
        if damage is remove_folder and path.parent == copy:
            damage = remove
        what = f"{damage.__name__} {path.relative_to(copy)}"
        damage(path, rng)
        done = run(compile_words(material.model, copy), limit_s=600)
        trouble = done.trouble((0, 2))
        if trouble is None and done.code == 0 and weights_of(copy / "bundle") != expected:
            trouble = "other files"
        counts.add(what, trouble)
    shutil.rmtree(material.root / "spoilt", ignore_errors=True)
    return counts


def _replace(path: Path, content: bytes) -> None:
    """A new file of the name: the bundle's are hard links to the stages'."""
    path.unlink()
    path.write_bytes(content)
