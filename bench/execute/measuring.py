"""Latency and memory of a cell, measured while no other run samples on its device.

Memory is measured on a GPU only, in a separate call that is not timed. On a CPU no memory belongs to one call: the
resident set of the process depends on the cells before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from bench.execute.device_lock import alone_on
from bench.experiment.config import Measure
from bench.generate.denoisers import denoisers, text_encoders
from bench.generate.loaded_pipeline import CurrentPipeline
from bench.measure.host_syncs import HostSyncs
from bench.measure.latency import measure_latency
from bench.measure.memory import measure_memory
from bench.measure.reference_workload import ReferenceWorkload
from bench.measure.stopwatch import Stopwatch
from bench.records.record import Record


def measured(record: Record, measure: Measure, prompts: int, pipeline: CurrentPipeline, donor: Record | None) -> Record:
    """Return the record with the latency and memory that are requested; those of `donor` where it has them."""
    if donor is not None:
        latency = donor.latency if lacks_latency(record, measure) else record.latency
        memory = donor.memory if lacks_memory(record, measure) else record.memory
        record = replace(record, latency=latency, memory=memory)
    wants_latency, wants_memory = lacks_latency(record, measure), lacks_memory(record, measure)
    if not (wants_latency or wants_memory):
        return record
    rows = range(min(measure.batch_size, prompts))
    with alone_on(record.cell.device):
        sampler = pipeline.sampler(record.cell)
        call, device = partial(sampler.call, rows), torch.device(sampler.cell.device)
        if wants_latency:
            stopwatch, parts = Stopwatch.of(device), timed_parts(sampler.pipeline)
            workload = ReferenceWorkload(device, stopwatch)
            latency = measure_latency(call, parts, stopwatch, len(rows), measure.repeats, measure.warmup, workload)
            if device.type == "cuda":
                with HostSyncs(sampler.pipeline.scheduler) as syncs:
                    call()
                latency = replace(latency, scheduler_syncs=syncs.count)
            record = replace(record, latency=latency, load_s=pipeline.load_s)
        if wants_memory:
            if not wants_latency:
                call()  # as timed calls do, allocates what stays for later ones, which `excluded_bytes` includes
            memory = measure_memory(call, device, len(rows), excluded_bytes=pipeline.excluded_bytes)
            record = replace(record, memory=memory)
    return record


def lacks_latency(record: Record, measure: Measure) -> bool:
    """Whether a record lacks a latency that is requested."""
    return measure.latency and record.latency is None


def lacks_memory(record: Record, measure: Measure) -> bool:
    """Whether a record lacks a memory that is requested and can be measured."""
    return measure.memory and record.memory is None and record.cell.device != "cpu"


def timed_parts(pipeline: Any) -> Mapping[str, Sequence[torch.nn.Module]]:
    """Return the modules of a pipeline that are timed, by part."""
    controlnet = getattr(pipeline, "controlnet", None)
    return {
        "text_encoder": [*text_encoders(pipeline).values()],
        "denoiser": [*denoisers(pipeline).values(), *([] if controlnet is None else [controlnet])],
        "vae": [pipeline.vae.encoder, pipeline.vae.decoder],
    }
