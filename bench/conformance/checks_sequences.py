"""Use as a state machine: whatever was called before, a scheduler behaves like a fresh one."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import torch

from bench.conformance.checks_noising import noised, noising_of
from bench.conformance.noise import Array
from bench.conformance.report import Finding
from bench.conformance.settings import variations
from bench.conformance.subject import Subject, step_arguments
from bench.conformance.targets import GAUSSIAN
from bench.conformance.trace import to_numpy

EXAMPLES = 30
LENGTH = 5
_STEPS = 4
_FAULTS = 3  # that are searched for; the operation that a found one ends with is left out of the next search
_SETTINGS = 4
_DTYPES = ("float64", "float32", "float16", "bfloat16")
_SHAPES = {"4-D": (2, 3, 2, 1), "5-D": (2, 3, 1, 2, 1)}
_F = TypeVar("_F", bound=Callable[..., Any])
_COPIES = ("copy", "deepcopy", "pickle", "save and load", "from_config")
_WITH_STATE = ("deepcopy", "pickle")
_BESIDE = "run beside a copy"


class UnlikeFreshError(AssertionError):
    """An object behaves unlike a fresh one; holds the operations that led there."""

    def __init__(self, operations: tuple[str, ...], what: str) -> None:
        super().__init__(what)
        self.operations, self.what = operations, what


def check_sequences(subject: Subject, setting: str, eta: float | None, examples: int = EXAMPLES) -> Iterator[Finding]:
    """Check each operation alone, then sequences, drawn by hypothesis with a fixed seed and shrunk to the shortest.

    Raises ImportError where hypothesis is missing, which says what to install.
    """
    try:
        from hypothesis import HealthCheck, Phase, settings
        from hypothesis.stateful import run_state_machine_as_test
    except ImportError as error:
        raise ImportError("sequences of calls need hypothesis: pip install tcd-bench[conform]") from error
    bound = settings(
        max_examples=examples,
        stateful_step_count=LENGTH,
        derandomize=True,
        database=None,
        deadline=None,
        print_blob=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    left_out, objects = set[str](), Objects(subject, eta)
    for _ in range(_FAULTS):
        try:
            machine = _machine(objects, frozenset(left_out))
            _try_each(machine, objects, left_out)
            run_state_machine_as_test(machine, settings=bound)
        except UnlikeFreshError as found:
            kinds = [operation.partition("(")[0] for operation in found.operations]
            words = f"Shortest sequence: {', '.join(found.operations)}."
            yield Finding(f"sequence: {kinds[-1]}", setting, "what a fresh object does", found.what, words)
            left_out.add(kinds[-1])
        else:
            return


class Objects:
    """Fresh objects at several settings, their runs, and the operations on a used one."""

    def __init__(self, subject: Subject, eta: float | None) -> None:
        self.subject, self.eta = subject, eta
        self.settings: list[dict[str, Any]] = [{}]
        for variation in variations(subject):
            if len(self.settings) <= _SETTINGS and len(variation.changed) == 1 and self._runs(variation.overrides):
                self.settings.append(variation.overrides)
        self.settings = [self.settings[0], *self.settings[:0:-1]]
        self.fresh_runs: dict[tuple[int, int], list[Array]] = {}

    def _runs(self, overrides: dict[str, Any]) -> bool:
        try:
            self.run(self.subject.fresh(overrides), overrides, 0)
        except Exception:  # other checks report settings that cannot be run
            return False
        return True

    def run(self, scheduler: Any, overrides: dict[str, Any], begin: int, way: str = "") -> list[Array]:
        """Return what an object does after set_timesteps: noised data, and the states of a run.

        With a way to copy, a copy made half way runs beside the object, and its states come last.
        """
        case = self.subject.prepare(_STEPS, overrides, scheduler=scheduler)
        rng, results = np.random.default_rng(3), [np.array(case.path.timesteps)]
        if noising_of(scheduler) is not None and not begin:
            data = torch.from_numpy(rng.standard_normal((1, 3, 2, 1)))
            results.append(to_numpy(noised(scheduler, data, 2 * data, scheduler.timesteps[1:2])))
            case = self.subject.prepare(_STEPS, overrides, scheduler=scheduler)
        if begin:
            scheduler.set_begin_index(begin)
        runs, state = [(case, torch.Generator().manual_seed(3))], case.start(GAUSSIAN)
        states = [[state]]
        for index in range(begin, len(case.path.timesteps)):
            if way and index == begin + 2:
                runs.append((replace(case, scheduler=copied(scheduler, way)), runs[0][1].clone_state()))
                states.append([states[0][-1]])
            for (one, generator), reached in zip(runs, states, strict=True):
                draw = {"generator": generator} if "generator" in self.subject.step_parameters else {}
                reached.append(one.call(reached[-1], index, {**step_arguments(self.subject, self.eta), **draw}))
        return [*results, *(state for reached in states for state in reached[1:])]

    def compare(self, scheduler: Any, chosen: int, begin: int, way: str = "") -> str:
        """Describe how an object, or a copy made half way, differs from a fresh one; empty where neither does."""
        overrides = self.settings[chosen]
        if (chosen, begin) not in self.fresh_runs:
            self.fresh_runs[chosen, begin] = self.run(self.subject.made(overrides), overrides, begin)
        wanted = self.fresh_runs[chosen, begin]
        try:
            got = self.run(scheduler, overrides, begin, way)
        except Exception as error:  # a fresh object runs
            return f"{type(error).__name__}: {' '.join(str(error).split())}"
        if way:
            wanted = [*wanted, *wanted[len(wanted) * 2 - len(got) :]]
        if len(got) != len(wanted):
            return f"{len(got)} results instead of {len(wanted)}"
        for index, (one, other) in enumerate(zip(got, wanted, strict=True)):
            if one.shape != other.shape or not np.array_equal(one, other, equal_nan=True):
                return "other timesteps" if not index else f"another result of call {index - 1}"
        return ""


def copied(scheduler: Any, way: str, cls: type[Any] | None = None) -> Any:
    """Return a copy of an object; from_config and loading make one of `cls`, by default the object's own class."""
    cls = type(scheduler) if cls is None else cls
    if way == "from_config":
        return cls.from_config(scheduler.config)
    if way == "save and load":
        with TemporaryDirectory(prefix="tcd-bench-") as scratch:
            scheduler.save_pretrained(scratch)
            return cls.from_pretrained(scratch)
    if way == "pickle":
        return pickle.loads(pickle.dumps(scheduler))  # noqa: S301 - an object of this process
    return copy.copy(scheduler) if way == "copy" else copy.deepcopy(scheduler)


