// The page of `rlcredit analyze`: a response at a time, its text, curves, maps and spans linked to each other.

const { samples } = data;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

let spans = [];
let maps = null; // of the response, unpacked
let current = -1; // the token that the keyboard is at, or was last
let pointed = -1; // the token that the line in the curves is at
let redraw = 0;

const number = () => (state.response ? Number(state.response) - 1 : data.first ?? 0);
const sample = () => samples[number()];
const chosen = () => (state.token === "" ? -1 : Number(state.token));

// ---- tokens ----------------------------------------------------------------------------------------------------------

/** Point at a token: the line in the curves, its arrows, what it attends to, its values at `box`. */
function point(index, box, follow = false) {
  spans[pointed]?.classList.remove("pointed");
  spans[index]?.classList.add("pointed");
  pointed = index;
  markArrows(at("links"), index);
  moveUpright(at("upright"), at("curves"), index, follow);
  showLooks();
  if (box) showTip(values(sample().tokens, index), box);
}

/** Make a token the one that the address names. */
function select(index) {
  if (spans[current]) {
    spans[current].tabIndex = -1;
    spans[current].setAttribute("aria-selected", "false");
  }
  current = index;
  spans[index].tabIndex = 0;
  spans[index].setAttribute("aria-selected", "true");
  keep({ response: String(number() + 1), token: String(index) });
}

function unselect() {
  keep({ token: "" });
  point(-1);
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
    select(Number(span.dataset.index));
    span.setAttribute("aria-describedby", "tip");
    point(current, body(span), true);
  });
  list.addEventListener("focusout", hideTip);
  list.addEventListener("pointerover", (event) => {
    const span = tokenOf(event);
    if (span && event.pointerType !== "touch") point(Number(span.dataset.index), body(span));
  });
  list.addEventListener("pointerleave", leave);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (tip.hidden) unselect();
    hideTip();
  });
  addEventListener("scroll", () => followFocus(), { passive: true });
}

/** The pointer has left: back to the token that was chosen, if one was; its values only while it has the focus. */
function leave() {
  hideTip();
  const held = document.activeElement?.closest?.(".token");
  if (!held) return point(chosen());
  held.setAttribute("aria-describedby", "tip");
  point(Number(held.dataset.index), body(held));
}

function followFocus() {
  if (tip.hidden) return;
  const held = document.activeElement?.closest?.(".token");
  if (held && Number(held.dataset.index) === pointed && isInside(held)) showTip(values(sample().tokens, pointed), body(held));
  else hideTip();
}

// ---- a response --------------------------------------------------------------------------------------------------------

const counted = (count, name) => `${count} ${name}${count === 1 ? "" : "s"}`;

function drawSample() {
  const { tokens, prompt, correct, finished, id, maps: packed } = sample();
  const count = tokens.text.length;
  hideTip();
  [current, pointed] = [-1, -1];
  maps = packed && Object.fromEntries(GROUPS.map((group) => [group, unpackMap(packed[group], count)]));
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
      "", counted(count, "token"), ...(finished === false ? ["cut off at the length limit"] : []), verdict,
      many(tokens.preplan, "preplan token"),
      `${many(tokens.anchor, "anchor")} (${tokens.dominated.filter(Boolean).length} dominated)`,
    ].join(" \u00b7 "),
  );
  at("response").value = String(number());
  at("previous").disabled = number() === 0;
  at("next").disabled = number() === samples.length - 1;
  at("attention").disabled = !maps;
  if (state.token !== "" && !spans[chosen()]) keep({ token: "" });
  drawColours();
  drawLinks();
  drawCharts();
  point(chosen());
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
    at(end).dataset.value = String(value);
  }
  at("ramp-unit").textContent = state.scale === "rank" ? `${unit}, evenly by rank` : unit;
  at("no-value").hidden = !series.includes(null);
}

function drawLinks() {
  drawArrows(at("links"), spans, state.arrows === "yes" ? sample().tokens.intro : []);
  markArrows(at("links"), pointed);
}

/** What the token that is pointed at attends to, as arcs over the text and as lists below it. */
function showLooks() {
  const wanted = maps && state.attention === "yes";
  const looks = wanted && spans[pointed] ? looksOf(maps, pointed) : [];
  drawLooks(at("looks"), spans, looks);
  at("links").classList.toggle("quiet", looks.length > 0);
  const { tokens, no_maps: why } = sample();
  at("told").hidden = state.attention !== "yes" || !spans.length;
  if (spans[pointed] && maps) at("told").replaceChildren(...tellLooks(tokens, pointed, looks, focusToken));
  else {
    const how = "Point at a token, or go to it with the arrow keys, to see which tokens it attends to most, and which attend to it.";
    at("told").replaceChildren(element("p", { className: "note" }, maps ? how : why));
  }
}

// ---- its charts --------------------------------------------------------------------------------------------------------

function drawCharts() {
  const { tokens } = sample();
  const moved = () => moveUpright(at("upright"), at("curves"), pointed);
  drawCurves(at("curves"), tokens, {
    hover: (index, event) => point(index, beside(event)), leave, pick: (index) => focusToken(index), moved,
  });
  moved();
  drawMaps();
  drawHeads();
}

