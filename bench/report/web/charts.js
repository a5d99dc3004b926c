"use strict";
// Charts as Vega-Lite specifications. They are drawn one by one while the browser is idle, those near the window first,
// so that no scrolling waits for them; they follow the filters, and light up the points of one cell together with its rows
// in tables.
{
  const { cells, scores } = page.data, { element } = page;
  const section = document.getElementById("charts");
  const SIGNS = {  // Vega's symbols, as paths for the legend
    circle: "M5 0A5 5 0 1 1 -5 0A5 5 0 1 1 5 0", square: "M-4.5-4.5h9v9h-9z", "triangle-up": "M0-5.5L5.5 4.5H-5.5z",
    diamond: "M0-6L5 0L0 6L-5 0z", "triangle-down": "M0 5.5L5.5-4.5H-5.5z", cross: "M-2-5.5h4v3.5h3.5v4h-3.5v3.5h-4v-3.5h-3.5v-4h3.5z",
    "triangle-right": "M5.5 0L-4.5 5.5V-5.5z", "triangle-left": "M-5.5 0L4.5 5.5V-5.5z",
  };
  const SHAPES = Object.keys(SIGNS);
  const colour = i => `var(--s${i % 10})`;
  const labels = [...new Set(page.data.series.map(one => one.label))];
  const several = new Set(cells.map(cell => cell.model)).size > 1;
  const MOST_BARS = 60;
  const config = {
    aria: false, background: null, font: "system-ui, sans-serif", view: { stroke: null },
    axis: { labelColor: "currentColor", titleColor: "currentColor", titleFontWeight: "normal", gridColor: "currentColor", gridOpacity: 0.12, domainColor: "currentColor", domainOpacity: 0.4, tickColor: "currentColor", tickOpacity: 0.4, labelFontSize: 11, titleFontSize: 11 },
    legend: { labelColor: "currentColor", titleColor: "currentColor" }, text: { color: "currentColor", fontSize: 10 },
  };
  const seconds = value => (value < 1 ? `${(1000 * value).toPrecision(3)} ms` : `${value.toPrecision(3)} s`);
  const small = innerWidth < 700;  // names are cut there: what tells them apart comes first
  const name = cell => {
    const parts = [several ? cell.model : "", cell.series, `${cell.steps} steps`].filter(Boolean);
    return (small ? parts.reverse() : parts).join(", ");
  };

  const about = (cell, score) => {
    const own = score && cell.scores[score.score];
    return [
      ...(own ? [[score.score, own.text], ["images", own.sample], ["protocol", own.protocol]] : []),
      ["denoiser evaluations", cell.evaluations ?? "unknown"],
      ...(cell.latency ? [["latency", `${seconds(cell.latency)} per image${cell.disturbed ? ` (invalid: ${cell.disturbed})` : ""}`]] : []),
    ];
  };
  const front = (points, higher) => {
    const found = [], valid = points.filter(point => !point.invalid).sort((a, b) => a.x - b.x || (higher ? b.y - a.y : a.y - b.y));
    for (const point of valid) if (!found.length || (higher ? point.y > found.at(-1).y : point.y < found.at(-1).y)) found.push(point);
    return found;
  };
  const points = (score, x, use = () => true) => cells.filter(cell => page.shows(cell) && use(cell) && cell.scores[score.score]?.value != null && cell[x] != null)
    .map(cell => {
      const { value, interval } = cell.scores[score.score];
      return { key: cell.key, cell, score, series: cell.series, model: cell.model, steps: cell.steps, x: cell[x], y: value, low: interval?.[0] ?? value, high: interval?.[1] ?? value, invalid: x === "latency" && Boolean(cell.disturbed) };
    });

  const ticks = axis => {  // the values themselves where they are few
    const values = [...new Set(cells.map(cell => cell[axis]))].filter(value => value > 0);
    return axis === "evaluations" && values.length <= 10 ? { values } : { tickCount: 6 };
  };
  const zoom = { name: "zoom", bind: "scales", select: { type: "interval", zoom: "wheel![event.altKey]", translate: "[mousedown, window:mouseup] > mousemove!" } };
  const big = (large, small) => ({ condition: { test: "datum.key === hot", value: large }, value: small });
  const y = { field: "y", type: "quantitative", scale: { zero: false }, title: null };
  const bars = { mark: { type: "rule", strokeWidth: 1.2 }, encoding: { y: { field: "low", type: "quantitative" }, y2: { field: "high" } } };

  const quality = (score, axis, title) => ({
    score, title: score.name, said: `${score.title} against ${title}, one line per method`, height: 230,
    rows: () => { const shown = points(score, axis); return { points: shown, front: front(shown, score.higher) }; },
    spec: () => ({
      encoding: { x: { field: "x", type: "quantitative", scale: { type: "log", nice: false, padding: 12 }, title, axis: { ...ticks(axis), format: "~g" } }, y: { ...y, title: score.title } },
      layer: [
        { params: [zoom], data: { name: "front" }, mark: { type: "line", interpolate: "step-after", strokeDash: [2, 3], stroke: "currentColor", opacity: 0.6 } },
        { data: { name: "points" }, encoding: { color: { field: "series", type: "nominal", scale: { domain: labels, range: labels.map((_, i) => colour(i)) }, legend: null }, detail: { field: "model" } },
          layer: [
            { mark: { type: "line", strokeWidth: 1.4 }, encoding: { opacity: { condition: { test: "hot === '' || datum.series === line", value: 1 }, value: 0.25 }, ...(several ? { strokeDash: { field: "model", type: "nominal", legend: null } } : {}) } },
            bars,
            { mark: { type: "point", opacity: 1, strokeWidth: 1.4 }, encoding: { tooltip: { field: "key" }, shape: { field: "series", type: "nominal", scale: { domain: labels, range: labels.map((_, i) => SHAPES[i % SHAPES.length]) }, legend: null }, size: big(220, 45), fillOpacity: { condition: { test: "datum.invalid", value: 0 }, value: 1 }, fill: { field: "series", type: "nominal", scale: { domain: labels, range: labels.map((_, i) => colour(i)) }, legend: null } } },
          ] },
      ],
    }),
  });

  const line = cell => JSON.stringify({ ...cell.traits, "η": null });
  const etas = new Map();
  for (const cell of cells) if (cell.eta != null && cell.series) etas.set(line(cell), (etas.get(line(cell)) ?? new Set()).add(cell.eta));
  const varies = cell => cell.eta != null && etas.get(line(cell))?.size > 1;
  const counts = [...new Set(cells.filter(varies).map(cell => cell.steps))].sort((a, b) => a - b);
  const eta = score => ({
    score, title: score.name, said: `${score.title} against eta, one line per step count`, height: 230,
    rows: () => {
      const shown = points(score, "eta", varies).map(point => ({ ...point, group: line(point.cell), method: point.cell.method }));
      return { points: shown };
    },
    spec: () => ({
      encoding: { x: { field: "x", type: "quantitative", title: "η", scale: { padding: 14, nice: false }, axis: { values: [...new Set(cells.filter(varies).map(cell => cell.eta))] } }, y: { ...y, title: score.title }, color: { field: "steps", type: "nominal", scale: { domain: counts, range: counts.map((_, i) => colour(i)) }, legend: { title: "steps", orient: "top", direction: "horizontal", symbolType: "circle", titleOrient: "left" } }, detail: { field: "group" } },
      layer: [
        { params: [zoom], data: { name: "points" }, mark: { type: "line", strokeWidth: 1.4 } },
        { data: { name: "points" }, ...bars },
        { data: { name: "points" }, mark: { type: "point", filled: true, opacity: 1 }, encoding: { tooltip: { field: "key" }, size: big(220, 45) } },
      ],
    }),
  });

  const timed = () => cells.filter(cell => page.shows(cell) && cell.parts && cell.series).slice(0, MOST_BARS);
  const PARTS = cells.find(cell => cell.parts) ? Object.keys(cells.find(cell => cell.parts).parts.parts) : [];
  const named = shown => { const seen = new Map(); return shown.map(cell => { const label = name(cell), count = seen.get(label) ?? 0; seen.set(label, count + 1); return count ? `${label} (${count + 1})` : label; }); };
  const sideways = (title, colours) => ({
    height: { step: 17 },
    encoding: { y: { field: "label", type: "nominal", sort: null, title: null, axis: { labelLimit: small ? 190 : 320, labelPadding: 4, ticks: false, domain: false } } },
    layer: [
      { data: { name: "points" }, mark: { type: "bar", height: { band: 0.75 } }, encoding: { x: { field: "x", type: "quantitative", title }, x2: { field: "x2" }, color: { field: "part", type: "nominal", scale: { domain: colours, range: colours.map((_, i) => colour([3, 0, 4, 7][i])) }, legend: { title: null, orient: "top", columns: small ? 1 : 0 } }, stroke: { condition: { test: "datum.key === hot", value: "currentColor" }, value: null } } },
      { data: { name: "ranges" }, mark: { type: "rule", stroke: "currentColor", strokeWidth: 1.4 }, encoding: { x: { field: "low", type: "quantitative" }, x2: { field: "high" } } },
      { data: { name: "ranges" }, mark: { type: "tick", color: "currentColor", thickness: 1.6, height: 9 }, encoding: { x: { field: "x", type: "quantitative" } } },
    ],
  });
  const parts = {
    title: "Median seconds per image; the line is the range of whole calls", said: "Time of a call by part, one bar per cell", wide: true,
    rows: () => {
      const shown = timed(), label = named(shown), found = [], ranges = [];
      shown.forEach((cell, i) => {
        let at = 0;
        for (const part of PARTS) { const width = cell.parts.parts[part]; found.push({ key: cell.key, cell, label: label[i] + (cell.disturbed ? " *" : ""), part, x: at, x2: at + width, words: [[part, seconds(width)]] }); at += width; }
        ranges.push({ key: cell.key, cell, label: label[i] + (cell.disturbed ? " *" : ""), x: cell.parts.whole, low: cell.parts.range[0], high: cell.parts.range[1], words: [["whole call", seconds(cell.parts.whole)], ["range", cell.parts.range.map(seconds).join(" to ")]] });
      });
      return { points: found, ranges };
    },
    spec: () => sideways("seconds per image", PARTS),
  };
  const KINDS = ["allocated", "device"];
  const memory = {
    title: "Peak of one call", said: "Peak GPU memory, one bar per cell", wide: true,
    rows: () => {
      const shown = cells.filter(cell => page.shows(cell) && Object.keys(cell.memory).length && cell.series).slice(0, MOST_BARS), label = named(shown);
      const of = (cell, i, kind) => ({ key: cell.key, cell, label: label[i], part: `GPU, ${kind === "device" ? "whole device" : kind}`, words: [[kind, `${Math.round(cell.memory[kind] / 2 ** 20)} MiB`]] });
      return {
        points: shown.flatMap((cell, i) => ("allocated" in cell.memory ? [{ ...of(cell, i, "allocated"), x: 0, x2: cell.memory.allocated / 2 ** 20 }] : [])),
        ranges: shown.flatMap((cell, i) => ("device" in cell.memory ? [{ ...of(cell, i, "device"), x: cell.memory.device / 2 ** 20, low: cell.memory.device / 2 ** 20, high: cell.memory.device / 2 ** 20 }] : [])),
      };
    },
    spec: () => sideways("peak, MiB (tick: the whole device)", KINDS.map(kind => `GPU, ${kind === "device" ? "whole device" : kind}`).slice(0, 1)),
  };

  const some = test => cells.some(test);
  const scored = scores.filter(score => some(cell => cell.scores[score.score]));
  const plan = [
    ["by-evaluations", "Quality against denoiser evaluations", "Guidance counts twice.", scored.map(score => quality(score, "evaluations", "denoiser evaluations per image"))],
    ["by-latency", "Quality against latency", some(cell => cell.disturbed) ? "Hollow points were disturbed by load; they are on no front." : "", some(cell => cell.latency) ? scored.map(score => quality(score, "latency", "seconds per image (median)")) : []],
    ["by-eta", "Eta", "One line per step count.", some(varies) ? scored.map(eta) : []],
    ["parts", "Parts of a call", timed().length === MOST_BARS ? `The first ${MOST_BARS} cells that the filters show. * disturbed by load.` : "* disturbed by load.", some(cell => cell.parts) ? [parts] : []],
    ["memory", "Memory", "", some(cell => Object.keys(cell.memory).length) ? [memory] : []],
  ];

  const tip = element("div", { className: "tip", hidden: true, role: "status" });
  document.body.append(tip);
  const tell = (event, datum) => {
    tip.hidden = !datum?.cell;
    if (tip.hidden) return;
    const { cell, score, words } = datum;
    tip.replaceChildren(element("b", { textContent: cell.label }), element("dl", {}, ...[...(words ?? []), ...about(cell, score)].flatMap(([term, text]) => [element("dt", { textContent: term }), element("dd", { textContent: text })])));
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 4))}px`;
    tip.style.top = `${Math.max(4, event.clientY + 14 + height > innerHeight ? event.clientY - height - 10 : event.clientY + 14)}px`;
  };

  const views = new Map(), visible = new Set();
  const refresh = (chart, view) => {
    for (const [dataset, rows] of Object.entries(chart.rows())) view.change(dataset, vega.changeset().remove(() => true).insert(rows));
    return view.runAsync();
  };
  function* drawing(holder) {  // in parts, between which the browser may do something else
    const { chart } = holder;
    let width = holder.clientWidth;
    if (views.has(holder) || !width) return;  // without a width it is filtered out
    const datasets = Object.fromEntries(Object.keys(chart.rows()).map(name => [name, []]));  // compiled without their data
    const spec = { width, height: chart.height ?? undefined, autosize: { type: "fit-x", contains: "padding" }, padding: 2, config, datasets, params: [{ name: "hot", value: "" }, { name: "line", value: "" }], ...chart.spec() };
    const compiled = vegaLite.compile(spec, { logger: vega.logger(vega.Error) }).spec;
    yield;
    const program = vega.parse(compiled, null, { ast: true });
    yield;
    const view = new vega.View(program, { expr: vega.interpreter, hover: false, logLevel: vega.Error });
    for (const [dataset, rows] of Object.entries(chart.rows())) view.data(dataset, rows);
    yield;
    view.run();  // computed first, and drawn after
    yield;
    view.renderer("svg").initialize(holder);
    view.tooltip(() => {});  // `tell` has more; without a tooltip beside the zoom, points would not see the mouse
    view.addEventListener("mousemove", (event, item) => { tell(event, item?.datum); page.light(item?.datum?.key ?? ""); });
    view.addEventListener("mouseout", () => { tip.hidden = true; page.light(""); });
    views.set(holder, [chart, view]);
    holder.dataset.drawn = "";
    new ResizeObserver(() => { if (Math.abs(width - holder.clientWidth) > 2) view.width(width = holder.clientWidth).runAsync(); }).observe(holder);
    view.runAsync().then(() => holder.querySelector("svg").setAttribute("aria-hidden", "true"));  // the holder is the picture
  }

  const undrawn = [];
  let begun = null, waits = false;
  const drawNext = () => {
    begun ??= undrawn.length ? drawing(undrawn.shift()) : null;
    waits = Boolean(begun);
    if (!begun) return;
    if (begun.next().done) begun = null;
    whenIdle();
  };
  const whenIdle = () => (window.requestIdleCallback ? requestIdleCallback(drawNext, { timeout: visible.size ? 100 : 2000 }) : setTimeout(drawNext, 30));
  const drawSoon = (...holders) => { undrawn.unshift(...holders); if (!waits) { waits = true; whenIdle(); } };

  const KEYS = { "+": [0.8], "=": [0.8], "-": [1.25], ArrowLeft: [1, -0.1], ArrowRight: [1, 0.1], ArrowUp: [1, 0, 0.1], ArrowDown: [1, 0, -0.1], 0: [] };
  const move = (view, axis, factor, shift = 0) => {
    const scale = view.scale(axis), [to, back] = scale.type === "log" ? [Math.log, Math.exp] : [value => value, value => value];
    const [low, high] = scale.domain().map(to), middle = (low + high) / 2 + shift * (high - low), half = ((high - low) / 2) * factor;
    view.signal(`zoom_${axis}`, [back(middle - half), back(middle + half)]);
  };
  const homes = new WeakMap();  // the domains before the first key
  const zoomByKey = event => {
    const view = views.get(event.currentTarget)?.[1], asked = KEYS[event.key];
    if (!view || !asked || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const [factor, right, up] = asked;
    const home = homes.get(view) ?? { x: view.scale("x").domain(), y: view.scale("y").domain() };
    homes.set(view, home);
    if (factor) { move(view, "x", factor, right); move(view, "y", factor, up); } else view.signal("zoom_x", home.x).signal("zoom_y", home.y);
    view.runAsync();
  };

  if (section && cells.length) {
    const near = new IntersectionObserver(entries => {
      for (const { target, isIntersecting } of entries) {
        visible[isIntersecting ? "add" : "delete"](target);
        if (!isIntersecting) continue;
        const known = views.get(target);
        if (!known) drawSoon(target);
        else if (target.stale) refresh(...known);
        target.stale = false;
      }
    }, { rootMargin: "200px" });
    for (const [anchor, title, note, charts] of plan) {
      if (!charts.length) continue;
      const grid = element("div", { className: "charts" });
      section.append(element("h3", { textContent: title, id: `charts-${anchor}` }), ...(note ? [element("p", { className: "note", textContent: note })] : []), grid);
      if (charts[0].wide) grid.style.gridTemplateColumns = "100%";
      for (const chart of charts) {
        const keys = chart.wide ? "" : " Plus and minus zoom, arrows move, 0 resets.";
        const holder = element("div", { role: "img", "aria-label": `${chart.said}. The numbers are in the tables.${keys}`, chart });
        if (!chart.wide) { holder.tabIndex = 0; holder.addEventListener("keydown", zoomByKey); }
        grid.append(element("figure", { className: "chart" }, element("h4", { textContent: chart.title }), holder));
        near.observe(holder);
      }
    }
    addEventListener("load", () => {
      const [first, ...others] = section.querySelectorAll(".chart > div");
      for (const _ of drawing(first));  // the first time is slow, and no task of scrolling
      drawSoon(...others);
    });
    page.listeners.push(() => {
      for (const holder of section.querySelectorAll(".chart > div")) holder.parentElement.hidden = Boolean(holder.chart.score && !page.showsScore(holder.chart.score));
      for (const [holder, known] of views) if (visible.has(holder)) refresh(...known); else holder.stale = true;
    });
    let wanted = "", waiting = false;
    const series = new Map(cells.map(cell => [cell.key, cell.series]));
    const lightNext = () => {  // one chart a frame
      const view = [...visible].map(holder => views.get(holder)?.[1]).find(view => view && view.signal("hot") !== wanted);
      waiting = Boolean(view);
      if (!view) return;
      view.signal("hot", wanted).signal("line", series.get(wanted) ?? "").runAsync();
      requestAnimationFrame(lightNext);
    };
    page.lights.push(key => {
      wanted = key;
      if (!waiting) requestAnimationFrame(lightNext);
      waiting = true;
    });
    addEventListener("beforeprint", () => { for (const holder of section.querySelectorAll(".chart > div")) for (const _ of drawing(holder)); });

    const legend = document.getElementById("legend");
    const sign = (label, i) => {
      const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      svg.setAttribute("viewBox", "-8 -8 16 16");
      svg.setAttribute("aria-hidden", "true");
      path.setAttribute("d", SIGNS[SHAPES[i % SHAPES.length]]);
      path.style.fill = colour(i);
      svg.append(path);
      return element("span", {}, svg, label);
    };
    legend.append(...labels.map(sign));
    legend.hidden = false;
    section.querySelector("[data-with-charts]").hidden = false;
  }
}
