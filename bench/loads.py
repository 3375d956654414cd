"""The loads: whole HTTP requests, made before wrk sends them."""

import random
from collections.abc import Sequence
from typing import Final, NamedTuple

from bench import lookups
from bench.contenders import PATH, Contender
from bench.databases import Database, Target
from knownas import keys
from knownas.model import KIND_NUMBER

_SEED: Final = 2
_WRITES_OF_100: Final = 5
_VARYING: Final = "\x01"
"""Where `wrk.lua` puts ten digits, other ones each time."""
_VARYING_DIGITS: Final = 10
_WRITTEN: Final = {"appsflyer_id": 21, "adjust_device_id": 32, "mixpanel_user_id": 28}
"""Three kinds, and the usual length of their values."""
assert _WRITTEN.keys() <= KIND_NUMBER.keys()


class Load(NamedTuple):
    """What is asked, and how many ask at once."""

    name: str
    title: str
    connections: tuple[int, ...] = (64,)
    refused: bool = False
    """Whether each answer has to be an error."""
    writes: bool = False

    @property
    def kind(self) -> str:
        """The name without what it is measured over."""
        return self.name.partition(" ")[0]


LOADS: Final = (
    Load("get", "GET by customer"),
    Load("profile", "GET by profile id"),
    Load("miss", "GET of an unknown customer (404)", refused=True),
    Load("unauthorized", "GET with an unknown key (401)", refused=True),
    Load("post", "POST of three values", connections=(1, 64, 256), writes=True),
    Load("mix", "95 GET to 5 POST", writes=True),
)

OVER_POSTGRES: Final = (
    Load("get over PostgreSQL", "GET by customer"),
    Load("post over PostgreSQL", "POST of three values", connections=(64, 256), writes=True),
)

GET_BESIDE, FIND, READ, BATCH = LOOKUPS = (
    Load("get beside look-ups", "GET by customer"),
    Load("find", "GET of the profiles with an identifier"),
    Load("read", "GET of a whole profile by customer"),
    Load("batch", "POST of a batch of 100 such reads"),
)


def requests(
    load: Load, contender: Contender, database: Database, targets: Sequence[Target]
) -> bytes:
    """Return the requests of a load on a server, in the form that `wrk.lua` reads."""
    key = keys.mint("secret") if load.kind == "unauthorized" else database.key
    rng = random.Random(_SEED)
    made: list[bytes] = []
    if load.kind in lookups.KINDS:
        return b"\0".join(lookups.requests(load.kind, key, targets))
    for target in targets:
        match load.kind:
            case "profile":
                request = _get(key, "adapty-profile-id", target.profile_id)
            case "miss":
                request = _get(key, "adapty-customer-user-id", f"nobody-{target.customer}")
            case "post":
                request = _post(key, target)
            case "mix" if rng.randrange(100) < _WRITES_OF_100:
                request = _post(key, target)
            case _:
                path = contender.get_path(target) if contender.get_path else PATH
                request = _get(key, "adapty-customer-user-id", target.customer, path=path)
        made.append(request)
    return b"\0".join(made)


def written(digits: str) -> dict[str, str]:
    """Return what a POST writes, with these ten digits in each of its values."""
    return {name: digits.rjust(length, "1") for name, length in _WRITTEN.items()}


def _get(key: str, name: str, value: str, *, path: str = PATH) -> bytes:
    lines = (f"GET {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Api-Key {key}")
    return "\r\n".join((*lines, f"{name}: {value}", "", "")).encode()


def _post(key: str, target: Target) -> bytes:
    values = {
        name: _VARYING.rjust(length - _VARYING_DIGITS + 1, "1") for name, length in _WRITTEN.items()
    }
    members = ",".join(f'"{name}":"{value}"' for name, value in values.items())
    body = f"{{{members}}}"
    length = len(body) + len(values) * (_VARYING_DIGITS - 1)
    lines = (
        f"POST {PATH} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Api-Key {key}",
        f"adapty-customer-user-id: {target.customer}",
        "Content-Type: application/json",
        f"Content-Length: {length}",
    )
    return "\r\n".join((*lines, "", body)).encode()
