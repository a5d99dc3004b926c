// DDIM in JavaScript, as an example of the protocol by which the gate judges samplers of other engines:
//   tcd-bench gate 'engine.command=[node,scripts/engine/ddim.js]' engine.scheduler=ddim engine.eta=1
const readline = require("node:readline");

function* ddim({ steps, latents, alphas_cumprod: alphas, eta = 0 }) {
  // Trailing timesteps (arXiv 2305.08891, table 2); arXiv 2010.02502, equations 12 and 16; the last step ends at 1.
  const timesteps = Array.from({ length: steps }, (_, i) => Math.round(1000 - (i * 1000) / steps) - 1);
  for (let i = 0; i < steps; i++) {
    const noise = yield { denoise: { latents, timestep: timesteps[i] } };
    const now = alphas[timesteps[i]];
    const next = i + 1 < steps ? alphas[timesteps[i + 1]] : 1;
    const width = eta * Math.sqrt(((1 - next) / (1 - now)) * (1 - now / next));
    const fresh = width > 0 ? yield { noise: true } : noise;
    latents = latents.map((row, n) =>
      row.map((x, k) => {
        const data = (x - Math.sqrt(1 - now) * noise[n][k]) / Math.sqrt(now);
        const kept = Math.sqrt(1 - next - width * width) * noise[n][k];
        return Math.sqrt(next) * data + kept + width * fresh[n][k];
      }),
    );
  }
  return { latents };
}

let run;
readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const asked = JSON.parse(line);
  if (asked.sample) run = ddim(asked.sample);
  console.log(JSON.stringify(run.next(asked.output ?? asked.noise).value));
});
