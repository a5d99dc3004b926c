"""What conform takes, what it refuses in one sentence, and whose fault an error is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import bench
from bench.conformance import checks_steps, versions
from bench.conformance import conform as module
from bench.conformance.conform import subject_of
from bench.conformance.report import ConformanceReport, Finding
from bench.conformance.survey import scheduler_classes
from bench.generate.schedulers import scheduler_class_of
from bench.records.errors import BenchError

ROOT = Path(__file__).parents[1]
SHARED = diffusers.TCDScheduler()


class NeedsMore(diffusers.DDIMScheduler):
    def step(self, model_output: Any, mask: Any, timestep: Any, sample: Any) -> Any:  # type: ignore[override]
        return super().step(model_output, timestep, sample)


class Plain:
    def set_timesteps(self, num_inference_steps: int) -> None: ...
    def step(self, output: Any, t: Any, x: Any) -> Any: ...


class NeverSet(diffusers.DDIMScheduler):
    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        raise ValueError("no such count")


class Uncopied(diffusers.DDIMScheduler):
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("it holds a socket")


def fails() -> Any:
    raise ImportError("torchsde is missing")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("diffusers.TCDScheduler", "was given an object of class str; import the class and pass it"),
        (None, "was given None"),
        (7, "was given an object of class int"),
        (dict, "dict is not a scheduler: the class has no set_timesteps and no step"),
        (lambda: None, "the function returns None, which has no set_timesteps and no step"),
        (lambda steps: diffusers.TCDScheduler(steps), "bind them: lambda: the function(…)"),
        (lambda: SHARED, "returned the same object twice"),
        (fails, "fails() raises ImportError: torchsde is missing"),
        (diffusers.VQDiffusionScheduler, "missing 1 required positional argument: 'num_vec_classes'"),
        (lambda: diffusers.VQDiffusionScheduler(4), "its states are discrete tokens"),
        (diffusers.CogVideoXDPMScheduler, "its step needs old_pred_original_sample and timestep_back"),
        (NeedsMore, "its step needs mask"),
        (Plain, "it has no config"),
        (diffusers.IPNDMScheduler, "its config holds no noise schedule (beta_end, beta_schedule"),
        (diffusers.DDIMInverseScheduler, "its timesteps rise"),
        (NeverSet, "its set_timesteps refuses every count tried (4 steps: no such count)"),
        (Uncopied(), "cannot be copied (TypeError: it holds a socket)"),
        (lambda: diffusers.DDIMScheduler(prediction_type="score"), "prediction type 'score' is not one of"),
    ],
)
def test_what_cannot_be_examined_is_explained_in_one_sentence(given: Any, said: str) -> None:
    with pytest.raises(BenchError) as refused:
        bench.conform(given)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(BenchError, match="family 'TCD' is unknown; choose one of"):
        bench.conform(diffusers.TCDScheduler, "TCD")
    with pytest.raises(BenchError, match="does not exist"):
        bench.conform(diffusers.TCDScheduler, baseline="nowhere.json")


@pytest.mark.parametrize(
    "given",
    [diffusers.TCDScheduler, lambda: diffusers.TCDScheduler(), diffusers.TCDScheduler()],
    ids=["class", "function", "object"],
)
def test_a_class_a_function_and_an_object_are_taken(given: Any) -> None:
    subject = subject_of(given)
    assert subject.family is not None
    assert subject.family.name == "TCDScheduler"
    assert subject.make() is not subject.make()


def test_an_object_is_copied_as_it_was_given_and_stays_unchanged() -> None:
    own = diffusers.DDIMScheduler()
    own.alphas_cumprod = own.alphas_cumprod**2
    subject = subject_of(own)
    subject.prepare(4)
    assert own.num_inference_steps is None
    assert torch.equal(subject.make().alphas_cumprod, own.alphas_cumprod)


def test_every_class_of_diffusers_is_examined_or_refused_in_one_sentence() -> None:
    examined, refused = [], {}
    for target in scheduler_classes():
        try:
            with module.quiet():
                subject_of(scheduler_class_of(target))
            examined.append(target.rpartition(".")[2])
        except BenchError as error:
            refused[target] = str(error)
    assert {"TCDScheduler", "DDPMParallelScheduler", "KDPM2DiscreteScheduler"} <= set(examined)
    assert len(examined) >= 20
    assert len(examined) + len(refused) >= 45
    assert not [text for text in refused.values() if "\n" in text or len(text) > 400]


class Breaks(diffusers.DDIMScheduler):
    def step(self, *arguments: Any, **more: Any) -> Any:
        if self.num_inference_steps == 7:
            raise IndexError("index 7 is out of bounds")
        return super().step(*arguments, **more)


def tallied(check: Callable[[], Iterator[Finding]], cls: Any) -> Any:
    tally = module._Tally(subject_of(cls))
    tally.add("step", check(), "as configured")
    return tally


def test_a_breakdown_is_a_finding_and_an_error_of_the_tool_is_none() -> None:
    def breaks() -> Iterator[Finding]:
        scheduler = Breaks()
        scheduler.set_timesteps(7)
        scheduler.step(torch.zeros(1), 5, torch.zeros(1))
        yield Finding("never", "", "", "", "")

    def errs() -> Iterator[Finding]:
        yield Finding("step", str({}["beta_start"]), "", "", "")

    found = tallied(breaks, Breaks)
    assert [finding.sentence for finding in found.findings] == ["The scheduler breaks down."]
    assert not found.unfinished
    found = tallied(errs, diffusers.DDIMScheduler)
    assert not found.findings
    assert [*found.unfinished] == ["step (as configured): KeyError: 'beta_start'"]
    report = ConformanceReport("x.X", None, {}, (), {}, unfinished=(*found.unfinished,))
    assert not report.passed
    assert "an error of tcd-bench" in str(report)


def test_a_state_of_another_shape_is_a_finding() -> None:
    class Grows(diffusers.DDIMScheduler):  # type: ignore[misc]
        def step(self, *arguments: Any, **more: Any) -> Any:
            result = super().step(*arguments, **more)
            result.prev_sample = torch.cat([result.prev_sample] * 2)
            return result

    with module.quiet():
        (found,) = checks_steps.check_steps(subject_of(Grows), "as configured", 1)
    assert (found.check, found.sentence) == ("step", "Call 0 changes the shape of the state.")


@pytest.mark.parametrize(
    ("version", "said"),
    [("0.99.0.dev0", "is newer than"), ("0.29.2", "is older than"), (versions.TRIED[-1], None), ("0.31.0", None)],
)
def test_an_untried_release_is_named_in_one_line(
    version: str, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "installed_diffusers", lambda: version)
    line = versions.untried()
    assert (said is None) == (line is None)
    if said and line:
        assert said in line
        assert "\n" not in line


def test_importing_conform_loads_torch_and_numpy_only() -> None:
    code = "import sys, torch, numpy, yaml; before = {*sys.modules}; import bench; bench.conform; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"diffusers", "scipy", "transformers", "hydra", "pydantic", "pandas", "matplotlib", "open_clip"}
