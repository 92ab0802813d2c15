"""What the tests of the pages ask a page: whether it stands still, its colours and their contrast."""

from __future__ import annotations

CONTRAST = """
(selector) => {
  const pixel = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const light = (...layers) => {
    for (const layer of layers) { pixel.fillStyle = layer; pixel.fillRect(0, 0, 1, 1); }
    const [r, g, b] = [...pixel.getImageData(0, 0, 1, 1).data].slice(0, 3).map((byte) => byte / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return [...document.querySelectorAll(selector)].filter((node) => node.getClientRects().length).map((node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) layers.unshift(getComputedStyle(at).backgroundColor);
    const back = light("white", ...layers);
    const text = light("white", ...layers, getComputedStyle(node).color);
    const [low, high] = [Math.min(back, text), Math.max(back, text)];
    return { ratio: (high + 0.05) / (low + 0.05), text: node.textContent.slice(0, 40), tag: node.tagName };
  });
}
"""
PICTURE = "(node) => getComputedStyle(node).backgroundColor"
SCROLLED = "(by) => { scrollBy(0, by); return new Promise((told) => requestAnimationFrame(() => setTimeout(told))); }"
# Ten frames in a row without a change: a smooth scroll has ended, charts have followed a new size of the window.
STILL = """(() => {
  let before = NaN, still = 0;
  return () => {
    const now = [...document.querySelectorAll("body *")].map((node) => node.getBoundingClientRect())
      .reduce((sum, box) => sum + box.x + 2 * box.y + 3 * box.width + 5 * box.height, scrollX + 7 * scrollY);
    still = now === before ? still + 1 : 0;
    before = now;
    return still === 10;
  };
})()"""
# `page.wait_for_function` evaluates strings in the page, which the pages' content security policy forbids.
UNTIL = """async () => {
  const holds = CONDITION;
  for (let frame = 0; !holds(); frame++) {
    if (frame === 1000) throw new Error("not so after 1000 frames");
    await new Promise(requestAnimationFrame);
  }
}"""


def wait_until(page, condition):
    """Wait until a function of the page, in JavaScript, returns true."""
    page.evaluate(UNTIL.replace("CONDITION", condition))


def settle(page):
    """Wait until nothing on the page moves."""
    wait_until(page, STILL)


def reload(page):
    """Load the page again, until its charts are drawn."""
    page.reload()
    page.wait_for_selector(".main-svg", state="attached")
