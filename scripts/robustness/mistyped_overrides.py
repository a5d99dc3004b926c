"""Types overrides as people mistype them, over all verbs, and counts what is answered badly.

    scripts/robustness/mistyped_overrides.py [--count 1000] [--seed 0] [--timeout-s 90] [--workers 2] [--show]
        [--out FILE]

Each command line runs in a separate process in an empty directory. Bad are: a traceback or an exit code that no verb
has, a message with words of a library, a message that names a setting, a group or a verb that does not exist or
is another verb's, and a command that does not end within the limit. `run` stops where it would begin to sample. Exit
code 1 if anything is bad.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

import bench.__main__ as command_line
from bench.experiment.compose import compose_settings, groups_of, schema_of
from bench.experiment.schema import names_below, types_at

WEIRD = (
    *("true", "false", "null", "", "~", "-1", "0", "1", "1e400", "-1e400", "nan", "inf", "-.inf", "9" * 25),
    *("9" * 5000, "2e7", "1e5", "0x10", "01:30:00", "1:30:00", "2024_01_05", "12e4567", "0.5", "-0.0", "[", "]"),
    *("{", "}", "[1", "1]", "{a:", "{a: 1", "{a:1}", "{a: {b: [c]}}", "[a,b", "[a,b]", "[[]]", "[1,[2]]", "{}"),
    *("[]", "'", '"', "'a", '"a', "a'", "'a b'", "ünï.png", "a b", "a#b", " #x", "a=b", "a,b", "a:b", "a: b", "${"),
    *("${x}", "${name}", "$name", "\\${x}", "${oc.env:HOME}", "${oc.env:TCD_BENCH_NONE}", "${oc.decode:x}"),
    *("${hydra:x}", "${a${b}}", "\\", "\n", "a\nb", "\t", "🎨", "@", "!", "&a", "*a", "%", "- a", "? a", "| a"),
    *("> a", "<<", "{<<: 1}", "!!python/name:os.system", "../..", "/etc/passwd", "range(0,3)", "[" * 300),
    *("{a: " * 200, "a" * 5000, "[true,false]", "[null]", "{1: 2, 1: 3}", "~/x", "???", "a@b", "*", "(1,2)", "1,2"),
    *("yes", "off", "None", "True", "[1,1]", "[.inf]", "{a: b}}", "[a]]", "`ls`", "$(ls)"),
)
FLAGS = (
    *("--experimental-rerun=x.pickle", "--config-dir=/tmp", "--config-path=/tmp", "--config-name=x", "--run"),
    *("--info", "--shell-completion", "--hydra-help", "--version", "--cfg", "--cfg=hydra", "-c", "-x", "--", "-"),
    *("--package=x", "hydra.run.dir=/tmp/x", "hydra/launcher=basic", "hydra.searchpath=[file:///tmp]"),
    *("+hydra.verbose=true", "~hydra", "hydra=x", "--help=x", "-mm", "--results=x", "---", "=", "=x", "+=x", "~"),
    *("~=", "++", "a", "a b", "", ".", ".=1", "a.=1", ".a=1", "..=1", "a..b=1", "a/b=1", "a@b=1", "+a@b=1"),
    *("model@models.x=mini", "a[0]=1", "ä=1", "🎨=1"),
)
FOREIGN = re.compile(
    r"pydantic|omegaconf|hydra\.|NoneType|Traceback|object has no|errors\.pydantic|<class|full_key|ConfigKeyError|"
    r"argument of type|not subscriptable|unhashable|unexpected keyword|\bassert",
    re.IGNORECASE,
)
VERBS = [*command_line.VERBS]
CODES = {0, 1, 2, 3}


def command_lines(seed: int, count: int) -> Iterator[tuple[str, list[str]]]:
    dice = random.Random(seed)
    tree = {}
    for verb in VERBS:
        config = command_line.CONFIGS.get(verb, "config")
        given = ["results=x"] if config == "score" else []
        settings = compose_settings(given, config)
        tree[verb] = [".".join(path) for path in names_below((schema_of(config),), settings)], groups_of(config)
    makers = (_misspelt, _weird, _weird, _weird, _removed, _added, _chosen, _chosen, _flag, _table)
    for i in range(count):
        verb = VERBS[i % len(VERBS)]
        names, groups = tree[verb]
        arguments = [dice.choice(makers)(dice, names, groups) for _ in range(dice.choice((1, 1, 1, 2, 3)))]
        if dice.random() < 0.1:
            arguments.insert(0, "-m")
        if verb == "score" and dice.random() < 0.6:
            arguments.insert(0, "results=nowhere")
        if verb in ("run", "plan", "doctor", "fetch"):
            arguments.insert(0, "experiment=smoke")
        if verb == "conform" and not any("=" in text for text in arguments):
            arguments.append("scheduler=tdc")
        yield verb, arguments


def _slip(dice: random.Random, word: str) -> str:
    i = dice.randrange(len(word))
    before, after = word[:i], word[i + 1 :]
    return dice.choice((before + after, before + word[i] + word[i:], f"{before}x{after}", word.swapcase(), word + "s"))


def _misspelt(dice: random.Random, names: list[str], groups: dict[str, list[str]]) -> str:
    parts = dice.choice(names).split(".")
    i = dice.randrange(len(parts))
    parts[i] = _slip(dice, parts[i]) or "x"
    return f"{'.'.join(parts)}={dice.choice(('1', 'x', 'true', '[1]'))}"


def _weird(dice: random.Random, names: list[str], groups: dict[str, list[str]]) -> str:
    return f"{dice.choice(names)}={dice.choice(WEIRD)}"


def _removed(dice: random.Random, names: list[str], groups: dict[str, list[str]]) -> str:
    name = dice.choice([*names, *groups, "nothing", "methods.nothing"])
    return f"~{dice.choice((name, name, _slip(dice, name)))}{dice.choice(('', '', '=1', '='))}"


def _added(dice: random.Random, names: list[str], groups: dict[str, list[str]]) -> str:
    name = dice.choice(names)
    return f"{dice.choice(('+', '++'))}{dice.choice((name, f'{name}.x', _slip(dice, name)))}={dice.choice(WEIRD)}"


def _chosen(dice: random.Random, names: list[str], groups: dict[str, list[str]]) -> str:
    if not groups:
        group = dice.choice(("model", "method", "experiment", "scheduler"))
        return f"{group}={dice.choice(('mini', '[tcd]', 'smoke'))}"
    group = dice.choice([*groups])
    name = dice.choice(groups[group])
    lists = f"[{name}]", f"[{name},{name}]", f"[{name},{dice.choice(groups[group])}]"
    text = dice.choice((name, *lists, _slip(dice, name), f"[{name}", *WEIRD[-8:]))
    return f"{dice.choice(('', '', '+', '++', '~'))}{group}={text}"


def _flag(dice: random.Random, names: list[str], groups: dict[str, list[str]]) -> str:
    return dice.choice(FLAGS)


def _table(dice: random.Random, names: list[str], groups: dict[str, list[str]]) -> str:
    inner = ", ".join(
        f"{dice.choice(names).rpartition('.')[2]}: {dice.choice(WEIRD)}" for _ in range(dice.choice((1, 2)))
    )
    name = dice.choice(names)
    return f"{dice.choice((name, name.rpartition('.')[0] or name))}={{{inner}}}"


def start(verb: str, arguments: list[str], folder: Path) -> int:
    """Run a command line in a new process whose output goes to `folder`; returns its id."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
    code = 70
    try:
        os.chdir(folder)
        code = command_line.main([*verb.split(), *arguments])
    except SystemExit as leaving:
        print(f"SystemExit {leaving.code}", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def faults(verb: str, arguments: list[str], code: int | None, said: str) -> list[str]:
    """What is bad about an answer; nothing where it is good."""
    if code is None:
        return ["hangs"]
    found = []
    if "Traceback (most recent call last)" in said or code not in CODES:
        found.append("traceback")
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    ours = said[said.find("error: ") :] if lines else ""
    for argument in arguments:  # is repeated in the answer
        ours = ours.replace(argument, "")
    if code == 2 and not lines:
        found.append("no message")
    if FOREIGN.search(ours):
        found.append("words of a library")
    config = command_line.CONFIGS.get(verb, "config")
    schema, groups = (schema_of(config),), groups_of(config)
    for meant in re.findall(r"did you mean ([\w.-]+)\?", said):
        named = any(meant in names for names in groups.values())
        if meant not in groups and not named and not types_at(schema, meant.split(".")):
            found.append(f"advises {meant}, which is not a setting of {verb}")
    for other in re.findall(r"tcd-bench (\w+(?: accept)?) (?:takes|--help)", said):
        if other != verb:
            found.append(f"speaks of the verb {other}")
    return found


def stop(verb: str) -> None:
    """Let `run` end where it would begin to sample, and name what is read before it."""
    from bench.execute import job
    from bench.experiment.config import check_experiment

    def prepare(settings: dict[str, object]) -> int:
        job.prepare(check_experiment(settings))
        return 0

    command_line.VERBS[verb] = prepare


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout-s", type=float, default=90)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--show", action="store_true", help="print every answer")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    stop("run")
    import diffusers  # noqa: F401  # once, for all processes to come

    begun = time.monotonic()
    waiting = list(command_lines(options.seed, options.count))
    running: dict[int, tuple[str, list[str], Path, float]] = {}
    codes, bad, slowest = Counter[tuple[str, str]](), list[str](), 0.0
    with tempfile.TemporaryDirectory() as scratch:
        while waiting or running:
            while waiting and len(running) < options.workers:
                verb, arguments = waiting.pop(0)
                folder = Path(tempfile.mkdtemp(dir=scratch))
                running[start(verb, arguments, folder)] = verb, arguments, folder, time.monotonic()
            for child, (verb, arguments, folder, since) in [*running.items()]:
                ended, status = os.waitpid(child, os.WNOHANG)
                took = time.monotonic() - since
                if not ended and took < options.timeout_s:
                    continue
                if not ended:
                    os.killpg(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                del running[child]
                slowest = max(slowest, took)
                code = os.waitstatus_to_exitcode(status) if ended else None
                said = (folder / "stdout").read_text(errors="replace") + (folder / "stderr").read_text(errors="replace")
                if options.show:
                    print(f"$ tcd-bench {verb} {' '.join(map(repr, arguments))[:200]}\n{said[-600:]}", flush=True)
                codes[verb, "no end" if code is None else str(code)] += 1
                for fault in faults(verb, arguments, code, said):
                    bad.append(f"{fault}: tcd-bench {verb} {' '.join(map(repr, arguments))[:300]}\n{said[-1500:]}")
                    print(bad[-1], flush=True)
            time.sleep(0.02)
    text = summary(options, codes, bad)
    print(text, f"{time.monotonic() - begun:.0f} s in all, the slowest took {slowest:.1f} s", sep="\n")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    return 1 if bad else 0


def summary(options: argparse.Namespace, codes: Counter[tuple[str, str]], bad: list[str]) -> str:
    kinds = Counter(fault.partition(":")[0] for fault in bad)
    columns = sorted({code for _, code in codes})
    lines = [
        "# Mistyped overrides",
        "",
        f"`scripts/robustness/mistyped_overrides.py --count {options.count} --seed {options.seed}`: "
        f"{sum(codes.values())} command lines over all verbs (misspelt names, wrong types, "
        "odd quotes, unicode, huge numbers, tables, half brackets, removals, additions, groups, flags of Hydra).",
        "",
        f"- tracebacks: {kinds.pop('traceback', 0)}",
        f"- commands that do not end: {kinds.pop('hangs', 0)}",
        f"- messages with words of a library: {kinds.pop('words of a library', 0)}",
        f"- refusals without a message: {kinds.pop('no message', 0)}",
        f"- messages that name a setting or verb that does not exist, or another verb's: {sum(kinds.values())}",
        "",
        f"| verb | {' | '.join(f'exit {code}' for code in columns)} |",
        f"|---|{'---|' * len(columns)}",
        *(f"| {verb} | {' | '.join(str(codes[verb, code]) for code in columns)} |" for verb in VERBS),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
