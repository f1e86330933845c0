"""Writes the rows of a Parquet file as JSON lines; its arguments are the file, and a JSON list of columns.

Some hundred bytes of Parquet can unfold into gigabytes, so a process of its own reads it, within an address space that
it can't leave. Its first line is {"columns": [...]}; where it can't read on, its last is {"error": "..."}.
"""

import json
import resource
import sys
from collections.abc import Iterator
from datetime import date, time
from decimal import Decimal
from typing import Any

ADDRESS_SPACE_BYTES = 3 * 2**30  # pyarrow alone reserves some hundred megabytes
BATCH_ROWS = 64  # a row has a few kilobytes as a rule, and may have megabytes


def rows(path: str, names: list[str]) -> Iterator[dict[str, Any]]:
    """The columns that the file has, and then its rows with those that are among `names`."""
    from pyarrow import parquet  # type: ignore[import-untyped]

    file = parquet.ParquetFile(path)
    columns = list(file.schema_arrow.names)
    yield {"columns": columns}
    chosen = [name for name in columns if name in names]
    for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=chosen, use_threads=False):
        yield from batch.to_pylist() if chosen else [{}] * batch.num_rows


def plain(value: Any) -> Any:
    """What JSON doesn't hold: a date, a time or a decimal as its text, as CSV has it; bytes and the like as an object,
    which no prompt may be.
    """
    if isinstance(value, date | time | Decimal):
        return str(value)
    return {type(value).__name__: str(value)[:100]}


def tell(row: dict[str, Any]) -> None:
    """One line on stdout."""
    sys.stdout.write(json.dumps(row, default=plain) + "\n")


def main() -> None:
    """Read and print."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    try:
        for row in rows(sys.argv[1], json.loads(sys.argv[2])):
            tell(row)
    except BrokenPipeError:
        pass
    except MemoryError:
        tell({"error": f"its rows unfold into more than {ADDRESS_SPACE_BYTES >> 30} GiB"})
    except Exception as error:  # Arrow has many kinds, and a damaged file finds others
        lines = str(error).splitlines() or [type(error).__name__]
        unfolds = "alloc" in lines[0] or "memory" in lines[0].lower()
        what = f"it unfolds into more than {ADDRESS_SPACE_BYTES >> 30} GiB" if unfolds else lines[0][:100]
        tell({"error": what})


if __name__ == "__main__":
    main()
