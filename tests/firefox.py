"""Firefox, driven by WebDriver BiDi, which it speaks itself; playwright needs release 143."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from websockets.sync.client import ClientConnection, connect

BINARY = next(filter(None, map(shutil.which, ("firefox", "firefox-esr"))), None)
KEYS = {"Enter": "\ue006", "Escape": "\ue00c", "ArrowRight": "\ue014", "ArrowLeft": "\ue012", "Tab": "\ue004"}
_EVENTS = ("log.entryAdded", "network.beforeRequestSent")


class Firefox:
    """A tab: what it is told to do, what it asked for, and what its console said."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._last = socket, 0
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.call("session.new", capabilities={})
        self.call("session.subscribe", events=_EVENTS)
        self.tab = self.call("browsingContext.create", type="tab")["context"]  # the first one never has the focus
        self.call("browsingContext.activate", context=self.tab)

    def call(self, method: str, **params: Any) -> Mapping[str, Any]:
        """Return the result of a command; events that come before it are noted."""
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=300))
            if message.get("id") == self._last:
                assert message["type"] == "success", message
                return message["result"]
            self._note(message)

    def _note(self, event: Mapping[str, Any]) -> None:
        if event["method"] == "log.entryAdded":
            self.complaints.append(event["params"]["text"])
        elif event["method"] == "network.beforeRequestSent":
            self.requests.append(event["params"]["request"]["url"])

    def open(self, address: str, width: int) -> Self:
        """Load a page in a window of a width."""
        self.call("browsingContext.setViewport", context=self.tab, viewport={"width": width, "height": 900})
        self.call("browsingContext.navigate", context=self.tab, url=address, wait="complete")
        return self

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression, or what its promise resolves to."""
        text = f"Promise.resolve({expression}).then(value => JSON.stringify(value ?? null))"
        found = self.call("script.evaluate", expression=text, target={"context": self.tab}, awaitPromise=True)
        assert found["type"] == "success", found
        return json.loads(found["result"]["value"])

    def until(self, expression: str) -> None:
        """Wait until an expression holds."""
        for _ in range(3000):
            if self.evaluate(f"Boolean({expression})"):
                return
            time.sleep(0.05)
        raise AssertionError(expression)

    def press(self, *keys: str) -> None:
        """Press keys one after another, by their names or characters."""
        presses = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self._act({"type": "key", "id": "keys", "actions": presses})

    def click(self, selector: str) -> None:
        """Bring an element into the window and click on its middle."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{found}.scrollIntoView({{ block: 'center' }})")
        box = f"(box => [box.x + box.width / 2, box.y + box.height / 2])({found}.getBoundingClientRect())"
        x, y = map(round, self.evaluate(box))
        moves = [{"type": "pointerMove", "x": x, "y": y}]
        moves += [{"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp")]
        self._act({"type": "pointer", "id": "mouse", "actions": moves})

    def _act(self, actions: Mapping[str, Any]) -> None:
        self.call("input.performActions", context=self.tab, actions=[actions])


@contextmanager
def running(folder: Path) -> Iterator[Firefox]:
    """Start Firefox without a window, with its profile and home in a folder, and end it afterwards."""
    command = [str(BINARY), "--headless", "--no-remote", "--remote-debugging-port=0", "--profile", str(folder)]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env={**os.environ, "HOME": str(folder)}
    ) as process:
        try:
            lines = iter(process.stderr.readline, "") if process.stderr else ()
            address = next(found[0] for line in lines if (found := re.search(r"ws://\S+", line)))
            with connect(f"{address}/session", max_size=None, ping_interval=None) as socket:
                yield Firefox(socket)
        finally:
            process.terminate()
            process.wait(30)
