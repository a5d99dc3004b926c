"""The store returns what was written, with any other writers and after a kill at any moment."""

import platform
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from factories import make_base, make_cell, make_failure, make_record, make_run
from numpy.typing import NDArray
from PIL import Image

from bench.pictures import batch_images, hash_images, kept_images, read_images, to_png
from bench.records.cell import SchedulerSpec
from bench.records.errors import BenchError, Damaged
from bench.records.record import Calls, Images, Record
from bench.store.cell_folder import StoredBatch, batch_identity
from bench.store.sealed import seal
from bench.store.store import Store, quarantine_corrupt_features, quarantine_corrupt_records
from bench.workers.launch import Launch, Reporter, WorkerState

CELL = make_cell(
    6,
    base=make_base(height=16, width=24),
    scheduler=SchedulerSpec("diffusers.TCDScheduler", {"beta_start": 0.00085}),
    batch_size=3,
)
KEY = CELL.key
BATCHES = batch_identity(["e", "f"])
MARK = f"batches-{BATCHES}/00000.npz"
CALLS = Calls((999.0, 499.0), (14.6, 0.1), None, {"betas": [0.1, 0.2]}, {"eta": 0.3}, 2, 2, 2, 6, 3)
GOOD = make_record(CELL, environment={"host": "a"}, calls=CALLS, images=Images(6, 16, 24, "s"))
FAILED = make_failure(CELL, message="black images")
RUN = make_run(name="mini", cells=(KEY,), prompts=("a circle",), metrics=("fid",))


def make_batch(start: int = 0, count: int = 3) -> StoredBatch:
    """A batch of noise with features of two types."""
    rng = np.random.default_rng(start)
    image, right = rng.normal(size=(count, 5)).astype(np.float32), rng.integers(0, 4, count)
    return StoredBatch(
        start,
        {"e": {"image": image, "attributes_right": right}, "f": {"row": right}},
        CALLS,
        1 / 3,
        hash_images(make_images(start, count)),
    )


def make_images(start: int = 0, count: int = 3) -> NDArray[np.uint8]:
    """The images of that batch."""
    return np.random.default_rng(1000 + start).integers(0, 256, (count, 16, 24, 3), np.uint8)


def save(store: Store, start: int = 0, count: int = 3) -> StoredBatch:
    """That batch, saved."""
    batch = make_batch(start, count)
    store.cell(KEY).save_batch(batch, map(to_png, make_images(start, count)))
    return batch


def folder(store: Store, key: str = KEY) -> Path:
    """The folder of a cell."""
    return Path(store.location) / "cells" / key


def image_path(store: Store, row: int) -> Path:
    """The path of an image."""
    return Path(store.location) / store.cell(KEY).image_name(row)


def files_of(store: Store) -> set[str]:
    """All files of the cell, by their path in its directory."""
    directory = folder(store)
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "run")


def test_a_batch_comes_back_bit_for_bit(store: Store) -> None:
    batch = save(store, start=3)
    again = Store(store.location)
    loaded, images = again.cell(KEY).load_batch(BATCHES, 3), read_images(again.cell(KEY), range(3, 6))
    assert images.dtype == np.uint8
    assert np.array_equal(images, make_images(3))
    assert batch_images(again.cell(KEY), loaded) is not None
    assert loaded.features.keys() == batch.features.keys()
    for identity, arrays in batch.features.items():
        assert loaded.features[identity].keys() == arrays.keys()
        for name, values in arrays.items():
            assert loaded.features[identity][name].dtype == values.dtype
            assert np.array_equal(loaded.features[identity][name], values)
    assert (loaded.start, loaded.calls, loaded.sampling_s) == (3, CALLS, 1 / 3)


def test_an_unfinished_batch_does_not_exist(store: Store) -> None:
    save(store, start=3)
    assert store.cell(KEY).load_batch(BATCHES, 0) is None
    assert store.cell("0" * 16).load_batch(BATCHES, 3) is None
    assert store.cell(KEY).load_batch("other", 3) is None, "features of another extractor are not returned"
    assert store.cell(KEY).batch_starts(BATCHES) == {3}
    assert store.cell(KEY).batch_starts("other") == set()


def repainted(path: Path) -> None:
    """Change one pixel by one."""
    pixels = np.asarray(Image.open(path)).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)


