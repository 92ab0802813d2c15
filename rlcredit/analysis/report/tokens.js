// The tokens of a response: their marks and colours, and what is known of each.

const SIGNALS = {
  waad: { name: "WAAD", unit: "tokens" },
  fai: { name: "FAI", unit: "attention" },
  receiver_fai: { name: "Receiver FAI", unit: "attention" },
  entropy: { name: "Entropy", unit: "nats" },
  gamma: { name: "\u03b3", unit: "times the advantage" },
};

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
  const known = values.filter((value) => value !== null);
  return { low: Math.min(...known), high: Math.max(...known) };
}

/** A token in words, for names: shows newlines as their sign. */
function inWords(text) {
  return text === "" ? "empty token" : text.replaceAll("\n", "\u21b5").replaceAll("\t", "\u21e5");
}

/** The spans of a sample's tokens, in order. Beside right-to-left letters, numbers would be drawn into their order. */
function tokenSpans(tokens) {
  const turns = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u.test(tokens.text.join(""));
  return tokens.text.map((text, index) => {
    const span = element("span", { className: "token", role: "option", tabIndex: -1, "data-index": index });
    span.append(...visible(text));
    if (text.trim() === "") span.setAttribute("aria-label", blankName(text));
    if (turns && /\p{N}/u.test(text) && !/\p{L}/u.test(text)) span.classList.add("isolated");
    if (tokens.preplan[index]) span.classList.add("preplan");
    if (tokens.anchor[index]) span.classList.add("anchor");
    if (tokens.dominated[index]) span.classList.add("dominated");
    return span;
  });
}

function blankName(text) {
  if (text === "") return "empty token";
  return text.includes("\n") ? "line break" : "space";
}

/** Colour the spans by the places of their values on the ramp. */
function paint(spans, shares) {
  spans.forEach((span, index) => {
    const none = shares[index] === null;
    span.classList.toggle("none", none);
    if (none) span.style.removeProperty("--v");
    else span.style.setProperty("--v", shares[index]);
  });
}

/** What is known of token `index`, as the content of the tooltip. */
function values(tokens, index) {
  const list = element("dl");
  for (const [key, { name, unit }] of Object.entries(SIGNALS)) {
    const value = tokens[key][index];
    const shown = element("dd", { className: value === null ? "missing" : "", "data-signal": key });
    shown.dataset.value = String(value);
    shown.append(value === null ? "no value" : short(value));
    list.append(element("div", {}, element("dt", {}, name), shown, element("span", { className: "unit" }, unit)));
  }
  const title = element("p", { className: "title" }, element("span", { className: "position" }, `${index}`), " ");
  title.append(element("bdi", {}, ...visible(tokens.text[index])));
  const parts = roles(tokens, index);
  return parts.length ? [title, list, element("p", { className: "roles" }, parts.join("; "))] : [title, list];
}

function roles(tokens, index) {
  const parts = [];
  if (tokens.preplan[index]) parts.push("preplan token");
  if (tokens.anchor[index]) parts.push(tokens.dominated[index] ? "dominated anchor" : "anchor");
  const intro = tokens.intro[index];
  if (intro !== null) parts.push(`introduced by token ${intro} \u201c\u2068${inWords(tokens.text[intro])}\u2069\u201d`);
  const introduced = tokens.intro.flatMap((at, anchor) => (at === index ? [anchor] : []));
  if (introduced.length) parts.push(`introduces token ${introduced.join(", ")}`);
  return parts;
}
