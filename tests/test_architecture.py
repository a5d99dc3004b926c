"""Who may know whom: the imports, read from the source, run one way and keep heavy libraries where they belong."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "bench"
FILES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TORCH_HALF = {name for name in FILES if name.startswith("bench.score.features")} - {"bench.score.features_of_pixels"}
NUMPY_HALF = {name for name in FILES if name.startswith("bench.score.")} - TORCH_HALF
KNOWS: dict[str, set[str]] = {
    "bench.cell": set(),
    "bench.records": {"bench.cell"},
    "bench.request": {"bench.records"},
    "bench.redact": set(),
    "bench.printable": set(),
    "bench.collector": set(),
    "bench.mini": set(),
    "bench.mini.training": {"bench.mini", "bench.execute.lanes"},
    "bench.experiment": {"bench.records", "bench.request"},
    "bench.checkpoints": {"bench.records", "bench.experiment", "bench.generate.weights", "bench.score.manifest"},
    "bench.generate": {"bench.records"},
    "bench.generate.single_file": {"bench.records", "bench.checkpoints.headers"},
    "bench.generate.lora": {"bench.records", "bench.checkpoints.lora"},
    "bench.generate.pipelines": {"bench.records", "bench.generate"},
    "bench.generate.prompts": {"bench.records", "bench.generate", "bench.mini.world"},
    "bench.generate.inputs": {
        *("bench.records", "bench.mini.world", "bench.mini.shapes"),
        *("bench.generate.image_files", "bench.generate.image_folders"),
    },
    "bench.generate.image_files": {"bench.records"},
    "bench.generate.image_folders": {"bench.records", "bench.generate.image_files"},
    "bench.generate.real_images": {
        *("bench.records", "bench.mini.world"),
        *("bench.generate.image_files", "bench.generate.image_folders"),
    },
    "bench.measure": {"bench.records"},
    "bench.score": {"bench.records"},
    "bench.files": {"bench.records"},
    "bench.store": {"bench.records", "bench.request", "bench.files"},
    "bench.looked": {"bench.records", "bench.request", "bench.store", "bench.files"},
    "bench.execute": {
        *(
            "bench.records",
            "bench.looked",
            "bench.request",
            "bench.experiment",
            "bench.checkpoints",
            "bench.generate",
            "bench.measure",
            "bench.score",
            "bench.store",
            "bench.files",
            "bench.redact",
            "bench.printable",
            "bench.collector",
        ),
        "bench.mini.world",
    },
    "bench.judge": {"bench.records", "bench.request", "bench.store", *NUMPY_HALF},
    "bench.judge.gate": {"bench.records", "bench.request", "bench.store", "bench.judge", *NUMPY_HALF},
    "bench.judge.conformance": {"bench.records", "bench.generate.schedulers"},
    "bench.report": {
        *("bench.records", "bench.request", "bench.files", "bench.store", "bench.judge", "bench.collector"),
        *("bench.looked", "bench.printable"),
        *NUMPY_HALF,
    },
    "bench.report.trackers": {
        *("bench.records", "bench.request", "bench.store", "bench.judge", "bench.redact", "bench.experiment.trackers"),
        *NUMPY_HALF,
    },
    "bench.__main__": {"bench"},
    "bench.gate": {"bench"},
    "bench.pytest_plugin": {"bench"},
    "bench": {
        "bench.judge.conformance",
        "bench.report.frame",
        "bench.score",
    },  # what `bench` offers, loaded when asked for
}
HEAVY = {"torch", "torchvision", "torchmetrics", "diffusers", "transformers", "open_clip", "peft", "accelerate"}
MAY_USE_HEAVY = (
    *("bench.generate", "bench.measure", "bench.score.features", "bench.execute", "bench.mini.training"),
    *("bench.judge.conformance", "bench.report.trackers"),
)
LIGHT = (
    *(
        "bench",
        "bench.__main__",
        "bench.gate",
        "bench.execute.assemble",
        "bench.experiment.compose",
        "bench.judge.claims",
        "bench.report.make",
        "bench.report.write",
        "bench.store",
    ),
    *("bench.judge.conformance.report", "bench.judge.conformance.baseline"),
    *("bench.judge.gate.compare", "bench.judge.gate.schedulers", "bench.report.gate"),
)


def is_within(name: str, part: str) -> bool:
    """Whether a dotted name is `part` or lies below it."""
    return name == part or name.startswith(f"{part}.")


def imports_of(name: str) -> Iterator[str]:
    """Every module that a module imports anywhere: at the top, inside a function, or for type checking only."""
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    package = name.split(".") if FILES[name].name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                yield whole if whole in FILES else source


IMPORTS = {name: sorted(set(imports_of(name))) for name in FILES}


def part_of(name: str) -> str:
    """The narrowest part that has a rule."""
    return max((part for part in KNOWS if is_within(name, part)), key=len)


def test_the_imports_are_really_read() -> None:
    assert "bench.score.features" in IMPORTS["bench.execute.assemble"]  # for type checking, and inside a function
    assert "bench.report.write" in IMPORTS["bench.__main__"]  # inside a function
    assert "torch" in IMPORTS["bench.score.features"]


@pytest.mark.parametrize("name", FILES)
def test_a_module_knows_only_whom_it_may_know(name: str) -> None:
    part = part_of(name)
    allowed = KNOWS[part] | ({part} if part != "bench" else set())
    allowed |= {"bench.cell"} if "bench.records" in allowed else set()
    strangers = [
        other
        for other in IMPORTS[name]
        if is_within(other, "bench") and not any(is_within(other, friend) for friend in allowed)
    ]
    assert strangers == []


def test_every_part_of_the_package_has_a_rule_of_its_own() -> None:
    assert [name for name in FILES if part_of(name) == "bench"] == ["bench"]


def test_nobody_knows_the_verbs() -> None:
    verbs = [name for name in FILES if name.endswith("__main__")]
    assert "bench.__main__" in verbs
    assert [name for name in FILES if set(IMPORTS[name]) & set(verbs)] == []


def test_imports_run_in_no_circle() -> None:
    left = {name: {other for other in IMPORTS[name] if other in FILES} for name in FILES}
    while leaves := [name for name, others in left.items() if not others & left.keys()]:
        for name in leaves:
            del left[name]
    assert left == {}


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith(MAY_USE_HEAVY)])
def test_heavy_libraries_stay_where_images_are_made_and_looked_at(name: str) -> None:
    assert sorted({other.partition(".")[0] for other in IMPORTS[name]} & HEAVY) == []


def test_hydra_is_seen_at_the_edge_only() -> None:
    libraries = {"hydra", "omegaconf"}
    assert [name for name in FILES if {other.partition(".")[0] for other in IMPORTS[name]} & libraries] == [
        "bench.experiment.compose"
    ]


def test_whatever_works_from_records_alone_loads_no_heavy_library() -> None:
    script = (
        "import importlib, sys\n"
        f"for name in {LIGHT}:\n"
        "    importlib.import_module(name)\n"
        f"    print(name, *sorted({HEAVY} & sys.modules.keys()))\n"
    )
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, check=True, capture_output=True, text=True, cwd=PACKAGE.parent)
    assert run.stdout.splitlines() == list(LIGHT)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_one_thought(name: str) -> None:
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) <= 450


def test_no_file_is_called_utils() -> None:
    assert [name for name in FILES if name.rpartition(".")[2] in ("utils", "util", "helpers", "common")] == []


def test_input_is_checked_by_errors_and_not_by_assert() -> None:
    asserting = [
        f"{name}:{node.lineno}"
        for name, path in FILES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assert)
    ]
    assert asserting == []
