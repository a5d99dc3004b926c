"""The documentation builds without a warning, needs no network to be read, and names nothing that does not exist."""

import io
import re
import sys
import zlib
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import pytest
import yaml
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

PROJECT = Path(__file__).parents[1]
DOCS = PROJECT / "docs"


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages, built in this process, which has imported what they describe."""
    built, warnings = tmp_path_factory.mktemp("docs"), io.StringIO()
    folders = str(DOCS), str(DOCS), str(built / "html"), str(built / "trees")
    with docutils_namespace(), pytest.MonkeyPatch.context() as patch, catch_warnings():
        simplefilter("ignore")  # of extensions that are behind Sphinx
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing answers there
        patch.setenv("http_proxy", "http://127.0.0.1:9")
        patch.setattr(sys, "path", [*sys.path])
        nitpicky = {"nitpicky": True}
        app = Sphinx(*folders, "html", confoverrides=nitpicky, status=None, warning=warnings, freshenv=True)
        app.build()
    assert warnings.getvalue() == ""
    assert app.statuscode == 0
    return built / "html"


def test_pages_load_nothing_from_the_network(pages: Path) -> None:
    loads = re.compile(r"""<(?:script|img|iframe)[^>]*\ssrc=["'](https?:)?//|<link[^>]*\shref=["'](https?:)?//""")
    imports = re.compile(r"""(@import|url\()\s*["']?(https?:)?//""")
    assert [path.name for path in pages.rglob("*.html") if loads.search(path.read_text(encoding="utf-8"))] == []
    assert [path.name for path in pages.rglob("*.css") if imports.search(path.read_text(encoding="utf-8"))] == []


@pytest.fixture(scope="session")
def documented_settings(pages: Path) -> re.Pattern[str]:
    """Match the dotted names of documented settings, with any name in place of a placeholder."""
    content = zlib.decompress((pages / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    names = re.findall(r"^(\S+) std:confval ", content, re.MULTILINE)
    return re.compile("|".join(re.sub(r"<\w+>", r"[^.]+", re.escape(name)) for name in names))


@pytest.mark.parametrize("config", ["config", "score", "conform", "gate"])
def test_every_setting_is_documented(config: str, documented_settings: re.Pattern[str]) -> None:
    from bench.experiment.compose import compose_settings, schema_of
    from bench.experiment.schema import names_below, origin, types_at

    given = {"score": ["results=somewhere"]}.get(config, [])
    settings, types = compose_settings(given, config), (schema_of(config),)

    def is_a_users_own(name: tuple[str, ...]) -> bool:
        return any(member is Any or origin(member) is dict for member in types_at(types, name[:-1], settings))

    names = [n for n in names_below(types, settings) if not is_a_users_own(n) and n[-1] != "kind"]
    assert [".".join(n) for n in names if not documented_settings.fullmatch(".".join(n))] == []
    assert len(names) >= 4


def test_every_score_is_described() -> None:
    from bench.score.metrics import METRICS

    descriptions = yaml.safe_load((DOCS / "reference" / "scores.yaml").read_text(encoding="utf-8"))
    assert descriptions.keys() == METRICS.keys()
    with_reference = {short for short, metric in METRICS.items() if metric.needs_reference}
    assert {short for short, text in descriptions.items() if "reference images" in text["needs"]} == with_reference


def test_every_verb_documents_its_exit_codes() -> None:
    from bench.__main__ import VERBS

    for verb, function in VERBS.items():
        codes = re.sub(r"\s+", " ", (function.__doc__ or "").partition("Exit codes: ")[2])
        assert codes.startswith("0 "), verb
        assert "; 2 refused" in codes, verb


def test_readme_is_short_and_its_links_exist() -> None:
    for page in (PROJECT / "README.md", PROJECT / "CONTRIBUTING.md"):
        text = page.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 130
        links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
        assert [link for link in links if not (PROJECT / link).exists()] == []


def test_the_citation_names_this_version() -> None:
    import tomllib

    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (citation["cff-version"], citation["version"], citation["license"]) == (
        "1.2.0",
        project["version"],
        project["license"],
    )
    assert {"title", "message", "authors"} <= citation.keys()


SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


def words_in_code(page: Path) -> set[str]:
    """Return the texts in backticks in the running text."""
    return {" ".join(word.split()) for word in SPAN.findall(FENCE.sub("", page.read_text(encoding="utf-8")))}


PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
FOREIGN = (PROJECT / "tests" / "docs_words.txt").read_text(encoding="utf-8").splitlines()
"""What is an example, or is not a name of this project."""


def known_words(settings: re.Pattern[str]) -> set[str]:
    """Return names that a page may use alone: verbs, scores, columns, choices, parts of settings' names."""
    from bench.__main__ import VERBS
    from bench.experiment.conf_files import config_groups
    from bench.report.data_frame import COLUMNS
    from bench.score.metrics import METRICS

    choices = {name for names in config_groups().values() for name in names}
    parts = {part for name in settings.pattern.replace("\\", "").split("|") for part in name.split(".")}
    values = {
        word
        for path in (PROJECT / "bench" / "experiment").glob("*.py")
        for found in re.findall(r"Literal\[([^\]]*)\]", path.read_text(encoding="utf-8"))
        for word in re.findall(r'"(\w+)"', found)
    }
    sources = [path.read_text(encoding="utf-8") for path in (PROJECT / "bench").rglob("*.py")]
    defined = {name for source in sources for name in re.findall(r"^ *(?:class|def) (\w+)", source, re.MULTILINE)}
    packages = {name for path in (PROJECT / "bench").iterdir() for name in (path.stem, path.name)}
    return {*packages, *defined, *VERBS, *METRICS, *COLUMNS, *config_groups(), *choices, *parts, *values}


def leads_somewhere(word: str) -> bool:
    """Whether a path exists in the checkout, a dotted name in the package, or a file in a results directory."""
    if word.startswith("bench."):
        import bench

        return hasattr(bench, word.split(".")[1].partition("(")[0])
    in_results = (DOCS / "reference" / "results.md").read_text(encoding="utf-8")
    places = (PROJECT, PROJECT / "scripts", PROJECT / "scripts" / "benchmarks")
    return (
        any([*place.glob(word)] for place in places if not word.startswith(("/", "."))) or f"| `{word}`" in in_results
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_names_on_a_page_exist(page: Path, documented_settings: re.Pattern[str]) -> None:
    from bench.score.metrics import METRICS

    known = known_words(documented_settings)

    def exists(word: str) -> bool:
        if word in FOREIGN or word in known or word.startswith(("tcd-bench", "pip install tcd-bench", "./scripts/")):
            return True  # commands are run by test_docs_commands.py
        short, _, extractor = word.partition("@")
        if short in METRICS and extractor in known:
            return True
        name = re.split(r"=|: ", word)[0]
        if word.startswith("results/") and not (PROJECT / word).exists():
            return word.split("/")[1] in ("mine", "mini", "smoke", "<name>", "mini-seed=0", "mini-seed=1", "")
        concrete = name.replace("<name>", "x").replace("<score>", "x")
        return (
            name in known
            or bool(documented_settings.fullmatch(concrete.rpartition(".x")[0] or concrete))
            or leads_somewhere(word)
        )

    assert sorted(word for word in words_in_code(page) if not exists(word)) == []


QUESTIONS = {
    "Where is eta checked to lie in [0, 1]?": ("bench/experiment/value_types.py", "eta in [0, 1]"),
    "Where does an override of the command line become a setting?": ("bench/experiment/compose.py", "overrides"),
    "What tells one experiment from another in a results directory?": (
        "bench/execute/ownership.py",
        "different experiment",
    ),
    "What decides that a cell is complete?": ("bench/execute/cell_runner.py", "cell is complete"),
    "Where do two denoiser evaluations become one?": ("bench/generate/denoiser_cache.py", "denoiser evaluations"),
    "Where is a LoRA proved to have arrived as a whole?": ("bench/generate/lora.py", "LoRA"),
    "Who notices that a worker died?": ("bench/workers/leases.py", "dead or silent worker"),
    "Where is a call timed?": ("bench/measure/latency.py", "timed"),
    "Where does the error bar of a score come from?": ("bench/score/estimate.py", "standard error"),
    "Where is a claim's verdict decided?": ("bench/analysis/claims.py", "decides each claim"),
}
"""What a newcomer asks, written before the page: the file that answers, and the words that the page says it with."""


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_architecture_page_leads_to_the_file(question: str) -> None:
    answer, words = QUESTIONS[question]
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    sentences = [sentence for paragraph in paragraphs for sentence in re.split(r"(?<=[.:]) (?=[A-Z`])", paragraph)]
    assert (PROJECT / answer).is_file()
    assert any(words in sentence and f"`{answer}`" in sentence for sentence in sentences)


def test_the_architecture_page_names_every_package() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    packages = sorted(path.parent.name for path in (PROJECT / "bench").glob("*/__init__.py"))
    assert [name for name in packages if f"| `{name}` |" not in text] == []
