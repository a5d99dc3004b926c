"""Quantisation of weights by the libraries that diffusers supports, by the name of the memory option. Imports none."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from bench.records.errors import BenchError

QUANTIZERS: Mapping[str, str] = {
    "bitsandbytes_4bit": "bitsandbytes",
    "bitsandbytes_8bit": "bitsandbytes",
    "torchao_int8": "torchao",
    "quanto_int8": "optimum-quanto",
}
"""The library of each form of quantised weights, by its name on PyPI."""


def quantizer_version(setting: str, option: str) -> dict[str, str]:
    """Return the version of the library that quantises, which is part of a cell's identity.

    Raises BenchError, naming the setting, where it is not installed.
    """
    library = QUANTIZERS[option]
    try:
        return {library: version(library)}
    except PackageNotFoundError:
        raise BenchError(
            f"{setting}.quantization={option} was given, but {library} is not installed; run `pip install {library}`, "
            "or omit the setting"
        ) from None
