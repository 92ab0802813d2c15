"""The report in Chromium: what one sees, hovers, focuses, and what a mean completion cannot do."""

from __future__ import annotations

import numpy as np
import pytest

from rlcredit.analysis.report import checked, write_page
from rlcredit.analysis.report.packing import MEAN, pack, unpack
from tests.browser.document import document
from tests.browser.document import sample as sample_of
from tests.browser.looks import CONTRAST, PICTURE, reload, settle, wait_until

pytestmark = pytest.mark.browser
REPORT = checked(document())
SIGNALS = ("waad", "fai", "receiver_fai", "entropy", "gamma")
LONG, SHORT, HOSTILE, EMPTY = range(4)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    return write_page(REPORT, tmp_path_factory.mktemp("report") / "report.html").as_uri()


@pytest.fixture
def visit(open_page, address):
    return lambda fragment="", **options: open_page(address + fragment, "#curves .main-svg", **options)


# The middle of the widest part of a token: one broken over two lines has others between the corners of its box.
MIDDLE = """(span) => {
  const part = [...span.getClientRects()].reduce((widest, rect) => (rect.width > widest.width ? rect : widest));
  return [part.left + part.width / 2, part.top + part.height / 2];
}"""


def colours(page):
    return page.eval_on_selector_all(".token", "(spans) => spans.map((s) => getComputedStyle(s).backgroundColor)")


def tip(page):
    """The tooltip's values: by signal, as numbers (None: no value), and as shown."""
    cells = page.eval_on_selector_all(
        "#tip:not([hidden]) dd", "(all) => all.map((dd) => [dd.dataset.signal, dd.dataset.value, dd.textContent])"
    )
    return {signal: (None if value == "null" else float(value), text) for signal, value, text in cells}


def assert_tip_is(page, sample, index):
    shown = tip(page)
    assert tuple(shown) == SIGNALS
    for signal, (value, text) in shown.items():
        wanted = REPORT["samples"][sample]["tokens"][signal][index]
        assert value == (None if wanted is None else float(f"{wanted:.4g}")), (signal, index)
        if wanted is None:
            assert text == "no value"
        else:
            assert float(text) == pytest.approx(wanted, rel=5e-3)
            assert len(text.replace(".", "").lstrip("0")) <= 3


def marker(page):
    """The token at the upright line of the curves, read off its place in the window."""
    box = page.locator("#curves .draglayer .nsewdrag").first.bounding_box()
    line = page.locator("#upright").bounding_box()
    low, high = page.evaluate("document.getElementById('curves').layout.xaxis.range")
    place = low + (line["x"] + line["width"] / 2 - box["x"]) / box["width"] * (high - low)
    assert place == pytest.approx(round(place), abs=0.1)
    return round(place)


def focused(page):
    return page.evaluate("document.activeElement.dataset.index ?? document.activeElement.id")


