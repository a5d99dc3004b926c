"""Files on a disk and in an object store, on a full disk, and with an unreachable store."""

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from bench.records.errors import BenchError, Corrupt, StoreError
from bench.store.files import Files
from bench.store.local import _HOST, PARTIAL, LocalFiles
from bench.store.retrying import RetryingFiles
from bench.store.sealed import pack_arrays, seal, unseal
from bench.store.store import open_files


@pytest.fixture(params=["local", "remote"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Files]:
    if request.param == "local":
        yield open_files(tmp_path / "run")
    else:
        made = open_files("memory://bucket/run")
        yield made
        made.remove("")


def test_written_content_is_read_back_over_any_previous_content(files: Files) -> None:
    for content in (b"one", b"two", b""):
        files.write("a/b/c", content)
        assert files.read("a/b/c") == content
    assert files.exists("a/b/c")
    assert files.exists("a")
    assert not files.exists("a/b/x")


def test_a_missing_file_raises_file_not_found(files: Files) -> None:
    with pytest.raises(FileNotFoundError):
        files.read("none")
    files.remove("none")
    assert files.names("none") == []
    assert list(files.tree("none")) == []


def test_only_the_first_writer_creates(files: Files) -> None:
    assert files.create("a", b"first")
    assert not files.create("a", b"second")
    assert files.read("a") == b"first"


def test_names_and_tree_are_sorted_and_relative_to_the_root(files: Files) -> None:
    for name in ("b/2", "b/1", "a", "b/c/3"):
        files.write(name, b"x")
    assert files.names("b") == ["1", "2", "c"]
    assert list(files.tree("b")) == ["b/1", "b/2", "b/c/3"]
    assert sorted(files.tree("")) == ["a", "b/1", "b/2", "b/c/3"]


def test_a_folder_is_removed_with_all_that_is_in_it(files: Files) -> None:
    files.write("b/c/3", b"x")
    files.write("b2", b"x")
    files.remove("b")
    assert list(files.tree("")) == ["b2"]


def test_a_url_with_credentials_is_refused_and_not_repeated() -> None:
    with pytest.raises(BenchError) as refusal:
        open_files("s3://key:hunter2hunter2@bucket/run")
    assert "leave them out" in str(refusal.value)
    assert "hunter2" not in str(refusal.value)


def test_a_url_of_no_known_kind_is_refused_in_one_sentence() -> None:
    with pytest.raises(BenchError, match=r"results=nonsense://x cannot be opened .*`pip install tcd-bench\[remote\]`"):
        open_files("nonsense://x")


class Troubled:
    """Files whose operations fail for a while."""

    def __init__(self, files: Files, error: OSError, times: int) -> None:
        self._files, self._error, self._times = files, error, times

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._files, name)
        if not callable(attribute):
            return attribute

        def call(*arguments: Any) -> Any:
            if self._times:
                self._times -= 1
                raise self._error
            return attribute(*arguments)

        return call


class Clock:
    """Let time pass during sleep."""

    now = 0.0
    pauses = 0

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses += 1


def patient(tmp_path: Path, error: OSError, times: int, store_retry_s: float = 60) -> tuple[RetryingFiles, Clock]:
    clock = Clock()
    troubled: Any = Troubled(LocalFiles(tmp_path), error, times)
    return RetryingFiles(troubled, store_retry_s, clock.sleep, lambda: clock.now), clock


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", [FULL, OSError(errno.EIO, "EndpointConnectionError"), ConnectionResetError("gone")])
def test_temporary_trouble_is_waited_for_and_reported_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: OSError
) -> None:
    files, _ = patient(tmp_path, error, times=5)
    files.write("a", b"x")
    assert files.read("a") == b"x"
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "trying again for up to 60 s" in said[0]
    assert "back again" in said[1]


def test_trouble_that_lasts_ends_with_one_sentence(tmp_path: Path) -> None:
    files, clock = patient(tmp_path, FULL, times=10**6)
    with pytest.raises(
        StoreError, match=r"No space left on device.* after 6. s; make room .* what it finished is kept"
    ):
        files.write("a", b"x")
    assert 60 <= clock.now < 62
    assert clock.pauses < 20, "it asks less and less often"


def test_errors_that_waiting_cannot_fix_are_not_waited_for(tmp_path: Path) -> None:
    files, clock = patient(tmp_path, PermissionError(errno.EACCES, "Permission denied"), times=10**6)
    with pytest.raises(StoreError, match="Permission denied"):
        files.write("a", b"x")
    with pytest.raises(FileNotFoundError):
        patient(tmp_path, FULL, times=0)[0].read("none")
    assert clock.now == 0


