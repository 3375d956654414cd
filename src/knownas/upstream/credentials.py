"""The key of an upstream: sealed in the database, or where only the servers' operator puts one."""

import os
import re
from pathlib import Path
from typing import Final

from knownas.errors import FeatureNotConfigured, ValidationError
from knownas.model import App
from knownas.upstreams import MAX_KEY_CHARACTERS, Upstream
from knownas.vault import Vault, VaultError

MAX_FILE_BYTES: Final = 4_096

_is_key: Final = re.compile(rf"[!-~]{{1,{MAX_KEY_CHARACTERS}}}").fullmatch
_is_variable: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*").fullmatch


class NoKey(Exception):
    """The key of an upstream cannot be had; the text is one sentence for the operator."""


def clean_key(text: str) -> str:
    """Return an API key of another server. Raises ValidationError for what cannot be one."""
    if not _is_key(text):
        raise ValidationError(
            f"Must be 1 to {MAX_KEY_CHARACTERS} visible ASCII characters without blanks.",
            source="key",
        )
    return text


def from_variable(name: str) -> str:
    """Return the `Upstream.key_from` of an environment variable. Raises ValidationError."""
    if not _is_variable(name):
        raise ValidationError("Must be the name of an environment variable.", source="key_env")
    return f"env:{name}"


def from_file(path: str) -> str:
    """Return the `Upstream.key_from` of a file. Raises ValidationError."""
    if not Path(path).is_absolute():
        raise ValidationError("Must be a path from the root (/…).", source="key_file")
    return f"file:{path}"


def seal(vault: Vault, app: App, key: str) -> bytes:
    """Return a key sealed for an app's upstream. Raises FeatureNotConfigured."""
    return vault.seal(key.encode(), context=_context(app))


def unseal(vault: Vault, app: App, upstream: Upstream) -> str:
    """Return the key of an app's upstream. Raises NoKey."""
    try:
        if upstream.key is not None:
            return vault.unseal(upstream.key, context=_context(app)).decode()
        key = _found(upstream.key_from or "")
    except (FeatureNotConfigured, VaultError):
        raise NoKey(
            "The upstream's key does not open with this server's master key; set it anew."
        ) from None
    if not _is_key(key):
        raise NoKey("What stands where the upstream's key is to be found is no key.")
    return key


def _found(key_from: str) -> str:
    """Return what stands where an operator puts a key. Raises NoKey."""
    kind, _, place = key_from.partition(":")
    if kind == "env":
        if place not in os.environ:
            raise NoKey(f"The environment of this server has no variable {place}.")
        return os.environ[place].strip()
    try:
        with Path(place).open("rb") as file:
            return file.read(MAX_FILE_BYTES).decode("ascii", errors="replace").strip()
    except OSError as error:
        raise NoKey(f"{place}: {error.strerror}.") from None


def _context(app: App) -> str:
    return f"upstream/{app.uuid}"
