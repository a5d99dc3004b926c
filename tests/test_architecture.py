"""Import rules: imports, read from the source, are one-way, and heavy libraries are imported only where allowed."""

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
PACKAGES = {
    "records": set(),
    "parallel": set(),
    "redact": set(),
    "printable": set(),
    "gc_pause": set(),
    "checksums": set(),
    "mini": {"parallel", "checkpoints"},
    "experiment": {"records"},
    "store": {"records"},
    "pictures": {"records", "store"},
    "checkpoints": {"records", "experiment"},
    "generate": {"records", "checkpoints", "mini"},
    "measure": {"records", "parallel"},
    "features": {"records", "checkpoints", "parallel"},
    "score": {"records"},
    "workers": {"records", "store", "parallel", "printable", "experiment"},
    "execute": {
        *("records", "parallel", "redact", "printable", "gc_pause", "mini", "experiment", "store", "checkpoints"),
        *("generate", "measure", "features", "score", "workers", "pictures"),
    },
    "analysis": {"records", "parallel", "printable", "store", "score"},
    "trackers": {"records", "redact", "experiment", "store", "analysis"},
    "conformance": {"records", "checksums", "generate"},
    "report": {
        *("records", "parallel", "redact", "printable", "gc_pause", "experiment", "store", "pictures", "score"),
        "analysis",
    },
    "view": {"records", "report", "store", "workers"},
    "gate": {
        *("records", "printable", "checksums", "experiment", "store", "generate", "measure", "features"),
        *("score", "workers", "execute", "analysis", "conformance", "report"),
    },
}
"""Each package or module right below bench, and those that it may import. `bench/__init__.py` offers the public names,
`bench/__main__.py` the commands; nothing imports either, or `gate`."""
HEAVY = {"torch", "torchvision", "torchmetrics", "diffusers", "transformers", "open_clip", "peft", "accelerate"}
MAY_USE_HEAVY = {"parallel", "generate", "measure", "features", "execute", "mini", "conformance", "gate", "trackers"}
LIGHT = (
    *("bench", "bench.__main__", "bench.gate.command", "bench.execute.job", "bench.experiment.compose"),
    *("bench.analysis.claims", "bench.report.build", "bench.report.write", "bench.store.store"),
    *("bench.conformance.report", "bench.conformance.baseline"),
    *("bench.gate.compare", "bench.gate.schedulers", "bench.gate.report", "bench.gate.pytest_plugin"),
    "bench.view.server",
)
"""Modules that start without any heavy library."""


def is_within(name: str, part: str) -> bool:
    """Whether a dotted name is `part` or below it."""
    return name == part or name.startswith(f"{part}.")


def imports_of(name: str) -> Iterator[str]:
    """Return every module that a module imports anywhere: at the top, inside a function, or for type checking only."""
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


def package_of(name: str) -> str:
    """Return the package or module directly below bench."""
    return name.split(".")[1] if "." in name else ""


def test_imports_are_detected() -> None:
    assert "bench.features.openclip" in IMPORTS["bench.execute.feature_extraction"]  # for type checking as well
    assert "bench.report.write" in IMPORTS["bench.__main__"]  # inside a function
    assert "torch" in IMPORTS["bench.features.openclip"]


def test_every_package_has_a_rule() -> None:
    assert {package_of(name) for name in FILES} == {*PACKAGES, "", "__main__"}


@pytest.mark.parametrize("name", [name for name in FILES if package_of(name) not in ("", "__main__")])
def test_imports_keep_to_the_rules(name: str) -> None:
    own = package_of(name)
    allowed = {own, *PACKAGES[own]}
    assert [other for other in IMPORTS[name] if is_within(other, "bench") and package_of(other) not in allowed] == []


@pytest.mark.parametrize("name", FILES)
def test_packages_import_no_private_name_of_another(name: str) -> None:
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    private = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and is_within(node.module, "bench")
        for alias in node.names
        if alias.name.startswith("_") and alias.name != "__version__"
    ]
    assert private == []


def test_nothing_imports_the_commands() -> None:
    assert [name for name in FILES if "bench.__main__" in IMPORTS[name]] == []


def test_imports_have_no_cycles() -> None:
    left = {name: {other for other in IMPORTS[name] if other in FILES} for name in FILES}
    while leaves := [name for name, others in left.items() if not others & left.keys()]:
        for name in leaves:
            del left[name]
    assert left == {}


@pytest.mark.parametrize("name", [name for name in FILES if package_of(name) not in MAY_USE_HEAVY])
def test_heavy_libraries_stay_where_images_are_made_and_read(name: str) -> None:
    assert sorted({other.partition(".")[0] for other in IMPORTS[name]} & HEAVY) == []


def test_hydra_is_imported_in_one_module() -> None:
    libraries = {"hydra", "omegaconf"}
    assert [name for name in FILES if {other.partition(".")[0] for other in IMPORTS[name]} & libraries] == [
        "bench.experiment.compose"
    ]


def test_what_needs_only_records_loads_no_heavy_library() -> None:
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
def test_files_are_short_enough_to_read(name: str) -> None:
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) <= 450


def callbacks_of(name: str) -> Iterator[str]:
    """Return every parameter of a function or method that is annotated as a Callable."""
    for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            for one in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg):
                if one is not None and one.annotation is not None and "Callable" in ast.unparse(one.annotation):
                    yield f"{name}.{node.name}({one.arg})"


def test_few_functions_take_callbacks() -> None:
    assert len([callback for name in FILES for callback in callbacks_of(name)]) <= 25


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


def test_few_public_names_are_defined_twice() -> None:
    homes: dict[str, list[str]] = {}
    for name, path in FILES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            defined = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
            defined += [target.id for target in targets if isinstance(target, ast.Name)]
            for public in defined:
                if not public.startswith("_"):
                    homes.setdefault(public, []).append(name)
    assert len(twice := {public: names for public, names in homes.items() if len(names) > 1}) <= 8, twice
