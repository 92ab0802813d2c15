// The page of `rlcredit fidelity`: the lift of each strategy, and a response at a time with its values.

const { lifts, samples, strategies } = data;
const CURVES = [["value", "Value"], ["waad", "WAAD"], ["fai", "FAI"], ["entropy", "Entropy"]];
const sample = () => samples[Number(state.sample)];
let spans = [];
let current = 0;

// ---- lift ------------------------------------------------------------------------------------------------------------

function drawLifts() {
  const known = lifts.filter((entry) => entry.value !== null);
  const ink = rgb("var(--ink)");
  const names = known.map((entry) => entry.name);
  const arms = (entry, bound) => (entry[bound] === null ? 0 : Math.abs(entry[bound] - entry.value));
  const trace = {
    type: "scatter", mode: "markers", x: known.map((entry) => entry.value), y: names, hoverinfo: "none",
    marker: { size: 9, color: ink, symbol: known.map((entry) => (entry.control ? "circle-open" : "circle")), line: { width: 1.5, color: ink } },
    error_x: {
      type: "data", symmetric: false, array: known.map((entry) => arms(entry, "high")),
      arrayminus: known.map((entry) => arms(entry, "low")), color: ink, thickness: 1.3, width: 4,
    },
  };
  const most = Math.max(1.2, ...known.map((entry) => entry.high ?? entry.value));
  const layout = frame({
    margin: { l: 130, r: 12, t: 6, b: 38 },
    height: 60 + 30 * names.length,
    dragmode: false,
    xaxis: axis({ title: { text: "lift", standoff: 6 }, range: [Math.min(0, ...known.map((entry) => entry.low ?? 0)), most * 1.04], fixedrange: true }),
    yaxis: axis({ autorange: "reversed", showgrid: false, fixedrange: true, type: "category" }),
    shapes: [{ type: "line", x0: 1, x1: 1, y0: 0, y1: 1, yref: "paper", line: { color: rgb("var(--muted)"), width: 1, dash: "dash" } }],
  });
  const words = ({ name, value, low, high }) => [
    element("p", { className: "title" }, name),
    element("p", {}, `lift ${short(value)}`, low === null ? "" : `, from ${short(low)} to ${short(high)}`),
  ];
  draw(at("lifts"), [trace], layout, (event) => known[event.points[0].pointIndex], {
    hover: (entry, event) => showTip(words(entry), beside(event)), leave: hideTip,
  });
}

// ---- a response --------------------------------------------------------------------------------------------------------

function point(index, box, follow = false) {
  for (const span of spans) span.classList.remove("pointed");
  spans[index]?.classList.add("pointed");
  moveUpright(at("upright"), at("curves"), index, follow);
  if (box) showTip(words(index), box);
}

function words(index) {
  const one = sample();
  const list = element("dl");
  const add = (name, value) => list.append(element("div", {}, element("dt", {}, name), element("dd", {}, value)));
  add("Change", one.taken[index] ? short(one.change[index]) : "not measured");
  for (const [key, name] of CURVES) add(name, one[key][index] === null ? "none" : short(one[key][index]));
  const by = strategies.filter((name) => one.chosen[name][index]);
  add("Chosen by", by.length ? by.join(", ") : "none");
  const title = element("p", { className: "title" }, element("span", { className: "position" }, `${index}`), " ");
  title.append(element("bdi", {}, ...visible(one.text[index])));
  return [title, list];
}

function drawSample() {
  const one = sample();
  hideTip();
  const most = Math.max(...one.change.map(Math.abs), 1e-9);
  spans = one.text.map((text, index) => {
    const change = one.change[index];
    const span = element("span", { className: `token ${change < 0 ? "down" : "up"}`, role: "option", tabIndex: -1, "data-index": index, "aria-selected": "false" });
    span.style.setProperty("--v", Math.sqrt(Math.abs(change) / most));
    span.append(...visible(text));
    return span;
  });
  current = 0;
  if (spans.length) spans[0].tabIndex = 0;
  at("tokens").replaceChildren(...spans);
  at("prompt").replaceChildren(...visible(one.prompt));
  const taken = one.taken.filter(Boolean).length;
  const size = short(Math.max(...one.change.map(Math.abs)));
  at("about").replaceChildren(
    element("span", { className: "id" }, "problem ", element("bdi", {}, ...visible(one.id))),
    ` \u00b7 ${one.text.length} tokens \u00b7 answer ${one.reward === 1 ? "right" : "wrong"} \u00b7 ${taken} values taken \u00b7 largest change ${size}`,
  );
  at("sample").value = state.sample;
  at("previous").disabled = Number(state.sample) === 0;
  at("next").disabled = Number(state.sample) === samples.length - 1;
  markChosen();
  drawCurves();
}

