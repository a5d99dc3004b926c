"""Samplers on a curve from data to noise, as published, in float64; see `bench.conformance.published`."""

from __future__ import annotations

from bench.conformance.noise import Array
from bench.conformance.published import Expected, PublishedMethod, Term, add_up, of_state, times


class Renoise(PublishedMethod):
    """Song et al. 2023, algorithm 1: the data that the output implies, with fresh noise up to the next level."""

    def advance(self, index: int, state: Array, output: Array) -> Expected:
        """a' x0 + b' z."""
        data, _ = self.read(index, state, output)
        there = self.path.levels[index + 1]
        return add_up(there.b, times(there.a, data))


class FlowEuler(Renoise):
    """Euler's method on the straight line, which keeps data and noise (Liu et al. 2023, section 2), or `Renoise`."""

    def advance(self, index: int, state: Array, output: Array) -> Expected:
        """a' x0 + b' noise, which is x + (sigma' - sigma) velocity; with `stochastic_sampling` a' x0 + b' z."""
        if self.config.get("stochastic_sampling"):
            return super().advance(index, state, output)
        data, noise = self.read(index, state, output)
        there = self.path.levels[index + 1]
        return add_up(0.0, times(there.a, data), times(there.b, noise))


class FlowHeun(PublishedMethod):
    """Karras et al. 2022, algorithm 1 without churn, on the straight line: the slope is the velocity."""

    begun: tuple[Array, Term] | None = None

    def advance(self, index: int, state: Array, output: Array) -> Expected:
        """Return the next state: calls alternate between predictor and corrector; the last step only predicts."""
        data, noise = self.read(index, state, output)
        slope = Term(1.0, noise.value - data.value, noise.size + data.size)
        sigma = self.path.levels[index].b
        if self.begun is None:
            self.begun = (state, slope)
            return add_up(0.0, of_state(1.0, state), times(self.path.levels[index + 1].b - sigma, slope))
        start, first = self.begun
        half = (sigma - self.path.levels[index - 1].b) / 2
        self.begun = None
        return add_up(0.0, of_state(1.0, start), times(half, first), times(half, slope))