def shared(scheduler: Any, twin: Any) -> list[str]:
    """Return the attributes that an object and its copy share, so that a change of one changes the other."""
    names = []
    for name, value in vars(scheduler).items():
        other = vars(twin).get(name)
        if isinstance(value, torch.Tensor) and isinstance(other, torch.Tensor):
            same = value.numel() > 0 and value.data_ptr() == other.data_ptr()
        elif isinstance(value, np.ndarray) and isinstance(other, np.ndarray):
            same = np.shares_memory(value, other)
        else:
            same = value is other and type(value) in (list, dict, set)
        names += [name] if same else []
    return names


def ways_of(scheduler_class: type[Any]) -> tuple[str, ...]:
    """Return the ways to copy an object; without pickle where the class cannot be found by its name (a local one)."""
    try:
        pickle.dumps(scheduler_class)
    except (pickle.PicklingError, AttributeError):
        return tuple(way for way in _COPIES if way != "pickle")
    return _COPIES


def _try_each(machine: type[Any], objects: Objects, left_out: Collection[str]) -> None:
    """Use a fresh object in each way once, and copies at every setting: hypothesis draws some of them rarely."""
    ways = ways_of(objects.subject.cls)
    everywhere = range(len(objects.settings))
    alone: list[tuple[int, str, str, dict[str, Any]]] = [
        *((0, "set_timesteps", "set_timesteps", {"steps": steps}) for steps in (1, _STEPS, 7)),
        (0, "set_begin_index", "set_begin_index", {"index": 2}),
        *(
            (0, "step", "step", {"calls": 2, "dtype": dtype, "shape": shape, "several": shape == "4-D"})
            for dtype in _DTYPES
            for shape in _SHAPES
        ),
        *((0, "noise", "noise", {"dtype": dtype}) for dtype in _DTYPES),
        *((chosen, "copied", "duplicate", {"way": way}) for way in ways for chosen in everywhere),
        *((0, "run", "run", {"begin": begin}) for begin in (0, 2)),
        *((chosen, _BESIDE, "run_beside_a_copy", {"begin": 0, "way": "deepcopy"}) for chosen in (0, everywhere[-1])),
    ]
    for chosen, kind, rule, values in alone:
        if kind not in left_out:
            one = machine()
            one.create(chosen=chosen)
            if kind in ("step", "noise"):
                one.set_timesteps(steps=_STEPS)
            getattr(one, rule)(**values)
            one.teardown()


