// The page of runs: curves that were worked out in Python, chosen by switches, and completions as text.

const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const MOST_TOLD = 14; // curves; of more only those that are not single seeds
const STROKES = { solid: "", dash: "7 4", dot: "2 3", dashdot: "7 3 2 3", longdash: "11 4" };
recall({
  line: data.single ? "both" : "ema", alpha: data.alphas[1], accuracy: "no", seeds: "yes", hidden: "", run: "0",
  moment: "start",
}, {
  line: [...(data.single ? ["both"] : []), "ema", "peak", "raw"], alpha: data.alphas,
  moment: ["start", "middle", "end"], run: data.runs.map((_, run) => String(run)),
});

const hidden = () => new Set(state.hidden.split(".").filter(Boolean).map(Number));
const charts = [...document.querySelectorAll(".chart")];
const shown = new Map(); // of each chart, what is drawn in it: { name, colour, dash, x, y, low, high, quiet }
const pointed = new Map(); // of each chart, the step that its line is at

function drawAll() {
  drawLegend();
  charts.forEach(drawChart);
}

// ---- what is drawn ---------------------------------------------------------------------------------------------------

const series = (number) => `var(--series-${number % 8})`;
const dash = (number) => DASHES[number % DASHES.length];

/** The curves of a chart under the switches, in the order in which they are told. */
function curvesOf(chart) {
  return data.single ? curvesOfOne(chart) : curvesOfGroups(chart);
}

function curvesOfOne({ lines: [line], accuracy, peak }) {
  const wanted = state.line === "both" ? ["ema", "peak"] : state.line === "peak" && !peak ? ["ema"] : [state.line];
  const rough = state.line === "raw" || (accuracy && state.accuracy !== "yes");
  const logged = {
    name: NAMES.raw, colour: "var(--series-7)", dash: "solid", x: line.x, y: line.raw,
    points: accuracy || !rough, cloud: !accuracy && !rough, quiet: !rough, width: rough ? 1.6 : 1,
    ...(accuracy ? line.interval : {}),
  };
  if (rough) return [logged];
  const smooth = wanted.filter((how) => how !== "raw" && line[how]).map((how) => ({
    name: NAMES[how], colour: series(how === "ema" ? 0 : 1), dash: how === "ema" ? "solid" : "dash", x: line.x,
    y: line[how][state.alpha], width: 2,
  }));
  return [logged, ...smooth];
}

function curvesOfGroups(chart) {
  const how = chart.accuracy && state.accuracy !== "yes" ? "raw" : state.line === "peak" && !chart.peak ? "ema" : state.line;
  const pick = (held) => (how === "raw" ? held.raw : held[how][state.alpha]);
  const away = hidden();
  const curves = [];
  data.groups.forEach(({ label, runs }, group) => {
    const lines = chart.lines.filter(({ run }) => runs.includes(run));
    if (away.has(group) || !lines.length) return;
    const look = { colour: series(group), dash: dash(group), points: chart.accuracy && how === "raw" };
    const band = chart.bands.find(({ group: of }) => of === group);
    for (const line of lines) {
      const interval = !band && how === "raw" && line.interval ? line.interval : {};
      const name = runs.length > 1 ? data.runs[line.run].name : label;
      const [x, y] = [line.x, pick(line)];
      if (!band) {
        curves.push({ ...look, ...interval, name, x, y, width: 2 });
        continue;
      }
      // where the mean has ended, a longer run is drawn as strongly as it
      const shared = x.filter((step) => step <= band.x.at(-1)).length;
      if (state.seeds === "yes") curves.push({ ...look, name, x: x.slice(0, shared), y: y.slice(0, shared), quiet: true, width: 1 });
      if (shared < x.length) {
        const from = Math.max(shared - 1, 0);
        curves.push({ ...look, name, x: x.slice(from), y: y.slice(from), told: x[shared], width: 2 });
      }
    }
    if (!band) return;
    const { mean, low, high } = pick(band);
    curves.push({ ...look, name: `${label}, mean`, x: band.x, y: mean, low, high, width: 2.4 });
  });
  return curves;
}

const NAMES = { raw: "as logged", ema: "EMA", peak: "EMA of the peak" };

// ---- charts ----------------------------------------------------------------------------------------------------------

const faded = (colour, share) => rgb(colour).replace("rgb", "rgba").replace(")", `, ${share})`);

function traces(curve) {
  const { x, y, low, high, colour, quiet, width, points, cloud } = curve;
  const base = { x, type: "scatter", hoverinfo: "none" };
  const drawn = [];
  if (low) {
    const inside = x.flatMap((_, index) => (low[index] === null || high[index] === null ? [] : [index]));
    const edge = { ...base, x: inside.map((index) => x[index]), mode: "lines", line: { width: 0 }, hoverinfo: "skip" };
    drawn.push({ ...edge, y: inside.map((index) => low[index]) });
    drawn.push({ ...edge, y: inside.map((index) => high[index]), fill: "tonexty", fillcolor: faded(colour, 0.16) });
  }
  const paint = faded(colour, quiet ? 0.38 : 1);
  const few = x.length < 2 || (points && x.length <= 60);
  drawn.push({
    ...base, y, mode: cloud ? "markers" : few ? "lines+markers" : "lines", connectgaps: false, line: { color: paint, width, dash: curve.dash },
    marker: { color: paint, size: cloud ? 3.5 : quiet ? 4.5 : 6 }, meta: curve.name,
  });
  return drawn;
}

