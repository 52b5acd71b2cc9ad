(function () {
  "use strict";
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 40rem)");
  const touch = window.matchMedia("(pointer: coarse)");
  const drawn = new Map(); // figure by the box that it is drawn in
  const hidden = new Set(); // groups of lines that are switched off
  let charts = {};

  // --- tables and anything else that needs no chart ---

  document.querySelectorAll("table[data-sortable]").forEach((table) => {
    const body = table.tBodies[0];
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach((head, column) => {
      const numeric = "number" in head.dataset;
      head.querySelector("button").addEventListener("click", () => {
        const before = head.getAttribute("aria-sort");
        const up = before ? before === "descending" : !numeric; // numbers: the largest first
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const key = (row) => row.cells[column].dataset.value;
        const order = (a, b) => (numeric ? Number(a) - Number(b) : a.localeCompare(b)) * (up ? 1 : -1);
        const rows = Array.from(body.rows).sort((a, b) => {
          const [x, y] = [key(a), key(b)];
          return x === "" || y === "" ? (x === "") - (y === "") : order(x, y);
        });
        body.append(...rows);
      });
    });
  });

  // --- charts ---

  function theme(layout) {
    const css = getComputedStyle(document.documentElement);
    const of = (name) => css.getPropertyValue(name).trim();
    const size = narrow.matches ? 11 : 12.5;
    const axis = { gridcolor: of("--grid"), linecolor: of("--rule"), tickcolor: of("--rule") };
    const unified = String(layout.hovermode).endsWith("unified");
    return Object.assign({}, layout, {
      font: { family: of("--sans"), size: size, color: of("--muted") },
      legend: Object.assign({}, layout.legend, { font: { color: of("--text") } }),
      hoverlabel: { bgcolor: of("--surface"), bordercolor: of("--rule"), font: { color: of("--text") } },
      hovermode: narrow.matches && unified ? "closest" : layout.hovermode,
      dragmode: narrow.matches || touch.matches ? false : "zoom",
      xaxis: Object.assign({}, layout.xaxis, axis, { title: Object.assign({}, layout.xaxis.title, { font: { size: size } }) }),
      yaxis: Object.assign({}, layout.yaxis, axis),
    });
  }

  function draw(box, figure) {
    drawn.set(box, figure);
    box.parentElement.classList.remove("waiting");
    const config = { responsive: true, displayModeBar: false, doubleClick: "reset" };
    return Plotly.react(box, figure.data, theme(figure.layout), config);
  }

  function redraw() {
    drawn.forEach((figure, box) => draw(box, figure));
  }

  function drawNamed(box) {
    const figure = charts[box.dataset.figure];
    hidden.forEach((group) => setGroup(figure, group));
    draw(box, figure);
  }

  function setGroup(figure, group) {
    figure.data.filter((trace) => trace.legendgroup === group).forEach((trace) => {
      trace.shown = trace.shown || trace.visible || true;
      trace.visible = hidden.has(group) ? "legendonly" : trace.shown;
    });
  }

  // A chart is drawn when it comes near the window, so that a long page opens as fast as a short one.
  function drawWhenSeen() {
    const boxes = document.querySelectorAll("[data-figure]");
    const seen = new IntersectionObserver((entries) => {
      entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
        seen.unobserve(entry.target);
        drawNamed(entry.target);
      });
    }, { rootMargin: "300px" });
    boxes.forEach((box) => seen.observe(box));
    window.addEventListener("beforeprint", () => {
      seen.disconnect();
      boxes.forEach((box) => drawn.has(box) || drawNamed(box));
    });
    dark.addEventListener("change", redraw);
    narrow.addEventListener("change", redraw);
  }

  document.querySelectorAll("select[data-picks]").forEach((picker) => {
    const box = document.getElementById(picker.dataset.picks);
    const pick = () => {
      box.dataset.figure = picker.value;
      if (drawn.has(box)) { drawNamed(box); }
    };
    picker.addEventListener("change", pick);
    pick(); // a reloaded page remembers the choice
  });

  function onToggle(button, action) {
    button.addEventListener("click", () => {
      const pressed = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(pressed));
      action(pressed);
    });
  }

  document.querySelectorAll("button[data-log]").forEach((button) => onToggle(button, (log) => {
    const box = document.getElementById(button.dataset.log);
    const figure = drawn.get(box);
    if (!figure) { return; }
    figure.layout.yaxis.type = log ? "log" : "linear";
    delete figure.layout.yaxis.range;
    draw(box, figure);
  }));

  document.querySelectorAll("button[data-group]").forEach((button) => onToggle(button, (shown) => {
    const group = button.dataset.group;
    if (shown) { hidden.delete(group); } else { hidden.add(group); }
    drawn.forEach((figure, box) => {
      setGroup(figure, group);
      draw(box, figure);
    });
  }));

  // --- unpacking: the library is a large script, so the text of the page is there first ---

  async function unpack(id) {
    const text = document.getElementById(id).textContent.trim();
    if (!text.startsWith("H4sI")) { return text; } // not compressed
    const bytes = (await fetch("data:application/gzip;base64," + text)).body;
    return new Response(bytes.pipeThrough(new DecompressionStream("gzip"))).text();
  }

  function withArrays(text) {
    const content = JSON.parse(text);
    const arrays = content.arrays || [];
    const fill = (value) => {
      if (value === null || typeof value !== "object") { return value; }
      if ("$" in value) { return arrays[value.$]; }
      Object.keys(value).forEach((key) => { value[key] = fill(value[key]); });
      return value;
    };
    return fill(content.charts);
  }

  async function start() {
    const boxes = document.querySelectorAll("[data-figure]");
    if (!boxes.length) { return; }
    try {
      charts = withArrays(await unpack("chart-data"));
      const library = document.createElement("script");
      library.textContent = await unpack("chart-library");
      document.head.append(library);
      drawWhenSeen();
    } catch (error) {
      boxes.forEach((box) => { box.textContent = "The charts need a browser of 2023 or later."; });
      throw error;
    }
    performance.mark("ready");
  }

  window.addEventListener("load", () => setTimeout(start, 0));
})();
