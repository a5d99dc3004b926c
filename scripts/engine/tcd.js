// TCD with strategic stochastic sampling in JavaScript (arXiv 2402.19159, algorithm 4), as an example of a sampler that
// is given its noise:
//   tcd-bench gate 'engine.command=[node,scripts/engine/tcd.js]' engine.scheduler=tcd engine.eta=0.3 'engine.steps=[2,4,8]'
const readline = require("node:readline");

function* tcd({ steps, latents, alphas_cumprod: alphas, eta = 0 }) {
  const grid = Array.from({ length: 50 }, (_, i) => 999 - 20 * i); // the 50 timesteps of the distillation
  const timesteps = Array.from({ length: steps }, (_, i) => grid[Math.floor((i * 50) / steps)]);
  for (let i = 0; i < steps; i++) {
    const last = i + 1 === steps;
    const noise = yield { denoise: { latents, timestep: timesteps[i] } };
    const next = last ? 0 : timesteps[i + 1];
    const now = alphas[timesteps[i]], to = alphas[next], between = alphas[Math.floor((1 - eta) * next)];
    const fresh = eta > 0 && !last ? yield { noise: true } : null;
    latents = latents.map((row, n) =>
      row.map((x, k) => {
        const data = (x - Math.sqrt(1 - now) * noise[n][k]) / Math.sqrt(now);
        const there = Math.sqrt(between) * data + Math.sqrt(1 - between) * noise[n][k];
        return fresh ? Math.sqrt(to / between) * there + Math.sqrt(1 - to / between) * fresh[n][k] : there;
      }),
    );
  }
  return { latents };
}

let run;
readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const asked = JSON.parse(line);
  if (asked.sample) run = tcd(asked.sample);
  console.log(JSON.stringify(run.next(asked.output ?? asked.noise).value));
});
