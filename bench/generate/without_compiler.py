"""diffusers without PyTorch's compiler, for commands that try schedulers and run no model.

Importing diffusers imports `torch._dynamo` for a decorator of compiled models, which takes longer than the rest of
diffusers; diffusers replaces the decorator where the import fails.
"""

from __future__ import annotations

import sys
from typing import Any

_COMPILER = "torch._dynamo"


def import_without_compiler() -> None:
    """Import what all schedulers share; nothing happens where diffusers or the compiler are loaded already.

    Models of this process that are compiled afterwards lack diffusers' decorator. The compiler itself can be imported.
    """
    import torch  # noqa: F401  # with what it needs itself

    modules: dict[str, Any] = sys.modules
    if not {"diffusers", _COMPILER} & modules.keys():
        modules[_COMPILER] = None
        try:
            import diffusers.utils.torch_utils  # noqa: F401
        finally:
            del modules[_COMPILER]