# ---- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", [LONG, SHORT, HOSTILE])
def test_hover_and_focus_show_the_values_of_the_report(visit, sample):
    page = visit(f"#response={sample + 1}")
    count = len(REPORT["samples"][sample]["tokens"]["text"])
    assert page.locator(".token").count() == count
    for index in {0, 1, count // 2, count - 2, count - 1}:
        page.locator(".token").nth(index).focus()
        assert_tip_is(page, sample, index)
        assert page.locator(".token").nth(index).get_attribute("aria-describedby") == "tip"
        assert marker(page) == index
    page.keyboard.press("Escape")
    assert tip(page) == {}
    page.evaluate("document.activeElement.blur()")
    for index in {0, 2, count // 3}:
        token = page.locator(".token").nth(index)
        token.scroll_into_view_if_needed()
        settle(page)  # scrolling hides the values
        page.mouse.move(*token.evaluate(MIDDLE))
        assert_tip_is(page, sample, index)
        assert marker(page) == index
    page.mouse.move(2, 2)
    assert tip(page) == {}


def test_the_tooltip_says_what_a_token_is(visit):
    page = visit()
    tokens = REPORT["samples"][LONG]["tokens"]
    anchor = next(index for index, intro in enumerate(tokens["intro"]) if intro is not None)
    page.locator(".token").nth(anchor).focus()
    said = page.locator("#tip").inner_text()
    assert "dominated anchor" in said
    assert f"introduced by token {tokens['intro'][anchor]}" in said
    for name in ("preplan", "anchor", "dominated"):
        marked = page.eval_on_selector_all(f".token.{name}", "(all) => all.map((s) => Number(s.dataset.index))")
        assert marked == [index for index, flag in enumerate(tokens[name]) if flag]
    style = page.locator(".token.dominated").first.evaluate("(s) => getComputedStyle(s).borderTopStyle")
    assert style == "dashed"


# ---- colours ------------------------------------------------------------------------------------------------------


def test_the_switch_colours_by_each_signal_in_the_order_of_its_values(visit):
    page = visit(f"#response={SHORT + 1}")
    seen = {}
    for signal in ("waad", "fai", "entropy", "gamma"):
        page.locator(f"input[name=colour][value={signal}]").check()
        seen[signal] = colours(page)
        series = REPORT["samples"][SHORT]["tokens"][signal]
        places = page.eval_on_selector_all(".token", "(all) => all.map((s) => s.style.getPropertyValue('--v'))")
        known = [value for value in series if value is not None]
        for value, place in zip(series, places, strict=True):
            if value is None:
                assert place == ""
            else:
                share = (value - min(known)) / (max(known) - min(known))
                assert float(place) == pytest.approx(share, abs=1e-3)
        assert float(page.locator("#ramp-low").get_attribute("data-value")) == pytest.approx(min(known), rel=1e-3)
        assert float(page.locator("#ramp-high").get_attribute("data-value")) == pytest.approx(max(known), rel=1e-3)
        assert page.locator("#no-value").is_visible() == (None in series)
    assert len({tuple(colours) for colours in seen.values()}) == 4
    page.locator("input[name=scale][value=rank]").check()
    assert colours(page) != seen["gamma"]


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_is_easy_to_read_on_every_colour(visit, mode):
    page = visit(color_scheme=mode)
    for sample in (LONG, HOSTILE):
        page.locator("#response").select_option(str(sample))
        for signal in ("waad", "fai", "entropy", "gamma"):
            page.locator(f"input[name=colour][value={signal}]").check()
            measured = page.evaluate(CONTRAST, ".token")
            assert len(measured) == len(REPORT["samples"][sample]["tokens"]["text"])
            assert min(entry["ratio"] for entry in measured) >= 4.5
    page.locator(".token").nth(3).focus()
    words = (
        "h1, h2, h3, p, dt, dd, td, th, caption, legend, label span, figcaption, summary, .verdict, .sentence, code"
    )
    for entry in page.evaluate(
        CONTRAST, f"{words}, #tip span, #tip dd, .marks li, .ramp span, button:enabled, select"
    ):
        assert entry["ratio"] >= 4.5, entry


def test_modes(visit):
    page = visit(color_scheme="light")
    light = page.eval_on_selector("body", PICTURE)
    assert page.locator("#theme").inner_text() == "Switch to dark"
    curve = "() => document.getElementById('curves').data[0].line.color"
    drawn = page.evaluate(curve)
    page.locator("#theme").click()
    dark = page.eval_on_selector("body", PICTURE)
    assert dark != light
    assert page.evaluate(curve) != drawn  # the charts follow
    assert page.locator("#theme").inner_text() == "Switch to light"  # what it does, not what it did
    reload(page)  # and it is remembered
    assert page.eval_on_selector("body", PICTURE) == dark
    assert visit(color_scheme="dark").eval_on_selector("body", PICTURE) == dark
    assert visit("#theme=light", color_scheme="dark").eval_on_selector("body", PICTURE) == light


# ---- keyboard -----------------------------------------------------------------------------------------------------


def test_tab_reaches_every_control_and_shows_where_it_is(visit):
    page = visit()
    reached = {}
    for _ in range(40):
        page.keyboard.press("Tab")
        name = page.evaluate("[document.activeElement].map((a) => a.id || a.name || a.className || a.tagName)[0]")
        outline = page.evaluate(
            "[getComputedStyle(document.activeElement)].map((s) => [s.outlineStyle, parseFloat(s.outlineWidth)])[0]"
        )
        if name == "BODY":
            break
        assert outline[0] == "solid" and outline[1] >= 2, (name, outline)
        reached[name] = outline
    wanted = {
        "skip",
        "theme",
        "response",
        "next",
        "colour",
        "scale",
        "arrows",
        "zoom-in",
        "zoom-out",
        "zoom-all",
        "scroll",
    }
    assert wanted <= set(reached)
    assert any("token" in name for name in reached)
    assert sum("token" in name for name in reached) == 1  # one stop for the whole text


def test_the_values_of_a_token_do_not_stay_when_it_leaves_the_window(visit):
    page = visit()
    page.locator(".token").first.focus()
    assert page.locator("#tip").is_visible()
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.locator("#tip").wait_for(state="hidden")


def test_arrow_keys_move_through_the_tokens(visit):
    page = visit()
    last = len(REPORT["samples"][LONG]["tokens"]["text"]) - 1
    page.locator(".token").first.focus()
    moved = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "End", "ArrowRight", "Home", "ArrowLeft"):
        page.keyboard.press(key)
        moved.append(int(focused(page)))
    assert moved == [1, 2, 1, last, last, 0, 0]
    page.keyboard.press("ArrowDown")
    # from the top of the page: it may be scrolling
    heights = page.eval_on_selector_all(".token", "(all) => all.map((s) => s.getBoundingClientRect().top + scrollY)")
    assert heights[int(focused(page))] > heights[0] + 10
    page.keyboard.press("ArrowUp")
    assert heights[int(focused(page))] == pytest.approx(heights[0], abs=3)
    assert page.locator(".token[tabindex='0']").count() == 1
    assert page.locator(".token[aria-selected='true']").count() == 1


def test_the_chooser_and_the_switch_by_keyboard(visit):
    page = visit()
    page.locator("#response").focus()
    page.keyboard.press("ArrowDown")
    assert page.locator("#about .id").inner_text() == REPORT["samples"][1]["id"]
    page.locator("#next").focus()
    page.keyboard.press("Enter")
    assert page.locator("#about .id").inner_text() == REPORT["samples"][2]["id"]
    page.locator("input[name=colour][value=waad]").focus()
    before = colours(page)
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.value") == "fai"
    assert colours(page) != before
    reload(page)  # the address holds what was chosen
    assert page.locator("#about .id").inner_text() == REPORT["samples"][2]["id"]
    assert page.locator("input[name=colour]:checked").get_attribute("value") == "fai"


# ---- a mean completion --------------------------------------------------------------------------------------------


def test_a_hostile_completion_stays_text(visit):
    page = visit(f"#response={HOSTILE + 1}")
    texts = REPORT["samples"][HOSTILE]["tokens"]["text"]
    shown = page.eval_on_selector_all(".token", "(all) => all.map((span) => span.textContent)")
    for wanted, text in zip(texts, shown, strict=True):
        if all(letter.isprintable() or letter in "\n\t" for letter in wanted) and wanted:
            assert text == wanted
    assert shown[6] == "aU+2028bU+2029c"
    assert shown[7] == "U+0000U+0001U+001B[31mU+007F"
    assert shown[8] == "U+202Eright to leftU+202C"
    assert shown[9] == "half \ufffd"
    assert shown[13] == "\u2205"
    assert shown[14] == "U+000D\n"
    # only what tokens.js makes is in there
    assert set(page.eval_on_selector_all("#tokens *", "(all) => all.map((node) => node.tagName)")) == {"SPAN"}
    assert page.locator("img, svg[onload], a[href^=javascript]").count() == 0
    for index in range(len(texts)):
        page.locator(".token").nth(index).focus()
        assert page.locator("#tip .title").first.locator("bdi").inner_text() is not None
    assert set(page.eval_on_selector_all("#tip *", "(all) => all.map((node) => node.tagName)")) <= {
        *("P", "SPAN", "BDI", "DL", "DIV", "DT", "DD")
    }
    assert page.evaluate("document.querySelectorAll('script').length") == 4


@pytest.mark.parametrize(
    ("texts", "drawn"),
    [
        # the numbers after Hebrew words stay in the order of the line
        (
            ["Say", " שלום", " עולם", " 12", "+", "3", " =", " 15", ".", " ok"],
            ["Say", " עולם", " שלום", " 12", "+", "3", " =", " 15", ".", " ok"],
        ),
        # an Arabic word of two tokens is read from the right
        (["The", " مر", "حبا", " 5", " 6", " end"], ["The", "حبا", " مر", " 5", " 6", " end"]),
        # a number within a Hebrew sentence stands where the sentence has it
        (["ב", " 1948", " קמה"], [" קמה", " 1948", "ב"]),
    ],
)
def test_right_to_left_text_keeps_its_order_and_leaves_the_line_its_own(browser, tmp_path, texts, drawn):
    report = {**document(), "samples": [sample_of("turned", texts, 1, maps=False, correct=None)]}
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(write_page(checked(report), tmp_path / "report.html").as_uri())
    page.wait_for_selector("#tokens .token")
    # the space in front of a word can stand apart from it: the wider box is the word
    widest = "(token) => [...token.getClientRects()].reduce((a, b) => (b.width > a.width ? b : a)).left"
    lefts = page.evaluate(f"[...document.querySelectorAll('#tokens .token')].map({widest})")
    page.close()
    assert [text for _, text in sorted(zip(lefts, texts, strict=True))] == drawn


def test_an_empty_completion_and_one_of_one_token(visit):
    page = visit(f"#response={EMPTY + 1}")
    assert page.locator("#no-tokens").inner_text() == "The response is empty."
    assert not page.locator("#tokens").is_visible()
    assert page.locator("#no-maps").is_visible()
    page.locator("#next").click()
    assert page.locator(".token").all_inner_texts() == ["7"]
    page.locator(".token").first.focus()
    assert_tip_is(page, 4, 0)


# ---- arrows -------------------------------------------------------------------------------------------------------

ENDS = """
() => {
  const frame = document.getElementById("links").getBoundingClientRect();
  const rects = (index) => [...document.querySelector(`.token[data-index="${index}"]`).getClientRects()]
    .map((r) => [r.left - 1.5, r.top - 1.5, r.right + 1.5, r.bottom + 1.5]);
  return [...document.querySelectorAll("#links path")].map((path) => {
    const numbers = path.getAttribute("d").match(/-?[\\d.]+(?:e-?\\d+)?/g).map(Number);
    const [x, y] = numbers; // M of the line; the last L but one is the head's tip
    const [tipX, tipY] = numbers.slice(-4, -2);
    const inside = ([left, top, right, bottom], px, py) =>
      px + frame.left >= left && px + frame.left <= right && py + frame.top >= top && py + frame.top <= bottom;
    return {
      anchor: Number(path.dataset.anchor),
      intro: Number(path.dataset.intro),
      from: rects(path.dataset.anchor).some((rect) => inside(rect, x, y)),
      to: rects(path.dataset.intro).some((rect) => inside(rect, tipX, tipY)),
    };
  });
}
"""


def test_arrows_join_the_right_tokens_also_after_a_resize(visit):
    page = visit()
    intros = REPORT["samples"][LONG]["tokens"]["intro"]
    wanted = [(anchor, intro) for anchor, intro in enumerate(intros) if intro is not None]
    assert len(wanted) > 5
    wrapped = set()
    for width in (1280, 700, 360, 1000):
        page.set_viewport_size({"width": width, "height": 900})
        settle(page)
        measured = page.evaluate(ENDS)
        assert [(entry["anchor"], entry["intro"]) for entry in measured] == wanted
        assert all(entry["from"] and entry["to"] for entry in measured), (width, measured)
        tops = page.eval_on_selector_all(".token", "(all) => all.map((s) => s.getBoundingClientRect().top)")
        wrapped |= {pair for pair in wanted if tops[pair[0]] - tops[pair[1]] > 10}
    assert wrapped  # some went from one line to the one above
    page.locator(".token").nth(wanted[0][0]).focus()
    assert page.locator("#links path.on").count() >= 1
    page.locator("#arrows").uncheck()
    assert page.locator("#links path").count() == 0


# ---- charts -------------------------------------------------------------------------------------------------------


def test_the_curves_and_the_text_are_linked(visit):
    page = visit()
    tokens = REPORT["samples"][LONG]["tokens"]
    page.locator("#curves").scroll_into_view_if_needed()
    box = page.locator("#curves .draglayer .nsewdrag").first.bounding_box()
    count = len(tokens["text"])
    for index in (20, count - 3):  # the second has no FAI
        page.mouse.move(box["x"] + box["width"] * (index + 0.5) / count, box["y"] + box["height"] / 2, steps=3)
        page.wait_for_selector(f".token.pointed[data-index='{index}']")
        assert_tip_is(page, LONG, index)
    page.mouse.down()
    page.mouse.up()
    page.wait_for_selector(f".token[data-index='{count - 3}']:focus")
    assert marker(page) == count - 3
    settle(page)  # a smooth scroll
    box = page.locator(f".token[data-index='{count - 3}']").bounding_box()
    assert box["y"] >= 0 and box["y"] + box["height"] <= 900
    curves = page.evaluate("document.getElementById('curves').data.filter((t) => t.mode === 'lines').map((t) => t.y)")
    for drawn, key in zip(curves, ("waad", "fai", "receiver_fai", "entropy"), strict=True):
        assert drawn == [None if value is None else pytest.approx(value, rel=5e-4) for value in tokens[key]]


def test_zoom_by_buttons_and_by_dragging_and_the_window_follows(visit):
    page = visit()
    span = "document.getElementById('curves').layout.xaxis.range"
    count = len(REPORT["samples"][LONG]["tokens"]["text"])
    assert page.evaluate(span) == [-0.5, count - 0.5]
    page.locator(".token").nth(30).focus()
    page.locator("#zoom-in").click()
    page.locator("#zoom-in").click()
    low, high = page.evaluate(span)
    assert high - low == pytest.approx(count / 4)
    assert low < 30 < high
    assert marker(page) == 30
    page.set_viewport_size({"width": 900, "height": 900})
    settle(page)
    assert marker(page) == 30
    page.locator(".token").nth(count - 1).focus()
    low, high = page.evaluate(span)
    assert low < count - 1 < high
    page.locator("#zoom-all").click()
    assert page.evaluate(span) == [-0.5, count - 0.5]
    box = page.locator("#curves .draglayer .nsewdrag").first.bounding_box()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 45, steps=6)
    page.mouse.up()
    wait_until(page, f"() => {span}[1] < {count - 1}")
    low, high = page.evaluate(span)
    assert low == pytest.approx(0.2 * count, abs=2)
    assert high == pytest.approx(0.5 * count, abs=2)
    page.locator("#zoom-out").click()
    assert page.evaluate(span)[1] - page.evaluate(span)[0] == pytest.approx(0.6 * count, abs=4)


