"""Prompt files are read as their author wrote them, or refused with the wrong row."""

import csv
import io
import json
from pathlib import Path

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from bench.generate.prompt_files import read_prompts
from bench.generate.prompts import load_prompts
from bench.records.errors import BenchError

SEARCH = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True, database=None)
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 5\n"


def read(path: Path, content: str | bytes, **options: object) -> tuple[str, ...]:
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    return read_prompts(path, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "content", "prompts"),
    [
        ("quoted.tsv", 'Prompt\tNote\n"G I G" on a wall.\t\n', ('"G I G" on a wall.',)),
        ("whole.tsv", 'Prompt\tNote\n"STOP"\tX\n', ('"STOP"',)),
        ("space.csv", 'id,prompt\n1, "a red cube, on a table"\n', ("a red cube, on a table",)),
        ("inches.csv", 'id,prompt\n1,a 5" nail\n', ('a 5" nail',)),
        ("twice.csv", 'prompt\n"a ""stop"" sign"\n', ('a "stop" sign',)),
        ("over_lines.csv", 'prompt,id\n"a cat\nand a dog",1\n', ("a cat\nand a dog",)),
        ("blank_rows.csv", "prompt,id\n\na cat,1\n,\n", ("a cat",)),
        ("upper.csv", "TEXT,id\na cat,1\n", ("a cat",)),
        ("windows.csv", "prompt,id\r\na cat,1\r\n", ("a cat",)),
        ("separator.txt", "a red cube\u2028on a table\na ball\n", ("a red cube\u2028on a table", "a ball")),
        ("next_line.txt", "a cat\x85 sleeping\na dog\n", ("a cat\x85 sleeping", "a dog")),
        ("feed.txt", "a cat\x0c asleep\x1c here\n", ("a cat\x0c asleep\x1c here",)),
        ("separator.jsonl", '{"prompt": "a red cube\u2028on a table"}\n', ("a red cube\u2028on a table",)),
        ("words.tsv", "prompt\tid\nnull\t1\nNA\t2\nTrue\t3\n007\t4\n", ("null", "NA", "True", "007")),
        ("words.csv", "prompt\nnan\nNone\n1e5\n", ("nan", "None", "1e5")),
        ("ids.json", '{"annotations": [{"image_id": "10", "id": 1, "caption": "ten"},'
         '{"image_id": "9", "id": 2, "caption": "nine"}]}', ("nine", "ten")),
        ("mixed_ids.json", '{"annotations": [{"image_id": "10", "id": 1, "caption": "ten"},'
         '{"image_id": 9, "id": 2, "caption": "nine"}]}', ("nine", "ten")),
        ("blank.json", '{"annotations": [{"image_id": 1, "id": 1, "caption": "  "},'
         '{"image_id": 1, "id": 10, "caption": "worse"}, {"image_id": 1, "id": 2, "caption": "good"}]}', ("good",)),
    ],
)  # fmt: skip
def test_prompts_are_what_the_file_says(tmp_path: Path, name: str, content: str, prompts: tuple[str, ...]) -> None:
    assert read(tmp_path / name, content) == prompts


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "id,prompt\n1,a cat\n2,a red cube, on a table\n", "line 3 has 3 fields where the header has 2"),
        ("x.csv", "id,prompt\n1,a cat\n2\n", "row at line 3 has 1 fields where the header has 2"),
        ("x.csv", "id,prompt\n1,\n", "row at line 2 holds no prompt"),
        ("x.csv", 'prompt,id\n"a\nb",1\n ,2\n', "row at line 4 holds no prompt"),
        ("x.csv", "prompt,prompt\na,b\n", "several columns that may hold the prompts (prompt, prompt); rename"),
        ("x.csv", "prompt,text\na,b\n", "several columns that may hold the prompts (prompt, text); name one"),
        ("x.csv", 'prompt,id\n"G I G" on a wall,1\n', "line 2 cannot be read"),
        ("x.csv", 'prompt,id\n"never closed,1\n', "line 2 cannot be read"),
        ("x.csv", "prompt\ra cat\ra dog\r", "line 1 holds a carriage return"),
        ("x.tsv", "prompt\tid\na cat\ton a mat\t1\n", "row at line 2 has 3 fields"),
        ("x.txt", "a cat\na\rdog\n", "line 2 holds a carriage return"),
        ("x.txt", "a cat\na\0dog\n", "line 2 holds a character that is not text"),
        ("x.jsonl", '{"prompt": "a"}\n{"prompt": null}\n', "row at line 2 holds nothing where a prompt is expected"),
        ("x.jsonl", '{"caption": {"raw": "a man"}}\n', "row at line 1 holds dict {'raw': 'a man'}"),
        ("x.jsonl", '{"prompt": 5}\n', "row at line 1 holds int 5"),
        ("x.jsonl", '{"prompt": true}\n', "row at line 1 holds bool True"),
        ("x.jsonl", '{"prompt": "a"}\n\n{"text": "b"}\n', "row at line 3 has no 'prompt'"),
        ("x.jsonl", '{"prompt": "a", "text": "b"}\n', "several columns"),
        ("x.jsonl", '{"prompt": "a", "prompt": "b"}\n', "a name occurs twice"),
        ("x.jsonl", '{"prompt": "broken \\ud83d end"}\n', "row at line 1 holds a character that is not text"),
        ("x.jsonl", '{"prompt": "a", "id": ' + 5000 * "9" + "}\n", "row at line 1 is not JSON"),
        ("x.jsonl", "a cat\n", "row at line 1 is not JSON"),
        ("x.jsonl", '{"prompt": "a"}\n["b"]\n', "row at line 2 is not an object"),
        ("x.json", '{"prompt": "a"}\n{"prompt": "b"}\n', "holds an object per line; rename it to .jsonl"),
        ("x.json", 100_000 * "[", "is not JSON"),
        ("x.json", "{", "its content is not JSON"),
        ("x.json", '{"images": []}', "JSON of an unknown shape"),
        ("x.json", '["a", 5]', "entry 2 holds int 5"),
        ("x.json", '["a", {"prompt": "b"}]', "entry 2 holds dict"),
        ("x.json", '{"annotations": [{"image_id": 1, "id": 1, "caption": null}]}', "annotation 1 holds nothing"),
        ("x.json", '{"annotations": [{"image_id": 1, "id": 1, "caption": ["a"]}]}', "annotation 1 holds list ['a']"),
        ("x.json", '{"annotations": [{"image_id": 1, "id": 1, "caption": " "}]}', "image 1 holds no prompt"),
        ("x.json", '{"annotations": [{"image_id": 1, "caption": "a"}]}', "annotation 1 has no 'id'"),
        ("x.json", '{"annotations": [{"image_id": 1.5, "id": 1, "caption": "a"}]}', "annotation 1 has image_id=1.5"),
        ("x.json", '{"annotations": [{"image_id": 1, "id": 1, "caption": "a"},'
         '{"image_id": "x", "id": 2, "caption": "b"}]}', "cannot be ordered"),
        ("x.json", '{"annotations": []}', "holds no prompt"),
        ("x.txt", LFS, "is a Git LFS pointer"),
        ("x.parquet", LFS, "is a Git LFS pointer"),
        ("x.parquet", "PAR1 and nothing else", "is not a .parquet file"),
        ("x.xlsx", "", "ends in .xlsx, which is not supported; give a file that ends in one of .txt, .csv"),
    ],
)  # fmt: skip
def test_values_that_are_not_prompts_are_refused_with_their_row(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    with pytest.raises(BenchError) as caught:
        read(tmp_path / name, content)
    said = str(caught.value)
    assert said.startswith(f"prompts.source={tmp_path / name} ")
    assert message in said
    assert "\n" not in said
    assert len(said) < 400 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (["a cat", None], pyarrow.string(), "row 2 holds nothing"),
        ([b"a cat"], pyarrow.binary(), "row 1 holds bytes b'a cat'"),
        ([5], pyarrow.int64(), "row 1 holds int 5"),
        ([["a"]], pyarrow.list_(pyarrow.string()), "row 1 holds list"),
    ],
)
def test_a_parquet_column_holds_text(
    tmp_path: Path, values: list[object], kind: pyarrow.DataType, message: str
) -> None:
    parquet.write_table(pyarrow.table({"caption": pyarrow.array(values, kind)}), tmp_path / "x.parquet")
    with pytest.raises(BenchError, match=message):
        read_prompts(tmp_path / "x.parquet")


