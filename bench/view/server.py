"""The server of `tcd-bench view`: loopback only, a random token in every address, read only.

The token is a part of the path and not a cookie: cookies of one machine are shared by all its ports, and pictures of a
report that is shown with no origin would be asked for without them.
"""

from __future__ import annotations

import secrets
import socket
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bench.records.errors import BenchError
from bench.report.page import as_json, render_template
from bench.report.ties import MARKS, MARKS_IN_WORDS
from bench.view.runs import Place, Runs, RunView, read_summary, to_live_json

HOST = "127.0.0.1"
_HERE = Path(__file__).parent
_TEXTS = {".csv", ".json", ".jsonl", ".txt", ".md", ".tex"}
_SUFFIXES = {*_TEXTS, ".html", ".png", ".svg", ".pdf", ".webp", ".gif"}
"""Of files that a run or a report is made of and a browser shows."""
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_FILE_POLICY = (
    "sandbox allow-scripts allow-modals allow-downloads; default-src 'none'; img-src data: 'self'; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Of files of a run, which may come from others: they have no origin, so that they read nothing of this server."""


class Guard:
    """Refuses requests without the token, below which the application lies, and adds headers to every answer."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name.lower() for name, _ in message["headers"]}
                added = ((name.lower().encode(), value.encode()) for name, value in _HEADERS.items())
                message["headers"] = [*message["headers"], *(pair for pair in added if pair[0] not in known)]
            await send(message)

        _, _, after = scope["path"].partition("/")
        token, slash, _ = after.partition("/")
        answer: ASGIApp = self.app
        if not secrets.compare_digest(token.encode(), self.token.encode()):
            answer = PlainTextResponse("Use the whole address that tcd-bench view printed, with its token.\n", 403)
        elif not slash:
            answer = RedirectResponse(f"/{token}/")
        await answer({**scope, "root_path": f"/{token}"}, receive, with_headers)


def make_app(runs: Runs, token: str) -> ASGIApp:
    """Return the application; its addresses begin with the token."""

    def list_page(request: Request) -> Response:
        views = runs.views()
        data = {"cells": _choices(views), "filters": _filters(views), "scores": []}
        return HTMLResponse(_render("list.html.j2", views=views, root=str(runs.root), data=as_json(data)))

    def live(request: Request) -> Response:
        return Response(to_live_json(runs.views()), media_type="application/json")

    def run_page(request: Request) -> Response:
        place = _place(runs, request)
        if place is None:
            return _missing()
        view = runs.view(place)
        files = [name for name in _FILES if (place.path / name).is_file()]
        summary = read_summary(place)
        return HTMLResponse(_render("run.html.j2", view=view, files=files, summary=summary, location=str(place.path)))

    def run_live(request: Request) -> Response:
        place = _place(runs, request)
        return (
            _missing() if place is None else Response(to_live_json([runs.view(place)]), media_type="application/json")
        )

    def file(request: Request) -> Response:
        place = _place(runs, request)
        path = None if place is None else file_of_run(place, request.path_params["name"])
        if path is None:
            return _missing()
        kind = "text/plain; charset=utf-8" if path.suffix in _TEXTS else None
        return FileResponse(path, media_type=kind, headers={"Content-Security-Policy": _FILE_POLICY})

    routes = [
        Route("/", list_page),
        Route("/runs.json", live),
        Route("/run/{key}/", run_page),
        Route("/run/{key}/runs.json", run_live),
        Route("/run/{key}/{name:path}", file),
    ]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])  # against DNS rebinding
    app = Starlette(routes=routes, middleware=[hosts, Middleware(Guard, token=token)])
    app.router.redirect_slashes = False
    return app


_FILES = ("scores.csv", "summary.txt", "paper.tex", "records.jsonl", "run.json", "experiment.json")


def file_of_run(place: Place, name: str) -> Path | None:
    """Return a file of a run; None for anything outside it, behind a link, hidden, or of another kind."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or part.startswith(".") or "\\" in part or "\0" in part for part in parts):
        return None
    path = place.path.joinpath(*parts)
    if path.suffix.lower() not in _SUFFIXES or path.resolve() != place.path.resolve() / Path(*parts):
        return None
    return path if path.is_file() else None


def _place(runs: Runs, request: Request) -> Place | None:
    return runs.places().get(request.path_params["key"])


def _missing() -> Response:
    return PlainTextResponse("There is no such run or file.\n", 404)


def _choices(views: list[RunView]) -> list[dict[str, Any]]:
    """Return one entry for each combination of what the filters choose by."""
    return [
        {"key": view.key, "traits": {"State": view.state, "Model": model, "Method": method}}
        for view in views
        for model in view.models or ("–",)
        for method in view.methods or ("–",)
    ]


def _filters(views: list[RunView]) -> list[dict[str, Any]]:
    heads = ("State", "Model", "Method")
    entries = [entry["traits"] for entry in _choices(views)]
    values = {head: list(dict.fromkeys(entry[head] for entry in entries)) for head in heads}
    return [{"head": head, "values": found} for head, found in values.items() if len(found) > 1]


def _render(template: str, **values: Any) -> str:
    scripts = ("base.js", "tables.js", "view.js")
    marks = {"marks": MARKS, "marks_in_words": MARKS_IN_WORDS}
    return render_template(template, scripts, _HERE, live=True, **{"data": as_json({}), **marks, **values})


def listen(port: int) -> socket.socket:
    """Return a socket of this machine only; port 0 takes any that is free. Raises BenchError for one in use."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise BenchError(
            f"port={port} cannot be used ({error.strerror}); give another one, or port=0 for any that is free"
        ) from error
    return listening


def serve_runs(root: Path, port: int) -> None:
    """Serve the runs below a directory until it is interrupted; prints the address."""
    runs, listening, token = Runs(root), listen(port), secrets.token_urlsafe(24)
    address = f"http://{HOST}:{listening.getsockname()[1]}/{token}/"
    count = len(runs.places())
    print(f"{count} run{'' if count == 1 else 's'} below {root}: {address}", flush=True)
    print("Only this machine can reach it, and only with this address. Ctrl-C ends it.", flush=True)
    config = uvicorn.Config(make_app(runs, token), log_level="warning", access_log=False, server_header=False)
    try:
        uvicorn.Server(config).run([listening])
    except KeyboardInterrupt:
        pass
    finally:
        listening.close()