/** The window of a chart that is not zoomed. */
function allSteps() {
  const last = Math.max(...data.charts.flatMap(({ lines }) => lines.map(({ x }) => x.at(-1))), 1);
  return [-0.02 * last, 1.02 * last];
}

function drawChart(node) {
  const chart = data.charts[Number(node.dataset.chart)];
  const curves = curvesOf(chart);
  shown.set(node, curves);
  const positive = curves.every(({ y, low }) => [...y, ...(low ?? [])].every((value) => value === null || value >= 0));
  const layout = frame({
    height: node.parentElement.classList.contains("main") ? 300 : 230,
    margin: { l: 46, r: 8, t: 10, b: 40 },
    hovermode: "x",
    hoverdistance: -1,
    uirevision: "kept", // a switch leaves a zoomed chart zoomed
    xaxis: axis({ range: allSteps(), title: { text: "step", standoff: 6 }, showgrid: false, ticks: "outside", nticks: 6 }),
    yaxis: axis({ fixedrange: true, rangemode: positive ? "nonnegative" : "normal", nticks: 5, tickformat: "~g" }),
  });
  const place = (event) => event.points[0].x;
  draw(node.querySelector(".plot"), curves.flatMap(traces), layout, place, {
    hover: (step, event) => point(node, step, beside(event)),
    leave: () => leave(node),
    moved: () => placeLine(node),
  });
  placeLine(node);
}

/** Put the upright line of a chart where its step is. */
function placeLine(node) {
  moveUpright(node.querySelector(".upright"), node.querySelector(".plot"), pointed.get(node) ?? -1);
}

function point(node, step, box) {
  pointed.set(node, step);
  placeLine(node);
  showTip(told(node, step), box);
}

function leave(node) {
  hideTip();
  pointed.delete(node);
  placeLine(node);
}

/** The step nearest to a click or a tap, which moves no pointer over the chart. */
function nearest(node, event) {
  const plot = node.querySelector(".plot");
  const box = plot.getBoundingClientRect();
  const [low, high] = plot.layout.xaxis.range;
  const { l, r } = plot.layout.margin;
  const x = low + ((event.clientX - box.left - l) / (box.width - l - r)) * (high - low);
  return steps(node).reduce((best, step) => (Math.abs(step - x) < Math.abs(best - x) ? step : best));
}

function steps(node) {
  return [...new Set(shown.get(node).flatMap(({ x }) => x))].sort((a, b) => a - b);
}

/** The values of a chart at a step, as the content of the tip. */
function told(node, step) {
  const curves = shown.get(node).filter(({ x, y, told: from }) => {
    const index = x.indexOf(step);
    return index >= 0 && y[index] !== null && step >= (from ?? 0);
  });
  const main = curves.filter(({ quiet }) => !quiet);
  const rows = [...main, ...(curves.length > MOST_TOLD ? [] : curves.filter(({ quiet }) => quiet))].map((curve) => {
    const index = curve.x.indexOf(step);
    const known = curve.low && curve.low[index] !== null && curve.high[index] !== null;
    const [low, high] = known ? [curve.low[index], curve.high[index]].map((end) => short(Number(end.toPrecision(3)))) : [];
    const bounds = known ? [element("span", { className: "bounds" }, ` [${low}, ${high}]`)] : [];
    return element("p", { className: "line" }, swatch(curve), element("span", {}, ...visible(curve.name)),
      element("b", { "data-value": String(curve.y[index]) }, short(curve.y[index]), ...bounds));
  });
  return [element("p", { className: "title" }, `step ${step}`), ...rows];
}

function swatch({ colour, dash: style, low, points, quiet, cloud }) {
  const ink = rgb(colour);
  const opacity = quiet ? 0.45 : 1;
  const line = { x1: 0, y1: 5, x2: 28, y2: 5, stroke: ink, opacity, "stroke-width": quiet ? 1.2 : 2, "stroke-dasharray": STROKES[style] };
  const parts = [
    low && shape("rect", { x: 0, y: 0, width: 28, height: 10, fill: ink, opacity: 0.16 }),
    !cloud && shape("line", line),
    points && shape("circle", { cx: 14, cy: 5, r: 2.4, fill: ink, opacity }),
  ];
  return shape("svg", { viewBox: "0 0 28 10", focusable: "false", role: "presentation" }, ...parts.filter(Boolean));
}

