// Text as nodes: what is written is what the model wrote, with a visible mark for what would not show.

// Line ends, tabs, controls, and marks that turn the direction of the text around them. ZWJ and ZWNJ shape scripts and
// stay as they are.
const UNSEEN =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/gu;

/** An element with these properties and children; children that are strings become text, never markup. */
function element(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("data-") || key.startsWith("aria-") || key === "role") node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children);
  return node;
}

/** A part of a picture (SVG) with these attributes and children. */
function shape(name, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** A text as nodes. */
function visible(text) {
  if (text === "") return [unseen("\u2205")];
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(UNSEEN)) {
    if (match.index > end) nodes.push(text.slice(end, match.index));
    nodes.push(mark(match[0]));
    end = match.index + match[0].length;
  }
  if (end < text.length) nodes.push(text.slice(end));
  return nodes;
}

/** A text in a few letters for plotly, which reads markup: escaped (TeX as well), on one line, in its own direction. */
function brief(text, most = 8) {
  const signs = { "\n": "\u21b5", "\t": "\u21e5" };
  const letters = [...text.replace(UNSEEN, (sign) => signs[sign] ?? "\u00b7").trim()];
  const kept = letters.length > most ? [...letters.slice(0, most - 1), "\u2026"] : letters;
  const escaped = kept.join("").replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll("$", "&#36;");
  return `\u2068${escaped || "\u2423"}\u2069`;
}

function mark(character) {
  // the sign itself is drawn by the style sheet, so that copied text is the model's
  if (character === "\n") return element("span", { className: "newline" }, "\n");
  if (character === "\t") return element("span", { className: "tab" }, "\t");
  return unseen(`U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`);
}

function unseen(sign) {
  return element("span", { className: "unseen" }, sign);
}
