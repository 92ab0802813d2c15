"""The page of `rlcredit fidelity` in Chromium: its numbers are those of fidelity.json."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest

from rlcredit.credit import CreditArguments
from rlcredit.fidelity import document as module
from rlcredit.fidelity.choices import Chosen
from rlcredit.fidelity.command import measured
from rlcredit.stats.fidelity import Choice
from tests import tiny
from tests.browser.looks import CONTRAST, PICTURE, SCROLLED, settle
from tests.unit.test_fidelity import Planted

pytestmark = pytest.mark.browser
WORDS = "h1, h2, h3, p, dt, dd, td, th, li, caption, figcaption, legend, label, pre, summary, code, button:enabled"
MEASURES = ("lift", "capture", "chosen", "auc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A planted policy of coin flips: `finds` chooses the decisive ones, `late` the last ones, `half` both."""
    path, tokenizer, draw = tmp_path_factory.mktemp("fidelity"), tiny.tokenizer(), np.random.default_rng(0)
    planted = Planted(3, problems=26)
    flips = tokenizer("a+b=c*d-7/2=", add_special_tokens=False).input_ids
    prompt = tokenizer("12 = a + b", add_special_tokens=False).input_ids
    responses = [dataclasses.replace(one, ids=flips, prompt_ids=prompt) for one in planted.responses]
    reads = []
    for decisive in planted.decisive:
        masks = {"finds": decisive, "late": np.arange(12) >= 8, "half": draw.random(12) < 0.3}
        curves = {name: draw.random(12) for name in ("waad", "fai", "entropy")}
        curves["fai"][-3:] = np.nan
        reads.append(Chosen(curves, {name: Choice(mask.astype(float), mask) for name, mask in masks.items()}))
    settings = dict.fromkeys(reads[0].choices, CreditArguments())
    about = {
        "model": "coin <flips>", "task": "planted", "command": "rlcredit fidelity ...",
        "settings": {"continuations": 32, "p_max": 0.95, "temperature": 1.0, "credit_quantile": 0.25},
        "cost": {"continuations": 9_984, "tokens": 59_904},
    }  # fmt: skip
    found = measured(responses, reads, settings, CreditArguments(), 0)
    module.write(module.document_of(found, responses, about), responses, reads, tokenizer, path)
    return path


@pytest.fixture(scope="module")
def stored(folder):
    return json.loads((folder / "fidelity.json").read_text())


@pytest.fixture(scope="module")
def tokens(folder):
    """The rows of tokens.parquet by response."""
    rows = module.pq.read_table(folder / "tokens.parquet").to_pylist()
    return [[row for row in rows if row["response"] == number] for number in range(26)]


@pytest.fixture
def visit(open_page, folder):
    address = (folder / "fidelity.html").as_uri()
    return lambda fragment="", **options: open_page(address + fragment, "#curves .main-svg", **options)


def short(value: float) -> str:
    """Three digits, as the page shows a number under the pointer."""
    return np.format_float_positional(float(f"{value:.3g}"), trim="-").replace("-", "\N{MINUS SIGN}")


def tip(page):
    terms = "(all) => all.map((row) => [row.querySelector('dt').textContent, row.querySelector('dd').textContent])"
    return dict(page.eval_on_selector_all("#tip:not([hidden]) dl div", terms))


def test_the_table_is_that_of_the_document(visit, stored):
    page = visit()
    assert page.locator("h1").inner_text() == "Where the outcome is decided"
    assert page.locator(".subject").inner_text() == "coin <flips> on planted"
    rows = page.locator("tbody tr")
    assert [text.split(" ")[0] for text in rows.locator("th").all_inner_texts()] == list(stored["strategies"])
    for row, entry in zip(rows.all(), stored["strategies"].values(), strict=True):
        for cell, measure in zip(row.locator("td").all(), MEASURES, strict=True):
            wanted, text = entry[measure], cell.inner_text().replace("\N{MINUS SIGN}", "-")
            assert float(cell.get_attribute("title")) == wanted["value"]
            shown = [float(number) for number in re.findall(r"-?[\d.]+", text)]
            known = [wanted[name] for name in ("value", "low", "high") if wanted[name] is not None]
            scale, digits = (1, 2) if measure in ("lift", "auc") else (100, 0)
            assert shown == [pytest.approx(scale * value, abs=0.51 * 10**-digits) for value in known]
    plot = page.evaluate(
        """() => { const { x, y, error_x } = document.querySelector('#lifts').data[0];
        return { x, y, high: error_x.array, low: error_x.arrayminus }; }"""
    )
    assert plot["y"] == list(stored["strategies"])
    for place, entry in enumerate(stored["strategies"].values()):
        lift = entry["lift"]
        assert plot["x"][place] == lift["value"]
        if lift["low"] is not None:
            assert plot["x"][place] - plot["low"][place] == pytest.approx(lift["low"])
            assert plot["x"][place] + plot["high"][place] == pytest.approx(lift["high"])