def test_fields_of_a_tsv_are_quoted_on_request(tmp_path: Path) -> None:
    content = 'prompt\tid\n"a ""stop"" sign"\t1\n'
    assert read(tmp_path / "x.tsv", content, quoted=True) == ('a "stop" sign',)
    assert read(tmp_path / "x.tsv", content) == ('"a ""stop"" sign"',)
    assert read(tmp_path / "x.csv", 'prompt,id\n"a",1\n', quoted=False) == ('"a"',)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("world", {"column": "prompt"}, "world has no columns"),
        ("bench://generate/everyday.txt", {"column": "prompt"}, "plain text, which has no columns"),
        ("bench://generate/everyday.txt", {"quoted": True}, r"not a \.csv or \.tsv"),
        ("dataset://x", {}, "name a file, as in dataset://owner/name/"),
        ("dataset://owner/name", {}, "name a file, as in dataset://owner/name/"),
        ("dataset://owner/name/../../secret.txt", {}, "name a file, as in dataset://owner/name/"),
    ],
)
def test_settings_that_do_not_fit_the_source_are_refused(source: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        load_prompts(source, 1, **options)  # type: ignore[arg-type]


ANY_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).filter(str.strip)
LINE = ANY_TEXT.filter(lambda text: not {"\r", "\n"} & {*text})
FIELD = LINE.filter(lambda text: "\t" not in text)


