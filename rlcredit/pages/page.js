// What every page does: what is chosen is kept in the address (#sample=2&colour=fai), so that a reload and a bookmark
// find it again; light and dark mode; values in a box beside the pointer or the focus; switches.

const at = (id) => document.getElementById(id);
const data = JSON.parse(await unpacked("data"));
const plotly = document.createElement("script");
plotly.textContent = await unpacked("plotly"); // the page's policy names its hash
document.head.append(plotly);
const dark = matchMedia("(prefers-color-scheme: dark)");
const tip = at("tip");
const state = {};
let usual = {};

/** The text that the page holds in this element, in gzip and base64. */
async function unpacked(id) {
  const bytes = Uint8Array.from(atob(at(id).textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

/** Take what is chosen from the address: all keys have a default, and some take only the values in `allowed`. */
function recall(defaults, allowed) {
  usual = { ...defaults, theme: "" };
  const given = [...new URLSearchParams(location.hash.slice(1))].filter(([key]) => key in usual);
  Object.assign(state, usual, Object.fromEntries(given));
  for (const [key, values] of Object.entries(allowed)) if (!values.includes(state[key])) state[key] = usual[key];
}

function keep(change) {
  Object.assign(state, change);
  const kept = Object.entries(state).filter(([key, value]) => value !== usual[key]);
  const hash = new URLSearchParams(kept).toString();
  history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
}

const isDark = () => (state.theme ? state.theme === "dark" : dark.matches);

/** Follow the system's mode, or the button's; `redraw` draws again what has the colours of the mode before. */
function followMode(redraw) {
  const apply = () => {
    document.documentElement.dataset.theme = isDark() ? "dark" : "light";
    at("theme").textContent = isDark() ? "Switch to light" : "Switch to dark"; // what it will do
  };
  const changed = () => {
    apply();
    redraw();
  };
  at("theme").addEventListener("click", () => {
    keep({ theme: isDark() ? "light" : "dark" });
    changed();
  });
  dark.addEventListener("change", changed);
  apply();
}

/** Show this content at a box of the window, inside the window. */
function showTip(content, box) {
  tip.replaceChildren(...content);
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, box.left), document.documentElement.clientWidth - width - 8);
  const below = box.bottom + 8;
  const top = below + height <= innerHeight ? below : box.top - height - 8;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${Math.max(8, top)}px`;
}

function hideTip() {
  tip.hidden = true;
  for (const node of document.querySelectorAll("[aria-describedby=tip]")) node.removeAttribute("aria-describedby");
}

/** Is a part of this element inside the window? */
function isInside(node) {
  const { top, bottom } = node.getBoundingClientRect();
  return bottom > 0 && top < innerHeight;
}

const beside = (event) => new DOMRect(event.clientX + 12, event.clientY, 1, 1);

/** Where a key moves to among places 0 to `last`, and undefined for any other key. `moves` has a function for each. */
function target(event, moves, from, last) {
  if (!(event.key in moves) || event.altKey || event.ctrlKey || event.metaKey) return undefined;
  event.preventDefault();
  return Math.min(Math.max(moves[event.key](from), 0), last);
}

function radios(name, changed) {
  for (const input of document.querySelectorAll(`input[name="${name}"]`)) {
    input.checked = input.value === state[name];
    input.addEventListener("change", () => {
      keep({ [name]: input.value });
      changed();
    });
  }
}

/** A checkbox that is kept as yes or no; nothing where the page has none of this id. */
function checkbox(id, changed) {
  if (!at(id)) return;
  at(id).checked = state[id] === "yes";
  at(id).addEventListener("change", (event) => {
    keep({ [id]: event.target.checked ? "yes" : "no" });
    changed();
  });
}
