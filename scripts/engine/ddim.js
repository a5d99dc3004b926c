// DDIM in JavaScript, as an example of the protocol by which the gate judges samplers of other engines:
//   tcd-bench gate 'engine.command=[node,scripts/engine/ddim.js]' engine.scheduler=ddim
const readline = require("node:readline");

function* ddim({ steps, latents, alphas_cumprod: alphas }) {
  // Trailing timesteps (arXiv 2305.08891, table 2), eta 0 (arXiv 2010.02502, equation 12); the last step ends at 1.
  const timesteps = Array.from({ length: steps }, (_, i) => Math.round(1000 - (i * 1000) / steps) - 1);
  for (let i = 0; i < steps; i++) {
    const noise = yield { denoise: { latents, timestep: timesteps[i] } };
    const now = alphas[timesteps[i]];
    const next = i + 1 < steps ? alphas[timesteps[i + 1]] : 1;
    latents = latents.map((row, n) =>
      row.map((x, k) => {
        const data = (x - Math.sqrt(1 - now) * noise[n][k]) / Math.sqrt(now);
        return Math.sqrt(next) * data + Math.sqrt(1 - next) * noise[n][k];
      }),
    );
  }
  return { latents };
}

let run;
readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const asked = JSON.parse(line);
  if (asked.sample) run = ddim(asked.sample);
  console.log(JSON.stringify(run.next(asked.output).value));
});