function markChosen() {
  const chosen = sample().chosen[state.strategy];
  spans.forEach((span, index) => span.classList.toggle("chosen", Boolean(chosen?.[index])));
}

function drawCurves() {
  const one = sample();
  const x = one.text.map((_, index) => index);
  const share = 1 / CURVES.length;
  const layout = frame({
    margin: { l: 72, r: 10, t: 6, b: 38 },
    height: 420,
    xaxis: axis({ title: { text: "token", standoff: 6 }, range: [-0.5, Math.max(x.length, 1) - 0.5], anchor: `y${CURVES.length}` }),
  });
  const traces = CURVES.map(([key, name], place) => {
    const number = place === 0 ? "" : String(place + 1);
    layout[`yaxis${number}`] = axis({
      domain: [1 - (place + 1) * share + 0.025, 1 - place * share - 0.01], title: { text: name, standoff: 6 }, fixedrange: true, nticks: 4,
      ...(key === "value" ? { range: [-0.04, 1.04] } : {}),
    });
    return {
      x, y: one[key], yaxis: `y${number}`, type: "scatter", mode: "lines", hoverinfo: "none",
      line: { color: rgb(key === "value" ? "var(--ink)" : "var(--choice)"), width: 1.4, shape: key === "value" ? "hv" : "linear" },
    };
  });
  draw(at("curves"), traces, layout, (event) => Math.round(event.points[0].x), {
    hover: (index, event) => point(index, beside(event)), leave,
  });
}

function leave() {
  hideTip();
  point(-1);
}

function listen() {
  const list = at("tokens");
  const indexOf = (event) => Number(event.target.closest?.(".token")?.dataset.index ?? -1);
  const moves = { ArrowRight: (from) => from + 1, ArrowLeft: (from) => from - 1, Home: () => 0, End: () => Infinity };
  list.addEventListener("keydown", (event) => spans[target(event, moves, current, spans.length - 1)]?.focus());
  list.addEventListener("focusin", (event) => {
    spans[current].tabIndex = -1;
    spans[current].setAttribute("aria-selected", "false");
    current = indexOf(event);
    spans[current].tabIndex = 0;
    spans[current].setAttribute("aria-selected", "true");
    spans[current].setAttribute("aria-describedby", "tip");
    point(current, spans[current].getBoundingClientRect(), true);
  });
  list.addEventListener("focusout", leave);
  list.addEventListener("pointerover", (event) => {
    const index = indexOf(event);
    if (index >= 0 && event.pointerType !== "touch") point(index, spans[index].getBoundingClientRect());
  });
  list.addEventListener("pointerleave", leave);
  addEventListener("scroll", () => {
    const held = spans[current];
    if (held !== document.activeElement || !isInside(held)) hideTip();
    else if (!tip.hidden) point(current, held.getBoundingClientRect());
  }, { passive: true });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hideTip();
  });
}

function choose(index) {
  if (!samples[index]) return;
  keep({ sample: String(index) });
  drawSample();
}

function begin() {
  at("strategy").replaceChildren(...strategies.map((name) => element("option", { value: name }, name)));
  at("strategy").value = state.strategy;
  at("strategy").addEventListener("change", (event) => {
    keep({ strategy: event.target.value });
    markChosen();
  });
  at("sample").addEventListener("change", (event) => choose(Number(event.target.value)));
  at("previous").addEventListener("click", () => choose(Number(state.sample) - 1));
  at("next").addEventListener("click", () => choose(Number(state.sample) + 1));
  listen();
  drawSample();
}

recall({ sample: String(data.opens), strategy: strategies[0] ?? "" }, { sample: samples.map((_, index) => String(index)), strategy: strategies });
followMode(() => {
  drawLifts();
  if (samples.length) drawCurves();
});
drawLifts();
if (samples.length) begin();
