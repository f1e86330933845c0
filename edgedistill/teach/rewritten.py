"""The training text once more, for a student that reads it otherwise: each shard of the teach stage becomes one of the
same name, so a killed stage goes on with the next.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgedistill.data.example import Example
from edgedistill.progress import Progress
from edgedistill.signals.shards import PATTERN, save_shard


@dataclass(frozen=True)
class Rewriting:
    """Which text becomes what.

    Attributes:
        taught: what the teach stage wrote.
        folders: names of its folders that are rewritten, such as "train" and "free-judge".
        examples: a shard -> its examples as the student reads them, without those that it can't.
        title: what the progress says.
    """

    taught: Path
    folders: Sequence[str]
    examples: Callable[[Path], Iterable[Example]]
    title: str

    def write(self, work: Path, progress: Progress) -> list[str]:
        """Write the shards to `work`; returns the folders that had text and have none now.

        Args:
            work: the stage's folder; whole shards that a killed run left in it are kept.
            progress: where it is shown.
        """
        shards = [shard for folder in self.folders for shard in sorted((self.taught / folder).glob(PATTERN))]
        progress.start(self.title, len(shards), "files")
        for shard in shards:
            place = work / shard.relative_to(self.taught)
            place.parent.mkdir(exist_ok=True)
            if not place.is_file():
                examples = list(self.examples(shard))
                if examples:
                    save_shard(place, examples)
            progress.advance(1)
        progress.finish()
        written = dict.fromkeys(shard.parent.name for shard in shards)
        return [folder for folder in written if not any((work / folder).glob(PATTERN))]
