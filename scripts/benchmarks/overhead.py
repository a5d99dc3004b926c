"""Harness overhead: a sampling cell's wall time against the bare UNet and VAE calls at the same batch size.

    .venv/bin/python scripts/benchmarks/overhead.py [--images 512] [--repeats 3] [overrides …]

Both sides run in turn in one process. The cell runs as `tcd-bench run` runs it: prompts encoded, latents drawn,
scheduler stepped, images rounded, written to disk as PNG and marked as finished, features extracted beside. The bare
side feeds random tensors of the same shapes through the UNet as often as the cell did and through the VAE decoder once
a batch.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.execute.cell_runner import DeviceQueue, Runner
from bench.execute.feature_extraction import load_extractors, make_feature_sets, make_inputs
from bench.execute.job import prepare, resolve_concurrent_batches
from bench.execute.malloc import keep_freed_memory
from bench.experiment.compose import compose_settings
from bench.experiment.config import Measure, check_experiment
from bench.measure.stopwatch import Stopwatch
from bench.records.cell import Cell
from bench.records.record import Calls
from bench.store.store import Store
from bench.workers.leases import Leases
from bench.workers.loop import Chunk, WorkerContext


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    arguments, overrides = parser.parse_known_args()
    keep_freed_memory()
    settings = compose_settings([f"prompts.count={arguments.images}", "method=[tcd,dpmpp_2s]", "claim=[]", *overrides])
    job = prepare(check_experiment(settings))
    device = job.plan.cells[0].device
    extractors = load_extractors(job.experiment, device)
    inputs = make_inputs(job.experiment, job.plan.cells[0].task, device)
    features = make_feature_sets(job.experiment, job.prompts, extractors, inputs, job.run.features, device)

    def fresh_runner() -> Runner:
        """One that has nothing in store: no first evaluation, no embedded prompt that another cell left."""
        return Runner(
            store=Store(Path(tempfile.mkdtemp())),
            prompts=job.prompts.texts,
            features=features,
            measure=Measure(latency=False, memory=False),
            inputs=inputs,
            keep="all",
            queue=DeviceQueue(
                resolve_concurrent_batches(job.experiment.concurrent_batches, job.plan.cells[0].device),
                one_samples=False,
            ),
            context=WorkerContext(),
            process={},
        )

    print(f"{'cell':<32} {'cell s':>8} {'sampling s':>10} {'bare s':>8} {'sampling/bare':>13} {'cell/bare':>9}")
    wholes, samplings, bares = 0.0, 0.0, 0.0
    for cell in job.plan.cells:
        if cell.eta not in (None, 0.3):
            continue
        found = []
        for repeat in range(arguments.repeats + 1):  # the first is the warm-up
            runner = fresh_runner()
            pipeline = runner.pipeline.sampler(cell).pipeline
            begin = time.perf_counter()
            for rows in runner.open_chunks(cell):
                lease = Leases(runner.store.files, "benchmark").take(f"cells/{cell.key}/lease-{rows.start}")
                for _, error in (*runner.sample(Chunk(cell, rows, lease)), *runner.sample_rest()):  # type: ignore[arg-type]
                    if error is not None:
                        raise error
            record = runner.finish(cell)
            whole = time.perf_counter() - begin
            if record is None or record.calls is None:
                raise SystemExit("the cell failed")
            bare = bare_calls(pipeline, cell, record.calls)
            if repeat:
                found.append((whole, record.sampling_s, bare))
        whole, sampling, bare = (statistics.median(column) for column in zip(*found, strict=True))
        spread = [row[1] / row[2] for row in found]
        print(
            f"{cell.label:<32} {whole:8.2f} {sampling:10.2f} {bare:8.2f} {sampling / bare:6.3f} "
            f"({min(spread):.2f}-{max(spread):.2f}) {whole / bare:6.3f}",
            flush=True,
        )
        wholes, samplings, bares = wholes + whole, samplings + sampling, bares + bare
    print(f"{'all':<32} {wholes:8.2f} {samplings:10.2f} {bares:8.2f} {samplings / bares:13.3f} {wholes / bares:9.3f}")


@torch.inference_mode()
def bare_calls(pipeline: Any, cell: Cell, calls: Calls) -> float:
    """Seconds of the denoiser and decoder calls alone."""
    unet, vae, device = pipeline.unet, pipeline.vae, pipeline.device
    doubled = calls.denoiser_evaluations // calls.denoiser_calls
    count, size = cell.prompts.count, cell.batch_size
    channels, edge = unet.config.in_channels, cell.base.height // pipeline.vae_scale_factor
    width, length = unet.config.cross_attention_dim, pipeline.tokenizer.model_max_length
    total, stopwatch = 0.0, Stopwatch.of(device)
    for start in range(0, count, size):
        n = min(size, count - start)
        latents = torch.randn(n, channels, edge, edge, device=device, dtype=unet.dtype)
        inputs = torch.cat([latents] * doubled)
        text = torch.randn(doubled * n, length, width, device=device, dtype=unet.dtype)
        stopwatch.synchronise()
        begin = stopwatch.now_s()
        for timestep in calls.timesteps:
            unet(inputs, torch.tensor(timestep, device=device), encoder_hidden_states=text)
        vae.decode(latents)
        stopwatch.synchronise()
        total += stopwatch.now_s() - begin
    return total


if __name__ == "__main__":
    main()
