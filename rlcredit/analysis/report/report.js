// The page of `rlcredit analyze`: a sample at a time, its text, curves, maps and spans linked to each other.

const { samples } = data;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

let spans = [];
let current = -1; // the token that the keyboard is at, or was last
let pointed = -1; // the token that the line in the curves is at
let redraw = 0;

const sample = () => samples[Number(state.sample)];

// ---- tokens ----------------------------------------------------------------------------------------------------------

/** Point at a token: the line in the curves, its arrows, its values at `box`. */
function point(index, box, follow = false) {
  spans[pointed]?.classList.remove("pointed");
  spans[index]?.classList.add("pointed");
  pointed = index;
  markArrows(at("links"), index);
  moveUpright(at("upright"), at("curves"), index, follow);
  if (box) showTip(values(sample().tokens, index), box);
}

function focusToken(index) {
  const span = spans[index];
  if (!span) return;
  span.focus({ preventScroll: true });
  const box = body(span);
  if (box.top < 60 || box.bottom > innerHeight - 60) {
    span.scrollIntoView({ block: "center", behavior: calm.matches ? "instant" : "smooth" });
  }
}

/** The token above or below: on the nearest line that way, the one nearest in x. */
function vertical(from, way) {
  const here = body(spans[from]);
  const x = here.left + here.width / 2;
  let best = from;
  let line = null;
  let distance = Infinity;
  for (let index = from + way; spans[index]; index += way) {
    const box = body(spans[index]);
    if (Math.abs(box.top - here.top) < here.height / 2) continue;
    line ??= box.top;
    if (Math.abs(box.top - line) > here.height / 2) break;
    const off = Math.abs(box.left + box.width / 2 - x);
    if (off < distance) [best, distance] = [index, off];
  }
  return best;
}

const MOVES = {
  ArrowRight: (from) => from + 1, ArrowLeft: (from) => from - 1, Home: () => 0, End: () => Infinity,
  ArrowDown: (from) => vertical(from, 1), ArrowUp: (from) => vertical(from, -1),
};

function listen() {
  const list = at("tokens");
  const tokenOf = (event) => event.target.closest?.(".token");
  list.addEventListener("keydown", (event) => focusToken(target(event, MOVES, current, spans.length - 1)));
  list.addEventListener("focusin", (event) => {
    const span = tokenOf(event);
    if (!span) return;
    hideTip();
    const index = Number(span.dataset.index);
    if (spans[current]) {
      spans[current].tabIndex = -1;
      spans[current].setAttribute("aria-selected", "false");
    }
    current = index;
    span.tabIndex = 0;
    span.setAttribute("aria-selected", "true");
    span.setAttribute("aria-describedby", "tip");
    point(index, body(span), true);
  });
  list.addEventListener("focusout", hideTip);
  list.addEventListener("pointerover", (event) => {
    const span = tokenOf(event);
    if (span && event.pointerType !== "touch") point(Number(span.dataset.index), body(span));
  });
  list.addEventListener("pointerleave", leave);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hideTip();
  });
  addEventListener("scroll", () => followFocus(), { passive: true });
}

/** The pointer has left: back to the token that has the focus, if one has. */
function leave() {
  hideTip();
  const held = document.activeElement?.closest?.(".token");
  if (!held) return point(-1);
  held.setAttribute("aria-describedby", "tip");
  point(Number(held.dataset.index), body(held));
}

function followFocus() {
  if (tip.hidden) return;
  const held = document.activeElement?.closest?.(".token");
  if (held && Number(held.dataset.index) === pointed) showTip(values(sample().tokens, pointed), body(held));
  else hideTip();
}

// ---- a sample ----------------------------------------------------------------------------------------------------------

const counted = (count, name) => `${count} ${name}${count === 1 ? "" : "s"}`;

function drawSample() {
  const { tokens, prompt, correct, finished, id } = sample();
  const count = tokens.text.length;
  hideTip();
  current = -1;
  pointed = -1;
  spans = tokenSpans(tokens);
  for (const span of spans) span.setAttribute("aria-selected", "false");
  if (spans.length) [current, spans[0].tabIndex] = [0, 0];
  at("tokens").replaceChildren(...spans);
  at("tokens").hidden = !count;
  at("no-tokens").hidden = Boolean(count);
  at("prompt").replaceChildren(...visible(prompt));
  const verdict = correct === null ? "answer not checked" : correct ? "answer right" : "answer wrong";
  const many = (flags, name) => counted(flags.filter(Boolean).length, name);
  at("about").replaceChildren(
    element("bdi", { className: "id" }, ...visible(id)),
    [
      "", counted(count, "token"), ...(finished === false ? ["cut off at the length limit"] : []), verdict, many(tokens.preplan, "preplan token"),
      `${many(tokens.anchor, "anchor")} (${tokens.dominated.filter(Boolean).length} dominated)`,
    ].join(" \u00b7 "),
  );
  at("sample").value = state.sample;
  at("previous").disabled = Number(state.sample) === 0;
  at("next").disabled = Number(state.sample) === samples.length - 1;
  drawColours();
  drawLinks();
  drawCharts();
}

function drawColours() {
  const series = sample().tokens[state.colour];
  const { low, high } = bounds(series);
  document.querySelector(".passage").dataset.colour = state.colour;
  paint(spans, places(series, state.scale === "rank"));
  const { name, unit } = SIGNALS[state.colour];
  at("ramp-name").textContent = name;
  for (const [end, value] of [["ramp-low", low], ["ramp-high", high]]) {
    at(end).textContent = short(value);
    at(end).title = String(value);
    at(end).dataset.value = String(value);
  }
  at("ramp-unit").textContent = state.scale === "rank" ? `${unit}, evenly by rank` : unit;
  at("no-value").hidden = !series.includes(null);
}

