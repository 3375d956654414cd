"""Zstandard: of the standard library from Python 3.14 on, before that its backport."""

import sys
from typing import Any


def zstd() -> Any:  # noqa: ANN401 - one of two modules with the same names
    """Return the module, which is imported when a file needs it."""
    if sys.version_info >= (3, 14):
        from compression import zstd as module  # noqa: PLC0415 - as just said
    else:
        from backports import zstd as module  # noqa: PLC0415 - as just said
    return module
