"""The page of runs in Chromium: what the switches draw, keyboard, both modes, a phone."""

from __future__ import annotations

import re
import threading

import pytest

from rlcredit.runs import watch
from rlcredit.runs.files import append_line, write_accuracies
from rlcredit.runs.folder import read_run
from rlcredit.runs.report import report
from rlcredit.stats.curves import band, smoothed
from tests.browser.looks import CONTRAST, PICTURE, SCROLLED, reload, settle, wait_until
from tests.unit.test_runs import made_up_run

pytestmark = pytest.mark.browser
LINE = "(meta) => document.querySelector('#chart-0 .plot').data.find((trace) => trace.meta === meta)?.y"

STEPS = "(chart) => document.querySelector(`#chart-${chart} .plot`).layout.xaxis.range"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    made = [made_up_run(root / f"{name}-seed{seed}", seed, name, 120 if (name, seed) == ("uniform", 4) else 200)
            for name, seeds in (("coupled_rhythm", 3), ("uniform", 5), ("local_chain", 1))
            for seed in range(seeds)]  # fmt: skip
    return [*made, made_up_run(root / "local_chain-again", 0, "local_chain")]


@pytest.fixture(scope="module")
def pages(folders, tmp_path_factory):
    """The addresses of the page of one run, and of all."""
    several = tmp_path_factory.mktemp("several") / "report.html"
    report([str(folders[0])])
    report([*map(str, folders), str(several.parent), "--output", str(several)])
    return {"one": (folders[0] / "report.html").as_uri(), "several": several.as_uri()}


@pytest.fixture
def visit(open_page, pages):
    return lambda name, fragment="", **options: open_page(
        pages[name] + fragment, ".chart:last-child .main-svg", **options
    )


def test_the_switches_choose_the_curves_of_one_run(visit, folders):
    page, reward = visit("one"), read_run(folders[0]).curves["reward"]
    for alpha in ("0.05", "0.3", "0.1"):
        page.locator(f"input[name=alpha][value='{alpha}']").check()
        for how, name in (("ema", "EMA"), ("peak", "EMA of the peak")):
            wanted = smoothed(reward, how, float(alpha)).value_T.tolist()
            assert page.evaluate(LINE, name) == pytest.approx(wanted, rel=1e-4)
    page.locator("input[name=line][value=ema]").check()
    assert page.evaluate(LINE, "EMA of the peak") is None
    page.locator("input[name=line][value=raw]").check()
    assert page.evaluate(LINE, "EMA") is None
    assert page.evaluate(LINE, "as logged") == pytest.approx(reward.value_T.tolist(), rel=1e-4)
    reload(page)  # and it is remembered
    assert page.locator("input[name=line]:checked").get_attribute("value") == "raw"
    page.locator("input[name=line][value=both]").check()
    accuracy = "() => document.querySelector('#chart-1 .plot').data.map((trace) => trace.meta ?? '')"
    assert page.evaluate(accuracy) == ["", "", "as logged"]  # with its band, and not smoothed unless told so
    page.locator("#accuracy").check()
    assert page.evaluate(accuracy) == ["", "", "as logged", "EMA", "EMA of the peak"]


def test_groups_are_drawn_as_means_with_single_seeds(visit, folders):
    page, runs = visit("several"), [read_run(folder) for folder in folders[:3]]
    wanted = band([smoothed(run.curves["reward"], "ema", 0.1) for run in runs])
    assert page.evaluate(LINE, "coupled_rhythm, mean") == pytest.approx(wanted.mean_T.tolist(), rel=1e-4)
    assert page.evaluate(LINE, "coupled_rhythm-seed1") is not None
    page.locator("#seeds").uncheck()
    assert page.evaluate(LINE, "coupled_rhythm-seed1") is None
    # a seed that is there twice is one seed, and its runs are their own lines
    assert page.locator("#legend label").nth(2).inner_text().split() == ["local_chain", "2", "runs", "of", "1", "seed"]
    assert (
        page.evaluate(LINE, "local_chain-seed0") is not None and page.evaluate(LINE, "local_chain-again") is not None
    )
    page.locator("#legend input[data-group='1']").uncheck()
    assert page.evaluate(LINE, "uniform, mean") is None
    assert page.evaluate("document.activeElement.dataset.group") == "1"  # the legend was drawn anew under the focus
    reload(page)
    assert page.evaluate(LINE, "uniform, mean") is None
    for group in "02":
        page.locator(f"#legend input[data-group='{group}']").uncheck()
    assert page.evaluate("document.querySelector('#chart-0 .plot').data.length") == 0
    page.locator("#chart-0").focus()
    page.keyboard.press("ArrowRight")
    page.locator("#chart-0 .plot").click()
    assert not page.locator("#tip").is_visible()
    assert page.locator(".standings tbody tr").count() == 3
    assert "Left out." in page.locator("#notes").inner_text()


