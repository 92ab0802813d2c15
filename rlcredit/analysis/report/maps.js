// Maps of attention and spans of heads.

const LABEL = 9.5; // pixels along a side of a map that a label takes
const MAP = { l: 84, r: 8, t: 8, b: 88 }; // its margins
const MAP_HEIGHT = 400;

/** The ramp of a signal as plotly's colour scale. */
function colourScale(colour) {
  const within = document.createElement("span");
  within.dataset.colour = colour;
  document.body.append(within);
  const steps = Array.from({ length: 11 }, (_, step) => step / 10);
  const scale = steps.map((part) => [part, rgb(`color-mix(in oklab, var(--low), var(--high) ${100 * part}%)`, within)]);
  within.remove();
  return scale;
}

/** The labels of the tokens in a range of an axis, as many as there is room for. */
function tokenTicks(tokens, [low, high], side) {
  const [from, to] = [Math.max(0, Math.ceil(Math.min(low, high))), Math.min(tokens.text.length - 1, Math.floor(Math.max(low, high)))];
  const step = Math.max(1, Math.ceil(((to - from + 1) * LABEL) / side));
  const tickvals = [];
  for (let index = Math.ceil(from / step) * step; index <= to; index += step) tickvals.push(index);
  return { tickmode: "array", tickvals, ticktext: tickvals.map((index) => brief(tokens.text[index])) };
}

/** Pixels of a side of a map, which is square. */
function sideOf(node) {
  return Math.max(Math.min(node.clientWidth - MAP.l - MAP.r, MAP_HEIGHT - MAP.t - MAP.b), LABEL);
}

/** Label a map anew after a zoom; its own change of the labels ends there. */
function labelAgain(node, tokens) {
  const change = {};
  for (const name of ["xaxis", "yaxis"]) {
    const { tickvals, ticktext } = tokenTicks(tokens, node.layout[name].range, sideOf(node));
    if (String(tickvals) === String(node.layout[name].tickvals)) continue;
    Object.assign(change, { [`${name}.tickvals`]: tickvals, [`${name}.ticktext`]: ticktext });
  }
  if (Object.keys(change).length) Plotly.relayout(node, change);
}

/** The value under which 99 % of what is above 0 lies: a scale that a single bright entry does not set. */
function scaleEnd(maps) {
  const positive = maps.flat(2).filter((value) => value > 0).sort((a, b) => a - b);
  return positive[Math.ceil(0.99 * positive.length) - 1] ?? 1;
}

/** The end of a scale in words: whether values lie above it. */
function endOf(most, maps) {
  return maps.flat(2).some((value) => value > most) ? `${short(most)} and more` : short(most);
}

/** A map of attention, [N, N], between the tokens; what lies ahead of a query is null, and left empty. */
function drawMap(node, tokens, rows, most, on) {
  const range = [-0.5, rows.length - 0.5];
  const side = axis({ showgrid: false, ticks: "outside", constrain: "domain", ticklen: 3, tickfont: { size: 10 }, ...tokenTicks(tokens, range, sideOf(node)) });
  const layout = frame({
    margin: MAP,
    height: MAP_HEIGHT,
    xaxis: { ...side, range, tickangle: -90, title: { text: "key: looked at", standoff: 4 } },
    yaxis: { ...side, range: range.toReversed(), title: { text: "query: looks", standoff: 4 }, scaleanchor: "x" },
  });
  const trace = {
    type: "heatmap", z: rows, zmin: 0, zmax: most, colorscale: colourScale("attention"), showscale: false, hoverinfo: "none",
    hoverongaps: false,
  };
  const place = (event) => [event.points[0].y, event.points[0].x];
  draw(node, [trace], layout, place, { ...on, moved: () => labelAgain(node, tokens) });
}

/** What lies under the pointer on a map. */
function mapWords(tokens, query, key, value) {
  return [
    element("p", { className: "title" }, "from ", ...namedToken(tokens, query)),
    element("p", { className: "title" }, "to ", ...namedToken(tokens, key)),
    element("p", { "data-value": String(value) }, `attention ${short(value)}`),
  ];
}

function groupsOf({ local_heads: local, global_heads: global }, row, head) {
  return [local[row][head] && "local", global[row][head] && "global"].filter(Boolean).join(" and ");
}

function spanWords(sample, row, head) {
  const span = sample.head_span[row][head];
  const group = groupsOf(sample, row, head);
  return [
    element("p", { className: "title" }, `layer ${sample.layers[row]}, head ${head}`),
    element("p", { "data-value": String(span) }, `span ${short(span)} tokens`),
    ...(group ? [element("p", { className: "roles" }, `${group} group`)] : []),
  ];
}

/** Spans by layer and head, the groups marked by shapes. */
function drawSpans(node, sample, on) {
  const rows = sample.head_span;
  const heads = rows[0]?.length ?? 0;
  const side = axis({ showgrid: false, fixedrange: true });
  const layout = frame({
    margin: { l: 46, r: 8, t: 4, b: 40 },
    height: 54 + Math.max(22 * rows.length, 30),
    dragmode: false,
    xaxis: { ...side, title: { text: "head", standoff: 6 }, range: [-0.5, heads - 0.5], dtick: heads > 8 ? 4 : 1, tickangle: 0 },
    yaxis: {
      ...side, title: { text: "layer", standoff: 6 }, range: [-0.5, rows.length - 0.5],
      tickvals: sample.layers.map((_, row) => row), ticktext: sample.layers.map(String),
    },
  });
  const traces = [
    { type: "heatmap", z: rows, colorscale: colourScale("spans"), showscale: false, hoverinfo: "none", xgap: 1, ygap: 1 },
    groupMarks(sample.local_heads, "circle", 7),
    groupMarks(sample.global_heads, "square-open", 9),
  ];
  draw(node, traces, layout, (event) => [event.points[0].y, event.points[0].x], on);
}

function groupMarks(rows, symbol, size) {
  const heads = rows.flatMap((row, y) => row.flatMap((inside, x) => (inside ? [[x, y]] : [])));
  return {
    type: "scatter", mode: "markers", x: heads.map(([x]) => x), y: heads.map(([, y]) => y), hoverinfo: "skip",
    marker: { symbol, size, color: rgb("var(--ink)"), line: { width: 1.4, color: rgb("var(--ink)") } },
  };
}

/** The same spans as a table, for readers who cannot see the picture or point at it. */
function spanTable(sample) {
  const { layers, head_span: rows } = sample;
  const head = (scope, text) => element("th", { scope }, text);
  const cells = (row, index) =>
    row.map((span, at_) => {
      const group = groupsOf(sample, index, at_);
      return element("td", { className: "number", title: String(span) }, short(span) + (group ? ` ${group}` : ""));
    });
  const top = element("tr", {}, head("col", "Layer"), ...(rows[0] ?? []).map((_, at_) => head("col", `Head ${at_}`)));
  const body_ = rows.map((row, index) => element("tr", {}, head("row", String(layers[index])), ...cells(row, index)));
  return element("table", {}, element("thead", {}, top), element("tbody", {}, ...body_));
}
