"use strict";
// What changes while runs go on: asked for every two seconds while the page is seen.
{
  const EVERY_MS = 2000;
  const gone = document.getElementById("gone"), news = document.getElementById("news");
  const known = new Map([...document.querySelectorAll("[data-key]")].map(one => [one.dataset.key, one]));

  for (const time of document.querySelectorAll("time[data-seconds]")) time.title = new Date(1000 * time.dataset.seconds).toLocaleString();

  const show = run => {
    const row = known.get(run.key), part = name => row.querySelector(`[data-live="${name}"]`) ?? document.querySelector(`main > p [data-live="${name}"]`);
    const say = (name, text) => { const one = part(name); if (one && one.textContent !== text) one.textContent = text; };
    say("state", run.state);
    part("state").className = run.state.split(" ")[0];
    say("count", `${run.done} of ${run.cells}`);
    say("left", run.left);
    say("failed", run.failed ? String(run.failed) : "");
    say("said", run.said);
    if (part("said")) part("said").hidden = !run.said;
    if (part("page")) part("page").hidden = !run.page;
    const bar = row.querySelector("progress");
    if (bar) { bar.max = run.cells; bar.value = run.done; }
    for (const cell of page.data.cells) if (cell.key === run.key) cell.traits.State = run.state;
  };

  const ask = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch("runs.json", { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.statusText);
      const runs = await answer.json();
      for (const run of runs) if (known.has(run.key)) show(run);
      if (news) news.hidden = runs.length === known.size && runs.every(run => known.has(run.key));
      gone.hidden = true;
    } catch { gone.hidden = false; }
  };
  setInterval(ask, EVERY_MS);
  addEventListener("visibilitychange", ask);
}
