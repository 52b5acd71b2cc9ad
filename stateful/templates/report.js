(function () {
  "use strict";
  const figures = JSON.parse(document.getElementById("chart-data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 40rem)");
  const touch = window.matchMedia("(pointer: coarse)");
  const drawn = new Map();

  function theme(layout) {
    const css = getComputedStyle(document.documentElement);
    const of = (name) => css.getPropertyValue(name).trim();
    const size = narrow.matches ? 11 : 12.5;
    const axis = { gridcolor: of("--grid"), linecolor: of("--rule"), tickcolor: of("--rule") };
    return Object.assign({}, layout, {
      font: { family: of("--sans"), size: size, color: of("--muted") },
      legend: Object.assign({}, layout.legend, { font: { color: of("--text") } }),
      hoverlabel: { bgcolor: of("--surface"), bordercolor: of("--rule"), font: { color: of("--text") } },
      dragmode: narrow.matches || touch.matches ? false : "zoom",
      xaxis: Object.assign({}, layout.xaxis, axis, { title: Object.assign({}, layout.xaxis.title, { font: { size: size } }) }),
      yaxis: Object.assign({}, layout.yaxis, axis),
    });
  }

  function draw(box, figure) {
    drawn.set(box, figure);
    const config = { responsive: true, displayModeBar: false, doubleClick: "reset" };
    return Plotly.react(box, figure.data, theme(figure.layout), config);
  }

  function redraw() {
    drawn.forEach((figure, box) => draw(box, figure));
  }

  // One chart per turn of the event loop: the text is there at once, and the page never hangs.
  const boxes = Array.from(document.querySelectorAll("[data-figure]"));
  (function next() {
    const box = boxes.shift();
    if (!box) { return; }
    draw(box, figures.charts[box.dataset.figure]);
    setTimeout(next, 0);
  })();
  dark.addEventListener("change", redraw);
  narrow.addEventListener("change", redraw);

  const picker = document.getElementById("symbol");
  if (picker) {
    const box = document.getElementById("prices-chart");
    const show = () => draw(box, figures.prices[Number(picker.value)]);
    picker.addEventListener("change", show);
    setTimeout(show, 0);
  }

  document.querySelectorAll("button[data-log]").forEach((button) => {
    button.addEventListener("click", () => {
      const log = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(log));
      const box = document.getElementById(button.dataset.log);
      const figure = drawn.get(box);
      if (!figure) { return; }
      figure.layout.yaxis.type = log ? "log" : "linear";
      delete figure.layout.yaxis.range;
      draw(box, figure);
    });
  });

  document.querySelectorAll("table[data-sortable]").forEach((table) => {
    const body = table.tBodies[0];
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") === "descending" || !head.hasAttribute("aria-sort");
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const key = (row) => row.cells[column].dataset.value;
        const numeric = "number" in head.dataset;
        const order = (a, b) => (numeric ? Number(key(a)) - Number(key(b)) : key(a).localeCompare(key(b)));
        const rows = Array.from(body.rows).sort((a, b) => (up ? order(a, b) : order(b, a)));
        body.append(...rows);
      });
    });
  });
})();
