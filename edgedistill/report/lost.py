"""The page's part on what rounding cost where: heat maps of each mix, and the worst tokens of each file."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgedistill.report import heat
from edgedistill.results.measurement import LayerError
from edgedistill.results.report import Report
from edgedistill.results.row import Row, WorstToken

PACKED = ("rounded", "recovered")
FEW = 2  # mixes whose maps all stand open
DRAWN_ENDS = {ord("\n"): "⏎", ord("\t"): "⇥"}
DRAWN = {**DRAWN_ENDS, ord(" "): "␣"}


@dataclass(frozen=True)
class HeatMaps:
    """A mix's maps, rounded and recovered as far as there are such files, on one scale.

    Attributes:
        kinds: of the maps; `charts` and `middles` (the median error of each) in their order.
        legend: shades and the errors that they stand for.
        worst: the worst matrices: tensor, grid, and the error by kind.
    """

    mix: str
    kinds: list[str]
    charts: list[Markup]
    middles: list[tuple[str, str]]
    legend: list[tuple[str, str]]
    worst: list[tuple[str, str | None, list[str | None]]]


@dataclass(frozen=True)
class ShownToken:
    """A worst token with what is drawn of it: the space before the expected word, the word, what was expected and what
    the file says instead.
    """

    token: WorstToken
    gap: str
    word: str
    want: str
    says: str


@dataclass(frozen=True)
class WorstOfFile:
    """A file's worst tokens."""

    row: Row
    tokens: list[ShownToken]


@dataclass(frozen=True)
class Lost:
    """Maps and tokens that stand open, those behind a fold, and what the maps' errors are `by`."""

    maps: list[HeatMaps]
    more_maps: list[HeatMaps]
    tokens: list[WorstOfFile]
    more_tokens: list[WorstOfFile]
    by: str | None
    trained: bool


def lost_view(report: Report, rows: Sequence[Row], chosen: Row | None) -> Lost | None:
    """The heat maps of each mix and the worst tokens of each row; the chosen mix stands first. None where neither was
    kept.
    """
    mix = chosen.mix if chosen else None
    maps = [found for name, entries in report.layers.items() if (found := _maps(name, entries)) is not None]
    tokens = [WorstOfFile(row, [_drawn(token) for token in row.worst]) for row in rows if row.worst]
    maps.sort(key=lambda each: each.mix != mix)
    tokens.sort(key=lambda each: each.row.mix != mix)
    if not maps and not tokens:
        return None
    # One mix' maps and tokens stand open; of many, the others are behind a fold.
    opened = 1 if len(maps) > FEW else len(maps)
    first = [each for each in tokens if each.row.mix == tokens[0].row.mix]
    return Lost(
        maps=maps[:opened],
        more_maps=maps[opened:],
        tokens=first,
        more_tokens=[each for each in tokens if each not in first],
        by=report.layers_by,
        trained=any("recovered" in each.kinds for each in maps),
    )


def _maps(mix: str, entries: Sequence[LayerError]) -> HeatMaps | None:
    edges = heat.scale_of(entries)
    if edges is None:
        return None
    drawn = {kind: heat.heatmap(entries, kind, edges, f"{mix} {kind}") for kind in PACKED}
    charts = {kind: chart for kind, chart in drawn.items() if chart}
    if not charts:
        return None
    kinds = list(charts)
    worst = [
        (entry.tensor, entry.grid, [heat.shown(entry.error(kind)) for kind in kinds])
        for entry in heat.worst_tensors(entries, kinds[-1])
    ]
    middles = [(kind, heat.percent(heat.middle(entries, kind) or 0.0)) for kind in kinds]
    return HeatMaps(mix, kinds, list(charts.values()), middles, heat.legend(edges), worst)


def _drawn(token: WorstToken) -> ShownToken:
    """Spaces are drawn where they are all of a token, or all that tells the two apart."""
    expected = token.expected
    word = expected.lstrip(" ")
    gap = expected[: len(expected) - len(word)] if word else ""
    apart = expected.strip() != token.got.strip()
    shown_word = word.translate(DRAWN_ENDS) if word else expected.translate(DRAWN)
    return ShownToken(token, gap, shown_word, _shown(expected, apart), _shown(token.got, apart))


def _shown(text: str, apart: bool) -> str:
    if not apart or not text.strip():
        return text.translate(DRAWN)
    return text.strip(" ").translate(DRAWN_ENDS)
