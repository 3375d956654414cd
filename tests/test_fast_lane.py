"""The fast lane answers as the application does: the same bytes, whatever is sent.

Generated conversations are held over two connections at once, in process: one with the fast
lane, one without it, each on a database of its own with the same content. After each segment
the bytes that were answered are compared, and whether the connection was closed. Ids, clock and
date are injected.
"""

import asyncio
import functools
import random
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
import pytest
from uvicorn.server import ServerState

import postgres
from conftest import TIMES
from knownas.http import fast_lane
from knownas.http.app import FIND_ROUTE, HOT_ROUTE, create_app
from knownas.http.cycle import Cycle, LateAnswer
from knownas.http.fast_lane import Asked, FastLane, Headers, LookUp, LookUpMemory, Memory
from knownas.http.protocol import Protocol
from knownas.http.rates import KeyRates
from knownas.http.server import _Config
from knownas.model import Identifiers, Profile, ProfileId, ProfileRef
from knownas.registry import Registry
from knownas.settings import Settings
from knownas.storage import Storage
from knownas.storage.postgres import PostgresStorage
from knownas.storage.postgres_gather import Gathering
from knownas.storage.sqlite import SqliteStorage

if TYPE_CHECKING:
    from knownas.lookups import Holders

Dialect = Literal["schema", "example", "live"]

SEED: Final = 20_261_124
ANSWERS_A_DIALECT: Final = 2_500 * TIMES
ANSWERS_OVER_A_NETWORK: Final = 1_000 * TIMES
PLAIN: Final = 0.65
LOOKALIKE: Final = 0.06
WRITE: Final = 0.13
"""How much of what is sent is a GET that differs in one value only, how much only seems to, and
how much is a POST of identifiers."""
FINDING: Final = 0.12
"""In how many conversations such a GET is a reverse look-up."""
TURNS_OF_A_REFUSAL: Final = 10
"""Turns of the loop within which a request is answered that is not heard to its end."""
DATES: Final = (b"Tue, 24 Nov 2026 11:14:00 GMT", b"Tue, 24 Nov 2026 11:14:01 GMT")

HOT: Final = HOT_ROUTE.path.encode()
FIND: Final = FIND_ROUTE.path.encode()
PROFILE: Final = b"/api/v2/server-side-api/profile/"
SECRET: Final = b"Api-Key adopted-secret"
PUBLIC: Final = b"Api-Key adopted-public"
LIMITED: Final = b"Api-Key adopted-limited"
REVOKED: Final = b"Api-Key adopted-revoked"
OTHER_APP: Final = b"Api-Key adopted-other"

CUSTOMERS: Final = (
    *(f"user-{number}" for number in range(40)),
    "zoë",
    "zoe\u0308",
    "имя",
    "名前",
    "a b",
    "a,b;c=d",
    '"quoted"',
    "é" * 255,
    "c" * 255,
)
PROFILE_IDS: Final = tuple(
    str(uuid.UUID(int=number, version=4)) for number in range(1, len(CUSTOMERS) + 1)
)


class Wire(asyncio.Transport):
    """A connection in memory: what is delivered is parsed at once, unless reading is paused."""

    def __init__(self) -> None:
        """Begin open, with nothing sent in either direction."""
        super().__init__()
        self.answered = bytearray()
        self.lost = False
        self._protocol: Protocol | None = None
        self._undelivered: list[bytes] = []
        self._closing = False
        self._eof = False
        self._paused = False

    def connect(self, protocol: Protocol) -> None:
        """Connect the server's end."""
        self._protocol = protocol
        protocol.connection_made(self)

    def deliver(self, data: bytes) -> None:
        """Deliver what the client sent; b"" is its end."""
        self._undelivered.append(data)
        self._flush()

    def _flush(self) -> None:
        assert self._protocol is not None
        while self._undelivered and not self._paused and not self._closing:
            data = self._undelivered.pop(0)
            if data:
                self._protocol.data_received(data)
            elif not self._protocol.eof_received():
                self.close()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take a piece of an answer."""
        assert not self._eof
        if not self._closing:
            self.answered += data

    def write_eof(self) -> None:
        """Take the end of the answers."""
        self._eof = True

    def close(self) -> None:
        """Close, as a real transport does: the protocol is told later."""
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._lose)

    abort = close

    def _lose(self) -> None:
        assert self._protocol is not None
        self.lost = True
        self._protocol.connection_lost(None)

    def is_closing(self) -> bool:
        """Tell whether it was closed."""
        return self._closing

    def has_ended(self) -> bool:
        """Tell whether the client can see that no more is answered."""
        return self._closing or self._eof

    def pause_reading(self) -> None:
        """Deliver nothing for a while."""
        self._paused = True

    def resume_reading(self) -> None:
        """Deliver again."""
        self._paused = False
        asyncio.get_running_loop().call_soon(self._flush)

    def get_write_buffer_size(self) -> int:
        """Return 0: the client reads at once."""
        return 0

    def get_extra_info(self, name: str, default: object = None) -> Any:  # noqa: ANN401 - asyncio's
        """Return the client's address, and of all else the default."""
        return ("192.0.2.1", 1) if name == "peername" else default