function drawLegend() {
  if (data.single) {
    const drawn = charts.flatMap((node) => curvesOfOne(data.charts[Number(node.dataset.chart)]));
    const unlike = ({ name, cloud, low }) => `${name} ${Boolean(cloud)} ${Boolean(low)}`;
    const held = [...new Map(drawn.map((curve) => [unlike(curve), curve])).values()].map((curve) =>
      curve.low ? { ...curve, name: "accuracy as logged, with its 95 % interval" } : curve);
    at("legend").replaceChildren(...held.map((curve) => element("li", {}, swatch(curve), curve.name)));
    return;
  }
  const away = hidden();
  const focus = document.activeElement?.dataset?.group;
  at("legend").replaceChildren(...data.groups.map(({ label, runs, seeds: count }, group) => {
    const box = element("input", { type: "checkbox", checked: !away.has(group), "data-group": String(group) });
    const repeated = runs.length > count ? `${runs.length} runs of ${count} seed${count === 1 ? "" : "s"}` : `${count} seeds`;
    const seeds = runs.length > 1 ? [element("span", { className: "quiet" }, repeated)] : [];
    const curve = { colour: series(group), dash: dash(group), low: count > 1 };
    return element("label", {}, box, swatch(curve), element("span", {}, ...visible(label)), ...seeds);
  }));
  if (focus !== undefined) at("legend").querySelector(`[data-group="${focus}"]`)?.focus();
}

// ---- keyboard ----------------------------------------------------------------------------------------------------------

const MOVES = {
  ArrowRight: (from) => from + 1, ArrowLeft: (from) => from - 1, Home: () => 0, End: () => Infinity,
};

function walk(node, event) {
  if (event.key === "Escape") return leave(node);
  const every = steps(node);
  const here = pointed.has(node) ? every.indexOf(pointed.get(node)) : event.key === "ArrowLeft" ? every.length : -1;
  const index = target(event, MOVES, here, every.length - 1);
  if (every[index] === undefined) return;
  pointed.set(node, every[index]);
  pointAtLine(node);
}

/** Tell the values of the step that a chart points at beside its upright line. */
function pointAtLine(node) {
  placeLine(node);
  const line = node.querySelector(".upright").getBoundingClientRect();
  const plot = node.querySelector(".plot").getBoundingClientRect();
  showTip(told(node, pointed.get(node)), new DOMRect(line.right + 8, plot.top + plot.height / 3, 1, 1));
}

/** The window scrolls, also to a chart that gets the focus: a key may have come before the event. */
function followFocus() {
  const held = document.activeElement;
  for (const node of [...pointed.keys()]) if (node !== held) leave(node);
  if (!pointed.has(held)) return;
  if (!isInside(held)) hideTip();
  else pointAtLine(held);
}

// ---- completions ---------------------------------------------------------------------------------------------------------

function drawSamples() {
  if (!at("samples")) return;
  const { samples } = data.runs[Number(state.run)];
  const chosen = samples.filter(({ moment }) => moment === state.moment);
  const said = chosen.length
    ? `Step ${chosen[0].step}: ${chosen.length} of its completions, evenly spaced in the log, whatever they hold.`
    : samples.length ? "The log has no completions of that time." : "This run logged no completions.";
  at("moment-said").textContent = said;
  at("completions").replaceChildren(...chosen.map(({ prompt, completion, numbers }) =>
    element("article", { className: "completion" }, element("h4", {}, "Prompt"), passage(prompt),
      element("h4", {}, "Completion"), passage(completion), facts(numbers))));
}

function passage(text) {
  return element("pre", { tabIndex: 0 }, ...visible(text));
}

function facts(numbers) {
  const words = ([key, value]) => {
    const said = element("dd", { title: String(value), "data-value": String(value) }, short(value));
    return element("div", {}, element("dt", {}, ...visible(key)), said);
  };
  return element("dl", {}, ...Object.entries(numbers).map(words));
}

// ---- controls ------------------------------------------------------------------------------------------------------------

radios("line", drawAll);
radios("alpha", drawAll);
radios("moment", drawSamples);
checkbox("accuracy", drawAll);
checkbox("seeds", drawAll);
at("legend").addEventListener("change", (event) => {
  const away = hidden();
  const group = Number(event.target.dataset.group);
  if (event.target.checked) away.delete(group);
  else away.add(group);
  keep({ hidden: [...away].sort((a, b) => a - b).join(".") });
  drawAll();
});
if (at("run")) {
  at("run").append(...data.runs.map(({ name }, run) => element("option", { value: String(run) }, name)));
  at("run").value = state.run;
  at("run").addEventListener("change", (event) => {
    keep({ run: event.target.value });
    drawSamples();
  });
}
for (const node of charts) {
  node.addEventListener("keydown", (event) => walk(node, event));
  node.querySelector(".plot").addEventListener("click", (event) => {
    if (steps(node).length) point(node, nearest(node, event), beside(event));
  });
  node.addEventListener("focusout", () => leave(node));
  new ResizeObserver(() => shown.has(node) && placeLine(node)).observe(node);
}
addEventListener("scroll", followFocus, { passive: true });

followMode(drawAll);
drawAll();
drawSamples();
