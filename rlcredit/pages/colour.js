// Colours live in page.css, where they follow the mode; this reads them out for the charts and maps values to ramps.

const SIGNALS = {
  waad: { name: "WAAD", unit: "tokens" },
  fai: { name: "FAI", unit: "attention" },
  receiver_fai: { name: "Receiver FAI", unit: "attention" },
  entropy: { name: "Entropy", unit: "nats" },
  gamma: { name: "\u03b3", unit: "times the advantage" },
};

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

/** Of each value its place in [0, 1] between the least and the greatest, or by rank; null where there is no value. */
function places(values, byRank) {
  const { low, high } = bounds(values);
  if (!byRank) return values.map((value) => (value === null ? null : high > low ? (value - low) / (high - low) : 0));
  const sorted = values.filter((value) => value !== null).sort((a, b) => a - b);
  const first = new Map();
  const last = new Map();
  sorted.forEach((value, rank) => {
    if (!first.has(value)) first.set(value, rank);
    last.set(value, rank);
  });
  const top = Math.max(1, sorted.length - 1);
  // equal values share the middle of their ranks
  return values.map((value) => (value === null ? null : (first.get(value) + last.get(value)) / 2 / top));
}

function bounds(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value === null) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return { low, high };
}

/** A number to four digits, for reading; the exact one is beside it or in a title. */
function short(value) {
  if (!Number.isFinite(value)) return "none";
  return String(Number(value.toPrecision(4))).replace("-", "\u2212");
}
