"""A class of no known family is judged by what holds for any consistent method: landing, convergence, and the law."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import diffusers
import pytest

from bench.conformance.checks_consistency import check_convergence, check_law
from bench.conformance.checks_steps import check_landing
from bench.conformance.conform import quiet
from bench.conformance.report import Finding, Order
from bench.conformance.subject import Subject


def unknown(class_name: str, find: str = "", replace: str = "") -> type[Any]:
    """A copy of a class under a name that says nothing, with one piece of its source replaced."""
    original = sys.modules[getattr(diffusers, class_name).__module__]
    source = Path(str(original.__file__)).read_text(encoding="utf-8")
    assert find in source
    source = (source.replace(find, replace) if find else source).replace(class_name, "Sampler")
    module = types.ModuleType(original.__name__)
    module.__file__, module.__package__ = original.__file__, original.__package__
    exec(compile(source, "<copy>", "exec"), module.__dict__)  # noqa: S102
    made: type[Any] = module.Sampler  # type: ignore[attr-defined]
    return made


def judged(make: type[Any], eta: float | None = None) -> tuple[list[Finding], list[Order]]:
    orders: list[Order] = []
    with quiet():
        subject = Subject(make)
        assert subject.family is None
        findings = list(check_landing(subject, "as configured", 4, eta))
        findings += check_convergence(subject, "as configured", orders)
        findings += check_law(subject, "as configured", eta, orders)
    return findings, orders


@pytest.mark.parametrize(
    ("name", "eta", "fitted"),
    [
        ("DDIMScheduler", 0.0, 1.0),
        ("DDIMScheduler", 1.0, 0.9),
        ("DDPMScheduler", None, 0.9),
        ("EulerAncestralDiscreteScheduler", None, 0.9),
        ("HeunDiscreteScheduler", None, 2.1),
        ("DPMSolverMultistepScheduler", None, 2.1),
    ],
)
def test_a_right_sampler_of_no_known_family_passes_with_its_order(name: str, eta: float | None, fitted: float) -> None:
    findings, orders = judged(unknown(name), eta)
    assert not findings
    assert orders[-1].fitted == pytest.approx(fitted, abs=0.15)
    assert orders[-1].uncertainty < 0.1


DIRECTION = "(1 - alpha_prod_t_prev - std_dev_t**2) ** (0.5) * pred_epsilon"
POSTERIOR = "pred_original_sample_coeff * pred_original_sample + current_sample_coeff * sample"


@pytest.mark.parametrize(
    ("name", "eta", "find", "replace", "check"),
    [
        ("DDIMScheduler", 0.0, DIRECTION, f"0.999 * {DIRECTION}", "landing"),
        ("DDIMScheduler", 0.0, DIRECTION, f"0.97 * {DIRECTION}", "convergence"),
        ("DDPMParallelScheduler", None, POSTERIOR, POSTERIOR.replace("current_sample", "x"), "landing"),
        ("HeunDiscreteScheduler", None, "+ derivative) / 2", "* 3 + derivative) / 4", "convergence"),
        ("DPMSolverMultistepScheduler", None, "D1 = m0, (1.0 / r0)", "D1 = m0, -(1.0 / r0)", "convergence"),
        ("EulerAncestralDiscreteScheduler", None, "+ noise * sigma_up", "+ noise * sigma_up * 1.2", "convergence"),
        ("EulerAncestralDiscreteScheduler", None, "noise * sigma_up", "noise.exp() * sigma_up", "landing"),
    ],
)
def test_a_wrong_one_fails(name: str, eta: float | None, find: str, replace: str, check: str) -> None:
    if "x_coeff" in replace:  # both coefficients swapped
        replace = "current_sample_coeff * pred_original_sample + pred_original_sample_coeff * sample"
    findings, _ = judged(unknown(name, find, replace), eta)
    assert check in {finding.check for finding in findings}


def test_noise_that_is_not_normal_is_named() -> None:
    wrong = unknown("DDPMScheduler", "variance_noise = randn_tensor(", "variance_noise = 1.1 * randn_tensor(")
    assert judged(wrong)[0]  # the factor is one of the sampler
    uniform = unknown(
        "EulerAncestralDiscreteScheduler",
        "noise = randn_tensor(model_output.shape, dtype=model_output.dtype, device=device, generator=generator)",
        "noise = torch.rand(model_output.shape, dtype=model_output.dtype, generator=generator)",
    )
    assert "noise drawn" in {finding.check for finding in judged(uniform)[0]}
