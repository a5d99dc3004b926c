"""Files on a disk, in an object store, and where the disk is full or the store out of reach."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.files import Files, LocalFiles, PatientFiles, open_files
from bench.records import BenchError, StoreError


@pytest.fixture(params=["local", "remote"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Files]:
    if request.param == "local":
        yield open_files(tmp_path / "run")
    else:
        made = open_files("memory://bucket/run")
        yield made
        made.remove("")


def test_what_is_written_is_read_whatever_was_there(files: Files) -> None:
    for content in (b"one", b"two", b""):
        files.write("a/b/c", content)
        assert files.read("a/b/c") == content
    assert files.exists("a/b/c")
    assert files.exists("a")
    assert not files.exists("a/b/x")


def test_what_is_not_there_is_a_file_not_found(files: Files) -> None:
    with pytest.raises(FileNotFoundError):
        files.read("none")
    files.remove("none")
    assert files.names("none") == []
    assert list(files.tree("none")) == []


def test_only_the_first_creates(files: Files) -> None:
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
    """Time passes while one sleeps."""

    now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def patient(tmp_path: Path, error: OSError, times: int, patience_s: float = 60) -> tuple[PatientFiles, Clock]:
    clock = Clock()
    troubled: Any = Troubled(LocalFiles(tmp_path), error, times)
    return PatientFiles(troubled, patience_s, clock.sleep, lambda: clock.now), clock


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", [FULL, OSError(errno.EIO, "EndpointConnectionError"), ConnectionResetError("gone")])
def test_trouble_that_passes_is_waited_for_and_said_once(
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


def test_what_waiting_does_not_mend_is_not_waited_for(tmp_path: Path) -> None:
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
        assert not list(disk.glob("*.partial")), "a full disk needs the room"
        clock = Clock()
        waits = PatientFiles(files, 60, lambda _: files.remove("a"), lambda: clock.now)
        waits.write("b", b"y" * 60_000)
        assert files.read("b") == b"y" * 60_000
    finally:
        subprocess.run(["umount", str(disk)], check=True)  # noqa: S607


def test_the_kind_of_files_follows_from_the_location(tmp_path: Path) -> None:
    kinds: list[Callable[[], Files]] = [lambda: open_files(tmp_path), lambda: open_files(str(tmp_path))]
    assert all(isinstance(make(), LocalFiles) for make in kinds)
    assert open_files("memory://bucket/run/").location == "memory://bucket/run"
