"""Damage every file of a finished run, a half-done run and a baseline, and count what readers make of it.

    .venv/bin/python scripts/robustness/bit_flips.py [--flips 10000] [--verbs 300] [--seed 0] [--out FILE.md]

Damage is one flipped bit, and now and then a cut, an exchange, a copy of another file, a loss, or a folder in the place
of the file. `--flips` are read back in this process by the functions that the verbs read with; `--verbs` go through
whole verbs (run, report, score, gate, status). Exit code 0 when none gave other numbers and none ended in a traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.__main__ import main as tcd_bench
from bench.gate.completeness import read_whole
from bench.pictures import batch_images, kept_images
from bench.records.errors import BenchError
from bench.report.write import is_current
from bench.store.cell_folder import FAILED, GOOD, batch_identity
from bench.store.store import Store
from bench.workers.launch import Launch, WorkerState
from bench.workers.leases import Leases
from bench.workers.status import read_status

SMALL = (
    *("experiment=smoke", "method=[tcd]", "claim=[]", "methods.tcd.steps=[2]", "methods.tcd.eta=[0,0.3]"),
    *(
        "concurrent_batches=1",
        "prompts.count=8",
        "batch_size=4",
        "reference.count=32",
        "measure.latency=false",
        "measure.memory=false",
    ),
    *("scores=[fid,clip_score]", "device=cpu"),
)
KINDS = ("flip",) * 14 + ("cut", "exchange", "copy", "loss", "folder", "longer")
OUTCOMES = ("same numbers", "made again or passed over", "refused", "OTHER NUMBERS", "TRACEBACK")
VERBS_OF = {"finished": ("run", "report", "score", "status", "gate"), "half": ("run", "status"), "baseline": ("gate",)}


@dataclass(frozen=True)
class Damage:
    """What is done to one file; `undo` brings back all that it touched."""

    kind: str
    name: str
    undo: Callable[[], None]


def make_runs(root: Path, overrides: tuple[str, ...]) -> dict[str, Path]:
    """A finished run, one that was stopped within its second cell, and a baseline."""
    places = {name: root / name for name in ("finished", "half", "baseline")}
    quietly("run", *overrides, f"results={places['finished']}")
    stop_after(3, lambda: quietly("run", *overrides, f"results={places['half']}"))
    if not list(places["half"].glob("cells/*/batches-*/*.npz")):
        raise RuntimeError("the half-done run is not half done")
    words = (f"candidate={places['finished']}", f"baseline={places['baseline']}", "author=a", "reason=b")
    quietly("gate", "accept", *words)
    return places


def stop_after(batches: int, act: Callable[[], object]) -> None:
    """Do it, with Ctrl-C after that many batches were sampled."""
    from bench.generate.sampling import Sampler

    begin, left = Sampler.begin, iter(range(batches))

    def counted(self: Sampler, start: int) -> object:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return begin(self, start)

    Sampler.begin = counted  # type: ignore[method-assign,assignment]
    try:
        act()
    finally:
        Sampler.begin = begin  # type: ignore[method-assign]


def quietly(*arguments: str) -> tuple[int, str]:
    """A verb's exit code and all that it said; an exception that it does not catch is code -1 with its name."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = tcd_bench(list(arguments))
        except SystemExit as ended:
            code = int(ended.code or 0)
        except Exception as error:
            return -1, f"{type(error).__name__}: {error}"
    return code, said.getvalue()


def do_damage(root: Path, dice: random.Random, files: list[Path]) -> Damage:
    """Damage one of the files, each as likely, so that large ones do not hide small ones."""
    kind = dice.choice(KINDS)
    path, other = dice.choice(files), dice.choice(files)
    kept, theirs = path.read_bytes(), other.read_bytes()
    name = path.relative_to(root).as_posix()

    def undo() -> None:
        if path.is_dir():
            shutil.rmtree(path)
        path.write_bytes(kept)
        other.write_bytes(theirs if other != path else kept)

    if kind == "flip":
        changed = bytearray(kept) or bytearray(1)
        bit = dice.randrange(8 * len(changed))
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(changed))
    elif kind == "cut":
        path.write_bytes(kept[: dice.randrange(max(1, len(kept)))])
    elif kind == "longer":
        path.write_bytes(kept + kept[: 1 + dice.randrange(64)] + b"\n")
    elif kind == "copy":
        path.write_bytes(theirs)
    elif kind == "exchange":
        path.write_bytes(theirs)
        other.write_bytes(kept)
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()
    return Damage(kind, name, undo)


