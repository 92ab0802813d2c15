// The text as tokens: what is written is what the model wrote, with a visible mark for what would not show.

// Line ends, tabs, controls, and marks that turn the direction of the text around them. ZWJ and ZWNJ shape scripts and
// stay as they are.
const UNSEEN =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/gu;

/** An element with these properties and children; children that are strings become text, never markup. */
function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("data-") || key.startsWith("aria-") || key === "role") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

/** The text of a token as nodes. */
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

function mark(character) {
  // the sign itself is drawn by the style sheet, so that copied text is the model's
  if (character === "\n") return element("span", { className: "newline" }, "\n");
  if (character === "\t") return element("span", { className: "tab" }, "\t");
  return unseen(`U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`);
}

function unseen(sign) {
  return element("span", { className: "unseen" }, sign);
}

/** A token in words, for names: shows newlines as their sign. */
function inWords(text) {
  return text === "" ? "empty token" : text.replaceAll("\n", "\u21b5").replaceAll("\t", "\u21e5");
}

/** The spans of a sample's tokens, in order. */
function tokenSpans(tokens) {
  return tokens.text.map((text, index) => {
    const span = element("span", { className: "token", role: "option", tabIndex: -1, "data-index": index });
    span.append(...visible(text));
    if (text.trim() === "") span.setAttribute("aria-label", blankName(text));
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
    shown.append(...digits(value));
    list.append(element("div", {}, element("dt", {}, name), shown, element("span", { className: "unit" }, unit)));
  }
  const title = element("p", { className: "title" }, element("span", { className: "position" }, `${index}`), " ");
  title.append(element("bdi", {}, ...visible(tokens.text[index])));
  const parts = roles(tokens, index);
  return parts.length ? [title, list, element("p", { className: "roles" }, parts.join("; "))] : [title, list];
}

/** Every digit of a value, those after the fourth in a quieter tone. */
function digits(value) {
  if (value === null) return ["no value"];
  const text = String(value);
  const loud = /^-?(?:0\.0*\d{0,4}|[\d.]{0,5})/.exec(text)[0];
  const end = text.includes("e") ? text.length : loud.length;
  return [text.slice(0, end), element("span", { className: "quiet" }, text.slice(end))];
}

function roles(tokens, index) {
  const found = [];
  if (tokens.preplan[index]) found.push("preplan token");
  if (tokens.anchor[index]) found.push(tokens.dominated[index] ? "dominated anchor" : "anchor");
  const intro = tokens.intro[index];
  if (intro !== null) found.push(`introduced by token ${intro} \u201c${inWords(tokens.text[intro])}\u201d`);
  const introduced = tokens.intro.flatMap((at, anchor) => (at === index ? [anchor] : []));
  if (introduced.length) found.push(`introduces token ${introduced.join(", ")}`);
  return found;
}
