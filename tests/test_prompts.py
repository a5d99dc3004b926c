"""Prompts come in order with a hash of their text; a file that cannot be used is refused in one clear sentence."""

import re
from pathlib import Path

import pytest

from bench.generate.prompts import load_prompts
from bench.mini import world
from bench.records import BenchError


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def refusal(source: str, count: int = 1) -> str:
    with pytest.raises(BenchError) as caught:
        load_prompts(source, count)
    message = str(caught.value)
    assert message.startswith(f"prompts.source={source} "), "the setting and its value come first"
    assert "\n" not in message
    return message


def test_world_prompts_come_with_the_truth_about_them() -> None:
    prompts = load_prompts("world", 20)
    assert prompts.scenes is not None
    assert prompts.texts == tuple(world.caption(scene) for scene in prompts.scenes)
    assert [scene.seed for scene in prompts.scenes] == list(world.SEEDS["prompts"][:20])
    assert all(scene.named for scene in prompts.scenes), "every prompt names something that can be right or wrong"
    assert (prompts.identity.source, prompts.identity.count) == ("world", 20)


def test_more_world_prompts_begin_with_the_same_ones() -> None:
    assert load_prompts("world", 20).texts[:5] == load_prompts("world", 5).texts


def test_a_file_gives_its_first_lines_in_order_and_no_truth(tmp_path: Path) -> None:
    source = write(tmp_path / "prompts.txt", "a cat\n\n  ein Käfer \r\n三只鸟\na dog")
    prompts = load_prompts(source, 3)
    assert prompts.texts == ("a cat", "ein Käfer", "三只鸟")
    assert prompts.scenes is None
    assert (prompts.identity.source, prompts.identity.count) == (source, 3)


def test_a_byte_order_mark_is_no_part_of_the_first_prompt(tmp_path: Path) -> None:
    assert load_prompts(write(tmp_path / "prompts.txt", b"\xef\xbb\xbfa cat\n"), 1).texts == ("a cat",)


def test_the_hash_tells_texts_apart_and_nothing_else(tmp_path: Path) -> None:
    def text_hash(name: str, content: str, count: int = 2) -> str:
        return load_prompts(write(tmp_path / name, content), count).identity.text_hash

    original = text_hash("a.txt", "a cat\na dog\n")
    assert text_hash("b.txt", "a cat\r\n\na dog") == original
    others = [
        text_hash("c.txt", "a dog\na cat\n"),
        text_hash("d.txt", "a cat\na Dog\n"),
        text_hash("e.txt", "a ca\nta dog\n"),
        text_hash("a.txt", "a cat\na dog\n", count=1),
    ]
    assert len({original, *others}) == 5


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    message = refusal(str(tmp_path / "nowhere.txt"))
    assert message.endswith("cannot be read (No such file or directory); give 'world' or a UTF-8 text file")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert "cannot be read (Is a directory)" in refusal(str(tmp_path))


@pytest.mark.parametrize("content", ["", " \n\n\t\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(tmp_path: Path, content: str | bytes) -> None:
    message = refusal(write(tmp_path / "prompts.txt", content))
    assert message.endswith("holds no prompt; write one prompt a line")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_file_in_another_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    source = write(tmp_path / "prompts.txt", "un café".encode(encoding))
    assert re.search(r"is not UTF-8 \(byte \d+\); save it as UTF-8$", refusal(source))


def test_the_byte_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    assert "(byte 6)" in refusal(write(tmp_path / "prompts.txt", "un café".encode("latin-1")))


def test_a_file_that_is_too_short_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "prompts.txt", "a cat\n\na dog\n")
    message = refusal(source, count=3)
    assert message.endswith("holds 2 prompts and 3 were asked for; set prompts.count to at most 2")
    assert len(load_prompts(source, 2).texts) == 2
