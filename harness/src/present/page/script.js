// The functions that the page has only with scripting: a time axis can be zoomed, moved and read,
// and texts can be copied.
"use strict";
for (const box of document.querySelectorAll(".timeline")) {
  const time = box.querySelector("svg.time"), width = time.width.baseVal.value, seconds = Number(time.dataset.seconds);
  const ticks = [...time.querySelectorAll(".tick")];
  // The original positions and widths of all elements on the axis.
  const places = [...time.querySelectorAll("line, text, rect")].flatMap(one =>
    ["x", "x1", "x2"].filter(name => one.hasAttribute(name)).map(name => [one, name, Number(one.getAttribute(name))]));
  const widths = [...time.querySelectorAll("rect")].map(one => [one, Number(one.getAttribute("width"))]);
  let zoom = 1, left = 0;
  const draw = () => {
    left = Math.min(Math.max(left, 0), width - width / zoom);
    for (const [one, name, x] of places) one.setAttribute(name, one.closest(".tick") || one.matches(".axis") ? x : (x - left) * zoom);
    for (const [one, wide] of widths) one.setAttribute("width", Math.max(wide * zoom, 1.5));
    const digits = Math.max(2, Math.ceil(Math.log10(zoom)) + 2);
    ticks.forEach((tick, place) => {
      tick.textContent = ((left + place / (ticks.length - 1) * width / zoom) / width * seconds).toFixed(digits) + " s";
    });
  };
  // Zooms by a factor. The place `at`, a fraction of the axis's width, does not move.
  const stretch = (by, at) => {
    const under = left + at * width / zoom;
    zoom = Math.min(Math.max(zoom * by, 1), 1000);
    left = under - at * width / zoom;
    draw();
  };
  const move = by => { left += by * width / zoom; draw(); };
  const whole = () => { zoom = 1; draw(); };

  const bar = document.createElement("div"), told = document.createElement("p");
  bar.className = "bar";
  for (const [sign, name, act] of [["+", "closer", () => stretch(2, .5)], ["−", "farther", () => stretch(.5, .5)],
    ["←", "earlier", () => move(-.25)], ["→", "later", () => move(.25)], ["whole trial", "whole trial", whole]]) {
    const button = document.createElement("button");
    button.type = "button"; button.textContent = sign; button.title = name;
    if (sign !== name) button.setAttribute("aria-label", name);
    button.addEventListener("click", act);
    bar.append(button);
  }
  told.className = "soft told"; told.textContent = "Point at a bar for its times; drag to move, Ctrl and wheel to stretch.";
  box.prepend(bar); box.append(told);
  const drawing = box.querySelector("svg.lanes");
  // The place of the pointer, as a fraction of the axis's width.
  const where = event => {
    const shown = drawing.getBoundingClientRect(), scale = shown.width / drawing.viewBox.baseVal.width;
    return Math.min(Math.max((event.clientX - shown.left - time.x.baseVal.value * scale) / (width * scale), 0), 1);
  };
  let held = null;
  box.addEventListener("wheel", event => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    stretch(event.deltaY < 0 ? 1.25 : .8, where(event));
  }, { passive: false });
  box.addEventListener("pointerdown", event => { if (event.target.closest("svg.lanes")) held = where(event); });
  addEventListener("pointerup", () => { held = null; });
  box.addEventListener("pointermove", event => {
    if (held !== null) {
      const now = where(event);
      move(held - now);
      held = now;
    }
    const title = event.target.closest("g.operation, line.report")?.querySelector("title");
    if (title) told.textContent = title.textContent;
  });
}
for (const text of document.querySelectorAll("pre.copy")) {
  const button = document.createElement("button");
  button.type = "button"; button.textContent = "copy";
  button.addEventListener("click", async () => {
    try { await navigator.clipboard.writeText(text.textContent); button.textContent = "copied"; }
    catch { getSelection().selectAllChildren(text); button.textContent = "selected: press Ctrl-C"; }
  });
  text.before(button);
}