def truncated(path: Path) -> None:
    """Lose the second half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scribbled(path: Path) -> None:
    """Let the chunk of the pixels state a shorter length."""
    content = path.read_bytes()
    start = content.index(b"IDAT")
    path.write_bytes(content[: start - 4] + (100).to_bytes(4, "big") + content[start:])


def as_folder(path: Path) -> None:
    """Put a folder in its place."""
    path.unlink()
    path.mkdir()


DAMAGES: tuple[Callable[[Path], None], ...] = (
    *(Path.unlink, repainted, truncated, scribbled),
    *(lambda path: path.write_bytes(b""), lambda path: Image.new("RGB", (8, 8)).save(path)),
)


@pytest.mark.parametrize("damage", DAMAGES, ids=["missing", "repainted", "truncated", "scribbled", "empty", "other"])
def test_a_batch_with_a_damaged_image_is_incomplete(store: Store, damage: Callable[[Path], None]) -> None:
    batch = save(store)
    assert batch_images(store.cell(KEY), batch) is not None
    damage(image_path(store, 1))
    assert batch_images(store.cell(KEY), batch) is None


def test_a_damaged_mark_of_a_batch_counts_as_missing(store: Store) -> None:
    save(store)
    truncated(folder(store) / f"batches-{BATCHES}" / "00000.npz")
    assert store.cell(KEY).load_batch(BATCHES, 0) is None
    store.cell(KEY).drop_batch(BATCHES, 0)
    assert store.cell(KEY).batch_starts(BATCHES) == set()


def test_kept_images_come_back_by_row_and_not_at_all_when_one_is_missing(store: Store) -> None:
    save(store)
    assert np.array_equal(read_images(store.cell(KEY), range(1, 3)), make_images()[1:3])
    assert store.cell(KEY).has_image(2)
    assert not store.cell(KEY).has_image(3)
    assert store.cell(KEY).image(2) == image_path(store, 2).read_bytes()
    assert store.cell(KEY).image(3) is None
    assert read_images(store.cell(KEY), range(1, 4)) is None


def test_the_hash_of_images_depends_on_pixels_and_their_order_only() -> None:
    images = make_images()
    assert hash_images(images) == hash_images(np.asfortranarray(images))
    assert hash_images(images[::-1]) == hash_images(images)[::-1]
    assert len({*hash_images(images), *hash_images(images.transpose(0, 2, 1, 3))}) == 6, "the layout counts"


def test_a_record_exists_once_it_is_committed(store: Store) -> None:
    assert store.cell(KEY).record() is None
    assert list(store.records()) == []
    assert store.commit(GOOD)
    assert Store(store.location, writable=False).cell(KEY).record() == GOOD
    assert list(store.records()) == [GOOD]


def test_records_come_in_the_order_of_their_keys(store: Store) -> None:
    for key in ("c", "a", "b"):
        store.commit(replace(GOOD, key=key))
    assert [record.key for record in store.records()] == ["a", "b", "c"]


@pytest.mark.parametrize("later", [replace(GOOD, sampling_s=9.0), FAILED], ids=["good", "failed"])
def test_the_first_good_record_wins(store: Store, later: Record) -> None:
    assert store.commit(GOOD)
    assert not Store(store.location).commit(later)
    assert store.cell(KEY).record() == GOOD


@pytest.mark.parametrize("retry", [GOOD, replace(FAILED, sampling_s=0.2)], ids=["good", "failed"])
def test_a_failed_record_is_replaced_by_the_next_try(store: Store, retry: Record) -> None:
    assert store.commit(FAILED)
    assert Store(store.location).commit(retry)
    assert store.cell(KEY).record() == retry


@pytest.mark.parametrize("before", [None, FAILED], ids=["nothing", "a failure"])
def test_exactly_one_of_concurrent_writers_wins(store: Store, before: Record | None) -> None:
    writers = 4
    barrier = Barrier(writers)

    def commit(key: str, writer: int) -> bool:
        barrier.wait(timeout=300)
        return Store(store.location).commit(replace(GOOD, key=key, sampling_s=float(writer)))

    with ThreadPoolExecutor(writers) as pool:
        for round_ in range(25):
            key = f"{round_:02d}"
            if before:
                store.commit(replace(before, key=key))
            won = [future.result() for future in [pool.submit(commit, key, writer) for writer in range(writers)]]
            assert Counter(won)[True] == 1
            assert store.cell(key).record().sampling_s == won.index(True)


def test_a_good_record_clears_the_batches_and_a_failed_one_leaves_them_for_the_next_try(store: Store) -> None:
    save(store)
    store.files.write(f"cells/{KEY}/lease-00000.0", b"{}")
    store.commit(FAILED)
    assert store.cell(KEY).load_batch(BATCHES, 0) is not None
    store.commit(GOOD)
    assert store.cell(KEY).load_batch(BATCHES, 0) is None
    assert {name.partition("/")[0] for name in files_of(store)} == {"record.json", "images"}


LEFTOVERS = ("record.json", "failure.json", "features-e.npz", "images/00001.png", f"batches-{BATCHES}/00000.npz")


@pytest.fixture(scope="module")
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def leave(store: Store, name: str, host: str, pid: int) -> Path:
    path = folder(store) / f"{name}.{host}-{pid}-{'0' * 32}.tcd-bench-partial"
    path.write_bytes(b"half of it")
    return path


@pytest.mark.parametrize("leftover", LEFTOVERS)
def test_leftovers_of_a_killed_writer_are_removed(store: Store, leftover: str, dead_pid: int) -> None:
    save(store)
    store.cell(KEY).save_features("e", {"image": np.zeros((3, 2))})
    leave(store, leftover, platform.node(), dead_pid)
    store.commit(GOOD)
    assert files_of(store) == {"record.json", "features-e.npz", *(f"images/{row:05d}.png" for row in range(3))}


def test_leftovers_in_a_finished_cell_are_removed_when_the_store_is_opened(store: Store, dead_pid: int) -> None:
    store.commit(GOOD)
    leave(store, "record.json", platform.node(), dead_pid)
    Store(store.location)
    assert files_of(store) == {"record.json"}


@pytest.mark.parametrize(("keep", "left"), [(None, 6), (4, 4), (0, 0), (16, 6)])
def test_the_requested_number_of_images_is_kept(store: Store, keep: int | None, left: int) -> None:
    for start in (0, 3):
        save(store, start)
    store.commit(GOOD, keep_images=keep)
    assert sorted(files_of(store)) == [*(f"images/{row:05d}.png" for row in range(left)), "record.json"]


def test_a_more_complete_record_replaces_the_previous_one(store: Store) -> None:
    store.commit(GOOD)
    more = replace(GOOD, environment={"host": "b"})
    store.cell(more.key).replace(more)
    assert store.cell(KEY).record() == more
    assert files_of(store) == {"record.json"}


def test_features_are_stored_by_extractor(store: Store) -> None:
    ours: dict[str, NDArray[Any]] = {"image": np.arange(6.0).reshape(3, 2)}
    theirs: dict[str, NDArray[Any]] = {"image": np.ones((3, 4), np.float32), "n": np.arange(3)}
    save(store)
    store.cell(KEY).save_features("ours", ours)
    assert store.cell(KEY).has_features("ours")
    assert not store.cell(KEY).has_features("theirs")
    store.cell(KEY).save_features("theirs", theirs)
    for extractor, saved in (("ours", ours), ("theirs", theirs)):
        loaded = store.cell(KEY).features(extractor)
        assert loaded.keys() == saved.keys()
        assert all(np.array_equal(loaded[name], saved[name]) for name in saved)
        assert all(loaded[name].dtype == saved[name].dtype for name in saved)


def test_features_of_reference_images_are_stored_by_content(store: Store) -> None:
    features = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert store.load_reference("r") is None
    store.save_reference("r", features)
    loaded = store.load_reference("r")
    assert loaded.dtype == np.float32
    assert np.array_equal(loaded, features)
    assert store.load_reference("other") is None


def test_the_run_holds_the_last_request(store: Store) -> None:
    store.save_run(RUN)
    store.save_run(replace(RUN, name="again"))
    assert store.run() == replace(RUN, name="again")
    assert {path.name for path in Path(store.location).iterdir()} == {"run.json"}


def test_files_of_the_run_are_written_where_their_name_says(store: Store) -> None:
    where = store.write_bytes("tables/scores.md", "η".encode())
    assert where == f"{store.location}/tables/scores.md"
    assert Path(where).read_bytes() == "η".encode()
    assert store.read_bytes("tables/scores.md") == "η".encode()
    assert store.read_bytes("tables/none.md") is None


def test_a_directory_that_cannot_be_written_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    directory = tmp_path / "file" / "run"
    with pytest.raises(BenchError) as refusal:
        Store(directory)
    assert str(refusal.value) == (
        f"results={directory} cannot be written (Not a directory); choose another directory with results=…"
    )


def test_a_directory_without_a_run_is_refused_in_one_sentence_and_left_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(BenchError) as refusal:
        Store(tmp_path / "none", writable=False)
    message = str(refusal.value)
    assert message.startswith(f"results={tmp_path / 'none'} holds no run")
    assert "give the directory of a run" in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_never_written_is_named_in_one_sentence(store: Store) -> None:
    with pytest.raises(BenchError) as refusal:
        store.run()
    assert str(refusal.value) == (
        f"results={store.location} holds no run.json; start the run again, what it finished is kept"
    )


KILLED = """
import inspect, os, random, signal, sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_store as t
from bench.store.local import LocalFiles

