"use strict";
// Within a run, everything that belongs to one particle has its number in data-p: its picture, its line of
// descent, its rewards, its row. Pointing at one of them or focusing it marks them all; a click keeps the
// mark.
for (const run of document.querySelectorAll(".run")) {
  const viewer = run.querySelector(".viewer");
  const image = viewer && viewer.querySelector("img");
  const said = viewer && viewer.querySelector("output");
  const first = { src: image && image.src, alt: image && image.alt, said: said && said.textContent };
  let kept = null;

  const mark = (particle) => {
    for (const one of run.querySelectorAll("[data-p]")) {
      one.classList.toggle("on", one.dataset.p === particle);
    }
    const picture = particle && run.querySelector(`.pictures [data-p="${particle}"] img`);
    const line = particle && run.querySelector(`.tree [data-p="${particle}"]`);
    if (image) {
      image.src = picture ? picture.src : first.src;
      image.alt = picture ? picture.alt : first.alt;
      said.textContent = line ? line.dataset.say : first.said;
    }
    const tree = run.querySelector(".tree");
    if (tree) tree.parentElement.querySelector("output").textContent = line ? line.dataset.say : "";
  };
  const of = (event) => {
    const one = event.target.closest("[data-p]");
    return one && one.dataset.p;
  };
  run.addEventListener("pointerover", (event) => mark(of(event) || kept));
  run.addEventListener("pointerleave", () => mark(kept));
  run.addEventListener("focusin", (event) => mark(of(event) || kept));
  run.addEventListener("focusout", () => mark(kept));
  run.addEventListener("click", (event) => {
    const particle = of(event);
    if (particle) {
      kept = kept === particle ? null : particle;
      mark(kept || particle);
    }
  });

  // In the genealogy the arrow keys go from line to line, in the order in which they end.
  const lines = [...run.querySelectorAll(".tree g[data-p]")];
  lines.sort((a, b) => a.querySelector("rect").y.baseVal.value - b.querySelector("rect").y.baseVal.value);
  lines.forEach((line, at) => {
    line.tabIndex = at === 0 ? 0 : -1;
    line.addEventListener("keydown", (event) => {
      const by = { ArrowDown: 1, ArrowUp: -1, Home: -at, End: lines.length - 1 - at }[event.key];
      const next = by === undefined ? undefined : lines[at + by];
      if (event.key === "Enter" || event.key === " ") {
        line.dispatchEvent(new MouseEvent("click", { bubbles: true }));
      } else if (event.key === "Escape") {
        kept = null;
      } else if (!next) {
        return;
      }
      if (next) {
        line.tabIndex = -1;
        next.tabIndex = 0;
        next.focus();
      }
      event.preventDefault();
    });
  });

  // Pointing at a step in one chart shows it in all of them.
  const charts = [...run.querySelectorAll("svg[data-steps]")].map((svg) => {
    const [from, to, count] = svg.dataset.steps.split(" ").map(Number);
    const figure = svg.closest("figure");
    const reading = figure.dataset.read ? JSON.parse(figure.dataset.read) : [];
    const [cursor, output] = [svg.querySelector(".cursor"), figure.querySelector("output")];
    return { svg, from, to, count, reading, cursor, output };
  });
  let step = null;
  const show = (at) => {
    step = at;
    for (const chart of charts) {
      chart.cursor.classList.toggle("on", at !== null);
      if (at !== null) {
        const share = chart.count > 1 ? at / (chart.count - 1) : 0;
        const x = chart.from + share * (chart.to - chart.from);
        chart.cursor.setAttribute("transform", `translate(${x} 0)`);
      }
      if (chart.reading.length) chart.output.textContent = at === null ? "" : chart.reading[at];
    }
  };
  for (const chart of charts) {
    const { svg, from, to, count } = chart;
    const last = count - 1;
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      const share = to > from ? (x - from) / (to - from) : 0;
      show(Math.min(last, Math.max(0, Math.round(share * last))));
    });
    svg.addEventListener("pointerleave", () => show(null));
    svg.addEventListener("blur", () => show(null));
    svg.addEventListener("keydown", (event) => {
      if (event.target !== svg) return;
      const now = step === null ? 0 : step;
      const next = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: last }[event.key];
      if (next === undefined) return;
      show(Math.min(last, Math.max(0, next)));
      event.preventDefault();
    });
  }
}

// A link to a run unfolds it.
const unfold = () => {
  const target = document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") {
    target.open = true;
    target.scrollIntoView();
  }
};
addEventListener("hashchange", unfold);
unfold();
