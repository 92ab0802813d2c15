// What a token attends to, and what attends to it: the mean maps of both groups of heads, as arcs and as lists.

const FEW = 3; // of each kind
const FAINT = 0.005; // attention below this is not told
const GROUPS = ["local", "global"];

/** The rows of a packed map: value = most * (byte / levels)^2, row by row of the lower triangle; null ahead of it. */
function unpackMap({ most, levels, values }, size) {
  const bytes = atob(values);
  let place = 0;
  return Array.from({ length: size }, (_, query) =>
    Array.from({ length: size }, (_, key) =>
      key > query ? null : most * (bytes.charCodeAt(place++) / levels) ** 2));
}

/** The strongest few of each kind at a token: { group, way: "back" or "ahead", from, to, value }, strongest first. */
function looksOf(maps, index) {
  return GROUPS.flatMap((group) => {
    const rows = maps[group];
    const back = rows[index].slice(0, index).map((value, to) => ({ group, way: "back", from: index, to, value }));
    const ahead = rows.slice(index + 1).map((row, after) => ({
      group, way: "ahead", from: index + 1 + after, to: index, value: row[index],
    }));
    return [back, ahead].flatMap((looks) =>
      looks.filter(({ value }) => value >= FAINT).sort((a, b) => b.value - a.value).slice(0, FEW));
  });
}

/** Draw these looks as arcs from the token that looks to the one that is looked at, which has the dot. */
function drawLooks(svg, spans, looks) {
  const frame = svg.parentElement.getBoundingClientRect();
  const most = Math.max(...looks.map(({ value }) => value));
  const arcs = looks.map((look) => [look, arc(body(spans[look.from]), body(spans[look.to]), frame, look.group)]);
  svg.replaceChildren(...arcs.flatMap(([{ group, way, from, to, value }, { path, x, y }]) => {
    const kind = `${group} ${way}`;
    const width = 1 + 2.2 * Math.sqrt(value / most);
    return [
      shape("path", { d: path, class: kind, "stroke-width": width.toFixed(2), "data-from": from, "data-to": to }),
      shape("circle", { cx: x, cy: y, r: 2.6, class: kind }),
    ];
  }));
}

/** The path of an arc, and where it ends: over the line, or from one line to the other. */
function arc(from, to, frame, group) {
  const aside = group === "local" ? -2 : 2; // the two groups often choose the same token
  const startX = from.left + from.width / 2 - frame.left + aside;
  const endX = to.left + to.width / 2 - frame.left + aside;
  if (Math.abs(from.top - to.top) < from.height / 2) {
    const [startY, endY] = [from.top - frame.top, to.top - frame.top];
    const lift = Math.min(10 + 0.16 * Math.abs(endX - startX), 30);
    return { path: `M ${startX} ${startY} C ${startX} ${startY - lift} ${endX} ${endY - lift} ${endX} ${endY}`, x: endX, y: endY };
  }
  const up = to.top < from.top;
  const startY = (up ? from.top : from.bottom) - frame.top;
  const endY = (up ? to.bottom : to.top) - frame.top;
  const bend = (up ? -1 : 1) * Math.min(Math.max(Math.abs(endY - startY) / 2, 14), 40);
  return { path: `M ${startX} ${startY} C ${startX} ${startY + bend} ${endX} ${endY - bend} ${endX} ${endY}`, x: endX, y: endY };
}

const KINDS = [
  ["back", "local", "looks back at, local heads"], ["back", "global", "looks back at, global heads"],
  ["ahead", "local", "is looked at by, local heads"], ["ahead", "global", "is looked at by, global heads"],
];

/** The same looks in words: four lists, whose entries lead to their tokens. */
function tellLooks(tokens, index, looks, go) {
  const lists = KINDS.map(([way, group, words]) => {
    const kept = looks.filter((look) => look.way === way && look.group === group);
    const line = shape("svg", { viewBox: "0 0 22 8", "aria-hidden": "true", class: "key-line" },
      shape("path", { d: "M1 4 H21", class: `${group} ${way}`, "stroke-width": 2 }));
    const entries = kept.map(({ from, to, value }) => element("li", {}, lookButton(tokens, way === "back" ? to : from, value, go)));
    const nothing = element("li", { className: "missing" }, "nothing above 0.005");
    return element("div", {}, element("h4", {}, line, words), element("ol", {}, ...(entries.length ? entries : [nothing])));
  });
  return [element("p", { className: "title" }, ...namedToken(tokens, index)), element("div", { className: "lists" }, ...lists)];
}

function lookButton(tokens, index, value, go) {
  const shown = element("b", { "data-value": String(value) }, short(value));
  const button = element("button", { type: "button", "data-token": String(index) }, ...namedToken(tokens, index), shown);
  button.addEventListener("click", () => go(index));
  return button;
}

/** A token by its place and its text. */
function namedToken(tokens, index) {
  return [
    element("span", { className: "position" }, `${index}`), " ", element("bdi", {}, ...visible(tokens.text[index])),
  ];
}
