"""Quarantine: one quantity that fails without failing the gate, until a date."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date

from bench.gate.outcome import FAILS, Outcome


def apply_quarantine(
    outcomes: Sequence[Outcome], until: Mapping[str, str], today: date
) -> tuple[list[Outcome], dict[str, str]]:
    """Return the outcomes, those in quarantine marked, and what there is to say about each quarantine, by quantity.

    `until` maps quantities to the last day (ISO 8601) of their quarantine. Afterwards they count again.
    """
    found, said = list(outcomes), dict[str, str]()
    for quantity, last in until.items():
        mine = [i for i, outcome in enumerate(found) if outcome.quantity == quantity]
        failing = [i for i in mine if found[i].verdict in FAILS]
        if date.fromisoformat(last) < today:
            said[f"quarantine of {quantity}"] = (
                f"expired on {last}; it counts again, so remove the quarantine or correct the cause"
            )
            continue
        said[f"quarantine of {quantity}"] = (
            f"until {last}, {len(failing)} of {len(mine)} outcomes would fail"
            if mine
            else f"until {last}, but nothing of that name was compared"
        )
        for i in failing:
            note = f"would be {found[i].verdict}, in quarantine until {last}; {found[i].note}".removesuffix("; ")
            found[i] = replace(found[i], verdict="quarantined", note=note)
    return found, said
