// The page that its server keeps up to date (`rlcredit report --watch`): it asks whether there is a newer one, and loads
// it where one was: scroll position, focus, zoomed charts and open details are kept; what is chosen is in the address.

const BEFORE = "rlcredit report --watch";

for (const time of document.querySelectorAll("time")) time.textContent = new Date(time.dateTime).toLocaleTimeString();

function renew() {
  const open = [...document.querySelectorAll("details")].map((node) => node.open);
  const zoomed = {};
  for (const node of charts) {
    const { range } = node.querySelector(".plot").layout.xaxis;
    if (String(range) !== String(allSteps())) zoomed[node.id] = range;
  }
  const focus = document.activeElement?.id ?? "";
  sessionStorage.setItem(BEFORE, JSON.stringify({ x: scrollX, y: scrollY, open, zoomed, focus }));
  location.reload();
}

function restore() {
  const before = JSON.parse(sessionStorage.getItem(BEFORE) ?? "null");
  sessionStorage.removeItem(BEFORE);
  if (!before) return;
  document.querySelectorAll("details").forEach((node, place) => { node.open = before.open[place] ?? false; });
  for (const [id, range] of Object.entries(before.zoomed)) {
    if (at(id)) Plotly.relayout(at(id).querySelector(".plot"), { "xaxis.range": range });
  }
  if (before.focus) at(before.focus)?.focus({ preventScroll: true });
  scrollTo(before.x, before.y);
}

async function ask() {
  // nobody looks at a hidden page; and one whose values are being read waits until the pointer moves away
  if (document.hidden || !tip.hidden) return;
  let newest;
  try {
    newest = await (await fetch("stamp", { cache: "no-store" })).text();
  } catch {
    at("live").dataset.lost = "yes";
    return;
  }
  delete at("live").dataset.lost;
  if (newest !== data.live && tip.hidden) renew();
}

history.scrollRestoration = "manual";
restore();
setInterval(ask, 1000 * data.seconds);
document.addEventListener("visibilitychange", ask);