class Way:
    """One of the two ways: an application in one dialect, with or without the lane."""

    def __init__(self, registry: Registry, dialect: Dialect, count: "Count", *, lane: bool) -> None:
        """Make what a process makes of itself when it starts."""
        self._count = count
        self._random = random.Random(SEED)  # noqa: S311 - it has to repeat itself
        settings = Settings(
            error_dialect=dialect,
            bad_keys_per_minute=1_000_000,
            access_log=False,
            # However slow the machine is, no answer depends on it.
            request_seconds=3_600,
            keep_alive_seconds=3_600,
        )
        app = create_app(
            registry, settings, new_request_id=lambda: self._random.randbytes(16).hex().encode()
        )
        app.state.rates = KeyRates(monotonic=lambda: 0.0)
        self._config = _Config(app, http=Protocol, ws="none", log_config=None, access_log=False)
        self._config.load()
        if not lane:
            self._config.edge.lane = None
        self._server = ServerState()

    def renew_date(self, date: bytes) -> None:
        """Do what uvicorn does each second."""
        self._server.default_headers = [(b"date", date)]

    async def converse(self, segments: Iterable[bytes]) -> list[tuple[bytes, bool]]:
        """Send the segments, then end; return what each was answered, and whether that ended it.

        After each segment all is waited for that does not wait for more.
        """
        protocol = Protocol(self._config, self._server, {})
        transport = Wire()
        transport.connect(protocol)
        answers = []
        for segment in [*segments, b""]:
            transport.deliver(segment)
            await self._quiet(protocol)
            answers.append((bytes(transport.answered), transport.has_ended()))
            transport.answered.clear()
        transport.close()
        while not transport.lost or self._server.tasks:  # noqa: ASYNC110 - for one turn of the loop
            await asyncio.sleep(0)
        return answers

    async def _quiet(self, protocol: Protocol) -> None:
        """Return when nothing is under way, or only what waits for the rest of its body."""
        turns_waiting = 0
        await asyncio.sleep(0)
        while turns_waiting < TURNS_OF_A_REFUSAL:
            cycle = protocol.cycle
            running = protocol._running  # noqa: SLF001 - it has no task by which to know of it
            late = isinstance(running, LateAnswer) and not running.response_complete
            if not late and not self._server.tasks:
                break
            waits = isinstance(cycle, Cycle) and cycle.more_body and not cycle.response_complete
            waits = waits and not protocol.pipeline and not self._count.asked
            turns_waiting = turns_waiting + 1 if waits else 0
            await asyncio.sleep(0)


