// Tables sort by a click or Enter on their heads; a slider walks one prompt through its step counts.
for (const head of document.querySelectorAll("table.sortable th")) {
  head.tabIndex = 0;
  head.setAttribute("role", "button");
  const sort = () => {
    const table = head.closest("table"), column = head.cellIndex, body = table.tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = row => {
      const text = row.cells[column].textContent.trim(), number = parseFloat(text.replace(/,/g, ""));
      return Number.isNaN(number) ? text : number;
    };
    const rows = [...body.rows].sort((a, b) => {
      const x = value(a), y = value(b);
      const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
      return up ? order : -order;
    });
    body.append(...rows);
  };
  head.addEventListener("click", sort);
  head.addEventListener("keydown", event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(); } });
}
for (const walk of document.querySelectorAll(".walk")) {
  const table = walk.parentElement.querySelector("table"), slider = walk.querySelector("input"), shown = walk.querySelector("output");
  const heads = [...table.rows[0].cells].slice(1), view = walk.querySelector("div");
  const draw = () => {
    const column = Number(slider.value);
    shown.textContent = heads[column].textContent;
    view.replaceChildren(...[...table.rows].slice(1).map(row => {
      const figure = document.createElement("figure"), caption = document.createElement("figcaption");
      const image = row.cells[column + 1].querySelector("img");
      caption.textContent = row.cells[0].textContent;
      if (image) { const copy = image.cloneNode(); copy.removeAttribute("loading"); figure.append(copy); } else figure.className = "none";
      figure.append(caption);
      return figure;
    }));
  };
  slider.max = heads.length - 1;
  slider.addEventListener("input", draw);
  walk.hidden = false;
  draw();
}
