"""The exact solutions are exact: flows against integration, predictions against Bayes, tables against definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.conformance.curves import REVERSED, STRAIGHT, Curve, circle
from bench.conformance.exponential import interpolation_weights
from bench.conformance.flow_spacing import MU, matched, moved
from bench.conformance.noise import Level, NoiseTable, alpha_bars, betas, level_of_alpha_bar, level_of_sigma
from bench.conformance.spacing import distilled, orders_of_single_steps, spaced, spaced_before_the_end
from bench.conformance.targets import GAUSSIAN, ITEM, MIXTURE, POINT, Gaussian, Mixture, data_and_noise, predictions

START, END = level_of_sigma(14.6), level_of_sigma(0.03)
X = np.random.default_rng(0).standard_normal((3, *ITEM))
LINEAR = {"num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}


def one_component(width: float) -> tuple[Mixture, Gaussian]:
    """The same round Gaussian as a mixture and in closed form."""
    mean = GAUSSIAN.mean
    mixture = Mixture("one", np.ones(1), mean.reshape(1, -1), np.array([width]))
    return mixture, Gaussian("one", mean, np.full(ITEM, width))


@pytest.mark.parametrize("width", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("end", [END, Level(1.0, 0.0)])
def test_the_integrated_flow_agrees_with_the_closed_form_to_ten_digits(width: float, end: Level) -> None:
    mixture, gaussian = one_component(width)
    closed = gaussian.flow(X, START, end)
    assert np.abs(mixture.flow(X, START, end) - closed).max() < 1e-10


def test_the_flow_of_a_mixture_is_undone_by_flowing_back() -> None:
    there = MIXTURE.flow(X, START, END)
    assert np.abs(MIXTURE.flow(there, END, START) - X).max() < 1e-8


@pytest.mark.parametrize("level", [START, END, level_of_sigma(1.0)])
def test_the_mixtures_expectation_is_the_gradient_of_its_log_density(level: Level) -> None:
    """Tweedie: E[x0 | x] = (x + b² grad log p(x)) / a, with the gradient by central differences."""

    def log_density(x: np.ndarray) -> float:
        variance = (level.a * MIXTURE.widths) ** 2 + level.b**2
        apart = ((x - level.a * MIXTURE.means) ** 2).sum(1)
        parts = np.log(MIXTURE.weights) - 3 * np.log(2 * math.pi * variance) - apart / (2 * variance)
        return float(np.logaddexp.reduce(parts))

    x, step = X[0].ravel() * 0.3, 1e-5
    unit = np.eye(6) * step
    slope = np.array([(log_density(x + d) - log_density(x - d)) / (2 * step) for d in unit])
    wanted = (x + level.b**2 * slope) / level.a
    got = MIXTURE.expected_data(x.reshape(1, *ITEM), level).ravel()
    assert np.abs(got - wanted).max() < 1e-5 * max(1.0, level.sigma**2)


def test_a_point_is_known_at_any_noise() -> None:
    assert np.array_equal(POINT.expected_data(X, START), np.broadcast_to(POINT.mean, X.shape))
    assert np.allclose(POINT.flow(X, START, Level(1.0, 0.0)), POINT.mean, atol=0, rtol=0)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_predictions_are_read_back(kind: str) -> None:
    level = level_of_sigma(0.7)
    data = GAUSSIAN.expected_data(X, level)
    read, noise = data_and_noise(predictions(data, X, level, kind), X, level, kind)
    assert np.allclose(read, data)
    assert np.allclose(level.a * read + level.b * noise, X)


def test_an_unknown_prediction_type_is_refused() -> None:
    with pytest.raises(ValueError, match="flow"):
        predictions(X, X, START, "flow_prediction")
    with pytest.raises(ValueError, match="flow"):
        data_and_noise(X, X, START, "flow_prediction")


@pytest.mark.parametrize("curve", [STRAIGHT, REVERSED, circle(0.5)])
@pytest.mark.parametrize("kind", ["flow_prediction", "epsilon", "sample"])
def test_predictions_on_a_curve_are_read_back(curve: Curve, kind: str) -> None:
    level = curve.level(0.3)
    data = MIXTURE.expected_data(X, level)
    read, noise = data_and_noise(predictions(data, X, level, kind), X, level, kind)
    assert np.allclose(read, data)
    assert np.allclose(level.a * read + level.b * noise, X)


@pytest.mark.parametrize("curve", [STRAIGHT, REVERSED, circle(0.5)])
def test_the_slopes_of_a_curve_are_the_derivatives_of_its_factors(curve: Curve) -> None:
    u, step = 0.37, 1e-6
    above, below, level = curve.level(u + step), curve.level(u - step), curve.level(u)
    assert level.velocity == pytest.approx(((above.a - below.a) / 2 / step, (above.b - below.b) / 2 / step), abs=1e-8)


@pytest.mark.parametrize("curve", [STRAIGHT, REVERSED, circle(0.5)])
@pytest.mark.parametrize("target", [GAUSSIAN, MIXTURE])
def test_the_velocity_of_a_target_is_the_derivative_of_its_flow(curve: Curve, target: Gaussian | Mixture) -> None:
    u, step = 0.4, 1e-4
    level = curve.level(u)
    velocity = predictions(target.expected_data(X, level), X, level, "flow_prediction")
    above, below = (target.flow(X, level, curve.level(u + d)) for d in (step, -step))
    assert np.abs((above - below) / 2 / step - velocity).max() < 1e-5


@pytest.mark.parametrize("target", [POINT, GAUSSIAN, MIXTURE])
def test_pure_noise_says_nothing_of_the_data(target: Gaussian | Mixture) -> None:
    """At sigma = 1 every state has the same expectation, the mean of the data, and the flow starts there."""
    noise = STRAIGHT.level(1.0)
    expected = target.expected_data(X, noise)
    assert np.allclose(expected, expected[:1], atol=1e-12)
    near = target.flow(X, STRAIGHT.level(1 - 1e-9), STRAIGHT.level(0.0))
    assert np.abs(target.flow(X, noise, STRAIGHT.level(0.0)) - near).max() < 1e-7


def test_shifts_compose_and_keep_their_ends() -> None:
    u = np.linspace(0, 1, 9)
    assert np.allclose(moved(moved(u, 3.0), 2.0), moved(u, 6.0))
    assert list(moved(np.array([0.0, 1.0]), 3.0)) == [0, 1]
    dynamic = {"use_dynamic_shifting": True, "num_train_timesteps": 1000}
    assert np.allclose(
        matched({**dynamic, "time_shift_type": "linear"}, 7), matched({"num_train_timesteps": 1000, "shift": MU}, 7)
    )
    stretched = matched({"num_train_timesteps": 1000, "shift": 3.0, "shift_terminal": 0.2}, 7)
    assert (stretched[0], stretched[-1]) == pytest.approx((1.0, 0.2))


def test_noise_tables_have_the_values_that_their_papers_give() -> None:
    """Ho et al. 2020: alpha_bar_T about 4e-5. Lin et al. 2024, table 1: 0.0047 (sqrt 0.068265) for Stable Diffusion."""
    stable_diffusion = {**LINEAR, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    assert alpha_bars(LINEAR)[-1] == pytest.approx(4.04e-5, rel=0.01)
    assert math.sqrt(alpha_bars(stable_diffusion)[-1]) == pytest.approx(0.068265, rel=1e-4)
    assert betas({**LINEAR, "beta_schedule": "squaredcos_cap_v2"})[-1] == 0.999
    rescaled = alpha_bars({**stable_diffusion, "rescale_betas_zero_snr": True})
    assert rescaled[-1] == 0
    assert rescaled[0] == pytest.approx(1 - 0.00085)
    with pytest.raises(ValueError, match="sigmoid"):
        betas({**LINEAR, "beta_schedule": "sigmoid"})


def test_a_level_between_timesteps_has_the_sigma_between() -> None:
    table = NoiseTable(alpha_bars(LINEAR))
    assert table.level(10) == level_of_alpha_bar(float(table.alpha_bar[10]))
    middle = (table.level(10).sigma + table.level(11).sigma) / 2
    assert table.level(10.5).sigma == pytest.approx(middle)


def test_spacings_are_those_of_lin_et_al() -> None:
    """Table 2 of the paper, T = 1000 and 10 steps, counted from 0 rather than 1."""
    config = {"num_train_timesteps": 1000}
    assert list(spaced({**config, "timestep_spacing": "leading"}, 10)) == list(range(900, -1, -100))
    assert list(spaced({**config, "timestep_spacing": "trailing"}, 10)) == list(range(999, 0, -100))
    assert list(spaced({**config, "timestep_spacing": "linspace"}, 4)) == [999, 666, 333, 0]
    assert list(spaced_before_the_end(config, 3)) == [999, 666, 333]
    assert list(distilled({**config, "original_inference_steps": 50}, 4)) == [999, 759, 499, 259]


@pytest.mark.parametrize(
    ("steps", "order", "lower", "zero", "orders"),
    [
        (4, 2, False, False, [1, 2, 1, 2]),
        (4, 2, True, True, [1, 2, 1, 1]),
        (5, 2, False, False, [1, 2, 1, 2, 1]),
        (6, 3, False, False, [1, 2, 3, 1, 2, 3]),
        (5, 3, True, True, [1, 2, 3, 1, 1]),
        (3, 1, True, True, [1, 1, 1]),
    ],
)
def test_groups_of_single_steps(steps: int, order: int, lower: bool, zero: bool, orders: list[int]) -> None:
    assert orders_of_single_steps(steps, order, lower, zero) == orders


def test_quadrature_weights_integrate_polynomials_under_the_kernel() -> None:
    """∫_0^h exp(-(h - x)) x² dx = h² - 2h + 2 - 2 exp(-h), and the weights sum to 1 - exp(-h)."""
    width, nodes = 1.3, [0.0, -0.4, -1.1]
    weights = interpolation_weights(width, nodes, {"rate": -1.0, "factor": 1.0})
    exact = width**2 - 2 * width + 2 - 2 * math.exp(-width)
    assert weights @ np.array(nodes) ** 2 == pytest.approx(exact, rel=1e-12)
    assert weights.sum() == pytest.approx(1 - math.exp(-width), rel=1e-12)