def assert_map_is(drawn, rows):
    """The rows of a heatmap: empty above the diagonal."""
    for query, row in enumerate(drawn):
        assert row[: query + 1] == pytest.approx(rows[query][: query + 1].tolist())
        assert set(row[query + 1 :]) <= {None}


def test_maps_and_spans_are_those_of_the_report(visit):
    page = visit(f"#response={SHORT + 1}")
    sample = REPORT["samples"][SHORT]
    for group in ("local", "global"):
        drawn = page.evaluate(f"document.getElementById('map-{group}').data[0].z")
        assert_map_is(drawn, unpack(pack(sample["maps"][group], MEAN)))
        shapes = page.evaluate(
            "document.getElementById('spans').data.slice(1).map((t) => [t.marker.symbol, t.x, t.y])"
        )
        symbol, heads, rows = shapes[0 if group == "local" else 1]
        assert symbol == ("circle" if group == "local" else "square-open")
        flags = sample[f"{group}_heads"]
        assert sorted(zip(rows, heads, strict=True)) == [
            (row, head) for row, line in enumerate(flags) for head, inside in enumerate(line) if inside
        ]
    drawn = page.evaluate("document.getElementById('spans').data[0].z")
    assert drawn == [[pytest.approx(span, rel=5e-4) for span in row] for row in sample["head_span"]]
    page.locator("#spans-table summary").click()
    assert page.locator("#spans-table tbody tr").count() == len(sample["layers"])
    cell = page.locator("#spans-table td").nth(3)
    assert float(cell.get_attribute("title")) == pytest.approx(sample["head_span"][0][3], rel=5e-4)
    page.locator("#map-local").scroll_into_view_if_needed()
    box = page.locator("#map-local .draglayer .nsewdrag").bounding_box()
    page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.9 * box["height"], steps=3)
    page.wait_for_selector("#tip [data-value]")
    value = float(page.locator("#tip [data-value]").get_attribute("data-value"))
    assert np.isclose(unpack(pack(sample["maps"]["local"], MEAN)), value).any()
    page.locator("#response").select_option(str(LONG))
    assert not page.locator("#maps").is_visible()
    assert "180 tokens" in page.locator("#no-maps").inner_text()


