"use strict";
// Trends: filters, and the points of a chart in words, under the pointer or by the arrow keys.
{
  const trends = [...document.querySelectorAll(".trend")], count = document.getElementById("shown");
  page.listeners.push(() => {
    for (const one of trends) one.hidden = !page.shows(page.data.cells[one.dataset.trend]);
    const shown = trends.filter(one => !one.hidden).length;
    count.textContent = shown < trends.length ? `${shown} of ${trends.length} quantities` : "";
  });

  const tip = page.element("div", { className: "tip", hidden: true, role: "status" });
  document.body.append(tip);
  for (const svg of document.querySelectorAll(".trend svg")) {
    const points = [...svg.querySelectorAll("circle")], words = points.map(point => point.querySelector("title").textContent);
    let at = points.length - 1;
    svg.querySelectorAll("title").forEach(title => title.remove());  // `tip` says it at once, and to keys
    const show = i => {
      points[at].classList.remove("at");
      at = Math.max(0, Math.min(points.length - 1, i));
      points[at].classList.add("at");
      tip.textContent = words[at];
      tip.hidden = false;
      const box = points[at].getBoundingClientRect(), { width, height } = tip.getBoundingClientRect();
      tip.style.left = `${Math.max(4, Math.min(box.x + 10, innerWidth - width - 4))}px`;
      tip.style.top = `${box.y - height - 8 > 0 ? box.y - height - 8 : box.bottom + 8}px`;
    };
    const hide = () => { points[at].classList.remove("at"); tip.hidden = true; };
    svg.addEventListener("pointermove", event => {
      const far = points.map(point => Math.abs(point.getBoundingClientRect().x - event.clientX));
      show(far.indexOf(Math.min(...far)));
    });
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("focus", () => { if (svg.matches(":focus-visible")) show(at); });
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", event => {
      const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: points.length - 1 }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      show(next);
    });
  }
}