class Count:
    """How often the lane was taken, how often from memory, and what is asked of PostgreSQL."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Begin to count."""
        self.lane = self.memory = self.writes = self.asked = 0
        self.look_ups = self.known_look_ups = 0
        self._from_memory = False
        answer, write, find = FastLane.answer, FastLane.write, FastLane.find
        plain_value, known_look_up = fast_lane.plain_value, fast_lane.known_look_up
        put = Gathering.put

        def counted_answer(
            lane: FastLane, asked: Asked, value: bytes, dated: Headers, began_ns: int
        ) -> "bytes | asyncio.Future[Identifiers] | None":
            found = answer(lane, asked, value, dated, began_ns)
            if found is not None:
                self.lane += 1
                self.memory += self._from_memory
            self._from_memory = False
            return found

        def counted_write(
            lane: FastLane, asked: Asked, body: bytes
        ) -> "asyncio.Future[Profile] | None":
            begun = write(lane, asked, body)
            self.writes += begun is not None
            return begun

        def counted_find(
            lane: FastLane, look_up: LookUp, dated: Headers, began_ns: int
        ) -> "bytes | asyncio.Future[Holders] | None":
            found = find(lane, look_up, dated, began_ns)
            self.look_ups += found is not None
            return found

        def counted_known(memory: LookUpMemory, data: bytes) -> LookUp | None:
            known = known_look_up(memory, data)
            self.known_look_ups += known is not None
            return known

        def counted_value(memory: Memory, data: bytes) -> bytes | None:
            value = plain_value(memory, data)
            self._from_memory = value is not None
            return value

        def counted_put(gathering: Gathering[Any, Any], question: object) -> asyncio.Future[Any]:
            future = put(gathering, question)
            self.asked += 1
            future.add_done_callback(self._answered)
            return future

        monkeypatch.setattr(Gathering, "put", counted_put)
        monkeypatch.setattr(FastLane, "answer", counted_answer)
        monkeypatch.setattr(FastLane, "write", counted_write)
        monkeypatch.setattr(FastLane, "find", counted_find)
        monkeypatch.setattr(fast_lane, "plain_value", counted_value)
        monkeypatch.setattr(fast_lane, "known_look_up", counted_known)

    def _answered(self, _future: object) -> None:
        self.asked -= 1


@asynccontextmanager
async def filled_registry(storage: Storage) -> AsyncIterator[Registry]:
    """Give a registry over a fresh database; its content is always the same."""
    ids = random.Random(SEED)  # noqa: S311 - it has to repeat itself
    registry = Registry(
        storage,
        clock=lambda: 1_795_518_840_000,
        monotonic=lambda: 0.0,
        new_uuid=lambda: uuid.UUID(int=ids.getrandbits(128), version=4),
    )
    try:
        app = await registry.create_app("default")
        await registry.keyring.adopt(app, "adopted-secret", "secret")
        await registry.keyring.adopt(app, "adopted-public", "public")
        await registry.keyring.adopt(app, "adopted-limited", "secret", rate="20/day")
        revoked = await registry.keyring.adopt(app, "adopted-revoked", "secret")
        await registry.keyring.revoke(app.id, revoked.id)
        other = await registry.create_app("other")
        await registry.keyring.adopt(other, "adopted-other", "secret")
        for number, (customer, profile_id) in enumerate(zip(CUSTOMERS, PROFILE_IDS, strict=True)):
            ref = ProfileRef(customer, ProfileId(profile_id))
            await registry.put_profile(app.id, ref, {})
            await registry.set_identifiers(
                app, ref, {"branch_id": f"b{number}", "appsflyer_id": "é" * number + "a"}
            )
        yield registry
    finally:
        await registry.close()


# --- What is sent ----------------------------------------------------------------------------