def work(directory):
    store = t.Store(directory)
    store.save_run(t.RUN)
    for start in (0, 1):
        t.save(store, start, 1)
    store.cell(t.KEY).save_features("e", t.make_batch(0).features["e"])
    store.commit(t.FAILED)
    store.commit(t.GOOD, keep_images=1)
    store.cell(t.KEY).replace(replace(t.GOOD, environment={}))

OURS = (inspect.getfile(t.Store), os.path.dirname(inspect.getfile(LocalFiles)))

def traced(line, everywhere):
    seen = [0]
    def trace(frame, event, arg):
        if not everywhere and not frame.f_code.co_filename.startswith(OURS):
            return None
        seen[0] += 1
        if seen[0] == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)
    return seen

directory = Path(sys.argv[1])
work(directory / "warm")
moments = []
for everywhere in (False, True):
    lines = traced(-1, everywhere)
    work(directory / f"whole-{everywhere}")
    sys.settrace(None)
    every_other = range(1, lines[0] + 1, 2)
    chosen = random.Random(0).sample(every_other, 15) if everywhere else every_other
    moments += [(line, everywhere) for line in chosen]
for i, moment in enumerate(moments):
    child = os.fork()
    if not child:
        traced(*moment)
        work(directory / f"killed-{i:03d}")
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def read_cleanly(store: Store) -> set[str]:
    """Return the content of a store; fails for anything incomplete."""
    there = set()
    with suppress(BenchError):
        assert store.run() == RUN
        there.add("run")
    for record in store.records():
        assert record in (FAILED, GOOD, replace(GOOD, environment={}))
        there.add(record.status)
    for start in (0, 1):
        if (batch := store.cell(KEY).load_batch(BATCHES, start)) is not None:
            assert np.array_equal(read_images(store.cell(KEY), range(start, start + 1)), make_images(start, 1))
            assert batch_images(store.cell(KEY), batch) is not None
            assert np.array_equal(batch.features["e"]["image"], make_batch(start, 1).features["e"]["image"])
            there.add("batch")
    if store.cell(KEY).has_features("e"):
        assert np.array_equal(store.cell(KEY).features("e")["image"], make_batch(0).features["e"]["image"])
        there.add("features")
    return there


