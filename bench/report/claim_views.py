"""The claims of a run as the page shows them: one sentence, a line of a forest plot for each, and what is behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import yaml

from bench.analysis.claims import Comparison, Judgement
from bench.records.run import Claim, Run
from bench.report.comparisons import decisive, gain_in_words, metric_in_words, threshold_in_words
from bench.report.per_prompt import Difference
from bench.report.power import power_of_claim

_VERDICTS = ("supported", "refuted", "undecided", "not tested")
_CENTRE, _REACH = 100.0, 92.0
"""Of a bar's box, 200 units wide: where 0 is, and how far the largest value is from it."""
_MORE_IMAGES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class Bar:
    """A gain with its adjusted interval in a box that is 200 units wide, 0 in the middle; `words` say the same.

    Bars of one metric have one scale. `limits` are the ends of what the gain must exceed or stay within.
    """

    gain: float
    interval: tuple[float, float] | None
    limits: tuple[float, ...]
    verdict: str
    words: str


@dataclass(frozen=True)
class ClaimView:
    """A claim, the comparison on which its verdict hangs, and bars of all comparisons, in their order."""

    judgement: Judgement
    anchor: str
    decisive: Comparison | None
    bar: Bar | None
    bars: tuple[Bar, ...]
    chances: tuple[tuple[str, str], ...]
    """Numbers of images per cell, and the chance of a verdict with them."""
    difference: Difference | None
    yaml: str


def claim_views(judgements: Sequence[Judgement], differences: Mapping[str, Difference]) -> list[ClaimView]:
    """Return one view per claim, in their order; `differences` are by the name of the claim."""
    deciding = [decisive(judgement) for judgement in judgements]
    overview = _scales([c for c in deciding if c])
    scales = _scales([c for judgement in judgements for c in judgement.comparisons])
    return [
        ClaimView(
            judgement,
            f"claim-{i + 1}-{re.sub('[^a-z0-9]+', '-', judgement.claim.name.lower()).strip('-')}",
            hangs_on,
            None if hangs_on is None else _bar(hangs_on, overview),
            tuple(_bar(comparison, scales) for comparison in judgement.comparisons),
            _chances(judgement),
            differences.get(judgement.claim.name),
            claim_in_yaml(judgement.claim),
        )
        for i, (judgement, hangs_on) in enumerate(zip(judgements, deciding, strict=True))
    ]


def answer(run: Run, judgements: Sequence[Judgement]) -> str:
    """Return the verdicts in one sentence or two: their numbers, the first supported claim and the first that is not.

    Claims about the run's first method come first. Empty without claims.
    """
    if not judgements:
        return ""
    counts = {verdict: sum(j.verdict == verdict for j in judgements) for verdict in _VERDICTS}
    parts = [f"{count} {verdict}" for verdict, count in counts.items() if count or verdict != "not tested"]
    first = next(iter(run.settings.get("methods", {})), "")
    ordered = sorted(judgements, key=lambda j: j.claim.subject.method != first)
    found = [
        f"{verdict.capitalize()}: {next(j.claim.text for j in ordered if j.verdict == verdict).rstrip('.')}."
        for verdict in _VERDICTS
        if counts[verdict]
    ]
    claims = "claim" if len(judgements) == 1 else "claims"
    return " ".join([f"Of {len(judgements)} {claims}: {', '.join(parts)}.", *found])


def claim_in_yaml(claim: Claim) -> str:
    """Return the claim as an experiment's file has it, without what it leaves at its default."""

    def given(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: _plain(value) for name, value in values.items() if value not in (None, (), [], {}, "")}

    fields = asdict(claim)
    sides = {side: given(fields.pop(side)) for side in ("subject", "object")}
    name, text = fields.pop("name"), fields.pop("text")
    rest = {key: value for key, value in given(fields).items() if (key, value) != ("equal", "steps")}
    written = {"claims": {name: {"text": text, **sides, **rest}}}
    return yaml.safe_dump(written, sort_keys=False, allow_unicode=True, width=100)


def _plain(value: Any) -> Any:
    return [*map(_plain, value)] if isinstance(value, tuple | list) else value


def _scales(comparisons: Sequence[Comparison]) -> dict[str, float]:
    """Return by metric the largest absolute number that its bars show."""
    found: dict[str, float] = {}
    for c in comparisons:
        known = [abs(c.gain), abs(c.threshold), *map(abs, c.adjusted_interval or c.interval or ())]
        finite = [number for number in known if np.isfinite(number)]
        found[metric_in_words(c)] = max([found.get(metric_in_words(c), 0.0), *finite])
    return found


def _bar(c: Comparison, scales: Mapping[str, float]) -> Bar:
    scale = _REACH / (scales[metric_in_words(c)] or 1.0)

    def place(number: float) -> float:
        return round(_CENTRE + float(np.clip(number * scale, -_CENTRE, _CENTRE)), 1)

    interval = c.adjusted_interval or c.interval
    limits = (-c.threshold, c.threshold) if c.expect == "equivalent" else (c.threshold,) if c.threshold else ()
    needed = threshold_in_words(c)
    words = f"{c.verdict}: gain {gain_in_words(c)} by {metric_in_words(c)}"
    return Bar(
        place(c.gain),
        interval and (place(interval[0]), place(interval[1])),
        tuple(map(place, limits)),
        c.verdict,
        f"{words}, must be {needed}" if c.expect == "equivalent" else f"{words}, must exceed {needed or '0'}",
    )


def _chances(judgement: Judgement) -> tuple[tuple[str, str], ...]:
    n = max((c.n for c in judgement.comparisons), default=0)
    counts = np.array([float(n * factor) for factor in _MORE_IMAGES])
    line = power_of_claim(judgement, counts) if n else None
    if line is None:
        return ()
    return tuple((f"{count:,.0f}", f"{chance:.0%}") for count, chance in zip(counts, line, strict=True))
