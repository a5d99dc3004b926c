"use strict";
// Tables: sort by a column, keep the rows with a text, follow the filters, copy in a form for elsewhere.
{
  const shown = new Map();  // key → cells
  for (const cell of page.data.cells) shown.set(cell.key, [...(shown.get(cell.key) ?? []), cell]);
  const number = text => parseFloat(text.replace(/,/g, "").replace("−", "-"));

  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0], rows = [...body.rows], box = table.closest(".table");
    rows.forEach((row, i) => { row.dataset.at = i; });
    for (const head of table.tHead.rows[0].cells) {
      const button = page.element("button", { type: "button", textContent: head.textContent });
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending", column = head.cellIndex;
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const value = row => {
          const text = row.cells[column].textContent.trim(), found = number(text);
          return Number.isNaN(found) ? text : found;
        };
        const known = rows.map(row => [value(row), row]);
        known.sort(([a], [b]) => {
          if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;  // what is missing comes last
          const order = typeof a === "number" ? a - b : a.localeCompare(b);
          return up ? order : -order;
        });
        body.append(...known.map(([, row]) => row));
        table.dispatchEvent(new Event("sorted"));
      });
    }

    if (!box) continue;
    const search = box.querySelector(".search"), copy = box.querySelector(".copy"), count = box.querySelector(".count");
    const [more, cut] = page.beyond(() => [...body.rows], 60, "rows");
    const filter = () => {
      const words = search.value.toLowerCase();
      let left = 0;
      for (const row of rows) {
        const cells = shown.get(row.dataset.key);
        row.hidden = !(row.textContent.toLowerCase().includes(words) && (!cells || cells.some(page.shows)));
        left += !row.hidden;
      }
      count.textContent = left < rows.length ? `${left} of ${rows.length} rows` : "";
      cut();
    };
    table.addEventListener("sorted", cut);
    table.parentElement.after(more);
    search.addEventListener("input", filter);
    page.listeners.push(filter);
    copy?.addEventListener("change", async () => {
      const [head, lines, foot] = page.data.tables[table.dataset.table][copy.value];
      const chosen = [...body.rows].filter(row => !row.hidden).map(row => lines[row.dataset.at]);
      const text = [...head, ...chosen, ...foot, ""].join("\n");
      const name = copy.selectedOptions[0].textContent;
      copy.value = "";
      try {
        await navigator.clipboard.writeText(text);
        count.textContent = `copied as ${name}`;
      } catch {
        const area = page.element("textarea", { value: text, readOnly: true, rows: 6, cols: 60, "aria-label": `the table as ${name}` });
        box.querySelector("textarea")?.remove();
        box.querySelector(".controls").after(area);
        area.select();
        count.textContent = document.execCommand("copy") ? `copied as ${name}` : "select the text and copy it";
      }
    });
    box.querySelector(".controls").hidden = false;
  }

  const lit = new Map();
  for (const row of document.querySelectorAll("tr[data-key]")) {
    lit.set(row.dataset.key, [...(lit.get(row.dataset.key) ?? []), row]);
    row.addEventListener("pointerenter", () => { if (!page.scrolls()) page.light(row.dataset.key); });
    row.addEventListener("pointerleave", () => page.light(""));
  }
  let last = "";
  page.lights.push(key => {
    for (const row of lit.get(last) ?? []) row.classList.remove("hot");
    for (const row of lit.get(key) ?? []) row.classList.add("hot");
    last = key;
  });
}