def _machine(objects: Objects, left_out: frozenset[str]) -> type[Any]:
    """Return hypothesis' machine over the operations, without some of them."""
    from hypothesis import strategies as st
    from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

    subject = objects.subject
    slices, ways = hasattr(subject.base, "set_begin_index"), ways_of(subject.cls)

    def allowed(name: str) -> Callable[[_F], _F]:
        return precondition(lambda _: name not in left_out)

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.operations: list[str] = []
            self.begin = 0

        @initialize(chosen=st.sampled_from(range(len(objects.settings))))
        def create(self, chosen: int) -> None:
            self.chosen, self.scheduler = chosen, subject.fresh(objects.settings[chosen])
            shown = ", ".join(f"{name}={value}" for name, value in objects.settings[chosen].items())
            self.operations.append(f"create({shown[:80]})")

        def attempt(self, words: str, operation: Any) -> None:
            """Do something that the class may refuse; refused or not, it must leave nothing behind."""
            self.operations.append(words)
            try:
                operation()
            except Exception:
                self.operations[-1] = f"{words} refused"

        @allowed("set_timesteps")
        @rule(steps=st.integers(1, 12))
        def set_timesteps(self, steps: int) -> None:
            config = {**subject.config, **objects.settings[self.chosen]}
            given = subject.schedule_arguments(steps, config)
            self.attempt(f"set_timesteps({steps})", lambda: self.scheduler.set_timesteps(**given))

        @allowed("set_begin_index")
        @rule(index=st.integers(0, 3))
        def set_begin_index(self, index: int) -> None:
            if slices:
                self.attempt(f"set_begin_index({index})", lambda: self.scheduler.set_begin_index(index))

        @allowed("step")
        @rule(
            calls=st.integers(1, 4),
            dtype=st.sampled_from(_DTYPES),
            shape=st.sampled_from(sorted(_SHAPES)),
            several=st.booleans(),
        )
        def step(self, calls: int, dtype: str, shape: str, several: bool) -> None:
            generator: Any = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
            given = {"generator": generator if several else generator[0]}
            given = given if "generator" in subject.step_parameters else {}

            def operation() -> None:
                state = torch.ones(_SHAPES[shape], dtype=getattr(torch, dtype))
                for timestep in self.scheduler.timesteps[:calls]:
                    state = self.scheduler.step(0.5 * state, timestep, state, **given).prev_sample

            self.attempt(f"step({calls} calls, {dtype}, {shape}{', generators' * several})", operation)

        @allowed("noise")
        @rule(dtype=st.sampled_from(_DTYPES))
        def noise(self, dtype: str) -> None:
            data = torch.ones(_SHAPES["4-D"], dtype=getattr(torch, dtype))
            if noising_of(self.scheduler) is not None:
                name = f"noise({noising_of(self.scheduler)}, {dtype})"
                self.attempt(name, lambda: noised(self.scheduler, data, data, self.scheduler.timesteps[:2]))

        @allowed("copied")
        @rule(way=st.sampled_from(ways))
        def duplicate(self, way: str) -> None:
            self.operations.append(f"copied({way})")
            try:
                twin = copied(self.scheduler, way, subject.quick)
            except Exception as error:
                raise UnlikeFreshError(tuple(self.operations), f"{type(error).__name__}: {error}") from error
            if way != "copy":
                if way in _WITH_STATE and (names := shared(self.scheduler, twin)):
                    raise UnlikeFreshError(tuple(self.operations), f"the object's own {', '.join(names)}")
                self.scheduler = subject.restored(twin)

        @allowed("run")
        @rule(begin=st.sampled_from((0, 2)))
        def run(self, begin: int) -> None:
            begin = begin if slices else 0
            what = objects.compare(self.scheduler, self.chosen, begin)
            if what:
                raise UnlikeFreshError(tuple(self.operations), what)
            self.operations.append(f"run(from call {begin})")

        @allowed(_BESIDE)
        @rule(begin=st.sampled_from((0, 1)), way=st.just("deepcopy"))
        def run_beside_a_copy(self, begin: int, way: str) -> None:
            self.operations.append(f"run beside a copy({way} in call 2)")
            if what := objects.compare(self.scheduler, self.chosen, begin if slices else 0, way):
                raise UnlikeFreshError(tuple(self.operations), what)

        def teardown(self) -> None:
            if len(self.operations) > 1 and (what := objects.compare(self.scheduler, self.chosen, 0)):
                raise UnlikeFreshError(tuple(self.operations), what)

    return Machine