def test_the_axes_of_a_map_name_tokens_as_text_and_more_of_them_after_a_zoom(visit):
    page = visit(f"#response={HOSTILE + 1}", width=390)
    ticks = "document.getElementById('map-local').layout.xaxis"
    before = page.evaluate(f"[{ticks}.tickvals, {ticks}.ticktext]")
    texts = REPORT["samples"][HOSTILE]["tokens"]["text"]
    assert 8 < len(before[0]) <= len(texts)
    assert before[1][0] == "\u2068&lt;/scrip\u2026\u2069"
    drawn = page.eval_on_selector_all("#map-local .xtick text", "(all) => all.map((node) => node.textContent)")
    assert drawn[0] == "\u2068</scrip\u2026\u2069"
    assert page.locator("#map-local a, #map-local foreignObject").count() == 0
    page = visit(f"#response={SHORT + 1}", width=330)
    count = len(page.evaluate(f"{ticks}.tickvals"))
    assert count < len(REPORT["samples"][SHORT]["tokens"]["text"])
    page.evaluate("Plotly.relayout('map-local', {'xaxis.range': [3.5, 9.5], 'yaxis.range': [9.5, 3.5]})")
    wait_until(page, f"() => {ticks}.tickvals.length === 6")
    assert page.evaluate(f"{ticks}.tickvals") == [4, 5, 6, 7, 8, 9]
    assert page.evaluate("document.getElementById('map-local').layout.yaxis.tickvals") == [4, 5, 6, 7, 8, 9]


