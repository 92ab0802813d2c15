// The curves of the signals over the tokens.

const CURVES = ["waad", "fai", "receiver_fai", "entropy"];

/** The four curves over one axis of tokens. `on` has hover(index, event), leave(), pick(index), moved(). */
function drawCurves(node, tokens, on) {
  const count = tokens.text.length;
  const positions = tokens.text.map((_, index) => index);
  const gap = 0.07;
  const height = (1 - 3 * gap) / 4;
  const layout = frame({
    height: 470,
    margin: { l: 46, r: 8, t: 20, b: 40 },
    hovermode: "x",
    hoverdistance: -1,
    annotations: [],
    xaxis: axis({ range: whole(count), title: { text: "token", standoff: 8 }, anchor: "y4", showgrid: false, ticks: "outside" }),
  });
  const traces = [];
  CURVES.forEach((key, row) => {
    const name = row ? `y${row + 1}` : "y";
    const top = 1 - row * (height + gap);
    const series = tokens[key];
    const colour = rgb(`var(--${key.replace("_", "-")})`);
    layout[`yaxis${row ? row + 1 : ""}`] = axis({
      domain: [Math.max(0, top - height), top],
      fixedrange: true,
      nticks: 4,
      rangemode: "tozero",
      tickformat: "~g",
    });
    layout.annotations.push({
      text: `<b>${SIGNALS[key].name}</b>, ${SIGNALS[key].unit}`,
      xref: "paper", yref: "paper", x: 0, y: top, xanchor: "left", yanchor: "bottom", showarrow: false,
      font: { color: rgb("var(--ink)") },
    });
    traces.push({
      x: positions, y: series, yaxis: name, type: "scatter", mode: "lines", connectgaps: false,
      line: { color: colour, width: 1.3 }, hoverinfo: "none",
    });
    const { low } = bounds(series);
    // seen by the pointer only: every token is there, also where the curve has no value
    traces.push({
      x: positions, y: series.map((value) => value ?? (Number.isFinite(low) ? low : 0)), yaxis: name, type: "scatter",
      mode: "markers", marker: { size: 1, opacity: 0 }, hoverinfo: "none", meta: "every token",
    });
    if (key === "waad") traces.push(marks(tokens, key, name, (at) => tokens.preplan[at], "triangle-down", colour));
    if (key === "fai") {
      traces.push(marks(tokens, key, name, (at) => tokens.anchor[at] && !tokens.dominated[at], "diamond", colour));
      traces.push(marks(tokens, key, name, (at) => tokens.dominated[at], "diamond-open", colour));
    }
  });
  draw(node, traces, layout, (event) => Math.round(event.points[0].x), on);
}

function marks(tokens, key, yaxis, wanted, symbol, colour) {
  const x = tokens.text.flatMap((_, at) => (wanted(at) ? [at] : []));
  return {
    x, y: x.map((at) => tokens[key][at]), yaxis, type: "scatter", mode: "markers", hoverinfo: "skip",
    marker: { symbol, size: 5.5, color: colour },
  };
}

function whole(count) {
  return [-0.5, Math.max(count, 1) - 0.5];
}

/** Show `factor` times as many tokens as now, around the token with the line, at most all. */
function zoom(node, factor, index, count) {
  const [left, right] = node.layout.xaxis.range;
  const [first, last] = whole(count);
  const middle = index >= left && index <= right ? index : (left + right) / 2;
  const half = Math.max(((right - left) * factor) / 2, 2);
  const range = factor === Infinity || 2 * half >= last - first ? [first, last] : [middle - half, middle + half];
  Plotly.relayout(node, { "xaxis.range": range });
}