@pytest.mark.skipif(not Path("/dev/full").exists() or os.geteuid() != 0, reason="needs root to mount a small disk")
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    import subprocess

    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], check=False)  # noqa: S607
    if mounted.returncode:
        pytest.skip("cannot mount here")
    try:
        files = LocalFiles(disk)
        files.write("a", b"x" * 30_000)
        with pytest.raises(OSError, match=r"No space left"):
            files.write("b", b"y" * 60_000)
        assert list(files.tree("")) == ["a"]
        assert not list(disk.glob("*partial")), "a full disk needs the room"
        clock = Clock()
        waits = RetryingFiles(files, 60, lambda _: files.remove("a"), lambda: clock.now)
        waits.write("b", b"y" * 60_000)
        assert files.read("b") == b"y" * 60_000
    finally:
        subprocess.run(["umount", str(disk)], check=True)  # noqa: S607


def test_the_kind_of_files_follows_from_the_location(tmp_path: Path) -> None:
    kinds: list[Callable[[], Files]] = [lambda: open_files(tmp_path), lambda: open_files(str(tmp_path))]
    assert all(isinstance(make(), LocalFiles) for make in kinds)
    assert open_files("memory://bucket/run/").location == "memory://bucket/run"


def test_several_files_are_written_together_or_not_at_all(files: Files) -> None:
    files.write_all({"a": b"1", "b/c": b"2"})
    assert (files.read("a"), files.read("b/c")) == (b"1", b"2")


@pytest.mark.parametrize("trouble", ["folder", "full"])
def test_where_one_of_several_files_cannot_be_written_the_old_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    files = RetryingFiles(LocalFiles(tmp_path), 0)
    files.write_all({"a": b"old", "b": b"old"})
    new = {"a": b"new", "b": b"new", "c": b"new"}
    if trouble == "folder":
        (tmp_path / "c").mkdir()
        (tmp_path / "c" / "mine").touch()
    else:
        written: list[int] = []

        def fill(_: int) -> None:
            written.append(1)
            if len(written) == 3:
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", fill)
    with pytest.raises(StoreError, match="c is a folder" if trouble == "folder" else "No space left") as refusal:
        files.write_all(new)
    assert "\n" not in str(refusal.value)
    assert (files.read("a"), files.read("b")) == (b"old", b"old")
    assert not list(tmp_path.rglob("*partial"))


def test_a_file_is_moved_with_its_content_and_a_folder_with_all_that_is_in_it(files: Files) -> None:
    files.write("a/b", b"x")
    files.write("c", b"y")
    files.move("c", "d/e")
    files.move("a", "d/a")
    assert sorted(files.tree("")) == ["d/a/b", "d/e"]


@pytest.mark.parametrize("operation", ["write", "create", "remove", "move"])
def test_nothing_is_changed_through_a_link_that_leads_elsewhere(tmp_path: Path, operation: str) -> None:
    root, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    (elsewhere / "images").mkdir(parents=True)
    (elsewhere / "images" / "thesis.png").write_text("mine")
    (root / "cells").mkdir(parents=True)
    (root / "cells" / "a").symlink_to(elsewhere, target_is_directory=True)
    files = RetryingFiles(LocalFiles(root), 60)
    act: dict[str, Callable[[], object]] = {
        "write": lambda: files.write("cells/a/record.json", b"{}"),
        "create": lambda: files.create("cells/a/record.json", b"{}"),
        "remove": lambda: files.remove("cells/a/images"),
        "move": lambda: files.move("cells/a/images", "damaged/images"),
    }
    with pytest.raises(StoreError, match="a link leads out of the results there"):
        act[operation]()
    assert [path.relative_to(elsewhere).as_posix() for path in elsewhere.rglob("*")] == ["images", "images/thesis.png"]
    files.remove("cells/a")
    assert (elsewhere / "images" / "thesis.png").exists(), "the link is removed, and not what it leads to"
    assert files.names("cells") == []


def test_a_link_in_the_place_of_a_file_is_replaced_and_the_root_may_be_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk", target_is_directory=True)
    (tmp_path / "thesis.txt").write_text("mine")
    (tmp_path / "disk" / "a").symlink_to(tmp_path / "thesis.txt")
    files = LocalFiles(tmp_path / "run")
    files.write("a", b"x")
    assert (tmp_path / "disk" / "a").read_bytes() == b"x"
    assert not (tmp_path / "disk" / "a").is_symlink()
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_only_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    ours = f"record.json.elsewhere-1-{'0' * 32}{PARTIAL}"
    foreign = (
        *("film.mp4.partial", f"x{PARTIAL}", f"a.elsewhere-1-{'0' * 32}.partial", "a-b-c.partial"),
        *(f"mine/{ours}", f"cells/a/notes{PARTIAL}"),
    )
    for name in (f"cells/a/{ours}", ours, *foreign):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / "cells" / "link").symlink_to(tmp_path / "mine", target_is_directory=True)
    LocalFiles(tmp_path).sweep()
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left - {f"cells/link/{ours}"} == set(foreign)


