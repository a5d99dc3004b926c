"""The local server over a directory of runs: what it lists, what it serves, and what it refuses."""

import html
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from test_report import CLAIM, make_store

from bench.__main__ import main
from bench.report.terminal import Summary, VerdictLine
from bench.view.runs import FINISHED, JOINT, RUNNING, STOPPED, Runs
from bench.view.server import listen, make_app
from bench.workers.launch import Launch, Reporter

TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a stopped run of hostile names, a finished one deeper down, a joint report, and other files."""
    root = tmp_path_factory.mktemp("results")
    stopped = make_store(root / "stopped")
    stopped.save_run(replace(stopped.run(), claims=(CLAIM,), prompts=stopped.run().prompts))
    home = Path(stopped.location)
    (home / "report.html").write_text("<!doctype html><script>1</script>the report", encoding="utf-8")
    summary = Summary(verdicts=(VerdictLine("supported", "<b>claim</b>", "fid@mini", "+1.00 [+0.50, +1.50]"),))
    (home / "summary.json").write_text(summary.to_json(), encoding="utf-8")
    (home / "tables").mkdir()
    (home / "tables" / "scores.csv").write_text("a,b\n", encoding="utf-8")
    (home / "secret.key").write_text("secret", encoding="utf-8")
    (home / ".hidden.txt").write_text("secret", encoding="utf-8")
    (home / "link.txt").symlink_to(root / "outside.txt")
    (root / "outside.txt").write_text("secret", encoding="utf-8")
    done = make_store(root / "gpu" / "done")
    cells = [record.key for record in done.good_records()]
    done.save_run(replace(done.run(), name="done", cells=tuple(cells)))
    (root / "joint").mkdir()
    for name in ("report.html", "report.json"):
        (root / "joint" / name).write_text("{}", encoding="utf-8")
    (root / "nothing").mkdir()
    (root / "away").symlink_to(root.parent)
    return root


@pytest.fixture(scope="module")
def client(root: Path) -> TestClient:
    return TestClient(make_app(Runs(root), TOKEN), base_url="http://127.0.0.1", follow_redirects=False)


def key_of(root: Path, name: str) -> str:
    return next(place.key for place in Runs(root).places().values() if place.name == name)


def test_runs_are_found_with_their_states(root: Path) -> None:
    views = {view.place: view for view in Runs(root).views()}
    assert {place: view.state for place, view in views.items()} == {
        "stopped": STOPPED, "gpu/done": FINISHED, "joint": JOINT,
    }  # fmt: skip
    stopped = views["stopped"]
    assert (stopped.done, stopped.failed, stopped.cells) == (5, 1, 7)
    assert stopped.verdicts == {"supported": 1}
    assert stopped.methods == ("TCD & <friends> $\\frac{1$", "<b>ddim</b>")


def test_a_run_with_a_living_worker_is_running_and_its_progress_is_live(tmp_path: Path) -> None:
    store = make_store(tmp_path / "run")
    cells = tuple(store.run().cells)
    settings = {"batch_size": 40, "name": "run", "prompts": {}}
    Launch("20260101-000000-a", settings, (1.0,), cells, 40, time.time() - 100).save(store.files)
    reporter = Reporter(store.files, "20260101-000000-a", "w", "cpu")
    reporter.images = 200
    reporter.say()
    runs = Runs(tmp_path)
    (view,) = runs.views()
    assert (view.state, view.left) == (RUNNING, "about 40 s left")
    assert "5 of 7 cells done" in view.said
    reporter.enter("done", None)
    reporter.say()
    assert runs.views()[0].state == STOPPED, "it ended with a cell left"


def test_every_text_is_escaped_and_pages_load_nothing(client: TestClient, root: Path) -> None:
    for address in (f"/{TOKEN}/", f"/{TOKEN}/run/{key_of(root, 'stopped')}/"):
        answer = client.get(address)
        assert answer.status_code == 200
        assert "<em>run" not in answer.text
        assert "&lt;em&gt;run&lt;/em&gt;" in answer.text
        assert "<b>" not in re.sub(r"<script>.*?</script>", "", answer.text, flags=re.DOTALL)
        assert "default-src 'none'" in html.unescape(answer.text)
        assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", answer.text)
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_reports_and_files_of_a_run_are_served_without_an_origin(client: TestClient, root: Path) -> None:
    home = f"/{TOKEN}/run/{key_of(root, 'stopped')}"
    report = client.get(f"{home}/report.html")
    assert report.text.endswith("the report")
    policy = report.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts ")
    assert "allow-same-origin" not in policy
    table = client.get(f"{home}/tables/scores.csv")
    assert (table.text, table.headers["content-type"]) == ("a,b\n", "text/plain; charset=utf-8")
    live = json.loads(client.get(f"{home}/runs.json").text)
    assert [(run["state"], run["done"]) for run in live] == [(STOPPED, 5)]


@pytest.mark.parametrize(
    "name",
    [
        "../outside.txt", "..%2foutside.txt", "%2e%2e/outside.txt", "tables/../../outside.txt", "..\\outside.txt",
        "/etc/passwd", "%2fetc/passwd", "link.txt", ".hidden.txt", "secret.key", "tables", "tables/", "x%00.txt",
    ],
)  # fmt: skip
def test_nothing_else_is_served(client: TestClient, root: Path, name: str) -> None:
    answer = client.get(f"/{TOKEN}/run/{key_of(root, 'stopped')}/{name}")
    assert answer.status_code in (400, 404)
    assert "secret" not in answer.text
    assert "root:" not in answer.text


def test_without_its_token_or_under_another_name_it_refuses(client: TestClient, root: Path) -> None:
    for address in ("/", "/wrong/", f"/{TOKEN[:-1]}/", "/runs.json", f"/{TOKEN}x/runs.json"):
        assert client.get(address).status_code == 403, address
    assert client.get(f"/{TOKEN}/", headers={"host": "evil.example"}).status_code == 400
    assert client.get(f"/{TOKEN}").headers["location"] == f"/{TOKEN}/"
    assert client.post(f"/{TOKEN}/").status_code == 405
    assert client.get(f"/{TOKEN}/run/unknown/").status_code == 404


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["results=/nowhere/at/all"], "is not a directory"),
        (["results={empty}"], "holds no runs"),
        (["results={root}", "port={taken}"], "cannot be used"),
        (["results={root}", "port=70000"], "port=70000"),
        (["results={root}", "host=0.0.0.0"], "host"),
    ],
)
def test_a_refusal_is_one_sentence(
    arguments: list[str], said: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with listen(0) as taken:
        known = {"root": root, "empty": tmp_path, "taken": taken.getsockname()[1]}
        assert main(["view", *(argument.format(**known) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_it_listens_on_this_machine_only_and_ends_with_an_interrupt(root: Path) -> None:
    with listen(0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"
        assert listening.family is socket.AF_INET
    command = [sys.executable, "-m", "bench", "view", f"results={root}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as running:
        assert running.stdout is not None
        (address,) = re.findall(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", running.stdout.readline())
        with urllib.request.urlopen(address) as answer:  # noqa: S310
            assert "gpu/done" in answer.read().decode()
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(address.rsplit("/", 2)[0] + "/")  # noqa: S310
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 0