def readings(place: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Everything that verbs read of a store, by name; each gives a value, or None where it passes over the file."""
    store = Store(place, writable=False)
    run = store.run()
    yield "run", store.run
    for key in run.cells:
        for name in (GOOD, FAILED):
            if (place / "cells" / key / name).exists():
                yield f"record {key}", lambda key=key: store.cell(key).record()  # type: ignore[misc]
        record = store.cell(key).record()
        if record is not None and record.status == "ok":
            for identity in run.features.values():
                yield f"features {key}", lambda r=record, i=identity: digest(store.features_of(r, i))  # type: ignore[misc]
            for row in range(record.images.count if record.images else 0):
                rows = range(row, row + 1)
                yield f"image {key} {row}", lambda r=record, i=rows: digest({"image": kept_images(store, r, i)})  # type: ignore[misc]
        batches = batch_identity(run.features.values())
        for start in sorted(store.cell(key).batch_starts(batches)):
            marked = key, batches, start
            yield f"batch {key} {start}", lambda marked=marked: batch(store, *marked)  # type: ignore[misc]
    for reference in run.references.values():
        yield "reference", lambda reference=reference: digest({"image": store.load_reference(reference)})  # type: ignore[misc]
    launch = Launch.latest(store.files)
    if launch is not None:
        yield "launch", lambda: Launch.latest(store.files)
        yield "workers", lambda: WorkerState.all_of(store.files, launch.name) or None
        yield "status", lambda: read_status(store, launch, 4).total_images
        yield "leases", lambda: look_at_leases(store)
    if (place / "report.html").exists():
        yield "report", lambda: is_current(store) or None
    if (place / "accepted.json").exists():
        yield "whole", lambda: read_whole(store) and True


def look_at_leases(store: Store) -> bool:
    """Take every lease that there is, as a worker would, and put back what was there."""
    leases = Leases(store.files, "reader", lease_s=1e9)
    for name in store.files.tree("cells"):
        folder, _, file = name.rpartition("/")
        if file.startswith("lease-"):
            content = store.files.read(name)
            for found in leases.newest(folder):
                taken = leases.take(found)
                if taken is not None:
                    store.files.remove(taken.file)
            store.files.write(name, content)
    return True


def batch(store: Store, key: str, batches: str, start: int) -> object:
    """A batch and its images, as a run that goes on takes them; None where it samples them again."""
    found = store.cell(key).load_batch(batches, start)
    if found is None or batch_images(store.cell(key), found) is None:
        return None
    features = {f"{identity}/{name}": rows for identity, own in found.features.items() for name, rows in own.items()}
    return digest({**features, "hashes": np.array(found.hashes)}), found.calls, found.sampling_s


def digest(arrays: Mapping[str, object] | None) -> str | None:
    """A hash over arrays; None where one of them is None."""
    if arrays is None or any(value is None for value in arrays.values()):
        return None
    found = hashlib.sha256()
    for name, value in sorted(arrays.items()):
        array = np.asarray(value)
        found.update(f"{name}{array.dtype}{array.shape}".encode() + array.tobytes())
    return found.hexdigest()


def read_all(place: Path, expected: Mapping[str, object], every: Mapping[str, Callable[[], object]]) -> tuple[str, str]:
    """The worst outcome of all readings, and which reading it was."""
    worst, where = 0, ""
    for name, read in every.items():
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                value = read()
            level = 0 if value == expected[name] else 1 if value is None else 3
        except BenchError:
            level = 2
        except Exception as error:
            level, name = 4, f"{name}: {type(error).__name__}: {error}"
        if level > worst:
            worst, where = level, name
    shutil.rmtree(place / "damaged", ignore_errors=True)
    return OUTCOMES[worst], where


def check_readings(
    places: Mapping[str, Path], count: int, dice: random.Random, said: list[str]
) -> Counter[tuple[str, ...]]:
    """Damage and read back, `count` times in all; returns how often each outcome came, by place and kind of damage."""
    found: Counter[tuple[str, ...]] = Counter()
    prepared = {}
    for name, place in places.items():
        every = dict(readings(place))
        prepared[name] = place, files_of(place), every, {reading: read() for reading, read in every.items()}
    for i in range(count):
        name = list(prepared)[i % len(prepared)]
        place, files, every, expected = prepared[name]
        damage = do_damage(place, dice, files)
        outcome, where = read_all(place, expected, every)
        damage.undo()
        found[name, damage.kind, outcome] += 1
        if outcome in OUTCOMES[3:]:
            said.append(f"{name}: {damage.kind} of {damage.name} → {outcome} ({where})")
            print(said[-1], flush=True)
    return found


def check_verbs(
    root: Path, places: Mapping[str, Path], count: int, dice: random.Random, overrides: tuple[str, ...], said: list[str]
) -> Counter[tuple[str, ...]]:
    """Damage a copy and call a whole verb on it, `count` times; counts outcomes by place and verb."""
    found: Counter[tuple[str, ...]] = Counter()
    asked = [(place, verb) for place, verbs in VERBS_OF.items() for verb in verbs]
    expected = numbers(places["finished"])
    for i in range(count):
        name, verb = asked[i % len(asked)]
        copy = root / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.rmtree(root / "gate", ignore_errors=True)
        shutil.copytree(places[name], copy)
        damage = do_damage(copy, dice, files_of(copy))
        arguments = {
            "run": (*overrides, f"results={copy}"),
            "gate": (f"baseline={copy}", f"candidate={places['finished']}", f"output={root / 'gate'}"),
            "score": (f"results={copy}", "scores=[fid,clip_score]", "device=cpu"),
        }.get(verb, (f"results={copy}",))
        code, words = quietly(verb, *arguments)
        outcome = judge(verb, code, words, copy, expected)
        found[name, verb, outcome] += 1
        if outcome in OUTCOMES[3:]:
            what = f"{name}: tcd-bench {verb} after {damage.kind} of {damage.name}"
            said.append(f"{what} → {outcome} ({code}: {words[-300:]})")
    return found


def judge(verb: str, code: int, words: str, place: Path, expected: str) -> str:
    """What became of a verb: `words` is all that it said."""
    if code == -1 or "Traceback" in words:
        return OUTCOMES[4]
    if code != 0:
        return OUTCOMES[2]
    if verb in ("run", "report", "score") and numbers(place) != expected:
        return OUTCOMES[3]
    told = "damaged" in words or "gone" in words or "again" in words
    return OUTCOMES[1] if told else OUTCOMES[0]


def numbers(place: Path) -> str:
    return (place / "scores.csv").read_text(encoding="utf-8")


def files_of(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file())


def table(found: Counter[tuple[str, ...]], head: str) -> list[str]:
    """Markdown: a row for each place and kind, a column for each outcome."""
    rows = sorted({key[:2] for key in found})
    lines = [f"| store | {head} | {' | '.join(OUTCOMES)} |", f"|---|---|{'---|' * len(OUTCOMES)}"]
    for row in rows:
        lines.append(f"| {' | '.join(row)} | {' | '.join(str(found[(*row, outcome)]) for outcome in OUTCOMES)} |")
    sums = [sum(n for key, n in found.items() if key[2] == outcome) for outcome in OUTCOMES]
    return [*lines, f"| all | | {' | '.join(map(str, sums))} |"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=10_000)
    parser.add_argument("--verbs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments, more = parser.parse_known_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    root = Path(tempfile.mkdtemp(prefix="tcd-bench-flips-"))
    overrides, said = (*SMALL, *more), list[str]()
    places = make_runs(root, overrides)
    begun = time.monotonic()
    read = check_readings(places, arguments.flips, random.Random(arguments.seed), said)
    print(f"{arguments.flips} readings in {time.monotonic() - begun:.0f} s", flush=True)
    verbs = check_verbs(root, places, arguments.verbs, random.Random(arguments.seed + 1), overrides, said)
    bad = sum(n for found in (read, verbs) for key, n in found.items() if key[2] in OUTCOMES[3:])
    lines = [
        "# Damaged files",
        "",
        f"`scripts/robustness/bit_flips.py --flips {arguments.flips} --verbs {arguments.verbs} "
        f"--seed {arguments.seed}`:",
        "one file of a finished run, a half-done run or a baseline is damaged (70% a single flipped bit), then read.",
        f"{bad} of {arguments.flips + arguments.verbs:,} gave other numbers with exit code 0 or ended in a traceback.",
        "",
    ]
    if read:
        lines += [f"Read back by the functions that the verbs read with, {sum(read.values()):,} times:", ""]
        lines += [*table(read, "damage"), ""]
    if verbs:
        lines += [f"Whole verbs, {sum(verbs.values()):,} times:", "", *table(verbs, "verb"), ""]
    print("\n".join([*lines, *said]))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text("\n".join(lines), encoding="utf-8")
    shutil.rmtree(root)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