function mapEvents(rows) {
  const { tokens } = sample();
  return {
    hover: ([query, key], event) => showTip(mapWords(tokens, query, key, rows[query][key]), beside(event)),
    leave: hideTip,
    pick: ([query]) => focusToken(query),
  };
}

function drawMaps() {
  const { tokens, no_maps: why } = sample();
  at("maps").hidden = !maps;
  at("no-maps").hidden = Boolean(maps);
  at("no-maps").textContent = why;
  if (!maps) return;
  const both = GROUPS.map((group) => maps[group]);
  const most = scaleEnd(both);
  at("maps-high").textContent = endOf(most, both);
  for (const group of GROUPS) drawMap(at(`map-${group}`), tokens, maps[group], most, mapEvents(maps[group]));
  drawHead();
}

/** The heads that have a map, as [row, head]. */
function heads() {
  return (sample().head_maps ?? []).flatMap((row, layer) => row.flatMap((packed, head) => (packed ? [[layer, head]] : [])));
}

/** The head that is chosen, [row, head]; without a choice that has a map, the one that looks nearest. */
function headOf() {
  const { layers, head_span: rows } = sample();
  const [layer, head] = state.head.split(".").map(Number);
  const wanted = heads().find(([row, at_]) => layers[row] === layer && at_ === head);
  return wanted ?? heads().sort((a, b) => rows[a[0]][a[1]] - rows[b[0]][b[1]])[0];
}

/** The map of one head, and the choosers of its layer and its number. */
function drawHead() {
  const { tokens, layers, head_span: rows, head_maps: packed, no_head_maps: why, some_heads: some } = sample();
  const here = headOf();
  at("head-map").hidden = !here;
  at("about-heads").textContent = here ? some : why;
  if (!here) return;
  const [row, head] = here;
  const option = (value, text) => element("option", { value: String(value) }, text);
  at("layer").replaceChildren(...[...new Set(heads().map(([at_]) => at_))].map((at_) => option(layers[at_], String(layers[at_]))));
  at("head").replaceChildren(...heads().filter(([at_]) => at_ === row).map(([, at_]) =>
    option(at_, [String(at_), groupsOf(sample(), row, at_)].filter(Boolean).join(", "))));
  [at("layer").value, at("head").value] = [String(layers[row]), String(head)];
  const map = unpackMap(packed[row][head], tokens.text.length);
  const most = scaleEnd([map]);
  at("head-about").textContent = `span ${short(rows[row][head])} tokens, darkest at ${endOf(most, [map])}`;
  drawMap(at("map-head"), tokens, map, most, mapEvents(map));
}

function pickHead(row, head) {
  if (!sample().head_maps?.[row][head]) return;
  keep({ head: `${sample().layers[row]}.${head}` });
  drawHead();
}

function drawHeads() {
  const { low, high } = bounds(sample().head_span.flat());
  at("spans-low").textContent = short(low);
  at("spans-high").textContent = short(high);
  drawSpans(at("spans"), sample(), {
    hover: ([row, head], event) => showTip(spanWords(sample(), row, head), beside(event)),
    leave: hideTip,
    pick: ([row, head]) => pickHead(row, head),
  });
  at("spans-table").querySelector(".scroll").replaceChildren(spanTable(sample()));
}

// ---- controls ----------------------------------------------------------------------------------------------------------

function choose(index) {
  if (!samples[index]) return;
  keep({ response: String(index + 1), token: "" });
  drawSample();
}

function begin() {
  radios("colour", drawColours);
  radios("scale", drawColours);
  checkbox("arrows", drawLinks);
  checkbox("attention", showLooks);
  at("response").addEventListener("change", (event) => choose(Number(event.target.value)));
  at("previous").addEventListener("click", () => choose(number() - 1));
  at("next").addEventListener("click", () => choose(number() + 1));
  at("layer").addEventListener("change", (event) => {
    const row = sample().layers.indexOf(Number(event.target.value));
    const [, head] = heads().find(([at_, number_]) => at_ === row && number_ === headOf()[1]) ?? heads().find(([at_]) => at_ === row);
    pickHead(row, head);
  });
  at("head").addEventListener("change", (event) => pickHead(headOf()[0], Number(event.target.value)));
  const near = () => (pointed >= 0 ? pointed : current);
  at("zoom-in").addEventListener("click", () => zoom(at("curves"), 0.5, near(), spans.length));
  at("zoom-out").addEventListener("click", () => zoom(at("curves"), 2, near(), spans.length));
  at("zoom-all").addEventListener("click", () => zoom(at("curves"), Infinity, near(), spans.length));
  listen();
  new ResizeObserver(() => {
    cancelAnimationFrame(redraw);
    redraw = requestAnimationFrame(() => {
      drawLinks();
      showLooks();
      moveUpright(at("upright"), at("curves"), pointed);
    });
  }).observe(at("tokens"));
  drawSample();
  if (chosen() >= 0) focusToken(chosen());
}

recall({ response: "", token: "", head: "", colour: "waad", scale: "value", arrows: "yes", attention: "yes" }, {
  response: ["", ...samples.map((_, index) => String(index + 1))], colour: ["waad", "fai", "entropy", "gamma"],
  scale: ["value", "rank"],
});
followMode(() => samples.length && drawCharts());
if (samples.length) begin();
addEventListener("hashchange", () => location.hash.includes("=") && location.reload()); // an address typed into the page