def test_a_head_is_chosen_by_layer_and_number_or_in_the_picture_of_spans(visit):
    page = visit(f"#response={SHORT + 1}")
    sample = REPORT["samples"][SHORT]
    spans = np.array(sample["head_span"])
    drawn = "document.getElementById('map-head').data[0].z"

    def assert_shown(row, head):
        assert page.locator("#layer").input_value() == str(sample["layers"][row])
        assert page.locator("#head").input_value() == str(head)
        assert_map_is(page.evaluate(drawn), unpack(sample["head_maps"][row][head]))

    assert_shown(*np.unravel_index(spans.argmin(), spans.shape))  # the head that looks nearest
    page.locator("#layer").select_option("14")
    page.locator("#head").select_option("5")
    assert_shown(2, 5)
    page.locator("#layer").select_option("9")
    assert_shown(0, 5)  # the same number in another layer
    reload(page)
    assert_shown(0, 5)
    page.locator("#spans").scroll_into_view_if_needed()
    box = page.locator("#spans .draglayer .nsewdrag").bounding_box()
    page.mouse.click(box["x"] + 3.5 / 16 * box["width"], box["y"] + 0.9 * box["height"])
    assert_shown(0, 3)
    page.mouse.click(box["x"] + 15.5 / 16 * box["width"], box["y"] + 0.1 * box["height"])
    assert_shown(0, 3)  # that one has no map
    assert "the maps of 79 of its 80 heads" in page.locator("#about-heads").inner_text()
    page.locator("#response").select_option(str(HOSTILE))
    assert not page.locator("#head-map").is_visible()
    assert "while there is room" in page.locator("#about-heads").inner_text()


