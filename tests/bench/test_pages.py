"""README's table: its rows by hand, and that it tells the fit and the training apart."""

import pages


def row(tool, kl, tokens=0, mix="q4_0", judge="wiki"):
    return {
        "tool": tool,
        "mix": mix,
        "judge": judge,
        "tokens": tokens,
        "bytes": 91_700_000,
        "kl": kl,
        "kl_p99": 5 * kl,
        "ppl": 30 + kl,
    }


def both(tool, kl, tokens=0):
    """A tool's rows: twice as bad on the book."""
    return [row(tool, kl, tokens), row(tool, 2 * kl, tokens, judge="book")]


RECORD = {
    "judges": [{"name": "wiki"}, {"name": "book"}],
    "rows": [
        *both("edgedistill fit", 0.08),
        *both("edgedistill 10k", 0.07, 10_000),
        *both("edgedistill 400k", 0.06, 400_000),
        *both("edgedistill auto fit", 0.03),
        *both("edgedistill auto 400k", 0.02, 400_000),
        *both("llama.cpp", 0.4),
        *both("llama.cpp imatrix", 0.2),
        *both("llama.cpp imatrix, q5_0 everywhere", 0.09),
        *both("llama.cpp imatrix, its own types", 0.15),
        *both("GPTQ", 0.19),
        row("AutoRound", 0.1),
        row("AutoRound", 0.9, judge="book"),
        row("AutoRound", 0.01, mix="q8_0"),
    ],
}


def test_the_table_has_six_rows_and_says_what_fit_and_training_did():
    lines = pages.in_short(RECORD).splitlines()
    firsts = [line.split(" | ")[0].removeprefix("| ") for line in lines[2:8]]
    assert firsts == [
        "rounded by llama.cpp",
        "llama.cpp with an importance matrix",
        "AutoRound, the best other tool",
        "`q5_0` everywhere, with an importance matrix",
        "fitted by edgedistill, then trained on 400,000 tokens",
        "fitted by edgedistill, formats chosen by tensor (`auto_q4_0`), then trained on 400,000",
    ]
    assert lines[2] == "| rounded by llama.cpp | 91.7 MB | 0.400 | 2.00 | 0.800 | 30.4 |"
    assert lines[8:] == [
        "",
        "Of the KL that plain rounding costs, the fit takes away 80 % and the training another 5 points.",
    ]


def test_a_record_without_other_tools_or_training_has_the_rows_that_there_are():
    ours = [entry for entry in RECORD["rows"] if entry["tool"] in ("llama.cpp", "llama.cpp imatrix", "edgedistill fit")]
    text = pages.in_short({"judges": RECORD["judges"], "rows": ours})
    assert len(text.splitlines()) == 5
    assert "training" not in text


def test_the_table_of_all_texts_shows_the_worst_quotient():
    lines = pages.by_text(RECORD).splitlines()
    assert lines[0] == "| q4_0 | MB | wiki | book | worst, over imatrix | perplexity, wiki |"
    by_tool = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[1:] for line in lines[2:]}
    assert by_tool["AutoRound"] == ["91.7", "0.100", "0.900", "2.25", "30.10 |"]
    assert by_tool["edgedistill 400k"][3] == "0.30"
    assert "q8_0" not in "".join(lines)  # no importance matrix to compare with