def test_a_run_goes_on_as_strongly_where_the_mean_of_its_group_has_ended(visit):
    page = visit("several")
    drawn = """(meta) => document.querySelector('#chart-0 .plot').data.filter((trace) => trace.meta === meta)
        .map(({ x, line }) => [x[0], x.at(-1), line.width])"""
    assert page.evaluate(drawn, "uniform, mean") == [[1, 119, 2.4]]
    assert page.evaluate(drawn, "uniform-seed0") == [[1, 119, 1], [119, 199, 2]]
    assert page.evaluate(drawn, "uniform-seed4") == [[1, 119, 1]]
    page.locator("#chart-0").focus()
    page.keyboard.press("End")
    assert (
        "uniform-seed0" in page.locator("#tip").inner_text()
        and "uniform-seed4" not in page.locator("#tip").inner_text()
    )
    page.keyboard.press("Escape")
    page.locator("#seeds").uncheck()
    assert page.evaluate(drawn, "uniform-seed0") == [[119, 199, 2]]


@pytest.mark.parametrize("name", ["one", "several"])
def test_arrow_keys_tell_the_values_of_a_chart(visit, name):
    page = visit(name)
    chart = page.locator("#chart-0")
    chart.focus()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    for key, step in (("ArrowRight", 1), ("ArrowRight", 3), ("End", 199), ("ArrowLeft", 197), ("Home", 1)):
        page.keyboard.press(key)
        assert page.locator("#tip .title").inner_text() == f"step {step}"
    assert page.locator("#tip [data-value]").count() == (3 if name == "one" else 3 + 5 + 2 + 2)
    upright, plot = chart.locator(".upright").bounding_box(), chart.locator(".nsewdrag").first.bounding_box()
    assert plot["x"] <= upright["x"] <= plot["x"] + 0.1 * plot["width"]
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible() and not chart.locator(".upright").is_visible()
    assert outline in ("solid", "auto", "none")  # shown after a key, see below
    page.keyboard.press("Tab")
    assert page.evaluate("[document.activeElement.id, getComputedStyle(document.activeElement).outlineStyle]") == [
        "chart-1", "solid"
    ]  # fmt: skip
    box = page.locator("#chart-2 .nsewdrag").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=3)
    page.locator("#tip").wait_for(state="visible")
    assert re.fullmatch(r"step \d+", page.locator("#tip .title").inner_text())


def test_scrolling_keeps_the_step_that_the_keys_chose(visit):
    page = visit("one")
    page.locator("#chart-0").focus()
    page.keyboard.press("ArrowRight")
    page.evaluate(SCROLLED, 40)  # as where the focus has scrolled to the chart
    page.keyboard.press("ArrowRight")
    assert page.locator("#tip .title").inner_text() == "step 3"
    before = page.locator("#tip").bounding_box()
    page.evaluate(SCROLLED, 30)
    assert page.locator("#tip .title").inner_text() == "step 3"
    assert page.locator("#tip").bounding_box()["y"] == pytest.approx(before["y"] - 30, abs=1)
    page.evaluate(SCROLLED, 100_000)  # the chart is above the window
    assert not page.locator("#tip").is_visible()
    page.evaluate(SCROLLED, -100_000)
    assert page.locator("#tip .title").inner_text() == "step 3"
    page.evaluate("document.activeElement.blur()")
    assert not page.locator("#tip").is_visible()


def test_completions_are_text(visit):
    page = visit("one", "#moment=middle")
    assert page.locator(".completion").count() == 3
    assert page.locator(".completion pre").nth(1).inner_text() == "</script><script>window.hacked=1</script>"
    tags = page.eval_on_selector_all(".completion pre *", "(all) => all.map((node) => node.tagName)")
    assert set(tags) == {"SPAN"}
    page.locator("input[name=moment][value=end]").check()
    assert page.locator("#moment-said").inner_text().startswith("Step 199: 4 of its completions")
    assert page.locator(".completion dd").first.get_attribute("data-value") == "0"
    several = visit("several", "#run=4")
    assert several.locator("#run option:checked").inner_text() == "uniform-seed1"
    several.locator("#run").select_option("8")
    assert several.locator(".completion").count() == 4