class Client:
    """Makes conversations: what clients send, and what nobody should."""

    def __init__(self, seed: int) -> None:
        """Make the same conversations for the same seed."""
        self._random = random.Random(seed)  # noqa: S311 - it has to repeat itself
        self.requests = 0

    def conversation(self) -> list[bytes]:
        """Return the segments of one connection."""
        dice = self._random
        template = self._finding() if dice.random() < FINDING else self._template()
        parts: list[bytes] = []
        for _ in range(dice.randint(1, 24)):
            kind = dice.random()
            if kind < PLAIN:
                parts.append(template(self._plain_value()))
                self.requests += 1
            elif kind < PLAIN + LOOKALIKE:
                parts += self._lookalike(template)
            elif kind < PLAIN + LOOKALIKE + WRITE:
                parts.append(self._write())
                self.requests += 1
            else:
                parts.append(self._request())
                self.requests += 1
        return self._cut(parts)

    def _cut(self, parts: list[bytes]) -> list[bytes]:
        """Return the parts as they may arrive."""
        dice = self._random
        kind = dice.random()
        if kind < 0.75:
            return parts
        whole = b"".join(parts)
        if kind < 0.82:
            return [whole]
        if kind < 0.84:
            return [whole[at : at + 1] for at in range(len(whole))][:2_000]
        cuts = sorted(
            dice.randrange(len(whole) + 1) for _ in range(dice.randint(1, 2 * len(parts)))
        )
        pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        return [piece for piece in pieces if piece]

    def _template(self) -> Callable[[bytes], bytes]:
        """Return a maker of requests that differ in the value of one header only."""
        dice = self._random
        by_profile = dice.random() < 0.25
        name = self._case(b"adapty-profile-id" if by_profile else b"adapty-customer-user-id")
        headers = [self._line(*pair) for pair in self._ordinary_headers()]
        if dice.random() < 0.2:
            headers.append(self._line(*self._odd_header()))
        dice.shuffle(headers)
        place = dice.randrange(len(headers) + 1)
        before, after = b"".join(headers[:place]), b"".join(headers[place:])
        target = HOT if dice.random() < 0.9 else HOT.rstrip(b"/")
        space = dice.choice([b" "] * 7 + [b"", b"  ", b"\t"])

        def request(value: bytes) -> bytes:
            line = name + b":" + space + value + b"\r\n"
            return b"GET " + target + b" HTTP/1.1\r\n" + before + line + after + b"\r\n"

        return request

    def _lookalike(self, template: Callable[[bytes], bytes]) -> list[bytes]:
        """Return segments that resemble a request that was just answered, and are not one."""
        dice = self._random
        one, other = template(self._plain_value()), template(self._plain_value())
        cut = dice.randrange(1, len(one))
        swallowing = self._post_head(len(other) + len(self._post_head(100)))
        name, value = dice.choice(
            [
                (b"X", b"1"),
                (b"Authorization", REVOKED),
                (b"adapty-customer-user-id", b"user-1"),
                (b"Connection", b"close"),
                (b"Content-Length", b"%d" % len(other)),
            ]
        )
        more = name + b": " + value
        head, _, _ = one.partition(b"\r\n\r\n")
        self.requests += 2
        return dice.choice(
            [
                [one, template(self._odd_value())],
                [one, template(b"user-1\r\n" + more)],
                [one, template(b"user-1\r\n\r\n")],
                [one, template(b"user-1\r\n\r\n" + template(b"user-2"))],
                [one, template(b"user-1\n" + more), other],
                [one, template(b"user-1\r\n folded"), other],
                [one + other, one + other, one + other],
                [one + one, template(b"user-3") + one],
                [one, other + one[:cut], one[cut:], other],
                [one[:cut], one[cut:], one[cut:], one],
                [one[:cut], one[cut:], other, one[:cut]],
                [one[:cut], one[cut:] + other, one[cut:] + one, one],
                [one, head + b"\r\n" + more + b"\r\n\r\n", other, one],
                [one, one + b"\r\n", other + b"\r\n\r\n", one],
                [one, b"\r\n" + one, other],
                [one, one + b"garbage", other],
                [one + self._post_head(len(other)), other, one],
                [one, self._post_head(2 * len(other)) + other, other, one],
                [one, self._post_head(5), one, one],
                [one + swallowing, other + swallowing, one],
            ]
        )

    def _post_head(self, length: int) -> bytes:
        return (
            b"POST " + HOT + b" HTTP/1.1\r\nHost: h\r\nAuthorization: " + SECRET + b"\r\n"
            b"adapty-customer-user-id: user-5\r\nContent-Length: %d\r\n\r\n" % length
        )

    def _write(self) -> bytes:
        """Return a POST of identifiers, now and then with something odd about it."""
        dice = self._random
        kinds = dice.sample(["branch_id", "appsflyer_id", "adjust_device_id"], dice.randint(1, 3))
        fields = {kind: f"v{dice.randrange(50)}" for kind in kinds}
        if dice.random() < 0.1:
            fields |= dice.choice(
                [{"what": "1"}, {"branch_id": ""}, {"branch_id": "x" * 256}, {"profile_id": "x"}]
            )
        body = msgspec.json.encode(fields)
        headers = self._ordinary_headers()
        headers += self._who() if dice.random() < 0.3 else self._who()[:1]
        headers.append((b"Content-Length", b"%d" % len(body)))
        if dice.random() < 0.8:
            headers.append((b"Content-Type", dice.choice([b"application/json"] * 9 + [b"text/x"])))
        if dice.random() < 0.1:
            headers.append(self._odd_header())
        dice.shuffle(headers)
        lines = [self._line(*pair) for pair in headers]
        return b"".join([b"POST ", HOT, b" HTTP/1.1\r\n", *lines, b"\r\n", body])

    def _finding(self) -> Callable[[bytes], bytes]:
        """Return a maker of reverse look-ups that differ in their queries only."""
        dice = self._random
        headers = self._ordinary_headers()
        if dice.random() < 0.1:
            headers += self._who()
        if dice.random() < 0.2:
            headers.append(self._odd_header())
        dice.shuffle(headers)
        lines = b"".join(self._line(*pair) for pair in headers)
        method = dice.choice([b"GET"] * 20 + [b"HEAD", b"POST"])
        target = FIND if dice.random() < 0.9 else FIND.rstrip(b"/")
        version = self._version()

        def request(value: bytes) -> bytes:
            query = self._query() if dice.random() < 0.7 else b"kind=branch_id&value=" + value
            target_line = method + b" " + target + b"?" + query + b" HTTP/" + version
            return target_line + b"\r\n" + lines + b"\r\n"

        return request

    def _query(self) -> bytes:
        """Return the query of a reverse look-up, now and then with something odd about it."""
        dice = self._random
        kind = dice.choice([b"branch_id"] * 7 + [b"appsflyer_id", b"adjust_device_id", b"x"])
        value = dice.choice([b"b%d", b"v%d"]) % dice.randrange(50)
        if dice.random() < 0.15:
            value = dice.choice(
                [
                    *(b"", b"%20b1", b"b%31", b"b+1", b"b1#", b"\xc3\xa9", b"=", b"b1 b1"),
                    *(b"x" * 255, b"x" * 256, b"x" * 20_000, b"b1?", b"b1\r\nX: 1", b"b1\n"),
                    b"b1 HTTP/1.1\r\nConnection: close",
                    b"b1 HTTP/1.1\r\nHost: h\r\n\r\nGET " + FIND + b"?value=b2",
                ]
            )
        pairs = [b"kind=" + kind, b"value=" + value]
        if dice.random() < 0.15:
            pairs.append(
                dice.choice([b"limit=1", b"limit=x", b"", b"cursor=" + b"0" * 34, *pairs, b"a"])
            )
        if dice.random() < 0.1:
            pairs.pop()
        dice.shuffle(pairs)
        return b"&".join(pairs)

    def _request(self) -> bytes:
        """Return a request with something odd about it, or with several such things."""
        dice = self._random
        method, body = self._method_and_body()
        headers = self._ordinary_headers()
        headers += self._who()
        headers += [self._odd_header() for _ in range(dice.choice([0, 0, 1, 1, 2, 3]))]
        if body is not None:
            framing = dice.random()
            if framing < 0.8:
                headers.append((b"Content-Length", b"%d" % len(body)))
            elif framing < 0.97:
                headers.append((b"Transfer-Encoding", b"chunked"))
                body = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:3], body[3:]) if p)
                body += b"0\r\n" + dice.choice([b"", b"Trailer: x\r\n"]) + b"\r\n"
        dice.shuffle(headers)
        line = method + b" " + self._target() + b" HTTP/" + self._version()
        lines = [line + b"\r\n", *(self._line(*pair) for pair in headers), b"\r\n"]
        if dice.random() < 0.02:
            lines.insert(
                1, dice.choice([b" folded\r\n", b": x\r\n", b"no colon\r\n", b"A B: c\r\n"])
            )
        return b"".join(lines) + (body or b"")

    def _method_and_body(self) -> tuple[bytes, bytes | None]:
        dice = self._random
        if dice.random() < 0.65:
            return b"GET", None
        return dice.choice(
            [
                (b"HEAD", None),
                (b"POST", msgspec.json.encode({"branch_id": f"v{dice.randrange(5)}"})),
                (b"POST", b'{"branch_id":null,"adjust_device_id":"x","what":1}'),
                (b"POST", b"{"),
                (b"POST", b""),
                (b"POST", b'{"branch_id":"' + b"x" * 66_000 + b'"}'),
                (b"GET", b"body"),
                (b"PUT", b"{}"),
                (b"DELETE", None),
                (b"OPTIONS", None),
                (b"get", None),
            ]
        )

    def _target(self) -> bytes:
        dice = self._random
        if dice.random() < 0.7:
            return HOT
        return dice.choice(
            [
                HOT.rstrip(b"/"),
                HOT + b"?a=b",
                HOT.rstrip(b"/") + b"?",
                HOT + b"/",
                HOT.replace(b"/set/", b"%2fset/"),
                HOT.upper(),
                b"http://host" + HOT,
                b"http://host",
                PROFILE,
                b"/healthz",
                b"/",
                b"*",
                b"nowhere",
                b"/\xc3\xa9",
            ]
        )

    def _version(self) -> bytes:
        return self._random.choice([b"1.1"] * 30 + [b"1.0", b"1.0", b"1.2", b"2.0", b"0.9"])

    def _ordinary_headers(self) -> list[tuple[bytes, bytes]]:
        dice = self._random
        headers = [(b"Host", b"127.0.0.1:8080")] if dice.random() < 0.97 else []
        headers.append((b"Authorization", self._authorization()))
        if dice.random() < 0.3:
            headers.append((b"User-Agent", b"test/1.0"))
        if dice.random() < 0.2:
            headers.append((b"X-Request-Id", self._request_id()))
        if dice.random() < 0.1:
            headers.append((b"Connection", b"keep-alive"))
        return headers

    def _authorization(self) -> bytes:
        dice = self._random
        if dice.random() < 0.9:
            return SECRET
        return dice.choice(
            [
                SECRET.replace(b"Api-Key ", b"API-KEY   "),
                SECRET + b" ",
                OTHER_APP,
                PUBLIC,
                LIMITED,
                REVOKED,
                b"Api-Key unknown",
                b"Api-Key secret_live_ka_" + b"0" * 36,
                b"Api-Key \xff",
                b"Bearer adopted-secret",
                b"Api-Key",
                b"",
            ]
        )

    def _who(self) -> list[tuple[bytes, bytes]]:
        dice = self._random
        number = dice.randrange(len(CUSTOMERS))
        customer = (b"adapty-customer-user-id", CUSTOMERS[number].encode())
        profile = (b"adapty-profile-id", PROFILE_IDS[number].encode())
        other = (b"adapty-profile-id", PROFILE_IDS[number - 1].encode())
        return dice.choice(
            [
                [customer],
                [customer],
                [profile],
                [(b"adapty-profile-id", profile[1].upper())],
                [(b"adapty-profile-id", b"{" + profile[1] + b"}")],
                [(b"adapty-customer-user-id", self._odd_value())],
                [(b"adapty-customer-user-id", self._plain_value())],
                [(b"adapty-profile-id", self._odd_value())],
                [customer, profile],
                [customer, other],
                [customer, (b"adapty-profile-id", b" ")],
                [(b"adapty-customer-user-id", b""), profile],
                [customer, customer],
                [customer, (b"adapty-customer-user-id", b"user-1")],
                [customer, (b"adapty-customer-user-id", b"")],
                [
                    customer,
                    *((b"adapty-sdk-profile-id", value.encode()) for value in PROFILE_IDS[:2]),
                ],
                [(b"adapty-customer-user-id", b"")],
                [],
            ]
        )

    def _odd_header(self) -> tuple[bytes, bytes]:
        dice = self._random
        return dice.choice(
            [
                (b"X-Request-Id", self._request_id()),
                (b"Request-Id", self._request_id()),
                (b"Connection", b"close"),
                (b"Connection", b"Keep-Alive"),
                (b"Connection", b"keep-alive, x"),
                (b"Connection", b"x"),
                (b"Connection", b""),
                (b"Proxy-Connection", b"close"),
                (b"Proxy-Connection", b"keep-alive"),
                (b"Keep-Alive", b"timeout=5"),
                (b"Content-Type", b"application/json"),
                (b"Content-Type", b"text/plain"),
                (b"Content-Encoding", b"gzip"),
                (b"Content-Length", b"0"),
                (b"Content-Length", b"x"),
                (b"Transfer-Encoding", b"identity"),
                (b"Expect", b"100-continue"),
                (b"Expect", b"200-ok"),
                (b"Upgrade", b"websocket"),
                (b"Upgrade", b"h2c"),
                (b"Connection", b"Upgrade"),
                (b"Host", b"another"),
                (b"Authorization", SECRET),
                (b"Authorization", b"Api-Key other"),
                (b"adapty-sdk-profile-id", PROFILE_IDS[0].encode()),
                (b"adapty-sdk-profile-id", PROFILE_IDS[1].encode()),
                (b"If-None-Match", dice.choice([b"*", b'"-"', b"", b"x"])),
                (b"If-Match", dice.choice([b"*", b'"-"', b" ", b"x"])),
                (b"X-Forwarded-For", b"198.51.100.7"),
                (b"Accept", b"*/*"),
                (b"Accept-Encoding", b"gzip"),
                (b"Cookie", b"a=b; c=d"),
                (b"X-Odd", self._odd_value()),
                (b"X-Long", b"x" * dice.choice([100, 5_000, 17_000])),
                (b"TE", b"trailers"),
            ]
        )

    def _request_id(self) -> bytes:
        return self._random.choice(
            [b"req-1", b"a.B_c:d-9", b"x" * 128, b"x" * 129, b"", b"bad id", b"\xc3\xa9", b"id "]
        )

    def _plain_value(self) -> bytes:
        dice = self._random
        if dice.random() < 0.75:
            return dice.choice(CUSTOMERS).encode()
        return dice.choice([*PROFILE_IDS, "nobody", "user-999", "x", "-"]).encode()

    def _odd_value(self) -> bytes:
        dice = self._random
        return dice.choice(
            [
                b"",
                b" ",
                b"\t \t",
                b"user-1 ",
                b" user-1",
                b"\tuser-1\t",
                b"user\t1",
                b"us\x00er",
                b"us\x01er",
                b"us\x7fer",
                b"user-1\r",
                b"user\r-1",
                b"user-1\n",
                b"zo\xeb",
                b"\xc3",
                b"\xed\xa0\x80",
                b"zo\xc3\xab",
                b"a\xc2\x85b",
                b"a\xc2\xa0b",
                b"\xe2\x80\xa8",
                b"\xef\xbb\xbfuser-1",
                b"c" * 255,
                b"c" * 256,
                b"c" * 20_000,
                "é".encode() * 255,
                "é".encode() * 256,
                b"user-1, user-2",
                b"'; DROP TABLE profiles; --",
                b"%s%d{}",
            ]
        )

    def _line(self, name: bytes, value: bytes) -> bytes:
        space = self._random.choice([b" "] * 12 + [b"", b"  ", b"\t"])
        end = self._random.choice([b"\r\n"] * 200 + [b" \r\n", b" \r\n", b"\t\r\n", b"\n"])
        return self._case(name) + b":" + space + value + end

    def _case(self, name: bytes) -> bytes:
        return self._random.choice(
            [name, name.lower(), name.upper(), name.title(), name.swapcase()]
        )


