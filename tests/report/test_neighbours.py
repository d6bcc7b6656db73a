"""The text beside a cited number: what changes the number is found, and what is legitimate passes."""

from __future__ import annotations

import re

import pytest

from ablations.report.citations import check, make_marks
from ablations.report.formats import write_tables
from ablations.report.frames import load
from ablations.report.results import analyse

SHORT = {
    "memory": "predicted_train_peak_memory_bytes",
    "speed": "train_images_per_second",
    "latency": "latency_step_seconds",
    "accuracy": "test_accuracy",
    "sd": "test_accuracy_sd",
    "gain": "test_accuracy_change",
    "low": "test_accuracy_change_low",
    "high": "test_accuracy_change_high",
}


@pytest.fixture
def tried(results):
    """Returns a function that gives the problems of a text, in which `@params@` stands for a mark that agrees."""
    found = analyse(load(results))
    write_tables(found)

    def try_text(text, suffix):
        form = "latex" if suffix == ".tex" else "markdown"

        def write_mark(match):
            mark = make_marks(found, "growth_rate", "8", SHORT.get(match[1], match[1]))[form]
            return mark.replace(str(results), "results")

        path = results.parent / f"text{suffix}"
        head = "% \\input{results/numbers}\n" if suffix == ".tex" else ""
        path.write_text(head + re.sub(r"@(\w+)@", write_mark, text))
        return [citation.problem for citation in check(path)]

    return try_text