# ---- what a token attends to ----------------------------------------------------------------------------------------


def strongest(sample, index):
    """By (way, group) the tokens that a token looks at, or that look at it, the three strongest first."""
    told = {}
    for group, rows in sample["maps"].items():
        rows = unpack(pack(rows, MEAN))
        back, ahead = rows[index, :index], rows[index + 1 :, index]
        for way, values, start in (("back", back, 0), ("ahead", ahead, index + 1)):
            order = sorted(range(len(values)), key=lambda at: (-values[at], at))[:3]
            told[way, group] = [start + at for at in order if values[at] >= 0.005]
    return told


KINDS = (("back", "local"), ("back", "global"), ("ahead", "local"), ("ahead", "global"))
ENDS_OF_ARCS = "(all) => all.map((path) => [path.dataset.from, path.dataset.to])"


def test_a_token_shows_what_it_attends_to_and_what_attends_to_it(visit):
    page = visit(f"#response={SHORT + 1}")
    sample = REPORT["samples"][SHORT]
    assert "Point at a token" in page.locator("#told").inner_text()
    for index in (0, 12, len(sample["tokens"]["text"]) - 1):
        page.locator(".token").nth(index).focus()
        wanted = strongest(sample, index)
        for place, (way, group) in enumerate(KINDS):
            told = page.locator(".lists > div").nth(place).locator("button")
            assert [int(entry.get_attribute("data-token")) for entry in told.all()] == wanted[way, group]
            arcs = page.locator(f"#looks path.{group}.{way}").evaluate_all(ENDS_OF_ARCS)
            ends = [(index, at) if way == "back" else (at, index) for at in wanted[way, group]]
            assert [tuple(map(int, arc)) for arc in arcs] == ends
    page.locator(".token").nth(12).hover()
    assert page.locator("#told .title").inner_text().startswith("12")
    page.mouse.move(2, 2)
    assert page.locator("#told .title").inner_text().startswith(str(index))  # back at the token that was chosen
    entry = page.locator(".lists button").first
    wanted = entry.get_attribute("data-token")
    entry.click()
    assert focused(page) == wanted
    page.locator("#attention").uncheck()
    assert page.locator("#looks path").count() == 0 and not page.locator("#told").is_visible()
    page.locator("#response").select_option(str(LONG))
    assert page.locator("#attention").is_disabled()