def written(path: Path, texts: list[str], line_end: str) -> bytes:
    """Return the texts in the format of a file's ending, written by an independent library."""
    rows = [{"id": i, "prompt": text} for i, text in enumerate(texts)]
    if path.suffix == ".csv":
        file = io.StringIO(newline="")
        table = csv.DictWriter(file, ["id", "prompt"], lineterminator=line_end)
        table.writeheader()
        table.writerows(rows)
        return file.getvalue().encode()
    if path.suffix == ".parquet":
        sink = io.BytesIO()
        parquet.write_table(pyarrow.table({"prompt": texts}), sink)
        return sink.getvalue()
    lines = {
        ".txt": lambda: texts,
        ".tsv": lambda: ["id\tprompt", *(f"{row['id']}\t{row['prompt']}" for row in rows)],
        ".jsonl": lambda: [json.dumps(row, ensure_ascii=len(texts) % 2 == 0) for row in rows],
        ".json": lambda: [json.dumps(rows)],
    }[path.suffix]()
    return line_end.join(lines).encode()


@pytest.mark.parametrize("ending", [".txt", ".tsv", ".csv", ".jsonl", ".json", ".parquet"])
def test_written_files_are_read_back_or_refused(tmp_path: Path, ending: str) -> None:
    own = {".txt": LINE, ".tsv": FIELD}.get(ending, ANY_TEXT)

    @settings(SEARCH, max_examples=150)
    @given(st.lists(own, min_size=1, max_size=5), st.sampled_from(["\n", "\r\n"]), st.booleans())
    def check(texts: list[str], line_end: str, mark: bool) -> None:
        path = tmp_path / f"x{ending}"
        content = written(path, texts, line_end)
        try:
            found = read(path, b"\xef\xbb\xbf" + content if mark and ending != ".parquet" else content)
        except BenchError as error:
            assert ending == ".csv" and "\r" in "".join(texts), str(error)  # noqa: PT018, PT017
        else:
            assert found == tuple(text.strip() for text in texts)

    check()


def test_no_content_ends_in_a_traceback(tmp_path: Path) -> None:
    @settings(SEARCH, max_examples=300)
    @given(st.binary(max_size=200), st.sampled_from([".txt", ".tsv", ".csv", ".jsonl", ".json", ".parquet"]))
    def check(content: bytes, ending: str) -> None:
        try:
            prompts = read(tmp_path / f"x{ending}", content)
        except BenchError:
            return
        assert all(prompt and prompt == prompt.strip() for prompt in prompts)

    check()