def test_each_strategy_gets_one_verdict(visit, stored):
    page = visit()
    strategies = {name: entry for name, entry in stored["strategies"].items() if not entry["control"]}
    words = {True: "Finds them", False: "Chooses others", None: "Cannot be told"}
    assert page.locator(".verdict").all_inner_texts() == [words[entry["finds"]] for entry in strategies.values()]
    assert page.locator(".sentence").all_inner_texts() == [entry["sentence"] for entry in strategies.values()]
    assert strategies["finds"]["finds"] is True


def test_it_opens_with_the_response_whose_value_changes_most(visit, tokens):
    moved = [sum(abs(row["change"]) for row in rows) for rows in tokens[:24]]
    page = visit()
    assert int(page.locator("#sample").input_value()) == np.argmax(moved) > 0
    assert page.locator("#prompt").is_visible()
    assert page.locator("#prompt").inner_text().replace(" ", "") == "12=a+b"


def test_a_token_tells_its_values(visit, tokens):
    page = visit("#sample=2")
    assert page.locator("#sample option:checked").inner_text().startswith("3 of 24: problem 2, ")
    assert [text.strip() for text in page.locator(".token").all_inner_texts()] == [
        row["text"].strip() for row in tokens[2]
    ]
    page.locator("#tokens").scroll_into_view_if_needed()
    settle(page)  # scrolling hides the values
    for index in (0, 5, 11):
        page.locator(f".token[data-index='{index}']").hover()
        row, shown = tokens[2][index], tip(page)
        assert float(shown["Change"].replace("\N{MINUS SIGN}", "-")) == pytest.approx(row["change"], rel=5e-3)
        assert shown["Value"] == short(row["value"]) and shown["WAAD"] == short(float(f"{row['waad']:.4g}"))
        assert shown["FAI"] == ("none" if index > 8 else short(float(f"{row['fai']:.4g}")))
        by = [name for name in ("finds", "late", "half") if row[f"chosen_{name}"]]
        assert shown["Chosen by"] == (", ".join(by) or "none")
        upright = page.locator("#upright")
        assert upright.is_visible() and upright.get_attribute("data-index") == str(index)


def test_what_is_chosen_is_underlined_and_in_the_address(visit, tokens):
    page = visit("#sample=0")
    marked = "(spans) => spans.map((span) => span.classList.contains('chosen'))"
    for name in ("late", "finds"):
        page.locator("#strategy").select_option(name)
        chosen = [bool(row[f"chosen_{name}"]) for row in tokens[0]]
        assert page.eval_on_selector_all(".token", marked) == chosen
    page.locator("#next").click()
    page.locator("#strategy").select_option("half")
    assert page.url.split("#")[1] == "sample=1&strategy=half"
    again = visit("#sample=1&strategy=half")
    assert again.eval_on_selector_all(".token", marked) == [bool(row["chosen_half"]) for row in tokens[1]]
    rises = again.eval_on_selector_all(".token", "(spans) => spans.map((span) => span.classList.contains('up'))")
    assert rises == [row["change"] >= 0 for row in tokens[1]]


def test_keys_move_from_token_to_token(visit, tokens):
    page = visit("#sample=0")
    page.locator(".token").first.focus()
    for key, index in (("ArrowRight", 1), ("End", 11), ("ArrowLeft", 10), ("Home", 0)):
        page.keyboard.press(key)
        assert tip(page)["Value"] == short(tokens[0][index]["value"])
    before = page.locator("#tip").bounding_box()
    page.evaluate(SCROLLED, -30)
    assert page.locator("#tip").bounding_box()["y"] == pytest.approx(before["y"] + 30, abs=1)
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()
    page.keyboard.press("ArrowRight")
    page.evaluate(SCROLLED, -100_000)  # the token is below the window
    assert not page.locator("#tip").is_visible()


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_both_modes_are_easy_to_read(visit, screenshots, mode):
    page = visit(color_scheme=mode)
    page.locator(".token").nth(4).focus()
    for entry in page.evaluate(CONTRAST, f"{WORDS}, .token, .swatch, .verdict, #tip dt, #tip dd"):
        assert entry["ratio"] >= 4.5, entry
    page.screenshot(path=screenshots / f"fidelity-{mode}.png", full_page=True)
    assert page.locator("#theme").inner_text() == f"Switch to {'dark' if mode == 'light' else 'light'}"
    picture, ink = page.eval_on_selector("body", PICTURE), "document.querySelector('#lifts').data[0].marker.color"
    colour = page.evaluate(ink)
    page.locator("#theme").click()
    assert page.eval_on_selector("body", PICTURE) != picture and page.evaluate(ink) != colour


def test_nothing_overflows_a_phone(visit, screenshots):
    page = visit(width=360, height=740, has_touch=True)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
    page.locator(".token").nth(6).focus()
    settle(page)
    box = page.locator("#tip").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 360
    page.screenshot(path=screenshots / "fidelity-phone.png", full_page=True)
    page.set_viewport_size({"width": 768, "height": 740})
    settle(page)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 768
