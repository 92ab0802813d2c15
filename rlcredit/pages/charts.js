// The charts: plotly draws them; labels under the pointer are the page's own, since plotly's would read text as markup.

const CONFIG = { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: "reset" };
const coarse = matchMedia("(pointer: coarse)");

function frame(more) {
  const ink = rgb("var(--muted)");
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink },
    showlegend: false,
    // a finger that drags scrolls the page
    dragmode: coarse.matches ? false : "zoom",
    ...more,
  };
}

function axis(more) {
  const rule = rgb("var(--rule)");
  return { zeroline: false, gridcolor: rule, linecolor: rule, tickcolor: rule, automargin: false, ...more };
}

const pixel = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });

/** Any CSS colour, variables and all, as "rgb(r, g, b)": what plotly reads. */
function rgb(colour, within = document.body) {
  const probe = document.createElement("span");
  probe.style.color = colour;
  within.append(probe);
  pixel.fillStyle = getComputedStyle(probe).color;
  probe.remove();
  pixel.fillRect(0, 0, 1, 1);
  return `rgb(${pixel.getImageData(0, 0, 1, 1).data.slice(0, 3).join(", ")})`;
}

/** A number to three digits, for reading; whole numbers of more are whole. */
function short(value) {
  if (!Number.isFinite(value)) return "none";
  return String(Math.abs(value) >= 999.5 ? Math.round(value) : Number(value.toPrecision(3))).replace("-", "\u2212");
}

/** Put the upright line of a chart at a place of its x axis, a negative one is none; with `follow` a zoomed window
 * moves so far that it is inside.
 *
 * The line is an element of the page's own: plotly would draw all curves anew to move one of its shapes.
 */
function moveUpright(line, node, index, follow = false) {
  const [left, right] = node.layout.xaxis.range;
  if (follow && index >= 0 && (index < left || index > right)) {
    const half = (right - left) / 2;
    Plotly.relayout(node, { "xaxis.range": [index - half, index + half] });
    return moveUpright(line, node, index);
  }
  const { l, r, t, b } = node.layout.margin;
  const share = (index - left) / (right - left);
  line.hidden = index < 0 || share < 0 || share > 1;
  line.dataset.index = index;
  line.style.left = `${l + share * (node.clientWidth - l - r) - 0.5}px`;
  line.style.top = `${t}px`;
  line.style.height = `${node.clientHeight - t - b}px`;
}

/** Draw with plotly, and listen once: `place` reads what an event of plotly's is about. */
function draw(node, traces, layout, place, on) {
  node.on_ = on;
  Plotly.react(node, traces, layout, CONFIG);
  if (node.dataset.listens) return;
  node.dataset.listens = "yes";
  node.on("plotly_hover", (event) => node.on_.hover(place(event), event.event));
  node.on("plotly_unhover", () => node.on_.leave());
  node.on("plotly_relayout", () => node.on_.moved?.());
  node.on("plotly_click", (event) => node.on_.pick?.(place(event)));
}
