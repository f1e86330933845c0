"""Commands killed (SIGKILL) or stopped (SIGINT, SIGTERM, SIGHUP) at random moments, again and again, until one comes to
its end: it must be what a command that nobody disturbed leaves.
"""

import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.counts import Counts
from tests.faults.forked import Outcome, run
from tests.faults.material import (
    Material,
    compare_words,
    compile_words,
    export_words,
    recover_words,
    weights_of,
)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
COMMANDS: dict[str, Callable[[Path, Path], list[object]]] = {
    "compile": compile_words,
    "recover": recover_words,
    "compare": compare_words,
    "export": export_words,
}
MOST_IN_A_ROW = 12  # then the command is left alone, and its files looked at


def inject(material: Material, kills: int, signals: int, rng: random.Random) -> list[Counts]:
    """So many kills and signals, spread over the commands."""
    by_kill, by_signal = Counts("kills"), Counts("signals")
    for name, words in COMMANDS.items():
        undisturbed = material.root / f"undisturbed-{name}"
        done = run(words(material.model, undisturbed), limit_s=600)
        assert done.code == 0, done.err
        expected = weights_of(shipped(undisturbed, name))
        for counts, number in ((by_kill, kills), (by_signal, signals)):
            _disturb(material, name, counts, -(-number // len(COMMANDS)), done.seconds, expected, rng)
        shutil.rmtree(undisturbed)
    return [by_kill, by_signal]


def shipped(out: Path, command: str) -> Path:
    """Where a command puts what ships."""
    return out if command == "export" else out / "bundle"


def _disturb(
    material: Material,
    name: str,
    counts: Counts,
    number: int,
    seconds: float,
    expected: dict[str, str],
    rng: random.Random,
) -> None:
    words, out = COMMANDS[name], material.root / f"disturbed-{name}"
    left = number
    while left > 0:
        shutil.rmtree(out, ignore_errors=True)
        for _ in range(min(left, MOST_IN_A_ROW)):
            left -= 1
            sign = signal.SIGKILL if counts.name == "kills" else rng.choice(SIGNALS)
            moment = time.monotonic() + rng.uniform(0, seconds / 2)
            done = run(
                words(material.model, out),
                limit_s=600,
                meanwhile=lambda _, at=moment: time.monotonic() > at,
                sent=sign,
            )
            counts.add(f"{name} after {sign.name}", _stopped_trouble(done, sign))
        done = run(words(material.model, out), limit_s=600)
        if done.code != 0 or weights_of(shipped(out, name)) != expected:
            counts.wrong.append(f"{name}: going on ended with exit code {done.code}, or other files: {done.said}"[:300])
    shutil.rmtree(out, ignore_errors=True)


def _stopped_trouble(done: Outcome, sign: signal.Signals) -> str | None:
    """A command that was stopped says nothing, or a sentence; one that ended before is as good."""
    if done.code == -sign:
        return None
    if done.code == 130 and "Stopped" in done.err:
        return None
    return done.trouble((0,))
