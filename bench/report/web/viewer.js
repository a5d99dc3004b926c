"use strict";
// A picture in full size, alone or against another one: side by side, with a slider, or in turns.
{
  const part = name => document.getElementById(`viewer${name}`);
  const viewer = part(""), stage = part("-stage"), first = part("-first"), second = part("-second"), against = part("-against");
  const mode = part("-mode"), divide = part("-divide"), divider = stage.querySelector(".divider"), file = part("-file");
  let group = [], at = 0, other = -1, turn = 0;

  const prompt = image => image.closest("[data-said]")?.dataset.said ?? image.closest(".wall, .pair, figure")?.querySelector(".prompt")?.textContent ?? "";
  const members = image => {
    const name = image.closest(".shot").dataset.group;
    return [...document.querySelectorAll(".shot img")].filter(one => one.closest(".shot").dataset.group === name && !one.closest("[hidden]"));
  };
  const groups = () => [...new Set([...document.querySelectorAll(".shot")].filter(shot => shot.offsetParent).map(shot => shot.dataset.group))];

  const draw = () => {
    const image = group[at], rival = group[other];
    first.src = page.source(image);
    first.alt = image.alt;
    second.hidden = !rival;
    if (rival) { second.src = page.source(rival); second.alt = rival.alt; }
    stage.className = `stage ${rival ? mode.value : "alone"}`;
    const fit = () => stage.classList.toggle("small", first.naturalWidth > 0 && first.naturalWidth < 200);
    first.decode().then(fit, fit);
    part("-reach").hidden = !rival || mode.value !== "slider";
    mode.parentElement.hidden = !rival;
    part("-prompt").textContent = prompt(image);
    part("-said").textContent = rival ? `${image.alt} · against · ${rival.alt}` : `${image.alt} (${at + 1} of ${group.length})`;
    const place = page.data.files[image.dataset.picture];
    file.hidden = !place;
    if (place) file.href = place;
    cut();
  };
  const cut = () => {
    const sliding = second.hidden === false && mode.value === "slider";
    second.style.clipPath = sliding ? `inset(0 0 0 ${divide.value}%)` : "";
    divider.style.left = `${divide.value}%`;
    second.style.visibility = mode.value === "flicker" && turn % 2 ? "hidden" : "";
  };
  setInterval(() => { if (viewer.open && mode.value === "flicker" && other >= 0) { turn += 1; cut(); } }, 600);

  const choose = (image, rival) => {
    group = members(image);
    at = group.indexOf(image);
    other = rival ? group.indexOf(rival) : -1;
    against.replaceChildren(page.element("option", { value: "-1", textContent: "nothing" }),
      ...group.map((one, i) => page.element("option", { value: i, textContent: one.alt })));
    against.value = other;
    against.parentElement.hidden = group.length < 2;
    draw();
  };
  const step = by => { at = (at + by + group.length) % group.length; draw(); };
  const jump = by => {
    const names = groups(), now = names.indexOf(group[at].closest(".shot").dataset.group);
    const next = [...document.querySelectorAll(".shot")].filter(shot => shot.dataset.group === names[(now + by + names.length) % names.length]);
    const [image, rival] = [next[Math.min(at, next.length - 1)], other >= 0 ? next[Math.min(other, next.length - 1)] : null];
    choose(image.querySelector("img"), rival?.querySelector("img"));
  };

  document.addEventListener("click", event => {
    const shot = event.target.closest(".shot");
    if (!shot) return;
    const pair = shot.closest(".pair"), image = shot.querySelector("img");
    const images = pair ? [...pair.querySelectorAll("img")] : [];
    choose(image, images.length === 2 ? images.find(one => one !== image) : null);
    if (!viewer.open) viewer.showModal();
  });
  part("-before").addEventListener("click", () => step(-1));
  part("-after").addEventListener("click", () => step(1));
  against.addEventListener("change", () => { other = Number(against.value); draw(); });
  mode.addEventListener("change", draw);
  divide.addEventListener("input", cut);
  viewer.addEventListener("click", event => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("keydown", event => {
    if (event.target.matches("select, input") && event.key !== "Escape") return;
    const act = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), ArrowUp: () => jump(-1), ArrowDown: () => jump(1), f: () => { mode.value = "flicker"; draw(); } }[event.key];
    if (act) { event.preventDefault(); act(); }
  });
}
