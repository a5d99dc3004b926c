"""What diffusers and transformers print: each warning once, and none that this package says better or means."""

from __future__ import annotations

import logging

NOISE = (
    "Token indices sequence length is longer than the specified maximum sequence length",
    "The following part of your input was truncated because CLIP can only handle sequences",
    "Pipelines loaded with `dtype=torch.float16` cannot run with `cpu` device",
    "The first timestep on the custom timestep schedule is",
    "The custom timestep schedule contains the following timesteps",
    "The number of timesteps in the custom timestep schedule is",
)
"""How these warnings begin: prompts that are cut (counted and said in one line), half precision on a processor and
timesteps of one's own, both of which were asked for."""


class _Useful(logging.Filter):
    """Lets every other message through, once."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is shown."""
        message = record.getMessage()
        if message.startswith(NOISE) or message in self._seen:
            return False
        self._seen.add(message)
        return True


def quiet_libraries(afresh: bool = False) -> None:
    """Filter what the libraries' own handlers print; other handlers of these loggers hear everything.

    `afresh` lets warnings through once more that were shown before.
    """
    for library in ("diffusers", "transformers"):
        for handler in logging.getLogger(library).handlers:
            if afresh or not any(isinstance(found, _Useful) for found in handler.filters):
                handler.filters[:] = [_Useful()]
