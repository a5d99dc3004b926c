"""Output of diffusers and transformers: each warning once, except those that this package reports or intends."""

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
"""The beginnings of these warnings: truncated prompts (counted and reported in one line), half precision on a processor
and custom timesteps, both of which were requested."""


class _Useful(logging.Filter):
    """Passes every other message, once."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown."""
        message = record.getMessage()
        if message.startswith(NOISE) or message in self._seen:
            return False
        self._seen.add(message)
        return True


def quiet_libraries(afresh: bool = False) -> None:
    """Filter what the libraries' own handlers print; other handlers of these loggers receive everything.

    `afresh` shows warnings once more that were shown before.
    """
    for library in ("diffusers", "transformers"):
        for handler in logging.getLogger(library).handlers:
            if afresh or not any(isinstance(found, _Useful) for found in handler.filters):
                handler.filters[:] = [_Useful()]
