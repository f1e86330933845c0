"""What bench/counts.py counts, on a sample whose counts were taken by hand."""

import json
import sys
from collections import Counter
from io import StringIO
from pathlib import Path
from tokenize import NAME, generate_tokens

import counts

SAMPLE = '''"""found, asked: words in a text count nowhere, nor does Mapping[str, Any]."""
from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]


def one(a, b, c, d, e, f, *rest, **found):
    return [x for x in rest if x]


class Table:
    def fits(self, a: int, b, c, d, e, f) -> "int | None":
        # found
        return 1 if a else 2 if b else 3

    def rows(self, row: Row, rows: Mapping[str, Mapping[str, Any]]) -> list[Row]:
        found = self.found(known=row)
        return {k: v for k, v in found} or (x for x in rows)


def typed(rows: "Mapping[str, int]", dict: Mapping[str, Mapping[int, str]]) -> RowCount:
    """Nothing here counts."""
'''


def test_counts_of_a_sample():
    long_file = "x = 1\n" * 300 + "y = 1" + " " * 120 + "\n"
    result = counts.counts_of({"report/sample.py": SAMPLE, "plan/long.py": long_file})
    assert (result.files, result.lines) == (2, 15 + 301)
    assert result.untyped_annotations == 3
    assert (result.conditional_expressions, result.nested_conditional_expressions) == (2, 1)
    assert result.comprehensions == 3
    assert result.long_signatures == 1
    assert {name: count for name, count in result.participles.items() if count} == {"found": 4, "known": 1}
    assert (result.long_lines, result.long_files) == (1, 1)
    assert result.conditional_expressions_per_1000_lines == 1000 * 2 / 316


def test_signatures_of_the_command_line_may_be_json():
    assert counts.counts_of({"cli/sample.py": SAMPLE}).untyped_annotations == 0


def test_uses_of_a_name_are_those_that_pythons_tokenizer_sees():
    sources = counts.sources_in(counts.ROOT / counts.PACKAGE)
    tokens = Counter(
        token.string
        for source in sources.values()
        for token in generate_tokens(StringIO(source).readline)
        if token.type == NAME
    )
    uses = counts.counts_of(sources).participles["found"]
    # Before Python 3.12 the tokenizer leaves out names inside f-strings.
    assert uses == tokens["found"] if sys.version_info >= (3, 12) else uses >= tokens["found"]


def test_the_command_prints_a_table_and_writes_no_record(capsys, monkeypatch, tmp_path: Path):
    (tmp_path / "sample.py").write_text(SAMPLE, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["counts.py", str(tmp_path)])
    counts.main()
    assert "| uses of the name `found` | 4 |" in capsys.readouterr().out


def test_the_record_states_the_figures_of_its_own_counts():
    record = json.loads(counts.OUT.read_text(encoding="utf-8"))
    for side in ("before", "after"):
        fields = {name: record[side][name] for name in counts.Counts.__dataclass_fields__}
        assert counts.Counts(**fields).figures() == record[side]["figures"]