def test_the_address_names_the_response_and_the_token(visit):
    page = visit(f"#response={SHORT + 1}&token=17")
    assert page.locator("#response").input_value() == str(SHORT)
    assert focused(page) == "17" and page.locator(".token.pointed").get_attribute("data-index") == "17"
    assert marker(page) == 17
    assert page.evaluate("location.hash") == f"#response={SHORT + 1}&token=17"
    page.keyboard.press("ArrowRight")
    assert page.evaluate("location.hash") == f"#response={SHORT + 1}&token=18"
    page.locator("#theme").focus()
    assert page.locator(".token.pointed").get_attribute("data-index") == "18"  # it stays chosen
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert page.evaluate("location.hash") == f"#response={SHORT + 1}"
    assert page.locator(".token.pointed").count() == 0
    page.locator("#next").click()
    assert page.evaluate("location.hash") == f"#response={HOSTILE + 1}"
    page.evaluate("location.hash = '#response=2&token=3'")  # as typed into the address
    page.wait_for_selector(".token.pointed[data-index='3']")
    assert page.locator("#response").input_value() == "1"
    for wrong in ("#response=99&token=5000", "#response=x&token=-1", "#token=1e9", "#what=ever&sample=2"):
        page = visit(wrong)
        assert page.locator("#response").input_value() == str(LONG)
        assert page.locator(".token.pointed").count() == 0
    assert page.evaluate("location.hash") == "#what=ever&sample=2"  # nothing was chosen yet


def test_the_page_opens_with_what_it_shows(visit):
    page = visit()
    assert page.eval_on_selector_all("h2", "(all) => all.map((h) => h.textContent)") == [
        "What you are looking at", "A response, token by token", "Findings", "All responses together", "Settings",
        "Skipped",
    ]  # fmt: skip
    assert page.locator("#prompt").is_visible() and "Natalia" in page.locator("#prompt").inner_text()


# ---- layout -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [360, 768])
def test_nothing_overflows_a_narrow_window(visit, width):
    page = visit(width=width, height=740)
    for sample in (LONG, SHORT, HOSTILE):
        page.locator("#response").select_option(str(sample))
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        _no_tip_overflows(page, sample, width)
    wide = page.eval_on_selector_all(".scroll", "(all) => all.some((box) => box.scrollWidth > box.clientWidth)")
    assert wide or width > 360  # tables scroll in their own boxes


def _no_tip_overflows(page, sample, width):
    for index in (0, len(REPORT["samples"][sample]["tokens"]["text"]) - 1):
        page.locator(".token").nth(index).focus()
        settle(page)
        box = page.locator("#tip").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
        assert box["y"] >= 0 and box["y"] + box["height"] <= 740
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width


def test_no_motion_where_none_is_wanted(visit):
    page = visit(reduced_motion="reduce", height=500)
    page.locator(".token").first.focus()
    page.keyboard.press("End")
    last = page.locator(".token").last
    box = last.bounding_box()
    assert 0 <= box["y"] <= 500
    moving = page.evaluate("document.getAnimations().length")
    assert moving == 0


def test_thousands_of_tokens_stay_fast(browser, tmp_path):
    given = document()
    times = 22
    for name, values in given["samples"][LONG]["tokens"].items():
        size = len(values)
        given["samples"][LONG]["tokens"][name] = [
            value + size * time if name == "intro" and value is not None else value
            for time in range(times)
            for value in values
        ]
    assert len(given["samples"][LONG]["tokens"]["text"]) > 3900
    page = browser.new_page()
    page.goto(write_page(given, tmp_path / "long.html").as_uri())
    page.wait_for_selector("#curves .main-svg", state="attached")
    timed = """(work) => {
      const start = performance.now();
      work();
      return document.body.offsetHeight && performance.now() - start; // laid out too
    }"""
    drawn = page.evaluate(f"({timed})(() => document.getElementById('response').dispatchEvent(new Event('change')))")
    moved = page.evaluate(f"({timed})(() => document.querySelectorAll('.token')[2000].focus())")
    switched = page.evaluate(f"({timed})(() => document.querySelector('input[value=entropy]').click())")
    print(f"{drawn:.0f} ms to draw, {moved:.0f} ms to move, {switched:.0f} ms to colour")
    # several times what it takes on two busy cores
    assert drawn < 5000 and moved < 700 and switched < 1000
    page.close()


