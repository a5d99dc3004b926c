"use strict";
// The state that all parts of the page share: pictures, light or dark, filters, and the cell that is lit up.
const page = {
  data: { cells: [], filters: [], scores: [], pictures: {}, files: {}, prompts: [], tables: {}, gains: {} },
  off: new Map(),  // head → set of the values that are filtered out
  listeners: [],
  lights: [],
  shows(cell) {
    for (const [head, values] of page.off) if (values.has(cell.traits[head])) return false;
    return true;
  },
  showsScore(score) {
    return !page.off.get("Score")?.has(score.score) && !page.off.get("Extractor")?.has(score.extractor);
  },
  changed() { for (const tell of page.listeners) tell(); },
  lit: "",
  light(key) { if (key !== page.lit) for (const tell of page.lights) tell(page.lit = key); },
  element(tag, properties = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name.includes("-") || name === "role" || name === "for") made.setAttribute(name, value); else made[name] = value;
    }
    made.append(...children);
    return made;
  },
  beyond(rows, most, what) {  // a button that shows the rows that a long table leaves out at first, so that scrolling does not stall
    const more = page.element("button", { type: "button", className: "more" });
    const cut = () => {
      const found = rows().filter(row => !row.hidden);
      found.forEach((row, i) => row.classList.toggle("beyond", i >= most));
      more.hidden = found.length <= most;
      more.textContent = `Show all ${found.length} ${what}`;
    };
    more.addEventListener("click", () => { most = Infinity; cut(); });
    cut();
    return [more, cut];
  },
  source(image) { return image.dataset.picture ? page.data.pictures[image.dataset.picture] : image.currentSrc || image.src; },
};

{
  const stored = document.getElementById("data");
  if (stored) Object.assign(page.data, JSON.parse(stored.textContent));

  // Pictures are decoded when they come near the window.
  const load = image => { if (!image.src) image.src = page.source(image); };
  const near = new IntersectionObserver(entries => {
    for (const entry of entries) if (entry.isIntersecting) { near.unobserve(entry.target); load(entry.target); }
  }, { rootMargin: "400px" });
  page.watch = root => { for (const image of root.querySelectorAll("img[data-picture]:not([src])")) near.observe(image); };
  page.watch(document);
  addEventListener("beforeprint", () => document.querySelectorAll("img[data-picture]:not([src])").forEach(load));

  const theme = document.getElementById("theme");
  if (theme) {
    const dark = () => (document.documentElement.style.colorScheme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
    const say = () => { theme.textContent = dark() ? "Light" : "Dark"; theme.setAttribute("aria-label", `${theme.textContent} colours`); };
    theme.addEventListener("click", () => { document.documentElement.style.colorScheme = dark() ? "light" : "dark"; say(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", say);
    theme.hidden = false;
    say();
  }

  // Rows that pass below a resting pointer while the page scrolls are not lit up.
  let scrolled = -1000;
  addEventListener("scroll", () => { scrolled = performance.now(); page.light(""); }, { passive: true });
  page.scrolls = () => performance.now() - scrolled < 200;

  // A link to a folded claim opens it.
  const open = () => { const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1))); if (target?.tagName === "DETAILS") target.open = true; };
  addEventListener("hashchange", open);
  open();

  // Filters: one row of buttons for each column in which cells differ.
  const box = document.querySelector("#filters > div");
  const score = page.data.scores, heads = [...page.data.filters];
  const distinct = values => [...new Set(values)];
  if (score.length > 1) heads.push({ head: "Score", values: score.map(one => one.score) });
  if (distinct(score.map(one => one.extractor)).length > 1) heads.push({ head: "Extractor", values: distinct(score.map(one => one.extractor)) });
  if (box && heads.length) {
    for (const { head, values } of heads) {
      const off = new Set();
      page.off.set(head, off);
      const row = page.element("fieldset", { className: "filter" }, page.element("legend", { textContent: head }));
      const buttons = values.map(value => page.element("button", { type: "button", textContent: value, "aria-pressed": "true" }));
      const say = () => { buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(!off.has(values[i])))); page.changed(); };
      buttons.forEach((button, i) => button.addEventListener("click", () => {
        if (off.size === 0 && values.length > 2) values.forEach((value, j) => { if (j !== i) off.add(value); });  // the first choice shows it alone
        else if (!off.delete(values[i])) off.add(values[i]);
        if (off.size === values.length) off.clear();
        say();
      }));
      row.append(...buttons);
      box.append(row);
    }
    const all = page.element("button", { type: "button", textContent: "show all" });
    all.addEventListener("click", () => {
      for (const off of page.off.values()) off.clear();
      box.querySelectorAll("[aria-pressed]").forEach(button => button.setAttribute("aria-pressed", "true"));
      page.changed();
    });
    box.append(all);
    box.parentElement.hidden = false;
    box.parentElement.open = innerWidth > 700;
  }
}