def test_a_kill_at_any_moment_leaves_a_readable_store_that_can_be_resumed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent)]
    codes = subprocess.run(command, check=True, capture_output=True, text=True, timeout=900).stdout.split()
    killed = [path for path in sorted(tmp_path.glob("killed-*")) if Store.of_run(path)]
    assert set(codes) == {str(-signal.SIGKILL)}
    assert len(killed) > 0.8 * len(codes) > 80
    found: Counter[str] = Counter()
    for directory in killed:
        found.update(read_cleanly(Store(directory, writable=False)))
    assert all(found[what] > 5 for what in ("run", "error", "ok", "batch", "features")), found
    for directory in killed[::10]:
        store = Store(directory)
        save(store, 0, 1)
        store.commit(GOOD)
        assert "ok" in read_cleanly(store)


def overwrite(path: Path, old: bytes, new: bytes) -> None:
    """Change some bytes of a file."""
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


def test_a_record_whose_content_changed_is_found_by_its_hash_and_set_aside(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store.commit(GOOD)
    store.commit(replace(GOOD, key="other"))
    overwrite(folder(store) / "record.json", b'"steps": 4', b'"steps": 5')
    assert store.cell(KEY).record() is None
    assert quarantine_corrupt_records(store, [KEY, "other"]) == [f"cells/{KEY}/record.json"]
    assert "is damaged (its content does not have the hash that it was written with)" in capsys.readouterr().err
    assert (Path(store.location) / "damaged" / f"cells-{KEY}-record.json").exists()
    assert not (folder(store) / "record.json").exists()
    assert [record.key for record in store.records()] == ["other"]
    assert store.commit(GOOD)
    assert quarantine_corrupt_records(store, [KEY, "other"]) == []


@pytest.mark.parametrize("damage", [truncated, lambda path: overwrite(path, b"\x07" * 8, b"\x08" * 8), as_folder])
def test_damaged_features_are_named_in_one_sentence_and_set_aside(store: Store, damage: Callable[[Path], None]) -> None:
    store.save_run(RUN)
    store.commit(GOOD)
    store.cell(KEY).save_features("e", {"image": np.full((4, 8), 7, np.uint8)})
    damage(folder(store) / "features-e.npz")
    with pytest.raises(Damaged, match=r"features-e\.npz is damaged .* start the same tcd-bench run again"):
        store.cell(KEY).features("e")
    assert quarantine_corrupt_features(store, RUN) == [f"cells/{KEY}/features-e.npz"]
    assert not store.cell(KEY).has_features("e")
    assert [path.name for path in (Path(store.location) / "damaged").iterdir()] == [f"cells-{KEY}-features-e.npz"]


def test_features_belong_to_the_images_of_the_record(store: Store) -> None:
    store.commit(GOOD)
    for images, fine in (("s", True), ("0" * 64, False)):
        store.cell(KEY).save_features("e", {"image": np.ones((6, 2))}, images)
        if fine:
            assert store.features_of(GOOD, "e").keys() == {"image"}
        else:
            with pytest.raises(Damaged, match="other images"):
                store.features_of(GOOD, "e")


def test_a_record_of_another_version_is_refused_and_stays_where_it_is(store: Store) -> None:
    old = GOOD.to_json().replace('"schema": ', '"schema": 9')
    for text in (old, seal(f"cells/{KEY}/record.json", old.encode()).decode()):
        (folder(store)).mkdir(parents=True, exist_ok=True)
        (folder(store) / "record.json").write_text(text)
        assert quarantine_corrupt_records(store, [KEY]) == []
        with pytest.raises(BenchError, match="schema version 9"):
            store.cell(KEY).record()


def test_a_request_of_another_version_is_not_overwritten(store: Store) -> None:
    path = Path(store.location) / "run.json"
    path.write_text(RUN.to_json().replace('"schema": ', '"schema": 9'))
    before = path.read_bytes()
    for use in (store.run, lambda: store.save_run(RUN)):
        with pytest.raises(BenchError, match=r"run\.json has schema version 9"):
            use()
    assert path.read_bytes() == before


def swapped(name: str) -> str:
    """Another location of the store for a file of the same kind."""
    return name.replace(KEY, "other").replace("-e", "-other").replace("-r", "-other").replace("00000", "00003")


@pytest.mark.parametrize(
    "name", ["reference-r.npz", *(f"cells/{KEY}/{n}" for n in ("record.json", "features-e.npz", MARK))]
)
def test_a_file_copied_from_elsewhere_in_the_store_is_not_accepted(store: Store, name: str) -> None:
    save(store)
    store.commit(FAILED)
    store.cell(KEY).save_features("e", make_batch().features["e"])
    store.save_reference("r", np.ones((3, 2)))
    if name.endswith("record.json"):
        store.commit(GOOD)
    root, target = Path(store.location), swapped(name)
    (root / target).parent.mkdir(parents=True, exist_ok=True)
    (root / target).write_bytes((root / name).read_bytes())
    assert store.cell("other").record() is None
    assert store.cell("other").load_batch("other", 3) is None
    for read in (lambda: store.cell("other").features("other"), lambda: store.load_reference("other")):
        with suppress(Damaged):
            assert read() is None


def test_kept_images_are_those_of_the_record(store: Store) -> None:
    save(store)
    images = make_images()
    record = replace(GOOD, images=Images(3, 16, 24, "s", (*hash_images(images)[:2], "")))
    assert np.array_equal(kept_images(store, record, range(2)), images[:2])
    assert kept_images(store, record, range(1, 3)) is None, "a picture that was given up"
    assert kept_images(store, record, range(2, 5)) is None
    image_path(store, 0).write_bytes(image_path(store, 1).read_bytes())
    with pytest.raises(Damaged, match=r"00000\.png is damaged \(it is not the image that was sampled\)"):
        kept_images(store, record, range(2))
    image_path(store, 0).unlink()
    assert kept_images(store, record, range(2)) is None
    assert store.missing_images(record) == [0]
    for row in (1, 2):
        image_path(store, row).unlink()
    assert store.missing_images(record) == [], "the folder was removed to save space"


def test_a_damaged_or_stray_batch_is_sampled_again(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    save(store)
    batches = folder(store) / f"batches-{BATCHES}"
    for name in ("notes.npz", ".00000.npz.swp", "._00000.npz"):
        (batches / name).write_bytes(b"x")
    assert store.cell(KEY).batch_starts(BATCHES) == {0}
    for damage in (truncated, as_folder):
        damage(batches / "00000.npz")
        assert store.cell(KEY).load_batch(BATCHES, 0) is None
        assert store.cell(KEY).batch_starts(BATCHES) == set()
        save(store)
    assert capsys.readouterr().err.count("is damaged") == 2
    assert len(list((Path(store.location) / "damaged").iterdir())) == 2, "the first one was not overwritten"


@pytest.mark.parametrize(
    "in_the_way", ["cells", f"cells/{KEY}", f"cells/{KEY}/images", f"cells/{KEY}/batches-{BATCHES}"]
)
def test_a_file_in_the_place_of_a_folder_is_set_aside(store: Store, in_the_way: str) -> None:
    path = Path(store.location) / in_the_way
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    assert store.cell(KEY).record() is None
    batch = save(store)
    assert batch_images(store.cell(KEY), batch) is not None
    assert [kept.read_text() for kept in (Path(store.location) / "damaged").iterdir()] == ["mine"]


@pytest.mark.parametrize("name", [f"cells/{KEY}/images/00001.png", f"cells/{KEY}/features-e.npz", "run.json"])
def test_a_folder_in_the_place_of_a_file_is_set_aside(store: Store, name: str) -> None:
    (Path(store.location) / name).mkdir(parents=True)
    (Path(store.location) / name / "mine").touch()
    batch = save(store)
    store.cell(KEY).save_features("e", batch.features["e"])
    store.save_run(RUN)
    assert batch_images(store.cell(KEY), batch) is not None
    assert store.cell(KEY).features("e").keys() == batch.features["e"].keys()
    assert store.run() == RUN
    assert len(list((Path(store.location) / "damaged").glob("*/mine"))) == 1


def test_files_of_other_programs_in_the_store_are_ignored(store: Store) -> None:
    store.commit(GOOD)
    store.save_run(RUN)
    folders = ("cells", "launches", "workers", f"cells/{KEY}")
    for name in ("cells/notes.txt", *(f"{folder}/.DS_Store" for folder in folders)):
        (Path(store.location) / name).parent.mkdir(exist_ok=True)
        (Path(store.location) / name).write_bytes(b"\0\1")
    assert list(store.records()) == [GOOD]
    assert store.cell(".DS_Store").record() is None
    assert quarantine_corrupt_records(store, store.cell_keys()) == []
    assert Launch.latest(store.files) is None
    assert WorkerState.all_of(store.files, "x") == []


def test_damaged_launches_and_worker_states_are_skipped_and_reported(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        Launch(name, {}, (1.0,), (KEY,), 3, 0.0).save(store.files)
    Reporter(store.files, "a", "w", "cpu").say()
    assert [found.worker for found in WorkerState.all_of(store.files, "a")] == ["w"]
    for folder_ in ("launches/b", "workers/w"):
        overwrite(Path(store.location) / f"{folder_}.json", b'"images": ', b'"images": 1')
    assert Launch.latest(store.files).name == "a"
    assert "launches/b.json is damaged" in capsys.readouterr().err
    with pytest.raises(BenchError, match="is damaged"):
        Launch.load(store.files, "b")
    assert WorkerState.all_of(store.files, "a") == []
