"use strict";
// The same prompts at equal cost, and the wall of all pictures: order and filters.
{
  const { cells, prompts } = page.data, { element } = page;
  const MOST_LINES = 24;
  const shot = (name, said, group) => element("button", { type: "button", className: "shot", "data-group": group },
    element("img", { alt: said, decoding: "async", "data-picture": name }));

  const equal = document.getElementById("equal");
  if (equal) {
    const part = name => document.getElementById(`equal-${name}`);
    const kind = part("kind"), budget = part("budget"), model = part("model"), rows = part("rows"), said = part("said");
    const words = {
      evaluations: cost => `${cost} NFE`, steps: cost => `${cost} steps`,
      latency: cost => `${cost < 1 ? `${(1000 * cost).toPrecision(3)} ms` : `${cost.toPrecision(3)} s`} per image`,
    };
    const line = cell => `${cell.series}|${cell.traits.Run ?? ""}`;
    const own = () => cells.filter(cell => cell.model === (model?.value ?? cell.model) && Object.keys(cell.pictures).length && cell[kind.value]);
    const costs = () => [...new Set(own().map(cell => cell[kind.value]))].sort((a, b) => a - b);
    for (const option of [...kind.options]) if (!cells.some(cell => cell[option.value])) option.remove();
    const [more, cut] = page.beyond(() => [...rows.querySelectorAll("tbody tr")], MOST_LINES, "lines");
    rows.parentElement.after(more);
    const draw = () => {
      const limit = costs()[budget.value], lines = new Map();
      for (const cell of own()) {
        if (page.shows(cell) && cell[kind.value] <= limit * 1.0001 && !(lines.get(line(cell))?.[kind.value] >= cell[kind.value])) lines.set(line(cell), cell);
      }
      said.textContent = limit === undefined ? "" : `up to ${words[kind.value](limit)}`;
      const found = [...lines.values()];
      const columns = prompts.map((prompt, i) => [prompt, i]).filter(([, i]) => found.some(cell => i in cell.pictures));
      rows.replaceChildren(
        element("thead", {}, element("tr", {}, element("td"), ...columns.map(([prompt]) => element("th", { scope: "col" }, element("span", { className: "prompt", textContent: prompt.text, title: prompt.text }))))),
        element("tbody", {}, ...found.map(cell => {
          const name = `${cell.series}, ${cell.steps} steps`, cost = `${cell.steps} steps${kind.value === "steps" ? "" : `, ${words[kind.value](cell[kind.value])}`}${kind.value === "latency" && cell.disturbed ? ", disturbed" : ""}`;
          return element("tr", { "data-key": cell.key }, element("th", { scope: "row" }, cell.series, element("small", { textContent: cost })),
            ...columns.map(([prompt, i]) => element("td", { "data-said": prompt.text }, ...(i in cell.pictures ? [shot(cell.pictures[i], name, `equal-${i}`)] : []))));
        })),
      );
      cut();
      page.watch(rows);
    };
    const restart = () => {
      const all = costs(), near = all.map(cost => new Set(own().filter(cell => cell[kind.value] <= cost && cell[kind.value] > 0.8 * cost).map(line)).size);
      budget.max = Math.max(0, all.length - 1);
      budget.value = Math.max(0, near.indexOf(Math.max(...near)));  // at which most lines have a cell of about this cost
      draw();
    };
    kind.addEventListener("change", restart);
    model?.addEventListener("change", restart);
    budget.addEventListener("input", draw);
    page.listeners.push(draw);
    equal.hidden = false;
    restart();
  }

  const wall = document.getElementById("wall");
  if (wall) {
    const order = document.getElementById("wall-order"), grids = [...wall.children];
    order.addEventListener("change", () => {
      const gains = page.data.gains[order.value];
      const gain = grid => gains?.[prompts[grid.dataset.prompt].place] ?? 0;
      wall.append(...(gains ? [...grids].sort((a, b) => gain(a) - gain(b)) : grids));
      for (const grid of grids) {
        grid.querySelector(".by-gain")?.remove();
        if (gains) grid.querySelector("h3").after(element("p", { className: "note by-gain", textContent: `gain ${gain(grid) > 0 ? "+" : ""}${gain(grid).toPrecision(3)}` }));
      }
    });
    document.getElementById("wall-controls").hidden = order.options.length < 2;
    const cuts = grids.map(grid => {
      const [more, cut] = page.beyond(() => [...grid.querySelectorAll("tbody tr")], MOST_LINES, "lines");
      grid.append(more);
      return cut;
    });
    page.listeners.push(() => {
      for (const row of wall.querySelectorAll("tr[data-series]")) {
        row.hidden = !cells.some(cell => cell.series === row.dataset.series && cell.model === row.dataset.model && page.shows(cell));
      }
      for (const cut of cuts) cut();
    });
  }
}
