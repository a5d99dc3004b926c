"""Prompts come in order with a hash of their text; a file that cannot be used is refused in one clear sentence."""

from collections import Counter
from pathlib import Path

import pytest

from bench.generate.prompts import load_prompts, shuffled
from bench.mini import world
from bench.records.errors import BenchError


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


def test_world_prompts_come_with_their_ground_truth() -> None:
    prompts = load_prompts("world", 20)
    assert prompts.texts == tuple(world.caption(scene) for scene in prompts.scenes)
    assert [scene.seed for scene in prompts.scenes] == list(world.SEEDS["prompts"][:20])
    assert all(scene.named for scene in prompts.scenes), "every prompt names something that can be right or wrong"
    assert (prompts.identity.source, prompts.identity.count) == ("world", 20)


def test_more_world_prompts_begin_with_the_same_prompts() -> None:
    assert load_prompts("world", 20).texts[:5] == load_prompts("world", 5).texts


def test_a_file_gives_its_first_lines_in_order_and_no_ground_truth(tmp_path: Path) -> None:
    source = write(tmp_path / "prompts.txt", "a cat\n\n  ein Käfer \r\n三只鸟\na dog")
    prompts = load_prompts(source, 3)
    assert prompts.texts == ("a cat", "ein Käfer", "三只鸟")
    assert prompts.scenes is None
    assert (prompts.identity.source, prompts.identity.count) == (source, 3)


def test_a_byte_order_mark_is_not_part_of_the_first_prompt(tmp_path: Path) -> None:
    assert load_prompts(write(tmp_path / "prompts.txt", b"\xef\xbb\xbfa cat\n"), 1).texts == ("a cat",)


def test_the_hash_depends_on_texts_only(tmp_path: Path) -> None:
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
    assert message == f"prompts.source={tmp_path}/nowhere.txt does not exist; give 'world' or a file of prompts"


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert "is a folder; give 'world' or a file" in refusal(str(tmp_path))


@pytest.mark.parametrize("content", ["", " \n\n\t\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(tmp_path: Path, content: str | bytes) -> None:
    message = refusal(write(tmp_path / "prompts.txt", content))
    assert message.endswith("holds no prompt; write one prompt per line")


@pytest.mark.parametrize(("encoding", "byte"), [("latin-1", 6), ("utf-16", 0)])
def test_a_file_in_another_encoding_is_refused_with_the_wrong_byte(tmp_path: Path, encoding: str, byte: int) -> None:
    source = write(tmp_path / "prompts.txt", "un café".encode(encoding))
    assert refusal(source).endswith(f"is not UTF-8 (byte {byte}); save it as UTF-8")


def test_a_file_that_is_too_short_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "prompts.txt", "a cat\n\na dog\n")
    message = refusal(source, count=3)
    assert message.endswith("holds 2 prompts but 3 were requested; set prompts.count to at most 2")
    assert len(load_prompts(source, 2).texts) == 2


COCO = (
    '{"annotations": [{"image_id": 9, "id": 5, "caption": "third"}, {"image_id": 3, "id": 8, "caption": "no"},'
    ' {"image_id": 3, "id": 2, "caption": " first\\n one"}]}'
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", 'id,caption\n1,"first one"\n2,third\n'),
        ("x.tsv", "Prompt\tCategory\nfirst one\tA\nthird\tB\n"),
        ("x.jsonl", '{"text": "first one"}\n\n{"text": "third"}\n'),
        ("x.json", COCO),
        ("x.ndjson", '{"caption": "first one"}\n{"caption": "third"}'),
        ("list.json", '["first one", "third"]'),
        ("rows.json", '[{"id": 1, "prompt": "first one"}, {"id": 2, "prompt": "third"}]'),
        ("x.txt", "first one\nthird\n"),
        ("x", "first one\nthird\n"),
    ],
)
def test_data_sets_come_in_several_forms(tmp_path: Path, name: str, content: str) -> None:
    assert load_prompts(write(tmp_path / name, content), 2).texts == ("first one", "third")


def test_a_column_is_named_or_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "x.csv", "id,words\n1,a cat\n")
    assert load_prompts(source, 1, column="words").texts == ("a cat",)
    assert "none of the columns prompt, caption, text, but id, words; name one" in refusal(source)
    with pytest.raises(BenchError, match="no column 'x', but id, words"):
        load_prompts(source, 1, column="x")


def test_a_template_takes_each_prompt_in(tmp_path: Path) -> None:
    source = write(tmp_path / "x.txt", "a cat\n")
    papered = load_prompts(source, 1, "papercut, {}")
    assert papered.texts == ("papercut, a cat",)
    assert papered.identity != load_prompts(source, 1).identity


def test_a_data_set_is_read_from_the_local_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    source = "dataset://owner/prompts/data/x.tsv"
    with pytest.raises(BenchError, match="hf download --repo-type dataset owner/prompts"):
        load_prompts(source, 1)
    root = tmp_path / "datasets--owner--prompts"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("abc")
    (root / "snapshots" / "abc" / "data").mkdir(parents=True)
    write(root / "snapshots" / "abc" / "data" / "x.tsv", "Prompt\na cat\n")
    assert load_prompts(source, 1).texts == ("a cat",)


SORTED = [f"{topic} {i}" for topic in ("cats", "dogs", "cars", "trees") for i in range(250)]


def sorted_file(tmp_path: Path) -> str:
    return write(tmp_path / "sorted.txt", "\n".join(SORTED))


def test_with_a_seed_prompts_of_a_file_come_in_an_order_that_begins_with_every_topic(tmp_path: Path) -> None:
    source = sorted_file(tmp_path)
    found = load_prompts(source, 100, seed=0)
    assert Counter(text.split()[0] for text in found.texts) == {"cats": 26, "dogs": 25, "cars": 23, "trees": 26}
    assert found.texts == tuple(SORTED[row] for row in found.rows)
    assert load_prompts(source, 100).texts == tuple(SORTED[:100]), "without one they are the first"
    assert load_prompts("world", 5, seed=3) == load_prompts("world", 5), "scenes of the world are independent"


def test_more_prompts_begin_with_the_fewer_prompts(tmp_path: Path) -> None:
    source = sorted_file(tmp_path)
    everything = load_prompts(source, 1000, seed=5)
    assert sorted(everything.texts) == sorted(SORTED)
    for count in (1, 100, 999):
        assert load_prompts(source, count, seed=5).texts == everything.texts[:count]
    assert load_prompts(source, 1000, seed=6).identity != everything.identity, "the order is part of the identity"


def test_the_order_of_a_seed_is_the_same_on_every_machine() -> None:
    assert shuffled(8, 0) == (4, 0, 6, 7, 2, 1, 5, 3)
    assert shuffled(4, None) == (0, 1, 2, 3)
    orders = Counter(shuffled(3, seed) for seed in range(600))
    assert len(orders) == 6
    assert min(orders.values()) > 70, "each order is as likely as any other"


def test_only_rows_that_have_an_input_are_taken(tmp_path: Path) -> None:
    found = load_prompts(sorted_file(tmp_path), 10, seed=0, among=20)
    assert sorted(found.rows)[-1] < 20
    assert sorted(load_prompts(sorted_file(tmp_path), 10, seed=0, among=3).rows) == list(range(10))