# ---- accessibility, by rules ----------------------------------------------------------------------------------------

RULES = """
() => {
  const wrong = [];
  const say = (rule, node) => wrong.push(`${rule}: ${node.outerHTML.slice(0, 90)}`);
  const named = (node) =>
    (node.getAttribute("aria-label") || node.textContent || "").trim() || node.labels?.length ||
    (node.getAttribute("aria-labelledby") || "").split(" ").some((id) => document.getElementById(id)?.textContent);
  const all = (selector) => document.querySelectorAll(selector);
  const roles = ["option", "listbox", "img", "region", "group"].map((role) => `[role=${role}]`).join();
  for (const node of all(`button, select, input, summary, figure, ${roles}`))
    if (!named(node) && !node.querySelector("figcaption")) say("has no name", node);
  for (const node of all("[tabindex='0']"))
    if (!node.role && !/^(A|BUTTON|INPUT|SELECT|SUMMARY)$/.test(node.tagName)) say("focus without a role", node);
  for (const node of all("[tabindex]")) if (node.tabIndex > 0) say("its own tab order", node);
  for (const node of all("[role=listbox] > :not([role=option])")) say("not an option", node);
  for (const node of all("[role=option]:not([aria-selected])")) say("no state", node);
  for (const node of all("main svg:not(.main-svg), header svg"))
    if (!node.closest(".plot") && node.getAttribute("aria-hidden") !== "true") say("picture is read out", node);
  for (const node of all("table")) {
    if (!node.querySelector("thead th[scope=col]") || !node.querySelector("tbody th[scope=row]")) say("headers", node);
  }
  for (const node of all("fieldset")) if (!node.querySelector("legend")) say("no legend", node);
  for (const node of all("section")) if (!node.getAttribute("aria-labelledby")) say("no heading", node);
  for (const name of ["aria-labelledby", "aria-describedby", "for"])
    for (const node of all(`[${name}]`))
      for (const id of node.getAttribute(name).split(" "))
        if (!document.getElementById(id)) say(`${name} of nothing`, node);
  for (const node of all("button, select, .segments label, .check")) {
    const { width, height } = node.getBoundingClientRect();
    if (width && (width < 24 || height < 24)) say("too small to hit", node);
  }
  const ids = [...all("[id]:not(.plot *)")].map((node) => node.id);
  if (new Set(ids).size !== ids.length) wrong.push("ids twice");
  if (!document.documentElement.lang || !document.title) wrong.push("no language or title");
  if (/user-scalable|maximum-scale/.test(document.querySelector("[name=viewport]").content)) wrong.push("no zoom");
  return wrong;
}
"""


def test_names_roles_and_states(visit):
    page = visit()
    page.locator("#spans-table summary").click()
    for sample in range(5):
        page.locator("#response").select_option(str(sample))
        page.set_viewport_size({"width": 360 if sample == HOSTILE else 1280, "height": 900})
        assert page.evaluate(RULES) == []


# ---- pictures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fragment", "options"),
    [
        ("light", "", {"color_scheme": "light"}),
        ("dark", f"#response={SHORT + 1}&colour=fai", {"color_scheme": "dark"}),
        ("narrow", f"#response={HOSTILE + 1}&colour=entropy", {"color_scheme": "light", "width": 360}),
        ("narrow-dark", "#colour=gamma", {"color_scheme": "dark", "width": 360}),
    ],
)
def test_screenshots(visit, screenshots, name, fragment, options):
    page = visit(fragment, **options)
    settle(page)
    path = screenshots / f"{name}.png"
    page.screenshot(path=path, full_page=True)
    page.locator("#view").scroll_into_view_if_needed()
    page.evaluate("document.getElementById('view').scrollIntoView()")
    page.locator(".token").nth(7).focus()
    settle(page)
    page.screenshot(path=screenshots / f"{name}-text.png")
    assert path.stat().st_size > 20_000