BOTH = (".md", ".html", ".tex")
CHANGED = {
    BOTH: [
        "a loss of −\u00a0@params@", "a gain of +\u2009@params@", "(–\u202f@params@)",
        "1@params@", "0.@params@", "1,@params@", "-@params@", "of -@params@", "(+@params@)", "3+@params@",
        "\N{MINUS SIGN}@params@", "–@params@", "±@params@", "93 ± @params@", "1e@params@", "1e-@params@", "@params@5",
        "@params@.5", "@params@,000", "@params@e3", "@params@E-3", "@params@·10^3", "@params@²", "@params@^2",
        "@params@\N{NO-BREAK SPACE}000", "x^@params@", "1\N{THIN SPACE}@params@", "1'@params@", "@params@@macs@",
        "@params@.@n@", "±@gain@", "@params@⁻³", "－@params@", "1/2@verdict@", "un@verdict@", "un-@verdict@",
        "@verdict@ly",
    ],
    (".md", ".html"): [
        "1<b>@params@</b>", "&minus;@params@", "@params@<sup>2</sup>", "@params@ &times; 10<sup>3</sup>",
        "1&nbsp;@params@", "1<!-- note -->@params@", "@params@<!-- note -->5", "1\u200b@params@", "@params@ × 10³",
        "@low@,5",
    ],
    (".md",): [
        r"\-@params@", r"@params@ $\times 10^3$", r"$\pm$@params@", r"$5\,@params@$", "1**@params@**",
        "**@params@**5", "$-$@params@", "`1`@params@",
    ],
    (".tex",): [
        r"1\textbf{@params@}", r"1\textcolor{red}{@params@}", r"\num{1}@params@", r"1\underline{@params@}",
        "@params@$^{-3}$", "$-$@params@", r"$\pm$@params@", r"@params@\,000", "@params@~000",
        r"@params@$\times10^{3}$", "1%\n @params@", r"{@params@}e3", "1{,}@params@", r"$1@params@$",
        r"\textminus @params@", "@params@%\n5",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("kinds", "texts"), CHANGED.items())
def test_what_changes_a_number_is_found(tried, kinds, texts):
    passed = [(text, kind) for text in texts for kind in kinds if "changes it" not in "".join(tried(text, kind))]
    assert passed == []


UNITS = {
    BOTH: [
        "@memory@ GiB", "@memory@-GiB peak", "@memory@ MB", "@memory@\nKiB", "@memory@ MiB/s", "@macs@ GMACs",
        "@macs@ G", "@macs@G", "@macs@ billion", "@macs@ MFLOPs", "@macs@ MACs", "@flops@ M MACs", "@params@ M",
        "@params@ thousand", "@params@ MACs", "@speed@ images/min", "@latency@ s", "@latency@ µs",
        "@latency@ seconds", "@accuracy@ points", "@gain@ percent", "@params_change@ points",
        "@params_change@ percentage points", "@sd@ ms", "@accuracy@ ‰",
    ],
    (".md", ".html"): ["@gain@ %", "@gain@&nbsp;%", "@macs@ <em>G</em>"],
    (".md",): [
        "@macs@ **G**", "@macs@ `GMACs`",
    ],
    (".tex",): [
        r"@gain@\,\%", r"@macs@~$\mathrm{G}$", r"@memory@\,\text{GiB}", "@macs@%\nG", r"@memory@\,\unit{\gibi\byte}",
        r"@latency@\,\si{\second}",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("kinds", "texts"), UNITS.items())
def test_a_wrong_unit_is_found(tried, kinds, texts):
    passed = [
        (text, kind)
        for text in texts
        for kind in kinds
        if "stands after the number, but" not in "".join(tried(text, kind))
    ]
    assert passed == []


LEGITIMATE = {
    BOTH: [
        "@params@", "(@params@)", "[@params@]", "≈ @params@", "≈@params@", "<@n@", "k=@n@", "It is @params@.",
        "@params@, and", "@params@;", "@params@: 5", "It is 5 @params@ 5.", "- @params@", "5 - @params@",
        "0.07–@high@", "0.07-@macs@ M", "@n@–@params@", "a k-@n@ network", "@accuracy@ ± @sd@",
        "@accuracy@ ± @sd@ points", "93±@sd@", "accuracy—@params@", "3 × @params@", "@n@/5", "@n@-fold", "@n@ seeds",
        "@n@x", "@params@ params", "@params@ (10 %)", "[@low@, @high@]", "@memory@ MiB", "@memory@-MiB",
        "@memory@ MiB per image", "@macs@ M", "@macs@ M MACs", "@macs@ MMACs", "@macs@ million multiply-accumulates",
        "@macs@M per image", "@activations@ k", "@activations@ thousand", "@speed@ images/s",
        "@speed@ images per second", "@latency@ ms", "@latency@\n\ns", "@accuracy@ points to a gain", "@gain@ points",
        "@gain@ pp", "a @gain@-point gain", "@gain@ percentage points", "@params_change@ percent", "@verdict@-5",
        "5\u2009–\u2009@params@", "5 –\u00a0@params@", "(@verdict@)", "93 ± @n@", ". @verdict@", "@accuracy@ Gains are",
    ],
    (".md", ".html"): [
        "@accuracy@ %", "@accuracy@&nbsp;%", "@accuracy@ ± @sd@ %", "± @sd@&nbsp;%", "@gain@ % points",
        "<td>1</td><td>@params@</td>", "1<br>@params@", "@params@<sup>a</sup>",
        '@params@<sup><a href="#1">1</a></sup>',
    ],
    (".md",): [
        r"@accuracy@ $\pm$ @sd@\,%", "| 5 | @params@ | 7 |", "**@params@**", "@params@[^1]", "~@params@",
        "*k* = @params@", "1. @params@",
    ],
    (".tex",): [
        r"@accuracy@\,\%", r"@accuracy@~\% of", r"$@accuracy@\pm@sd@$\,\%", r"5 & @params@ & 7 \\",
        r"\textbf{@params@}", r"\rotatebox{90}{@params@}", r"@accuracy@$^{*}$", r"\cellcolor{gray!20}@params@",
        r"$[@low@,@high@]$", "@n@--@params@", "---@params@", r"5\\@params@", r"@params@ % 5 GiB", "1%\n\n@params@",
        r"@memory@\,\unit{\mebi\byte}", r"$\approx@params@$", r"@params@\footnote{5}", r"@accuracy@\% of",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("kinds", "texts"), LEGITIMATE.items())
def test_legitimate_texts_pass(tried, kinds, texts):
    refused = [(text, kind, found) for text in texts for kind in kinds if any(found := tried(text, kind))]
    assert refused == []


def test_a_problem_tells_what_is_there_and_what_is_right(tried):
    assert tried("1@params@ GiB", ".md") == [
        "'1' stands right before the cited text and changes it: remove it, or put a space or a word between them; "
        "'GiB' stands after the number, but params has no unit: remove it"
    ]
    assert tried("@macs@ GMACs", ".md") == ["'GMACs' stands after the number, but its unit is M: write 'M', or no unit"]
