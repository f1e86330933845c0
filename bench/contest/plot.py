"""The plot of the comparison: KL against bytes for every tool, and KL against training tokens for ours; a panel each
for every judge.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contest.layout import FLOAT

OURS = "edgedistill "


def draw(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """Write an SVG file.

    Args:
        rows: of table.flat_rows.
        out: the file; its bytes depend on the rows alone.
    """
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "edgedistill", "font.size": 8})
    import matplotlib.pyplot as plt

    rows = [row for row in rows if row["tool"] != FLOAT]
    judges = list(dict.fromkeys(row["judge"] for row in rows))
    tools = sorted({row["tool"] for row in rows}, key=lambda tool: (tool.startswith(OURS), _trained(rows, tool), tool))
    colours = _colours(tools)
    figure, axes = plt.subplots(2, len(judges), figsize=(4.2 * len(judges), 7), squeeze=False)
    for column, judge in enumerate(judges):
        by_bytes, by_tokens = axes[0][column], axes[1][column]
        here = [row for row in rows if row["judge"] == judge]
        for tool in tools:
            points = sorted((row["bytes"] / 1e6, row["kl"]) for row in here if row["tool"] == tool)
            style = (
                {"marker": "o", "color": colours[tool]}
                if tool.startswith(OURS)
                else {"marker": "x", "color": colours[tool]}
            )
            by_bytes.plot(*zip(*points, strict=True), linewidth=0, label=tool, **style) if points else None
        for mix in dict.fromkeys(row["mix"] for row in here):
            ours = sorted(
                (row["tokens"], row["kl"]) for row in here if row["mix"] == mix and row["tool"].startswith(OURS)
            )
            if ours:
                by_tokens.plot(*zip(*ours, strict=True), marker="o", linewidth=1, label=mix)
        by_bytes.set(title=judge, xlabel="file, MB", ylabel="KL to the float model, nats a token", yscale="log")
        by_tokens.set(xlabel="tokens trained on", ylabel="KL to the float model, nats a token", yscale="log")
        by_tokens.set_xscale("symlog", linthresh=10_000)
    axes[0][0].legend(fontsize=6)
    if axes[1][0].has_data():
        axes[1][0].legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})
    plt.close(figure)


def _trained(rows: Sequence[dict[str, Any]], tool: str) -> int:
    return max(row["tokens"] for row in rows if row["tool"] == tool)


def _colours(tools: Sequence[str]) -> dict[str, Any]:
    """Ours from light to dark green in the order given; the others from matplotlib's ten."""
    import matplotlib as mpl

    ours = [tool for tool in tools if tool.startswith(OURS)]
    others = [tool for tool in tools if not tool.startswith(OURS)]
    greens = mpl.colormaps["Greens"]
    return {tool: greens(0.4 + 0.55 * (i + 1) / len(ours)) for i, tool in enumerate(ours)} | {
        tool: f"C{(i + 3 if i == 2 else i) % 10}" for i, tool in enumerate(others)
    }
