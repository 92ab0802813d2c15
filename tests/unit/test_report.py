"""The report: refused where it is not one, one file that loads nothing, figures with something on them."""

from __future__ import annotations

import base64
import copy
import gzip
import json
import re
import warnings
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rlcredit.analysis.reading import MapRoom
from rlcredit.analysis.report import checked, write_figures, write_page
from rlcredit.analysis.report.document import representative
from rlcredit.analysis.report.figures import Strip, curves_figure, sample_figures, strips, strips_figure
from rlcredit.analysis.report.packing import HEAD, MEAN, pack, triangle, unpack
from rlcredit.analysis.report.page import _shown_cell, page
from rlcredit.analysis.report.text_figure import drawable, lay_out
from rlcredit.pages.frame import cell, exact, packed
from rlcredit.pages.plots import ramp
from rlcredit.stats.estimates import Estimate
from tests.browser.document import HOSTILE, document, held_by, sample

LONG = 0  # the place of the long response
VOID = {"meta", "link", "img", "br", "hr", "input", "path", "rect", "circle"}
LOADS = {"src", "srcset", "href", "action", "formaction", "poster", "data", "xlink:href", "background"}


class Reader(HTMLParser):
    """Elements, their text, and whether every one that was opened is closed."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        self.text[self.open[-1] if self.open else ""] = self.text.get(self.open[-1] if self.open else "", "") + data


@pytest.fixture(scope="module")
def html():
    return page(document())


@pytest.fixture(scope="module")
def read(html):
    reader = Reader()
    reader.feed(html)
    reader.close()
    return reader


# ---- document -----------------------------------------------------------------------------------------------------


def test_a_report_is_let_through_and_its_strings_can_be_written():
    given = document()
    given["samples"][0]["id"] = "half \ud83d, whole \ud83d\ude00"
    given["later"] = {"a newer key": 1}
    read = checked(given)
    assert read["samples"][0]["id"] == "half \ufffd, whole \N{GRINNING FACE}"
    assert read["later"] == {"a newer key": 1}
    json.dumps(read, ensure_ascii=False, allow_nan=False).encode("utf-8")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), 1, "format is 1, and this version reads 2"),
        (("model",), None, "model: Input should be a valid string, not None"),
        (("samples", 1, "tokens", "waad", 0), "3", "samples[1].tokens.waad[0]"),
        (("samples", 1, "tokens", "gamma", 0), None, "samples[1].tokens.gamma[0]"),
        (("samples", 1, "tokens", "entropy", 2), float("nan"), "samples[1].tokens.entropy[2]"),
        (("samples", 1, "tokens", "preplan", 0), 1, "samples[1].tokens.preplan[0]"),
        (("samples", 1, "tokens", "fai"), [0.5], "samples[1].tokens.fai has 1 entries for 26 tokens"),
        (("samples", 1, "tokens", "intro", 3), 3, "samples[1].tokens.intro[3] must be an earlier token, not 3"),
        (("samples", 1, "tokens", "intro", 3), -1, "samples[1].tokens.intro[3] must be an earlier token, not -1"),
        (("samples", 1, "local_heads"), [[True]], "samples[1].local_heads has 1 entries for 5 layers"),
        (("samples", 1, "maps", "global", 4), [0.1], "samples[1].maps.global[4] has 1 entries for 26 tokens"),
        (("samples", 1, "head_maps"), [[None]], "samples[1].head_maps has 1 entries for 5 layers"),
        (
            ("samples", 1, "head_maps", 2, 3, "values"),
            "AAAA",
            "samples[1].head_maps[2][3] is a map of 2 tokens, not of 26",
        ),
        (
            ("samples", 1, "head_maps", 2, 3, "values"),
            "AAA",
            "samples[1].head_maps[2][3] is a map of -1 tokens, not of 26",
        ),
        (("tables", 0, "rows", 1, "cells"), ["one"], "tables[0].rows[1].cells has 1 entries for 5 columns"),
        (("tables", 0, "rows", 1, "cells", 2), float("nan"), "tables[0].rows[1].cells[2]"),
        (("tables", 0, "rows", 1, "cells", 1), {"value": 0.5, "low": 0.4}, "tables[0].rows[1].cells[1]"),
        (("tables", 0, "columns", 1, "unit"), "%", "tables[0].columns[1].unit"),
        (("settings", "quantile"), float("inf"), "settings.quantile is inf"),
        (("findings", 0, "holds"), "yes", "findings[0].holds"),
    ],
)
def test_what_is_not_a_report_is_refused_with_its_place(path, value, message, tmp_path):
    given = document()
    within = given
    for key in path[:-1]:
        within = within[key]
    within[path[-1]] = value
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        write_page(given, tmp_path / "report.html")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def made_up(size: int, correct: bool | None, finished: bool | None) -> dict[str, Any]:
    return sample("made up", ["a"] * size, 0, maps=False, correct=correct) | {"finished": finished}


@pytest.mark.parametrize(
    ("responses", "first"),
    [
        ([(9, False, True), (5, True, True), (7, True, True), (7, True, True)], 2),  # of equals the first
        ([(1, True, True), (5, False, True)], 1),  # one token shows nothing
        ([(1, True, True), (0, False, True)], 0),
        ([(50, True, False), (5, True, True)], 1),
        ([(50, True, False), (5, False, True)], 0),
        ([(50, None, False), (5, None, True)], 1),
        ([(50, None, None), (5, None, None)], 0),  # read from a file
        ([], None),
    ],
)
def test_a_page_opens_with_the_longest_right_response_that_ended(responses, first):
    samples = [made_up(*response) for response in responses]
    assert representative(samples) == first
    for old in samples:
        del old["finished"]  # as an earlier version wrote it
    assert representative(samples) is None or isinstance(representative(samples), int)


@pytest.mark.parametrize(
    ("gamma", "said"),
    [
        (1.0, "marks none of them, and they all have the same weight"),
        (2.0, "gives some of them more weight in training"),
    ],
)
def test_the_page_says_what_a_strategy_without_marks_does(gamma, said):
    given = document()
    for held in given["samples"]:
        size = len(held["tokens"]["text"])
        held["tokens"] |= {"preplan": [False] * size, "anchor": [False] * size, "gamma": [gamma] * size}
    assert said in page(given)


def test_a_missing_key_is_named():
    given = document()
    del given["samples"][0]["tokens"]["gamma"]
    with pytest.raises(ValueError, match=r"report: samples\[0\]\.tokens\.gamma: Field required"):
        checked(given)


# ---- page ---------------------------------------------------------------------------------------------------------


def test_the_page_is_one_valid_document(read):
    assert read.open == []
    assert [tag for tag, _ in read.elements[:2]] == ["html", "head"]
    assert read.elements[0][1] == {"lang": "en"}
    for tag in ("title", "h1", "main", "header", "footer"):
        assert [name for name, _ in read.elements].count(tag) == 1, tag
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for name in ("aria-labelledby", "aria-describedby", "for"):
        for _, attributes in read.elements:
            assert set((attributes.get(name) or "").split()) <= set(ids), attributes
    headings = [int(tag[1]) for tag, _ in read.elements if re.fullmatch("h[1-6]", tag)]
    assert all(below - above <= 1 for above, below in pairwise(headings))


def test_the_page_loads_nothing(read):
    for tag, attributes in read.elements:
        for name in LOADS & attributes.keys():
            assert (attributes[name] or "").startswith(("#", "data:")), (tag, name, attributes[name])
        assert not {"onerror", "onload", "onclick"} & attributes.keys()
    assert not re.search(r"url\(|@import|@font-face", read.text["style"])
    policy = next(at["content"] for tag, at in read.elements if at.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    assert policy.count("'sha256-") == 2


def test_the_page_holds_the_numbers_of_the_report(html):
    shown, report = held_by(html), checked(document())
    assert shown["first"] == LONG
    for held, given in zip(shown["samples"], report["samples"], strict=True):
        assert {key: held[key] for key in ("id", "prompt", "correct", "layers", "local_heads", "global_heads")} == {
            key: given[key] for key in ("id", "prompt", "correct", "layers", "local_heads", "global_heads")
        }
        assert held["tokens"] == {
            name: [float(f"{value:.4g}") if isinstance(value, float) else value for value in values]
            for name, values in given["tokens"].items()
        }
        assert held["head_maps"] == given["head_maps"]
        assert (held["maps"] is None) == (given["maps"] is None)
        for name, rows in (given["maps"] or {}).items():
            assert held["maps"][name] == pack(rows, 255)
        assert bool(held["no_maps"]) == (held["maps"] is None)


def test_what_a_completion_says_cannot_end_its_element(html):
    given = "".join([*HOSTILE, "\u2028\u2029", "]]>", "<SCRIPT"]).encode(errors="replace").decode()
    assert re.fullmatch("[A-Za-z0-9+/=]+", packed(given))
    assert gzip.decompress(base64.b64decode(packed(given))).decode() == given
    assert packed(given) == packed(given)  # and no time in it
    assert html.count("<script") == html.count("</script>")
    assert "<b>&amp; {{7*7}}</b>" not in html  # the id of a sample, as text of an <option>
    assert "&lt;b&gt;&amp;amp; {{7*7}}&lt;/b&gt;" in html


def test_words_and_cells_are_in_the_page(html):
    for text in (
        "Holds</span>",
        "Does not hold</span>",
        "Cannot tell</span>",
        "from 0 tokens later to the end",
        "anchors by which the credit strategy coupled_rhythm, with the settings below, decides",
        "The page opens with the longest right answer that ended by itself; the list has all 5.",
        "2 of 5: gsm8k/test/0019 (26 tokens)",
        "4 of 5: gsm8k/test/0041 (wrong, 0 tokens)",
        "<dt>Responses</dt><dd>5, 2 skipped</dd>",
        '<td class="number" title="0.35213 [0.331, 0.374]">0.352 [0.331, 0.374]</td>',
        '<td class="number" title="0.5">0.500</td>',
        '<td class="number" title="0.6084">60.8 %</td>',
        '<td class="number" title="0.125 [0.101, 0.152]">12.5 % [10.1 %, 15.2 %]</td>',
        '<td class="number" title="0.15 [-0.124, 0.181]">15.0 % [\N{MINUS SIGN}12.4 %, 18.1 %]</td>',
        '<td class="number" title="1512">1,512</td>',
        '<td class="number" title="-0.0">0</td>',
        '<td class="number">\N{EM DASH}</td>',
        '<th scope="col">Coupling</th><th scope="col" class="number">Measured</th>',
        "2,913 tokens, and the limit is 2,048",
        "A peak is a token whose value is above that of both neighbours and above the response&#39;s 60th percentile.",
    ):
        assert text in html, text


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.005, "share", "0.5 %"),
        ({"value": 2.693, "low": 2.362, "high": 3.033}, "share", "269 % [236 %, 303 %]"),
        ({"value": 0.083, "low": 0.0, "high": 1.5}, "share", "8.3 % [0.0 %, 150.0 %]"),
        (9.98312, "nats", "9.98"),
        (0.01234, "nats", "0.012"),
        (123.45, "", "123"),
        (0.0, "", "0.000"),
        (1512, "count", "1,512"),
    ],
)
def test_numbers_have_at_most_three_digits_and_the_bounds_as_many_decimals(value, unit, shown):
    assert _shown_cell(value, unit)[0] == shown


def test_cells_are_words_numbers_and_estimates():
    estimate, unbounded = Estimate(0.25, -0.125, 0.5), Estimate(12.345, np.nan, np.nan)
    values = (None, "a-b", 0.123456, -0.0, -3, estimate, unbounded, np.nan, -np.inf, 9_999.4, -12_345.6)
    minus = "\N{MINUS SIGN}"
    assert [cell(value) for value in values] == [
        "\N{EM DASH}", "a-b", "0.123", "0", f"{minus}3", f"0.25 [{minus}0.125, 0.5]", "12.3",
        "\N{EM DASH}", "\N{EM DASH}", "9,999", f"{minus}12,346",
    ]  # fmt: skip
    assert cell(estimate, "+.1%") == f"+25.0 % [{minus}12.5 %, +50.0 %]"
    assert exact(np.float64(0.1)) == exact(0.1) == "0.1"
    assert [exact(value) for value in values] == [
        "", "", "0.123456", "-0.0", "-3", "0.25 [-0.125, 0.5]", "12.345", "", "", "9999.4", "-12345.6",
    ]  # fmt: skip


def test_a_page_without_samples_tables_findings_is_a_page(tmp_path):
    given = document() | {"samples": [], "tables": [], "findings": [], "skipped": [], "settings": {}, "task": ""}
    reader = Reader()
    reader.feed(write_page(given, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert reader.open == []
    assert "No response could be analysed." in reader.text["p"]
    assert write_figures(given, tmp_path / "figures") == []


# ---- maps, and the size of a page ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("levels", "error"), [(MEAN, 0.004), (HEAD, 0.016)])
def test_a_packed_map_is_its_lower_triangle_in_so_many_levels(levels, error):
    rows = np.random.default_rng(0).random((23, 23)) ** 4
    again = unpack(packed_rows := pack(rows, levels))
    assert packed_rows["levels"] == levels and packed_rows["most"] == np.tril(rows).max()
    # a step of the square root, seen at the value: half a level off at most
    roots = np.sqrt(np.tril(rows) / packed_rows["most"])
    assert np.abs(np.sqrt(again / packed_rows["most"]) - roots).max() <= 0.5 / levels + 1e-12
    assert np.abs(again - np.tril(rows)).max() <= error * packed_rows["most"]
    assert np.array_equal(unpack(pack([[0.5, 9], [0.125, 0.5]], 255)), [[0.5, 0], [0.5 * (128 / 255) ** 2, 0.5]])


def test_maps_of_nothing_and_of_zeros_are_maps():
    assert unpack(pack(np.zeros((0, 0)), MEAN)).shape == (0, 0)
    assert np.array_equal(unpack(pack(np.zeros((3, 3)), MEAN)), np.zeros((3, 3)))


def with_maps(count: int, size: int, heads: int) -> dict[str, Any]:
    """A report of so many responses, each with its maps and those of its heads in noise, which packs badly."""
    draw = np.random.default_rng(0)
    rows = np.tril(draw.random((size, size)) ** 3 / size)
    held = sample("made up", ["token"] * size, 0, maps=False, correct=True)
    held["maps"] = {"local": rows.tolist(), "global": rows[::-1].T.tolist()}
    layers = len(held["layers"])
    held["head_span"] = draw.random((layers, heads)).round(5).tolist()
    held["local_heads"] = held["global_heads"] = [[True] * heads] * layers
    # a head's map is mostly near 0: 63 levels of it take about 3 bits an entry
    held["head_maps"] = [[pack(rows**2, HEAD)] * heads] * layers
    return document() | {"samples": [{**held, "id": str(number)} for number in range(count)]}


def test_the_page_of_an_ordinary_report_is_under_2_mb():
    # as that of docs/analysis.md: 20 responses of 220 tokens, maps of 45 heads for one of them
    given = with_maps(20, 220, 9)
    for later in given["samples"][1:]:
        later["head_maps"] = None
    text = page(given)
    assert len(text.encode()) < 2_000_000
    assert all(held["maps"] is not None for held in held_by(text)["samples"][:10])


def test_what_no_longer_fits_is_left_out_and_said():
    text = page(with_maps(70, 200, 4))
    assert 1_000_000 < len(text.encode()) < 2_000_000
    shown = held_by(text)["samples"]
    assert shown[0]["maps"] and shown[0]["head_maps"] and not shown[0]["no_maps"]
    assert shown[-1]["maps"] is None and shown[-1]["head_maps"] is None
    assert shown[-1]["no_maps"] == "The maps of this response are not on this page, which is kept under 2 MB; " \
        "report.json has them."  # fmt: skip
    assert shown[-1]["no_head_maps"].startswith("The maps of the single heads of this response are not on")
    assert shown[-1]["tokens"] == shown[0]["tokens"]


def test_the_first_response_gets_the_heads_there_is_room_for_and_later_ones_all_or_none(monkeypatch):
    monkeypatch.setattr("rlcredit.analysis.reading.MAP_BYTES", 3 * triangle(10) + 5)
    monkeypatch.setattr("rlcredit.analysis.reading.ALL_MAP_BYTES", 8 * triangle(10))
    span_LH = torch.tensor([[3.0, 1.0], [4.0, 2.0]])
    room = MapRoom()
    # three of four: the two that look nearest and the one that looks furthest
    assert room.heads(span_LH, 10).tolist() == [[False, True], [True, True]]
    assert room.heads(span_LH, 10).all()
    assert not room.heads(span_LH, 10).any()  # one is left of eight
    assert not room.heads(span_LH, 5).any()  # 15 bytes each, and 55 are left


# ---- figures ------------------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_figures_are_written_not_blank_and_the_same_twice(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        written = write_figures(document(), tmp_path / "one")
    names = {path.name for path in written}
    assert {"sample-1-curves.png", "sample-1-text-waad.svg", "sample-1-text-fai.png", "sample-2-maps.png"} <= names
    assert {"sample-2-spans.svg", "table2.png"} <= names
    assert "sample-1-maps.png" not in names  # it has none
    assert "table20.png" not in names  # it does not quote the paper
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert image.width in {660, 1360}, path.name  # 3.3 and 6.8 inches
                assert round(image.info["dpi"][0]) == 200
                assert np.asarray(image.convert("L")).std() > 5, path.name
        else:
            assert path.read_text(encoding="utf-8").lstrip().startswith("<?xml")
    again = write_figures(document() | {"samples": []}, tmp_path / "two")
    assert [path.name for path in again] == ["table2.png", "table2.svg"]
    for path in again:
        assert path.read_bytes() == (tmp_path / "one" / path.name).read_bytes()


def test_a_figure_has_every_row_of_its_table():
    rows = [Strip(f"row {number}", "", Estimate(1.0 + number, 0.5, 30.0), 0.7, 0.8) for number in range(16)]
    figure = strips_figure(rows)
    drawn = sorted(figure.axes, key=lambda axes: (axes.get_position().x0, -axes.get_position().y0))
    assert [axes.get_title() for axes in drawn if axes.axison] == [row.label for row in rows]


def test_hostile_text_is_drawn_as_text(tmp_path):
    given = document()
    given["samples"] = given["samples"][2:3]
    given["tables"][0]["rows"][0]["cells"][0] = "$\\frac{ 漢\n\x00 \ud83d"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph is a warning
        written = write_figures(given, tmp_path)
    assert len(written) == 12
    assert drawable("漢\x00a$\u202e") == "\u25af\u25afa$\u25af"


def test_one_token_and_no_values_are_drawn():
    sample = copy.deepcopy(document()["samples"][4])
    for key in ("waad", "fai", "receiver_fai", "entropy"):
        sample["tokens"][key] = [None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _, figure in sample_figures(sample):
            figure.draw_without_rendering()


def test_curves_are_the_values():
    tokens = document()["samples"][0]["tokens"]
    drawn = [axes.lines[0].get_ydata() for axes in curves_figure(tokens).axes]
    for series, key in zip(drawn, ("waad", "fai", "receiver_fai", "entropy"), strict=True):
        assert [None if np.isnan(value) else value for value in series] == tokens[key]


@pytest.mark.parametrize(
    ("texts", "columns", "wanted"),
    [
        (["ab", "cd"], 4, [(0, 0, 0, "ab"), (1, 0, 2, "cd")]),
        (["ab", "cde"], 4, [(0, 0, 0, "ab"), (1, 1, 0, "cde")]),
        (["abcdef"], 4, [(0, 0, 0, "abcd"), (0, 1, 0, "ef")]),
        (["a\n\nb"], 4, [(0, 0, 0, "a\u21b5"), (0, 1, 0, "\u21b5"), (0, 2, 0, "b")]),
        (["", "a"], 4, [(0, 0, 0, "\u2205"), (1, 0, 1, "a")]),
    ],
)
def test_text_is_set_in_lines(texts, columns, wanted):
    assert lay_out(texts, columns)[0] == wanted


def test_a_figure_draws_the_numbers_of_its_table():
    table, offsets = checked(document())["tables"]
    rows = strips(table)
    assert rows[:3] == [
        Strip("Entropy at WAAD peaks, against all tokens", "nats", Estimate(0.35213, 0.331, 0.374), 0.24081, 0.3608),
        Strip("Receiver-FAI peaks that are FAI peaks", "share", Estimate(0.582, 0.549, 0.615), 0.229, 0.6084),
        Strip("FAI peaks at or just after a WAAD peak", "share", Estimate(0.381, 0.352, 0.41), 0.369, 0.5253),
    ]
    assert rows[3].label == "One response" and len(rows) == 4  # what was not measured is not drawn
    assert strips(offsets) == []  # it does not quote the paper
    figure = strips_figure(rows)
    figure.draw_without_rendering()
    for axes, row in zip(figure.axes, rows, strict=True):
        drawn = {line.get_label(): float(line.get_xdata()[0]) for line in axes.lines[1:]}
        wanted = {"measured": row.measured.value, "control": row.control, "paper": row.paper}
        assert drawn == {name: value for name, value in wanted.items() if value is not None}
        np.testing.assert_equal(axes.lines[0].get_xdata(), row.measured[1:])
        assert all(label.get_text().endswith(" %") for label in axes.get_xticklabels()) == (row.unit == "share")


def test_the_ramp_goes_in_even_steps_of_lightness():
    linear = np.array([((c + 0.055) / 1.055) ** 2.4 if c > 0.04045 else c / 12.92 for c in np.ravel(ramp(250).colors)])
    red, green, blue = linear.reshape(-1, 3).T
    cones = [
        0.4122214708 * red + 0.5363325363 * green + 0.0514459929 * blue,
        0.2119034982 * red + 0.6806995451 * green + 0.1073969566 * blue,
        0.0883024619 * red + 0.2817188376 * green + 0.6299787005 * blue,
    ]
    light = np.array([0.2104542553, 0.7936177850, -0.0040720468]) @ np.cbrt(cones)
    steps = np.diff(light)
    assert np.allclose(steps, steps.mean(), rtol=0.02)