# --- The tests -------------------------------------------------------------------------------


def shown(segments: list[bytes], upto: int) -> str:
    """Return the segments up to one, to try again by hand."""
    return "\n".join(repr(segment) for segment in segments[: upto + 1])


@pytest.mark.parametrize(
    ("database", "dialect", "answers"),
    [
        ("sqlite", "schema", ANSWERS_A_DIALECT),
        ("sqlite", "example", ANSWERS_A_DIALECT),
        ("sqlite", "live", ANSWERS_A_DIALECT),
        ("postgresql", "schema", ANSWERS_OVER_A_NETWORK),
    ],
)
def test_both_ways_answer_the_same_bytes(
    database: str,
    dialect: Dialect,
    answers: int,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """Over thousands of requests the lane answers byte for byte as the application does."""
    count = Count(monkeypatch)
    client = Client(SEED + len(dialect))
    answered = 0

    def new_storage() -> Storage:
        if database == "sqlite":
            return SqliteStorage(None)
        server_url = request.getfixturevalue("postgres_url")
        url = postgres.new_database(server_url)
        request.addfinalizer(functools.partial(postgres.drop_database, server_url, url))
        return PostgresStorage(url)

    async def compare() -> None:
        nonlocal answered
        async with filled_registry(new_storage()) as one, filled_registry(new_storage()) as other:
            lane = Way(one, dialect, count, lane=True)
            normal = Way(other, dialect, count, lane=False)
            turn = 0
            while answered < answers:
                turn += 1
                for way in (lane, normal):
                    way.renew_date(DATES[turn // 50 % 2])
                segments = client.conversation()
                found = await lane.converse(segments)
                expected = await normal.converse(segments)
                for at, (got, wanted) in enumerate(zip(found, expected, strict=True)):
                    assert got == wanted, shown(segments, at)
                    answered += got[0].count(b"\r\nrequest-id: ")

    asyncio.run(compare())
    assert count.lane >= 0.3 * answered
    assert count.memory >= 0.08 * answered
    assert count.writes >= 0.03 * answered
    assert count.look_ups >= 0.02 * answered
    assert count.known_look_ups >= (0.005 * answered if database == "sqlite" else 0)