function drawLinks() {
  drawArrows(at("links"), spans, state.arrows === "yes" ? sample().tokens.intro : []);
  markArrows(at("links"), pointed);
}

function drawCharts() {
  const { tokens, maps, head_span: rows } = sample();
  const pick = (index) => focusToken(index);
  const moved = () => moveUpright(at("upright"), at("curves"), pointed);
  drawCurves(at("curves"), tokens, { hover: (index, event) => point(index, beside(event)), leave, pick, moved });
  moved();
  at("maps").hidden = !maps;
  at("no-maps").hidden = Boolean(maps);
  if (maps) drawMaps(tokens, maps, pick);
  else {
    at("no-maps").textContent = tokens.text.length
      ? `Not kept for this sample: maps grow with the square of the length, and this response has ${tokens.text.length} tokens. Short responses have them.`
      : "The response is empty.";
  }
  const { low, high } = bounds(rows.flat());
  at("spans-low").textContent = short(low);
  at("spans-high").textContent = short(high);
  drawSpans(at("spans"), sample(), {
    hover: ([row, head], event) => showTip(spanWords(row, head), beside(event)),
    leave: hideTip,
  });
  drawSpanTable();
}

function drawMaps(tokens, maps, pick) {
  const above = [maps.local, maps.global].flatMap((rows) => rows.flatMap((row, query) => row.slice(0, query + 1)));
  const positive = above.filter((value) => value > 0).sort((a, b) => a - b);
  const most = positive[Math.ceil(0.99 * positive.length) - 1] ?? 1;
  at("maps-high").textContent = `${short(most)} and more`;
  for (const group of ["local", "global"]) {
    drawMap(at(`map-${group}`), maps[group], most, {
      hover: ([query, key], event) => showTip(mapWords(tokens, query, key, maps[group][query][key]), beside(event)),
      leave: hideTip,
      pick: ([query]) => pick(query),
    });
  }
}

function mapWords(tokens, query, key, value) {
  const named = (index) => [
    element("span", { className: "position" }, `${index}`), " ", element("bdi", {}, ...visible(tokens.text[index])),
  ];
  return [
    element("p", { className: "title" }, "from ", ...named(query)),
    element("p", { className: "title" }, "to ", ...named(key)),
    element("p", { "data-value": String(value) }, `attention ${short(value)}`),
  ];
}

function groups(row, head) {
  const { local_heads: local, global_heads: global } = sample();
  return [local[row][head] && "local", global[row][head] && "global"].filter(Boolean).join(" and ");
}

function spanWords(row, head) {
  const { layers, head_span: rows } = sample();
  const group = groups(row, head);
  return [
    element("p", { className: "title" }, `layer ${layers[row]}, head ${head}`),
    element("p", { "data-value": String(rows[row][head]) }, `span ${short(rows[row][head])} tokens`),
    ...(group ? [element("p", { className: "roles" }, `${group} group`)] : []),
  ];
}

/** The same spans as a table, for readers who cannot see the picture or point at it. */
function drawSpanTable() {
  const { layers, head_span: rows } = sample();
  const head = (scope, text) => element("th", { scope }, text);
  const cells = (row, index) =>
    row.map((span, at_) => {
      const group = groups(index, at_);
      return element("td", { className: "number", title: String(span) }, short(span) + (group ? ` ${group}` : ""));
    });
  const top = element("tr", {}, head("col", "Layer"), ...(rows[0] ?? []).map((_, at_) => head("col", `Head ${at_}`)));
  const body_ = rows.map((row, index) => element("tr", {}, head("row", String(layers[index])), ...cells(row, index)));
  const table = element("table", {}, element("thead", {}, top), element("tbody", {}, ...body_));
  at("spans-table").querySelector(".scroll").replaceChildren(table);
}

// ---- controls ----------------------------------------------------------------------------------------------------------

function choose(index) {
  if (!samples[index]) return;
  keep({ sample: String(index) });
  drawSample();
}

function begin() {
  radios("colour", drawColours);
  radios("scale", drawColours);
  checkbox("arrows", drawLinks);
  at("sample").addEventListener("change", (event) => choose(Number(event.target.value)));
  at("previous").addEventListener("click", () => choose(Number(state.sample) - 1));
  at("next").addEventListener("click", () => choose(Number(state.sample) + 1));
  const near = () => (pointed >= 0 ? pointed : current);
  at("zoom-in").addEventListener("click", () => zoom(at("curves"), 0.5, near(), spans.length));
  at("zoom-out").addEventListener("click", () => zoom(at("curves"), 2, near(), spans.length));
  at("zoom-all").addEventListener("click", () => zoom(at("curves"), Infinity, near(), spans.length));
  listen();
  new ResizeObserver(() => {
    cancelAnimationFrame(redraw);
    redraw = requestAnimationFrame(() => {
      drawLinks();
      moveUpright(at("upright"), at("curves"), pointed);
    });
  }).observe(at("tokens"));
  drawSample();
}

recall({ sample: String(data.first ?? 0), colour: "waad", scale: "value", arrows: "yes" }, {
  sample: samples.map((_, index) => String(index)), colour: ["waad", "fai", "entropy", "gamma"], scale: ["value", "rank"],
});
followMode(() => samples.length && drawCharts());
if (samples.length) begin();
