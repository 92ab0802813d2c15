// Arrows from dominated anchors to their introductory tokens, routed through the gaps between the lines.

/** Draw the arrows anew; positions are read all at once before anything is written. */
function drawArrows(svg, spans, intros) {
  const frame = svg.parentElement.getBoundingClientRect();
  const pairs = intros.flatMap((intro, anchor) => (intro === null ? [] : [[anchor, intro]]));
  svg.replaceChildren(
    ...pairs
      .map(([anchor, intro]) => [anchor, intro, route(body(spans[anchor]), body(spans[intro]), frame, Math.min(anchor - intro, 3))])
      .map(([anchor, intro, path]) => shape("path", { d: path, "data-anchor": anchor, "data-intro": intro })),
  );
}

/** The box of a token; of one broken over two lines (its space ends the first), the wider part. */
function body(span) {
  return [...span.getClientRects()].reduce((widest, rect) => (rect.width > widest.width ? rect : widest));
}

/** Up from the anchor, along the gap above its line, to the introductory token's top or, a line above, its bottom. */
function route(from, to, frame, steps) {
  const sameLine = Math.abs(from.top - to.top) < from.height / 2;
  const startX = from.left + from.width / 2 - frame.left + (sameLine ? 0 : 2);
  const endX = to.left + to.width / 2 - frame.left;
  const startY = from.top - frame.top;
  const endY = (sameLine ? to.top : to.bottom) - frame.top;
  const lane = startY - 3 - 2.5 * steps;
  const way = Math.sign(endX - startX) || 1;
  const turn = Math.min(3, Math.abs(endX - startX) / 2, Math.abs(startY - lane));
  const down = sameLine ? 1 : -1;
  const round = `V ${lane + turn} Q ${startX} ${lane} ${startX + way * turn} ${lane} H ${endX - way * turn}`;
  const bend = `Q ${endX} ${lane} ${endX} ${lane + down * turn} V ${endY}`;
  const head = `M ${endX - 2.5} ${endY - down * 4} L ${endX} ${endY} L ${endX + 2.5} ${endY - down * 4}`;
  return `M ${startX} ${startY} ${round} ${bend} ${head}`;
}

/** Make the arrows at this token stand out. */
function markArrows(svg, index) {
  for (const line of svg.children) {
    line.classList.toggle("on", Number(line.dataset.anchor) === index || Number(line.dataset.intro) === index);
  }
}
