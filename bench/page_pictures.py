"""Pictures of a report's page, as a reader sees it: wide, dark, on a phone, printed, and some of its parts.

Run    python bench/page_pictures.py runs/demo/report.json -o docs/pictures
Needs  Chromium (or $CHROMIUM). Writes page*.png, each below LARGEST bytes.
"""

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from edgedistill.report.html import render_html  # noqa: E402
from edgedistill.report.write import read_report  # noqa: E402
from tests.browser import Browser, Page  # noqa: E402

LARGEST = 400_000
WIDE, NARROW, PAPER = 1180, 360, 794  # CSS pixels; the last is A4
MARGINS = "57px 53px"  # of paper, as page.css has them
PARTS = {"page-lost": "#lost", "page-answers": "#answers", "page-tasks": "#tasks"}


def part(page: Page, selector: str, path: Path, most: float = 1500) -> None:
    """One part of the page, at most so high; nothing where the page doesn't have it."""
    box = page.js(
        f"(() => {{ const e = document.querySelector('{selector}'); "
        "return e && e.getBoundingClientRect().toJSON() })()"
    )
    if box:
        top = box["top"] + page.js("scrollY")
        page.picture(path, clip={"x": 0, "y": top, "width": WIDE, "height": min(most, box["height"] + 20)})


def main() -> None:
    """Write the pictures of the report named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("report", type=Path, help="report.json of a run")
    parser.add_argument("-o", "--out", type=Path, default=ROOT / "docs" / "pictures", help="folder for the pictures")
    found = parser.parse_args()
    html = render_html(read_report(found.report))
    found.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, Browser() as browser:
        file = Path(folder) / "report.html"
        file.write_text(html, encoding="utf-8")

        def opened(width: int, dark: bool = False) -> Page:
            page = browser.page(width=width, height=900, dark=dark)
            page.open(file)
            return page

        wide, dark, narrow, paper = opened(WIDE), opened(WIDE, dark=True), opened(NARROW), opened(PAPER)
        paper.call("Emulation.setEmulatedMedia", {"media": "print"})
        paper.js(f"document.body.style.padding = '{MARGINS}'")
        for name, page, width, height in (
            ("page", wide, WIDE, 1640),
            ("page-dark", dark, WIDE, 1640),
            ("page-narrow", narrow, NARROW, 2200),
            ("page-print", paper, PAPER, 1123),
        ):
            page.picture(found.out / f"{name}.png", clip={"x": 0, "y": 0, "width": width, "height": height})
        for name, selector in PARTS.items():
            part(wide, selector, found.out / f"{name}.png")
    for path in sorted(found.out.glob("page*.png")):
        size = path.stat().st_size
        print(f"{path}: {size / 1000:.0f} kB")
        if size > LARGEST:
            sys.exit(
                f"{path}: it has {size:,} bytes, more than the {LARGEST:,} that a picture may have. Make it less high."
            )


if __name__ == "__main__":
    main()