def test_a_writer_of_this_machine_that_lives_keeps_its_file_and_one_that_died_does_not(tmp_path: Path) -> None:
    begun = psutil.Process().create_time()
    writers = {
        "alive": (f"{_HOST}-{os.getpid()}", begun + 1),
        "a later process of the same number": (f"{_HOST}-{os.getpid()}", begun - 100),
        "dead": (f"{_HOST}-{2**22 + 1}", begun + 1),
        "of another machine": (f"elsewhere-{2**22 + 1}", time.time()),
        "of another machine, long ago": ("elsewhere-1", time.time() - 90_000),
    }
    left = set()
    for name, (writer, written) in writers.items():
        path = tmp_path / f"a.{writer}-{'0' * 32}{PARTIAL}"
        path.touch()
        os.utime(path, (written, written))
        LocalFiles(tmp_path).sweep()
        left |= {name} if path.exists() else set()
    assert left == {"alive", "of another machine"}


def test_json_of_another_version_is_reported() -> None:
    with pytest.raises(BenchError, match="schema"):
        unseal("run.json", b'{"schema": 1, "name": "x"}')
    with pytest.raises(Corrupt):
        unseal("run.json", b'{"schema": 1, "name": "x"')


def test_a_folder_in_place_of_a_file_is_detected_and_a_file_in_place_of_a_folder_is_empty(
    tmp_path: Path,
) -> None:
    files = LocalFiles(tmp_path)
    files.write("a/b", b"x")
    with pytest.raises(Corrupt, match="a folder is in its place"):
        files.read("a")
    with pytest.raises(FileNotFoundError):
        files.read("a/b/c")
    assert files.names("a/b") == []
    with pytest.raises(NotADirectoryError):
        files.write("a/b/c", b"x")


ABOUT = "ab" * 32


def sealed_samples() -> dict[str, tuple[bytes, str]]:
    """Sealed content by name, with its `about`."""
    arrays = {"image": np.arange(6.0).reshape(2, 3), "n": np.arange(2)}
    text = b'{\n "name": "\xc3\xa4",\n "sha256": 1,\n "n": [1.5, 2]\n}\n'
    return {
        "run.json": (seal("run.json", text), ""),
        "cells/a/record.json": (seal("cells/a/record.json", b'{"a": 1}'), ""),
        "cells/a/features-e.npz": (pack_arrays("cells/a/features-e.npz", arrays, ABOUT), ABOUT),
        "reference-r.npz": (pack_arrays("reference-r.npz", arrays), ""),
    }


@pytest.mark.parametrize("name", sealed_samples())
def test_sealed_content_is_plainly_readable_and_only_accepted_unchanged(name: str, tmp_path: Path) -> None:
    content, about = sealed_samples()[name]
    found = unseal(name, content, about)
    if name.endswith(".json"):
        assert json.loads(content)["sha256"] != json.loads(found).get("sha256")
    else:
        (tmp_path / "a.npz").write_bytes(content)
        with np.load(tmp_path / "a.npz") as arrays:
            assert arrays["image"].shape == (2, 3)
    if about:
        with pytest.raises(Corrupt, match="other images"):
            unseal(name, content, "cd" * 32)
    with pytest.raises(Corrupt, match="hash that it was written with"):
        unseal(name.replace("cells/a", "cells/b").replace("r", "s", 1), content, about)
    for changed in (content[:-1], content[1:], content + b" ", content[: len(content) // 2], b"", content * 2):
        with pytest.raises(Corrupt):
            unseal(name, changed, about)


@pytest.mark.parametrize("name", sealed_samples())
def test_no_flipped_bit_is_accepted(name: str) -> None:
    content, about = sealed_samples()[name]
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        for said in {about, ""}:
            with pytest.raises(Corrupt):
                unseal(name, bytes(flipped), said)


def test_only_objects_and_archives_are_sealed() -> None:
    for name, content in (("a.json", b"[1]"), ("a.npz", b"x"), ("a.npz", sealed_samples()["reference-r.npz"][0])):
        with pytest.raises(ValueError, match=name):
            seal(name, content)
