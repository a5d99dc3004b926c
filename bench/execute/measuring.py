"""Latency and memory of a cell, with nothing beside it on its device.

Memory is measured on a GPU alone, in a call of its own that is not timed. On a processor there is nothing to measure
that is a call's own: the resident set of the process depends on which cells came before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from bench.execute.device_lock import alone_on
from bench.experiment.config import Measure
from bench.generate.sampling import Sampler
from bench.measure.host_syncs import count_waits
from bench.measure.latency import Stopwatch, measure_latency
from bench.measure.memory import measure_memory
from bench.measure.reference_workload import make_reference_workload
from bench.records.record import Latency, Memory, Record


def measured(
    record: Record,
    measure: Measure,
    prompts: int,
    load: Callable[[], Sampler],
    excluded_bytes: Callable[[], int],
    donor: Record | None,
) -> Record:
    """The record with latency and memory where they are asked for; `donor` is one that may lend its own.

    `excluded_bytes` is asked for what lies on the GPU beside the pipeline once that is loaded.
    """
    wants_latency, wants_memory = lacks_latency(record, measure), lacks_memory(record, measure)
    if not (wants_latency or wants_memory):
        return record
    rows = range(min(measure.batch_size, prompts))
    latency, memory = (donor.latency, donor.memory) if donor else (None, None)
    with alone_on(record.cell.device):
        if wants_latency:
            record = replace(record, latency=latency or _latency(load(), measure, rows))
        if wants_memory:
            record = replace(record, memory=memory or _memory(load(), rows, excluded_bytes))
    return record


def lacks_latency(record: Record, measure: Measure) -> bool:
    """Whether a record's latency is asked for and not there."""
    return measure.latency and record.latency is None


def lacks_memory(record: Record, measure: Measure) -> bool:
    """Whether a record's memory is asked for, can be measured, and is not there."""
    return measure.memory and record.memory is None and record.cell.device != "cpu"


def _latency(sampler: Sampler, measure: Measure, rows: range) -> Latency:
    pipeline = sampler.pipeline
    encoders = [getattr(pipeline, name, None) for name in ("text_encoder", "text_encoder_2")]
    parts = {
        "text_encoder": [encoder for encoder in encoders if encoder is not None],
        "denoiser": [part for part in (pipeline.unet, getattr(pipeline, "controlnet", None)) if part is not None],
        "vae": [pipeline.vae.encoder, pipeline.vae.decoder],
    }
    stopwatch = Stopwatch.of(torch.device(sampler.cell.device))
    call = lambda: sampler.call(rows)  # noqa: E731
    workload = make_reference_workload(torch.device(sampler.cell.device), stopwatch)
    latency = measure_latency(call, parts, stopwatch, len(rows), measure.repeats, measure.warmup, workload)
    waits = count_waits(call, pipeline.scheduler) if sampler.cell.device.startswith("cuda") else None
    return replace(latency, scheduler_syncs=waits)


def _memory(sampler: Sampler, rows: range, excluded_bytes: Callable[[], int]) -> Memory:
    device = torch.device(sampler.cell.device)
    return measure_memory(lambda: sampler.call(rows), device, len(rows), excluded_bytes=excluded_bytes())
