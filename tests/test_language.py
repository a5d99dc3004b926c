"""Texts of the repository use the names of the glossary and plain phrases; old names and mannered phrases are found.

Names of test functions count as text: an underscore is read as a space. Results and weights are generated, and the
entries of the changelog are history.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".cff", ".j2", ".css", ".js", ""}
NOT_SEARCHED = re.compile(
    rf"(results|bench/mini/weights|bench/report/web/vega)/|CHANGELOG\.md|LICENSE|constraints\.txt|tests/{Path(__file__).name}"
)

OLD_NAMES = {
    r"(?<![A-Za-z])[Cc]rew\b|\btend\(": "WorkerPool, reconcile",
    r"\blast_words\b|\blast words\b": "last_log_line",
    r"\btake_turns\b|\blatency_in_turn\b": "time_interleaved, latency_interleaved",
    r"\bsittings?\b": "sessions",
    r"\bside_by_side\b": "map_in_threads, both_sides",
    r"(?<![A-Za-z])lanes?\b": "concurrent_batches",
    r"\bmake_look\b|\blook_away\b": "make_extractor, no_features",
    r"\bJUDGES\b|\bjudges:|\bjudge\(images|: str, judge|, judge: str": "PREFERENCE_MODELS, preference_models",
    r"\blay_out\(|\bequip\(|\bmake_work\b": "plan_job, make_runner",
    r"\boutlook\b|\blook_over\b": "plan_summary, read_status",
    r"\bbury\(|\bburied\b|\bbark\b|\b_not_deadly\b": "expire_leases_of, on_timeout, _check_attempts",
    r"\bset_damaged_aside\b": "quarantine_corrupt",
    r"\bpatience_s\b|\bPATIENCE_S\b|\blimit_s\b": "store_retry_s, cell_timeout_s",
    r"\b_distrusted\b|\b_trusted\b|\bkin\b": "_invalid, _verified, donor",
    r"\bwhiskers\b|\.doubt\b|\.meant\b": "error_bars, caveat, or_fallback",
    r"\.stand_in\b|\bstand_in=": "fallback",
    r"\.growth\b|\bgrowth=|\bgrowth of the variance\b": "variance_slope",
    r"\.room\(|\bdef room\(|\b[Rr]oom for\b": "capacity",
    r"\byardsticks?\b|\bpace_s\b": "reference workload, workload_s",
    r"\bscheduler_waits\b|\bbeside_bytes\b": "scheduler_syncs, excluded_bytes",
    r"\blevers?\b": "memory_options",
    r"\bunet_(evaluations|calls|samples)\b|\bUNet evaluations?\b": "denoiser evaluations",
}

_EACH = (
    r"an? (GPU|device|node|image|picture|row|cell|call|step|prompt|pixel|batch|worker|file|line|field|channel|level"
    r"|score|scheduler|second|question)\b"
)
_NO_PREPOSITION = r"(?!(of|for|in|to|at|on|by|with|from|as)\b)\w+ "
PHRASES = {
    r"\bother ones\b": "different",
    r"\banew\b": "again",
    r"\bh[eo]lds? [\w ]{0,20}\bagainst\b": "compared with",
    r"\bat[ _]hand\b": "available",
    r"\baloud\b": "reported",
    r"\bcr(y|ies) wolf\b": "raise a false alarm",
    r"\bwho(m)?ever\b|\bfor people\b|\ba person\b": "name the thing or the user",
    r"\bas ever\b": "as before",
    r"\blent\b": "borrowed",
    r"\bfirst word\b|\btakes its time\b": "prints its first line, is slow",
    r"(?<![A-Za-z])mend(s|ed)?(?![a-z])": "fix",
    r"\b(an?|no) [\w ]{1,25} of (its|their) own\b|\w+s of their own\b(?! \w)": "its own, a separate one",
    r"\bnothing beside\b": "alone",
    r"\bknows? no\b": "has no",
    r"(?<!\b[Tt]here )\b(is|are|was|were) no (?!(longer|more than|fewer than|larger|smaller|wider)\b)\w+": "is not",
    rf"\b(one|two|three|four) ({_NO_PREPOSITION})?{_EACH}": "one per",
    rf"\b(seconds|evaluations|images|bytes|bits|steps|calls|rows?|lines?|states?|numbers?) {_EACH}": "seconds per",
}


def texts() -> list[Path]:
    """The tracked files that hold text."""
    command = ["git", "ls-files", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().rstrip("\0").split("\0")
    return [ROOT / name for name in names if not NOT_SEARCHED.match(name) and Path(name).suffix in SUFFIXES]


def find(pattern: str) -> list[str]:
    """Every line in which a pattern occurs."""
    expression, hits = re.compile(pattern, re.IGNORECASE if pattern in PHRASES else 0), []
    for path in texts():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            text = line.replace("_", " ") if line.lstrip().startswith("def test_") else line
            if hit := expression.search(text):
                hits.append(f"{path.relative_to(ROOT)}:{number}: {hit[0]}")
    return hits


def test_all_texts_are_searched() -> None:
    names = {str(path.relative_to(ROOT)) for path in texts()}
    assert {"README.md", "bench/__main__.py", "conf/config.yaml", "scripts/gate", "docs/glossary.md"} < names


@pytest.mark.parametrize(("pattern", "instead"), list({**OLD_NAMES, **PHRASES}.items()))
def test_old_names_and_mannered_phrases_do_not_occur(pattern: str, instead: str) -> None:
    assert find(pattern) == [], f"write {instead}"


@pytest.mark.parametrize(
    "text",
    [
        "One actor a GPU",
        "seconds an image",
        "a picture is no number",
        "images are sampled anew",
        "held against a limit",
        "each in a process of its own",
    ],
)
def test_a_mannered_phrase_is_found(text: str) -> None:
    assert any(re.search(pattern, text, re.IGNORECASE) for pattern in PHRASES)


@pytest.mark.parametrize("text", ["there is no run", "is no longer read", "one of a cell's chunks", "1 a cell failed"])
def test_a_plain_phrase_is_accepted(text: str) -> None:
    assert not any(re.search(pattern, text) for pattern in PHRASES)