@pytest.mark.parametrize("name", ["one", "several"])
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_both_modes_are_easy_to_read(visit, screenshots, name, mode):
    page = visit(name, color_scheme=mode)
    words = "h1, h2, h3, h4, p, dt, dd, td, th, li, caption, legend, label span, pre, summary, code, button:enabled"
    page.locator("#chart-0").focus()
    page.keyboard.press("End")
    for entry in page.evaluate(CONTRAST, f"{words}, #tip span, #tip b"):
        assert entry["ratio"] >= 4.5, entry
    page.keyboard.press("Escape")
    page.screenshot(path=screenshots / f"runs-{name}-{mode}.png", full_page=True)
    picture, line = (
        page.eval_on_selector("body", PICTURE),
        page.evaluate("document.querySelector('.plot').data[0].line.color"),
    )
    page.locator("#theme").click()
    assert page.eval_on_selector("body", PICTURE) != picture
    assert page.evaluate("document.querySelector('.plot').data[0].line.color") != line


@pytest.mark.parametrize("name", ["one", "several"])
def test_nothing_overflows_a_phone(visit, screenshots, name):
    page = visit(name, "#moment=middle", width=360, height=740, has_touch=True)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
    page.locator("#chart-0").focus()
    page.keyboard.press("End")
    settle(page)
    box = page.locator("#tip").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 360
    page.keyboard.press("Escape")
    page.locator("#chart-1 .plot").tap(position={"x": 150, "y": 120})
    assert re.fullmatch(r"step \d+", page.locator("#tip .title").inner_text())
    page.keyboard.press("Escape")
    page.screenshot(path=screenshots / f"runs-{name}-phone.png", full_page=True)
    page.set_viewport_size({"width": 768, "height": 740})
    settle(page)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 768


def test_a_zoomed_chart_stays_so_where_a_switch_draws_it_anew(visit):
    page = visit("several")
    whole = page.evaluate(STEPS, 0)
    page.locator("#chart-0").scroll_into_view_if_needed()
    settle(page)
    box = page.locator("#chart-0 .draglayer .nsewdrag").first.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.25 * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], middle, steps=6)
    page.mouse.up()
    wait_until(page, f"() => ({STEPS})(0)[1] < {0.6 * whole[1]}")
    zoomed = page.evaluate(STEPS, 0)
    page.locator("#legend input").first.uncheck()
    assert page.evaluate(STEPS, 0) == pytest.approx(zoomed)
    assert page.evaluate(STEPS, 1) == pytest.approx(whole)


def test_a_live_page_renews_itself_where_the_log_grows(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "SECONDS", 0.2)
    folder = made_up_run(tmp_path / "a-seed0", 0, settings={"max_steps": 400})
    (folder / "accuracy.json").unlink()
    server = watch.serve(0, watch.LivePage([folder], "rlcredit report a-seed0 --watch"))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    said, asked = [], set()
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.on("console", lambda message: said.append(message.text) if message.type != "log" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.add(request.url.split("#")[0]))
    address = f"http://127.0.0.1:{server.server_port}/"
    try:
        page.goto(f"{address}#line=raw")
        page.wait_for_selector(".chart:last-child .main-svg", state="attached")
        assert "step 200 of 400" in page.locator("#live").inner_text()
        assert "UTC" not in page.locator("#live").inner_text()  # the browser's own time
        page.locator("summary").first.click()
        page.evaluate("document.querySelector('#chart-2').focus({ preventScroll: true })")
        page.evaluate("Plotly.relayout(document.querySelector('#chart-1 .plot'), { 'xaxis.range': [50, 90] })")
        page.evaluate(SCROLLED, 700)
        with page.expect_event("load"):
            append_line(folder / "log.jsonl", {"step": 201, "reward": 0.125})
        page.wait_for_selector(".chart:last-child .main-svg", state="attached")
        assert page.evaluate("scrollY") == 700
        assert (page.evaluate(LINE, "as logged")[-1], page.url) == (0.125, f"{address}#line=raw")
        assert "step 201 of 400" in page.locator("#live").inner_text()
        assert page.evaluate("document.activeElement.id") == "chart-2"
        assert page.evaluate("document.querySelector('details').open")
        assert (page.evaluate(STEPS, 1), page.evaluate(STEPS, 2)) == ([50, 90], pytest.approx([-4.02, 205.02]))
        # a page whose values are being read waits
        page.keyboard.press("End")
        page.evaluate("window.old = true")
        write_accuracies(folder, before={}, after={})
        page.wait_for_timeout(600)
        assert page.evaluate("window.old") is True and page.locator("#tip .title").inner_text() == "step 200"
        with page.expect_event("load"):
            page.keyboard.press("Escape")
        assert "has finished after step 201" in page.locator("#live").inner_text()
        assert not page.locator("#live .lost").is_visible()
        assert said == [] and asked <= {address, f"{address}stamp"}
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    page.locator("#live .lost").wait_for(state="visible")
    page.close()
