"""Secrets are removed from written text, and ordinary words stay."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.__main__ import main as tcd_bench
from bench.redact import secret_settings, settings_without_secrets, without_secrets

LONG = "A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8"
TOKENS = [
    f"hf_{LONG}",
    *(f"gh{kind}_{LONG}" for kind in "pousr"),
    f"github_pat_11AAAAAAA0{LONG}_{LONG}",
    f"glpat-{LONG[:20]}",
    f"sk-{LONG}",
    f"sk-proj-{LONG}_{LONG}",
    f"sk-ant-api03-{LONG}-{LONG}",
    f"sk_live_{LONG}",
    "xoxb-123456789012-1234567890123-abcdefABCDEF",
    "AKIAABCDEFGHIJKLMNOP",
    "ASIAABCDEFGHIJKLMNOP",
    f"npm_{LONG}",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc_DEF-123",
    "AIzaSyA1234567890123456789012345678901-_",
    f"ya29.{LONG}",
    f"pypi-{LONG}",
]


@pytest.mark.parametrize("token", TOKENS)
def test_tokens_are_detected_by_their_form(token: str) -> None:
    for text in ("it was {} then", "url?x={}&y=1", "('{}',)", "{}"):
        found = without_secrets(text.format(token))
        assert token not in found
        assert "[secret]" in found
        assert LONG not in found


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Authorization: Bearer abc.def-123456", "Authorization: Bearer [secret]"),
        ("https://me:p@ss:word@host/x", "https://[secret]@host/x"),
        ("postgres://user:pa$$@db:5432/x", "postgres://[secret]@db:5432/x"),
        ("https://x.blob/y?sv=1&sig=ab%2Fcd&se=2", "https://x.blob/y?sv=1&sig=[secret]&se=2"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic [secret]"),
        ("https://host/x?a=1&token=ab%2Fcd", "https://host/x?a=1&token=[secret]"),
        ("s3://b/k?X-Amz-Signature=abc123", "s3://b/k?X-Amz-Signature=[secret]"),
        ("DefaultEndpoints=https;AccountKey=" + 3 * LONG + "==;x", "DefaultEndpoints=https;AccountKey=[secret];x"),
        ("login(user='me', password='hunter2')", "login(user='me', password=[secret])"),
        ("api_key: abc, next", "api_key: [secret], next"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----\nx", "[secret]\nx"),
    ],
)
def test_secrets_are_detected_by_their_context(text: str, redacted: str) -> None:
    assert without_secrets(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "results/mini/cells/189c8a0c78c9aa9a/features-adbfcf3371e3d222.npz",
        "stabilityai/stable-diffusion-xl-base-1.0 at 462165984030d82259a11f4367a4eed129e94a7b",
        "a risk-free ask-me-anything-about-everything task, sk-learn style",
        "the prompt has 77 tokens: too many; keys of the adapter: unet.down_blocks.0",
        "file:///home/me/a:b and http://localhost:6379/x and dataset://owner/name/x.tsv",
        "basic colours, bearer of news",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert without_secrets(text) == text


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "MY_API_KEY", "WANDB_API_KEY", "AZURE_STORAGE_CONNECTION_STRING", "GITLAB_PAT", "NPM_AUTH"]
)
def test_values_of_secret_variables_are_redacted_where_they_stand_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "painting")
    assert without_secrets("GET /painting?x, repainting, paintings") == "GET /[secret]?x, repainting, paintings"


@pytest.mark.parametrize("name", ["HF_TOKEN_PATH", "TOKENIZERS_PARALLELISM", "SSH_AUTH_SOCK", "PATH", "OLDPWD"])
def test_values_of_other_variables_stay(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "painting")
    assert without_secrets("GET painting") == "GET painting"


def test_settings_are_redacted_by_name_and_by_form() -> None:
    settings = {"a": {"api_key": "x", "token": "y", "steps": [2]}, "urls": ["https://me:pass@host"], "revision": None}
    names = {"api_key": "[secret]", "token": "[secret]", "steps": [2]}
    redacted = {"a": names, "urls": ["https://[secret]@host"], "revision": None}
    assert settings_without_secrets(settings) == redacted
    assert secret_settings(settings) == ["a.api_key", "a.token", "urls[0]"]
    assert secret_settings(redacted) == []


def test_no_file_of_a_run_holds_a_secret(
    overrides: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SECRET", "swordfish")
    label = f"methods.dpmpp_2s.label='hf_{LONG} swordfish'"
    assert tcd_bench(["run", *overrides("method=[dpmpp_2s]", "claim=[]", "measure.latency=false", label)]) == 0
    files = [
        path for path in (tmp_path / "run").rglob("*") if path.suffix in (".json", ".jsonl", ".html", ".csv", ".md")
    ]
    assert any(path.parent.name == "launches" for path in files)
    for path in files:
        text = path.read_text()
        assert LONG not in text, path
        assert "swordfish" not in text, path


def test_a_secret_is_not_given_to_workers_through_the_store(
    overrides: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label = f"methods.dpmpp_2s.label=hf_{LONG}"
    assert tcd_bench(["run", *overrides("method=[dpmpp_2s]", "claim=[]", "executor.workers=2", label)]) == 2
    assert "methods.dpmpp_2s.label holds a secret" in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("launches/*"))
    assert all(LONG not in path.read_text() for path in (tmp_path / "run").rglob("*.json"))


def test_the_longer_of_two_secrets_goes_whole_and_values_may_stand_in_any_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRST_TOKEN", "swordfish")
    monkeypatch.setenv("OTHER_TOKEN", "swordfish-and-chips")
    assert without_secrets("it is swordfish-and-chips") == "it is [secret]"
    assert settings_without_secrets({"a": ("swordfish", 1), "api_key": ""}) == {"a": ["[secret]", 1], "api_key": ""}
