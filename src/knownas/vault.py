"""Secrets that must be readable again, encrypted under the operator's master key.

The master keys stand in a file that only its owner can read, one a line, the newest first:

    ka-master-1:<key id, 8 hexadecimal digits>:<32 bytes in base64>

The newest seals, all of them unseal. What is sealed reads

    1 | key id (4 bytes) | nonce (12) | what AES-256-GCM makes of the secret (16 bytes longer)

with the bytes before the nonce, and the context, as associated data: a secret that is moved to
another place, or changed, does not open. A random nonce of 96 bits is safe for 2**32 secrets
under one key (NIST SP 800-38D, 8.3).
"""

import base64
import fcntl
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from knownas.errors import FeatureNotConfigured

MAX_FILE_BYTES: Final = 65_536

_KEY_BYTES: Final = 32
_ID_BYTES: Final = 4
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_VERSION: Final = b"\x01"
_HEAD_BYTES: Final = len(_VERSION) + _ID_BYTES
_SHORTEST: Final = _HEAD_BYTES + _NONCE_BYTES + _TAG_BYTES
_LINE: Final = re.compile(r"ka-master-1:([0-9a-f]{8}):([A-Za-z0-9+/]{43}=)")
_RIGHTS_OF_OTHERS: Final = 0o077


class VaultError(Exception):
    """The master key's file, or what was sealed, cannot be used; the text is one line."""


class Vault:
    """Seals and unseals secrets under the keys of one file.

    Without a file there are no keys: then all that needs one raises FeatureNotConfigured.
    """

    def __init__(self, path: str, keys: dict[bytes, bytes]) -> None:
        """Take the file that the keys are from, "" for none, and the keys by id, newest first."""
        self.path = path
        self._keys = keys

    @classmethod
    def open(cls, path: str) -> Self:
        """Return a vault with the keys in the file at `path`; "" stands for no file and no keys.

        Raises VaultError when the file is not there, is no regular file, can be read by others
        than its owner, or has anything else in it.
        """
        return cls(path, _keys(_read(Path(path)), path) if path else {})

    @property
    def key_ids(self) -> list[str]:
        """The ids of the keys, the one that seals first."""
        return [key_id.hex() for key_id in self._keys]

    def require(self) -> None:
        """Return if there is a key. Raises FeatureNotConfigured if not."""
        self._newest()

    def seal(self, plain: bytes, *, context: str) -> bytes:
        """Return `plain` encrypted, 33 bytes longer; only the same `context` opens it again.

        The context names where the secret belongs, such as `webhook/<id>/secret`. Raises
        FeatureNotConfigured.
        """
        key_id = self._newest()
        head = _VERSION + key_id
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealing = AESGCM(self._keys[key_id])
        return head + nonce + sealing.encrypt(nonce, plain, head + context.encode())

    def unseal(self, sealed: bytes, *, context: str) -> bytes:
        """Return what was sealed for this `context`.

        A key that is not known is looked for in the file anew, so that a rotation reaches a
        server while it runs. Raises VaultError when the file does not have it, or when what was
        sealed, or its context, is another; FeatureNotConfigured.
        """
        self._newest()
        if len(sealed) < _SHORTEST or not sealed.startswith(_VERSION):
            raise VaultError("A stored secret was not sealed by this program.")
        head, nonce, rest = (
            sealed[:_HEAD_BYTES],
            sealed[_HEAD_BYTES : _HEAD_BYTES + _NONCE_BYTES],
            sealed[_HEAD_BYTES + _NONCE_BYTES :],
        )
        key_id = head[len(_VERSION) :]
        if key_id not in self._keys:
            self._keys = _keys(_read(Path(self.path)), self.path)
        if key_id not in self._keys:
            raise VaultError(
                f"A stored secret needs the master key {key_id.hex()}, which is not in {self.path}."
            )
        try:
            return AESGCM(self._keys[key_id]).decrypt(nonce, rest, head + context.encode())
        except InvalidTag:
            raise VaultError(
                f"A stored secret does not open with the master key {key_id.hex()}: "
                "it was changed, or belongs elsewhere."
            ) from None

    def needs_resealing(self, sealed: bytes) -> bool:
        """Tell whether `sealed` is under another key than the newest. Raises FeatureNotConfigured.

        When nothing is any more, the older keys can be taken out of the file.
        """
        return not sealed.startswith(_VERSION + self._newest())

    def _newest(self) -> bytes:
        if not self._keys:
            raise FeatureNotConfigured
        return next(iter(self._keys))


