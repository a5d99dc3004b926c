"""Every command, file and Python example of README and docs is run, on one finished run of the miniature.

A comment above a block says how: `<!-- docs-test: plan -->` runs its `tcd-bench run` as `plan` (it would need a GPU, a
download or minutes), `compose` and `not run` only compose its settings, `exit 1` expects that exit code;
`shown` compares a block with what the commands before it printed, but for numbers.
Blocks that begin with a comment that names a file are written to that file.
"""

import doctest
import importlib
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.__main__ import main
from bench.experiment.compose import compose_settings

PROJECT = Path(__file__).parents[1]
PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:^ *<!-- docs-test: (?P<how>[^>]+?) -->\n)?^(?P<indent> *)```(?P<language>\w+)\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
FILE = re.compile(r"# (\S+\.(?:yaml|py))\n")
OTHER_PROGRAMS = {"export", "git", "cd", "pytest", "python"}
SMALL = ["prompts.count=16", "reference.count=64"]


@dataclass(frozen=True)
class Block:
    """A fenced block, with how it is to be tested."""

    page: str
    how: str
    language: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command."""
        return [
            shlex.split(line, comments=True) for line in self.text.replace("\\\n", " ").splitlines() if line.strip()
        ]


def blocks_of(page: Path) -> Iterator[Block]:
    for found in BLOCK.finditer(page.read_text(encoding="utf-8")):
        indent = len(found["indent"])
        text = "".join(line[indent:] if line.strip() else line for line in found["text"].splitlines(keepends=True))
        yield Block(str(page.relative_to(PROJECT)), found["how"] or "", found["language"], text)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SHELL = [block for block in BLOCKS if block.language in ("bash", "console", "sh")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with a finished run, the files that the pages show, and substitutes for what they name."""
    place = tmp_path_factory.mktemp("docs-commands")
    home = place / "home"
    weights = PROJECT / "bench" / "mini" / "weights"
    (home / "loras").mkdir(parents=True)
    shutil.copytree(weights / "teacher", home / "models" / "mine")
    shutil.copy(weights / "tcd-lora" / "pytorch_lora_weights.safetensors", home / "loras" / "my_tcd_v3.safetensors")
    (place / "prompts.txt").write_text("a red cube\na blue ball\na cat\na dog\n", encoding="utf-8")
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 255, (64, 64, 3), np.uint8)
        (place / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(place / "photos" / f"{i}.png")
    write_files(BLOCKS, place)
    shutil.copytree(PROJECT / "results" / "conformance", place / "results" / "conformance")
    (place / "tests" / "conformance").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("HOME", str(home))
        patch.setenv("HF_HUB_OFFLINE", "1")
        assert main(["run", "experiment=smoke", *SMALL]) == 0
        yield place


def without_numbers(text: str) -> list[str]:
    return [" ".join(re.sub(r"\d[\d.,]*", "0", line).split()) for line in text.splitlines()]


def write_files(blocks: Iterable[Block], place: Path) -> None:
    for block in blocks:
        if named := FILE.match(block.text):
            path = place / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({block.page for block in SHELL}))
def test_the_commands_of_a_page_run(page: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = [block for block in BLOCKS if block.page == page]
    write_files(own, place)
    for block in own:
        if block in SHELL:
            capsys.readouterr()
            for words in block.commands:
                check(words, block.how, place, capsys)
        elif block.how == "shown":  # by the commands before it
            said = without_numbers(capsys.readouterr().out)
            assert [line for line in without_numbers(block.text) if line not in said] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_within_the_text_can_be_composed_or_planned(
    page: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Return them with those of the table of the guide's rows; placeholders are left out."""
    for command in re.findall(r"(?<!`)`(tcd-bench \w+ [^`…<]+)`(?!`)", page.read_text(encoding="utf-8")):
        if "--" not in command:
            check(shlex.split(command), "plan" if "experiment=guide" in command else "compose", place, capsys)


def test_the_results_page_lists_every_file_of_a_run(place: Path) -> None:
    page = (PROJECT / "docs" / "reference" / "results.md").read_text(encoding="utf-8")
    run = place / "results" / "smoke"
    cell = next((run / "cells").iterdir())
    found = [*run.iterdir(), *cell.iterdir()]
    names = [re.sub(r"-[0-9a-f]{16}", "-<hash>", path.name) for path in found if path.name != "cells"]
    listed = page.replace("<identity>", "<hash>")
    assert [name for name in names if f"{name}`" not in listed and f"{name}/`" not in listed] == []


def check(words: list[str], how: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, *arguments = words
    assert how in ("", "plan", "compose", "not run", "exit 0", "exit 1"), how
    if program == "tcd-bench":
        expected = int(how.removeprefix("exit ")) if how.startswith("exit") else 0
        arguments = [word.replace("s3://bucket", str(place / "bucket")) for word in arguments]
        if how == "plan":
            arguments[0] = "plan"
        elif how in ("compose", "not run"):
            arguments += ["--cfg", "job"]
        elif arguments[:2] == ["run", "experiment=smoke"]:
            arguments += SMALL
        assert main(arguments) == expected, (words, capsys.readouterr().err)
        return
    script = next((word for word in words if word.removeprefix("./").startswith("scripts/")), None)
    if script is not None:
        assert (PROJECT / script).is_file(), words
        overrides = [word for word in words[words.index(script) + 1 :] if "=" in word and word[:1] != "-"]
        assert compose_settings(overrides)
    elif program == "pip":
        check_extras(arguments)
    else:
        assert program in OTHER_PROGRAMS, f"{words}: say in the test how this is checked"


def check_extras(arguments: list[str]) -> None:
    known = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in arguments:
        for extra in re.findall(r"\[(.*?)\]", word):
            assert {*extra.split(",")} <= known["optional-dependencies"].keys(), word


def test_extras_named_in_the_text_exist() -> None:
    for page in PAGES:
        check_extras(re.findall(r"tcd-bench(?:\[[\w,]+\])", page.read_text(encoding="utf-8")))


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({b.page for b in BLOCKS if b.language == "python"}))
def test_python_examples_run(page: str, place: Path) -> None:
    for block in BLOCKS:
        if block.page == page and block.language == "python":
            exec(compile(block.text, f"<{page}>", "exec"), {"__name__": "example"})  # noqa: S102


MODULES_WITH_EXAMPLES = [
    ".".join(path.relative_to(PROJECT).with_suffix("").parts)
    for path in sorted((PROJECT / "bench").rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES_WITH_EXAMPLES)
def test_examples_in_docstrings_show_their_output(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0
    assert found.failed == 0


def test_public_functions_have_examples() -> None:
    assert "bench.score.functional" in MODULES_WITH_EXAMPLES
