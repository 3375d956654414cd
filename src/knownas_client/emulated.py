"""A server to test against: `knownas emulator` in a process of its own."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import IO, Any, Final, Self, TypedDict, Unpack

import msgspec

from knownas_client.async_client import AsyncClient
from knownas_client.calls import JSON, Call, json_body, nothing, reading_data
from knownas_client.client import Client
from knownas_client.errors import ApiError
from knownas_client.models import Found, Profile
from knownas_client.retries import Retries

_STOP_SECONDS: Final = 5.0
_FAULTS: Final = "/emulator/faults/"


class SeedProfile(TypedDict, total=False):
    """A profile to begin with: one of its ids at least, and what it has."""

    customer_user_id: str
    profile_id: str
    identifiers: dict[str, str]
    custom_attributes: dict[str, str | float]


class Options(TypedDict, total=False):
    """What a client may be told, as `Client` documents it."""

    timeout: float
    retries: Retries
    idempotency: bool


class _App(msgspec.Struct, frozen=True):
    app: str
    key: str


class _Started(msgspec.Struct, frozen=True):
    url: str
    key: str


_read_app = reading_data(_App)


class KnownasServer:
    """An app of its own on an emulator that runs."""

    def __init__(self, url: str, key: str) -> None:
        """Take where the emulator is, and the app's secret key."""
        self.url = url
        self.key = key
        self._open = contextlib.ExitStack()
        self._control = self.client()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close the clients that it gave."""
        self._open.close()

    def app(self) -> "KnownasServer":
        """Return the same emulator with a new app, in which there is nothing."""
        made = self._do("POST", "/emulator/apps/", None, _read_app)
        return KnownasServer(self.url, made.key)

    def client(self, **options: Unpack[Options]) -> Client:
        """Return a client of this app, which is closed with the server."""
        return self._open.enter_context(Client(self.url, self.key, **options))

    def async_client(self, **options: Unpack[Options]) -> AsyncClient:
        """Return a client for `async with`, which closes it."""
        return AsyncClient(self.url, self.key, **options)

    def seed(self, *profiles: SeedProfile) -> list[Profile]:
        """Make profiles, and return them as they are then."""
        for profile in profiles:
            who = _who(profile)
            self._control.create_profile(
                {"custom_attributes": profile.get("custom_attributes", {})}, **who
            )
        items = [
            _who(profile) | {"identifiers": profile["identifiers"]}
            for profile in profiles
            if profile.get("identifiers")
        ]
        for written in self._control.write_many(items):
            if isinstance(written, ApiError):
                raise written
        return [_there(one) for one in self._control.read_many(map(_who, profiles))]

    def fail_next(
        self,
        status: int | None = None,
        *,
        retry_after: int | None = None,
        latency: float = 0.0,
        done: bool = False,
        times: int = 1,
    ) -> None:
        """Have the next requests of this app fail, `times` of them.

        `status` is 401, 404, 408, 429, 500, 503, or 403 for the plain text of the network in front
        of Adapty; without one they are only late, by `latency` seconds. `retry_after` is the
        header's whole seconds, of 429 and 503. With `done` the request is done, and only its
        answer is lost. Raises ValidationError for anything else.
        """
        parts = [
            *([] if status is None else [str(status)]),
            *([] if retry_after is None else [f"retry-after={retry_after}"]),
            *([f"latency={latency:.3f}"] if latency else []),
            *(["done"] if done else []),
        ]
        self._do("POST", _FAULTS, {"fault": ";".join(parts), "times": times}, nothing)

    def stop_failing(self) -> None:
        """Forget the faults that did not come yet."""
        self._do("DELETE", _FAULTS, None, nothing)

    def _do(self, method: str, path: str, body: object, read: Any) -> Any:  # noqa: ANN401 - as in Call
        content = {} if body is None else {"headers": {"content-type": JSON}, **json_body(body)}
        return self._control.send(Call(method=method, path=path, read=read, **content))


@contextlib.contextmanager
def running(settings: Mapping[str, str]) -> Iterator[KnownasServer]:
    """Run an emulator under these `KNOWNAS_…` settings, and no others of the environment.

    Raises RuntimeError when it does not start.
    """
    environment = {name: v for name, v in os.environ.items() if not name.startswith("KNOWNAS_")}
    command = [sys.executable, "-m", "knownas", "emulator", "--port", "0", "--json"]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(  # noqa: S603 - this interpreter, and a module of ours
            command, env={**environment, **settings}, stdout=subprocess.PIPE, stderr=log
        ) as process,
    ):
        try:
            with KnownasServer(*_started(process, log)) as server:
                yield server
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _started(process: subprocess.Popen[bytes], log: IO[bytes]) -> tuple[str, str]:
    """Return the URL and the key that an emulator tells when it is there."""
    line = process.stdout.readline() if process.stdout else b""
    if not line:
        process.wait()
        log.seek(0)
        said = log.read().decode(errors="replace").strip()
        raise RuntimeError(f"The emulator did not start; is knownas installed here?\n{said}")
    started = msgspec.json.decode(line, type=_Started)
    return started.url, started.key


def _who(profile: SeedProfile) -> Any:  # noqa: ANN401 - the part that several kinds of item share
    return {
        name: profile[name]
        for name in ("customer_user_id", "profile_id")
        if profile.get(name) is not None
    }


def _there(found: Profile | Found | ApiError) -> Profile:
    if isinstance(found, ApiError):
        raise found
    if isinstance(found, Found):
        raise TypeError("A profile is seeded by its ids.")
    return found