def create(path: str) -> str:
    """Make a file with a new key, for its owner alone to read, and return the key's id.

    Raises VaultError when something is there already, or it cannot be written.
    """
    place = Path(path)
    with _telling(path), _locked_folder(place):
        line, key_id = _new_line()
        with _complete_file(place, line) as complete:
            place.hardlink_to(complete)  # unlike a renaming, this replaces nothing
    return key_id


def rotate(path: str) -> str:
    """Put a new key before those in the file at `path`, which stay, and return its id.

    The file is replaced as a whole: whatever breaks off leaves the old one or the new one. Raises
    VaultError as `Vault.open`, and when it cannot be written.
    """
    with _telling(path):
        place = Path(path).resolve()
        with _locked_folder(place):
            text = _read(place)
            known = _keys(text, path)
            line, key_id = _new_line(known)
            with _complete_file(place, line + text) as complete:
                os.chown(complete, place.stat().st_uid, -1)  # root may do this for the server
                complete.replace(place)
    return key_id


def _new_line(known: dict[bytes, bytes] | None = None) -> tuple[str, str]:
    """Return a line with a new key, and its id, which is none of those that are known."""
    key_id = secrets.token_bytes(_ID_BYTES)
    while known and key_id in known:
        key_id = secrets.token_bytes(_ID_BYTES)
    key = base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()
    return f"ka-master-1:{key_id.hex()}:{key}\n", key_id.hex()


def _read(path: Path) -> str:
    """Return what is in a file of keys. What is in no such file is not shown by any error."""
    with _telling(str(path)):
        # Whatever opens at once: a pipe would wait for somebody to write.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise VaultError(f"{path}: a master key is kept in a regular file.")
            if mode & _RIGHTS_OF_OTHERS:
                raise VaultError(
                    f"{path}: others than its owner have rights on it; run chmod 600 on it."
                )
            text = os.read(descriptor, MAX_FILE_BYTES + 1)
        finally:
            os.close(descriptor)
    if len(text) > MAX_FILE_BYTES:
        raise VaultError(f"{path}: no file of master keys is this long.")
    return text.decode("ascii", errors="replace")


def _keys(text: str, path: str) -> dict[bytes, bytes]:
    keys: dict[bytes, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if (match := _LINE.fullmatch(line)) is None:
            raise VaultError(f"{path}: line {number} is no master key.")
        key_id = bytes.fromhex(match[1])
        if key_id in keys:
            raise VaultError(f"{path}: line {number} has the id of a line before it.")
        keys[key_id] = base64.b64decode(match[2])
    if not keys:
        raise VaultError(f"{path}: there is no master key in it.")
    return keys


@contextmanager
def _complete_file(beside: Path, text: str) -> Iterator[Path]:
    """Give a file that is on the disk with all of `text`, under a name that is gone at the end."""
    descriptor, name = tempfile.mkstemp(prefix=f"{beside.name}.part-", dir=beside.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("ascii"))
            file.flush()
            os.fsync(descriptor)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def _locked_folder(path: Path) -> Iterator[None]:
    """Keep other commands from changing the file meanwhile, and flush the names at the end.

    Of two rotations at once, one would else take away the key of the other.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _telling(path: str) -> Iterator[None]:
    """Tell what the file system says in one line."""
    try:
        yield
    except FileExistsError:
        raise VaultError(f"{path} is there already; a rotation adds a key to it.") from None
    except FileNotFoundError:
        raise VaultError(f"{path}: there is no such file or folder.") from None
    except OSError as error:
        raise VaultError(f"{path}: {error.strerror}.") from None
