"""The edge: what raw sockets can do to a real server. Rows are those of the threat model."""

import contextlib
import itertools
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple, Self

import msgspec
import pytest

from conftest import START_SECONDS, Server, free_port, knownas, start, stop
from knownas.http.app import ROUTES
from knownas.http.edge import SWEEP_SECONDS
from knownas.http.protocol import LINGER_SECONDS, MAX_HEAD_BYTES, MAX_HEADERS
from knownas.http.wire import BODY_LIMIT
from knownas.settings import Settings

PATH: Final = ROUTES[0].path.encode()
PROFILE_PATH: Final = ROUTES[1].path.encode()
PROMISED_SECONDS: Final = 10
LIMIT_SECONDS: Final = 1
"""The limits of time of the server `hurried`."""
SLACK_SECONDS: Final = 20
"""What a limit of time may be late by on a machine that is busy with other tests."""
IDLE_CONNECTIONS: Final = 5_000
CLIENTS_OF_A_KIND: Final = 4
LARGEST_GROWTH: Final = 8 * 1024 * 1024


class Answer(NamedTuple):
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """A connection on which anything can be sent."""

    def __init__(self, port: int, *, receive_buffer: int = 0) -> None:
        """Connect; a `receive_buffer` bounds what the kernel takes for who never reads."""
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(START_SECONDS)
        try:
            self.socket.connect(("127.0.0.1", port))
        except OSError:
            self.socket.close()
            raise
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        """Give the connection."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        """Send."""
        self.socket.sendall(b"".join(parts))

    def answer(self, *, to_head: bool = False) -> Answer:
        """Read one answer. Raises ConnectionError when there is none."""
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError(f"The connection ended with {line!r}.")
        headers: dict[str, str] = {}
        while (header := self._file.readline()) != b"\r\n":
            name, _, value = header.decode("latin-1").rstrip("\r\n").partition(": ")
            headers[name] = value
        length = 0 if to_head else int(headers.get("content-length", 0))
        return Answer(int(line.split()[1]), headers, self._file.read(length))

    def refusal(self, status: int, code: str) -> Answer:
        """Read the answer that refuses a request, and the end of the connection."""
        answer = self.answer()
        assert (answer.status, answer.headers.get("connection")) == (status, "close"), answer
        assert_error(answer, code)
        assert self.rest() == b""
        return answer

    def rest(self) -> bytes:
        """Read to the end of the connection; a reset is one, too."""
        with contextlib.suppress(ConnectionResetError):
            return self._file.read()
        return b""


def assert_error(answer: Answer, code: str) -> None:
    """Assert that an answer is the contract's error body with a Request-Id."""
    assert answer.headers["request-id"]
    assert answer.headers["content-type"] == "application/json"
    body = msgspec.json.decode(answer.body)
    assert (body["error_code"], body["status_code"]) == (code, answer.status)
    assert all(entry["errors"] for entry in body["errors"])


def port_of(server: Server) -> int:
    """Return the port of a server."""
    return int(server.url.rpartition(":")[2])


def request(
    key: str,
    *headers: bytes,
    method: bytes = b"GET",
    path: bytes = PATH,
    body: bytes | None = None,
    customer: bytes = b"edge",
) -> bytes:
    """Return a request for a customer, with these header lines and a body if there is one."""
    lines = [
        method + b" " + path + b" HTTP/1.1",
        b"Host: localhost",
        b"Authorization: Api-Key " + key.encode(),
        b"adapty-customer-user-id: " + customer,
        *headers,
        *([b"Content-Length: %d" % len(body)] if body is not None else []),
    ]
    return b"\r\n".join([*lines, b"", body or b""])


def padded(key: str, length: int) -> bytes:
    """Return a request whose head is so many bytes long."""
    return request(key, b"X-Pad: " + b"x" * (length - len(request(key, b"X-Pad: "))))


def chunked(key: str, *parts: bytes) -> bytes:
    """Return the beginning of a POST with a chunked body."""
    return request(key, b"Transfer-Encoding: chunked", method=b"POST") + b"".join(parts)


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """Give a connection on which the customer `edge` has been created."""
    with Client(port_of(server)) as client:
        client.send(request(server.key, method=b"POST", path=PROFILE_PATH))
        assert client.answer().status == 200
        yield client


@pytest.fixture(scope="module")
def hurried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str, int]]:
    """Give the port, a key and the process of a server whose limits of time are short."""
    database = f"sqlite:///{tmp_path_factory.mktemp('hurried')}/knownas.db"
    process = start(
        database,
        port := free_port(),
        KNOWNAS_REQUEST_SECONDS=str(LIMIT_SECONDS),
        KNOWNAS_STALL_SECONDS=str(LIMIT_SECONDS),
    )
    yield port, knownas("key", "create", database=database).strip(), process.pid
    assert stop(process) == 0


def test_row_02_two_authorizations(server: Server, client: Client) -> None:
    """Two Authorization headers are as good as none, even if they are the same."""
    client.send(request(server.key, b"authorization: Api-Key " + server.key.encode()))
    answer = client.answer()
    assert answer.status == 401
    assert_error(answer, "unauthorized")


@pytest.mark.parametrize(
    "name",
    ["adapty-customer-user-id", "adapty-profile-id", "adapty-sdk-profile-id", "content-type"],
)
def test_row_02_two_values_of_a_deciding_header(server: Server, client: Client, name: str) -> None:
    """A header that decides and stands twice with different values is a 400 that names it."""
    one, other = (b"%b: %b" % (name.encode(), value) for value in (b"edge", b"other"))
    client.send(request(server.key, one, other))
    answer = client.answer()
    assert answer.status == 400
    assert_error(answer, "validation_error")
    assert msgspec.json.decode(answer.body)["errors"][0]["source"] == name


@pytest.mark.parametrize(
    "line",
    [b"X: a\x00b", b"X: a\rb", b"X: a\nb", b"X: a\r\n b", b"X: a\r\n\tb", b"\x00: a", b"X\n: a"],
    ids=repr,
)
def test_row_06_bytes_that_break_lines(server: Server, line: bytes) -> None:
    """NUL, CR, LF and folding in a header are refused."""
    with Client(port_of(server)) as client:
        client.send(request(server.key, line))
        client.refusal(400, "parse_error")


def test_row_06_bare_line_feeds(server: Server) -> None:
    """Lines that end in a bare LF are refused."""
    with Client(port_of(server)) as client:
        client.send(request(server.key).replace(b"\r\n", b"\n"))
        client.refusal(400, "parse_error")


def test_row_09_by_length(server: Server, client: Client) -> None:
    """A body of 64 KiB is read; one byte more is refused at once, before it is sent."""
    client.send(request(server.key, method=b"POST", body=b" " * BODY_LIMIT))
    answer = client.answer()
    assert_error(answer, "parse_error")
    with Client(port_of(server)) as other:
        other.send(request(server.key, b"Content-Length: %d" % (BODY_LIMIT + 1), method=b"POST"))
        other.refusal(413, "payload_too_large")


def test_row_09_chunked_without_end(server: Server) -> None:
    """Chunks without end are refused past 64 KiB, and no more of them are taken."""
    with Client(port_of(server)) as client:
        client.send(chunked(server.key))
        deadline = time.monotonic() + LINGER_SECONDS + 1 + SLACK_SECONDS
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() < deadline:
                client.send(b"1000\r\n", b"x" * 0x1000, b"\r\n")
            pytest.fail("The server takes more and more.")
    with Client(port_of(server)) as client:
        client.send(chunked(server.key, b"10001\r\n", b"x" * 0x10001))
        client.refusal(413, "payload_too_large")


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 20000000", b"Transfer-Encoding: chunked"], ids=bytes.decode
)
def test_row_09_answer_is_readable_while_sending(server: Server, framing: bytes) -> None:
    """A client that sends 20 MB before it reads anything still gets its 413."""
    with Client(port_of(server)) as client:
        chunk = b"1312d00\r\n" if b"chunked" in framing else b""
        client.send(request(server.key, framing, method=b"POST"), chunk, b"x" * 20_000_000)
        client.refusal(413, "payload_too_large")


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\n: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nA\xc3\xa9: a\r\n\r\n",
        b"GET / HTTP/3.1\r\n\r\n",
        b"GET / FTP/1.1\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"GET / a HTTP/1.1\r\n\r\n",
        b"GET nowhere HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"get / HTTP/1.1\r\n\r\n",
        b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 100,
        b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
    ],
    ids=repr,
)
def test_row_15_unparsable(server: Server, sent: bytes) -> None:
    """What the parser refuses gets a 400 in the contract's body, and the connection ends."""
    with Client(port_of(server)) as client:
        client.send(sent)
        client.refusal(400, "parse_error")


@pytest.mark.parametrize("chunk", [b"x\r\n", b"-1\r\n", b"3\r\nabcd\r\n", b"3\nabc\n"], ids=repr)
def test_row_15_unparsable_chunk(server: Server, chunk: bytes) -> None:
    """A chunk that cannot be read is answered at once, not when the body has taken too long."""
    began = time.monotonic()
    with Client(port_of(server)) as client:
        client.send(chunked(server.key, b"2\r\n{}\r\n", chunk))
        client.refusal(400, "parse_error")
    assert time.monotonic() - began < SLACK_SECONDS


@pytest.mark.parametrize("sent", [b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n", b"POST"])
def test_row_15_cut_short(server: Server, sent: bytes) -> None:
    """A client that ends amid a request, and still reads, is told so."""
    with Client(port_of(server)) as client:
        client.send(sent)
        client.socket.shutdown(socket.SHUT_WR)
        client.refusal(400, "parse_error")


def test_row_15_request_id(server: Server) -> None:
    """A refused request's own id is in the answer where it came before what was refused."""
    with Client(port_of(server)) as client:
        client.send(request(server.key, b"X-Request-Id: mine.1", b"A: b", b"no colon"))
        assert client.refusal(400, "parse_error").headers["request-id"] == "mine.1"


@pytest.mark.usefixtures("client")
def test_row_15_comes_after_what_was_pipelined(server: Server) -> None:
    """What cannot be parsed is answered last, after the requests before it."""
    with Client(port_of(server)) as other:
        body = b'{"branch_id":"pipelined"}'
        post = request(server.key, method=b"POST", body=body)
        other.send(post, request(server.key), post, b"nonsense\r\n\r\n", request(server.key))
        assert [other.answer().status for _ in range(3)] == [200, 200, 200]
        other.refusal(400, "parse_error")


@pytest.mark.parametrize(
    "headers",
    [
        [b"Content-Length: 4", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 4"],
        [b"Content-Length: 0", b"Content-Length: 4"],
        [b"Content-Length: 4", b"Content-Length: 4"],
        [b"Content-Length: 4, 4"],
        [b"Content-Length: +4"],
        [b"Transfer-Encoding: gzip"],
        [b"Transfer-Encoding: chunked, identity"],
        [b"Transfer-Encoding: xchunked"],
        [b"Transfer-Encoding : chunked"],
        [b"Host: other"],
        [b"HOST: localhost"],
    ],
    ids=repr,
)
def test_row_16_ambiguous(server: Server, headers: list[bytes]) -> None:
    """A request that two servers could read in two ways is refused, and nothing after it is."""
    for method in (b"GET", b"POST"):
        with Client(port_of(server)) as client:
            client.send(request(server.key, *headers, method=method), b"0\r\n\r\n", b"GET / ")
            client.refusal(400, "parse_error")


def test_row_16_head_has_no_body(server: Server) -> None:
    """The refusal of a HEAD has no body."""
    with Client(port_of(server)) as client:
        client.send(request(server.key, b"Host: other", method=b"HEAD"))
        assert client.answer(to_head=True).status == 400
        assert client.rest() == b""


def test_row_17_size(server: Server, client: Client) -> None:
    """A head of 16 KiB is served; one byte more is refused, however it arrives."""
    client.send(padded(server.key, MAX_HEAD_BYTES))
    assert client.answer().status == 200
    for piece in (MAX_HEAD_BYTES + 1, 1_000):
        with Client(port_of(server)) as other:
            sent = padded(server.key, MAX_HEAD_BYTES + 1)
            for at in range(0, len(sent), piece):
                other.send(sent[at : at + piece])
            other.refusal(431, "headers_too_large")


def test_row_17_number(server: Server, client: Client) -> None:
    """64 headers are served; one more is refused."""
    ordinary = request(server.key).count(b": ")
    extra = [b"X-%d: x" % number for number in range(MAX_HEADERS - ordinary)]
    client.send(request(server.key, *extra))
    assert client.answer().status == 200
    with Client(port_of(server)) as other:
        other.send(request(server.key, *extra, b"X: x"))
        other.refusal(431, "headers_too_large")


def test_row_17_small_head_after_much_else(server: Server, client: Client) -> None:
    """What was pipelined before a head does not count as a part of it."""
    body = b'{"branch_id":"' + b" " * 60_000 + b'x"}'
    head = request(server.key)
    client.send(request(server.key, method=b"POST", body=body), head * 100, head[:-10])
    time.sleep(0.1)
    client.send(head[-10:])
    assert {client.answer().status for _ in range(102)} == {200}


@pytest.mark.parametrize(
    "beginning",
    [
        b"GET /",
        b"GET / HTTP/1.1\r\nX: ",
        b"GET / HTTP/1.1\r\nX",
        b"GET / HTTP/1.1\r\nX:" + b" " * 100_000,
        b"",
    ],
    ids=lambda beginning: repr(beginning[:24]),
)
def test_row_17_endless_head(server: Server, beginning: bytes) -> None:
    """A line without an end is refused long before it fills the memory."""
    with Client(port_of(server)) as client:
        client.send(beginning, b"x" * 300_000 if beginning else b"\r\n" * 150_000)
        client.refusal(431, "headers_too_large")


def test_row_17_trailers(server: Server, client: Client) -> None:
    """What comes after a chunked body is neither a header nor counted as one, but bounded."""
    post = chunked(server.key, b'15\r\n{"branch_id":"value"}\r\n0\r\n').replace(
        b"Authorization: Api-Key " + server.key.encode() + b"\r\n", b""
    )
    trailers = [b"X-%d: x\r\n" % number for number in range(100)]
    trailers.append(b"Authorization: Api-Key " + server.key.encode() + b"\r\n")
    client.send(post, *trailers, b"\r\n")
    assert client.answer().status == 401
    client.send(chunked(server.key, b'15\r\n{"branch_id":"value"}\r\n0\r\n'), *trailers, b"\r\n")
    assert client.answer().status == 200
    for endless in (b"0\r\nX: ", b"0\r\nX", b"1;x="):
        with Client(port_of(server)) as other:
            other.send(chunked(server.key, endless), b"x" * 300_000)
            other.refusal(431, "headers_too_large")


@pytest.mark.parametrize("part", ["headers", "body", "chunked body", "trailers"])
def test_row_18_byte_by_byte(hurried: tuple[int, str, int], part: str) -> None:
    """Headers, and a body, that come byte by byte are answered 408 once they take too long."""
    port, key, _ = hurried
    head = request(key, b"Content-Length: 1000", method=b"POST")
    beginning, slow = {
        "headers": (head[:20], itertools.repeat(b"x")),
        "body": (head, itertools.repeat(b" ")),
        "chunked body": (chunked(key), itertools.cycle([b"1\r\n", b" ", b"\r\n"])),
        "trailers": (chunked(key, b"0\r\n"), itertools.cycle([b"X", b":", b"x\r\n"])),
    }[part]
    began = time.monotonic()
    with Client(port) as client:
        client.send(beginning)
        client.socket.settimeout(0.02)
        for byte in slow:
            with contextlib.suppress(TimeoutError):
                client.socket.recv(1, socket.MSG_PEEK)
                break
            client.send(byte)
        client.socket.settimeout(START_SECONDS)
        client.refusal(408, "request_timeout")
    assert LIMIT_SECONDS <= time.monotonic() - began < LIMIT_SECONDS + 1 + SLACK_SECONDS


def test_row_18_body_that_never_comes(hurried: tuple[int, str, int]) -> None:
    """A client that is refused before its body has come does not hold the connection open."""
    port, key, _ = hurried
    began = time.monotonic()
    with Client(port) as client:
        client.send(request(key + "x", b"Content-Length: 1000", method=b"POST"), b"{")
        assert client.answer().status == 401
        assert client.rest() == b""
    assert time.monotonic() - began < LIMIT_SECONDS + 1 + SLACK_SECONDS


def test_row_18_defaults_keep_the_promise() -> None:
    """Without a setting, the limits are noticed within the ten seconds that are promised."""
    latest = Settings().request_seconds + 2 * SWEEP_SECONDS
    assert latest <= PROMISED_SECONDS


def test_row_19_over_the_limit(tmp_path: Path) -> None:
    """A connection over the limit gets 503 with Retry-After; those within it are served."""
    database = f"sqlite:///{tmp_path}/knownas.db"
    process = start(database, port := free_port(), KNOWNAS_MAX_CONNECTIONS="2")
    health = request("", path=b"/healthz")
    time.sleep(0.5)  # what `start` opened is closed by then
    try:
        with Client(port) as one, Client(port) as two:
            for within in (one, two):
                within.send(health)
                assert within.answer().status == 200
            with Client(port) as over:
                over.send(health)
                assert over.refusal(503, "service_unavailable").headers["retry-after"] == "1"
            one.send(health)
            assert one.answer().status == 200
        deadline = time.monotonic() + SLACK_SECONDS
        while True:
            with Client(port) as after:
                after.send(health)
                if after.answer().status == 200:
                    break
            assert time.monotonic() < deadline
    finally:
        assert stop(process) == 0


@pytest.mark.timeout(300)
def test_row_19_idle_connections_are_held(tmp_path: Path) -> None:
    """5,000 idle connections are held, by a server that was started with a limit of 1,024 files."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    database = f"sqlite:///{tmp_path}/knownas.db"
    resource.setrlimit(resource.RLIMIT_NOFILE, (1_024, limits[1]))
    try:
        process = start(database, port := free_port())
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * IDLE_CONNECTIONS + 1_024, limits[1]))
        with contextlib.ExitStack() as opened:
            idle = [opened.enter_context(Client(port)) for _ in range(IDLE_CONNECTIONS)]
            for client in (*idle[::100], opened.enter_context(Client(port))):
                client.send(request("", path=b"/readyz"))
                assert client.answer().status == 200
        assert stop(process) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_row_20_a_stopping_server_finishes(tmp_path: Path) -> None:
    """SIGTERM: what is under way is answered, kept connections are told, the exit code is 0."""
    database = f"sqlite:///{tmp_path}/knownas.db"
    process = start(database, port := free_port())
    key = knownas("key", "create", database=database).strip()
    post = request(key, method=b"POST", path=PROFILE_PATH, body=b"{}")
    with Client(port) as busy, Client(port) as kept, Client(port) as idle, Client(port) as fresh:
        for client in (kept, idle):
            client.send(request(key, method=b"POST", path=PROFILE_PATH))
            assert client.answer().status == 200
        busy.send(post[:-1])
        kept.send(request(key))
        assert "connection" not in kept.answer().headers
        process.send_signal(signal.SIGTERM)
        wait_until_refused(port)
        for client, sent in ((busy, post[-1:]), (kept, request(key)), (fresh, request(key))):
            client.send(sent)
        for client in (busy, kept, fresh):
            answer = client.answer()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert client.rest() == b""
        assert idle.rest() == b""
    assert process.wait(START_SECONDS) == 0


def wait_until_refused(port: int) -> None:
    """Return when nothing listens on a port any more."""
    deadline = time.monotonic() + START_SECONDS
    with contextlib.suppress(ConnectionRefusedError, ConnectionResetError):
        while True:
            Client(port).close()
            assert time.monotonic() < deadline


@pytest.mark.parametrize(
    "restarts",
    [3, pytest.param(20, marks=[pytest.mark.soak, pytest.mark.timeout(600)])],
)
def test_row_20_rolling_restarts_fail_no_request(tmp_path: Path, restarts: int) -> None:
    """Restarts on one inherited socket: kept and new connections, reads and writes, 0 failures."""
    database = f"sqlite:///{tmp_path}/knownas.db"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        process = start_on(listening, database, tmp_path)
        key = knownas("key", "create", database=database).strip()
        load = Load(listening.getsockname()[1], key)
        try:
            for _ in range(restarts):
                successor = start_on(listening, database, tmp_path)
                process.terminate()
                assert process.wait(START_SECONDS) == 0
                process = successor
                load.wait_for_more()
        finally:
            load.stop()
            assert stop(process) == 0
    assert load.failures == []
    assert load.last_answers >= restarts


def start_on(listening: socket.socket, database: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start a server on an inherited socket, and return when it is ready."""
    log = folder / f"{time.monotonic_ns()}.log"
    environment = {"KNOWNAS_DATABASE": database, "KNOWNAS_ACCESS_LOG": "off"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "knownas", "serve", "--fd", str(listening.fileno())],
            env={**os.environ, **environment},
            pass_fds=[listening.fileno()],
            stdout=output,
            stderr=output,
        )
    deadline = time.monotonic() + START_SECONDS
    while b"knownas listens on" not in log.read_bytes():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


class Load:
    """Clients that read and write all the time, on kept and on new connections."""

    def __init__(self, port: int, key: str) -> None:
        """Begin."""
        self.failures: list[str] = []
        self.last_answers = 0
        """Answers on kept connections that said that they are the last."""
        self._port, self._key = port, key
        self._answered = 0
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(kept, number))
            for kept in (True, False)
            for number in range(CLIENTS_OF_A_KIND)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop, and wait for it."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def wait_for_more(self) -> None:
        """Return when a good number of requests more were answered."""
        goal = self._answered + 20 * len(self._threads)
        deadline = time.monotonic() + START_SECONDS
        while self._answered < goal and time.monotonic() < deadline:
            time.sleep(0.05)

    def _run(self, kept: bool, number: int) -> None:  # noqa: FBT001 - a thread's argument
        customer = b"load-%d-%d" % (kept, number)
        client: Client | None = None
        for count in itertools.count():
            if self._stopping.is_set():
                break
            try:
                client = client or Client(self._port)
                client.send(self._request(customer, count))
                answer = client.answer()
            except OSError as error:
                self.failures.append(f"{customer!r} {count}: {error!r}")
                answer = Answer(0, {"connection": "close"}, b"")
            if answer.status not in {0, 200}:
                self.failures.append(f"{customer!r} {count}: {answer}")
            self._answered += 1
            if answer.headers.get("connection") == "close":
                self.last_answers += kept
            elif kept:
                continue
            if client is not None:
                client.close()
            client = None
        if client is not None:
            client.close()

    def _request(self, customer: bytes, count: int) -> bytes:
        """Create the customer first, then write once in a while and read."""
        if count == 0:
            return request(self._key, method=b"POST", path=PROFILE_PATH, customer=customer)
        if count % 5:
            return request(self._key, customer=customer)
        body = b'{"branch_id":"%d"}' % count
        return request(self._key, method=b"POST", body=body, customer=customer)


@pytest.mark.parametrize("kind", ["by the lane", "refused", "shortest"])
def test_row_39_a_client_that_never_reads(hurried: tuple[int, str, int], kind: str) -> None:
    """Whatever is pipelined by a client that never reads, memory is bounded and it is cut off."""
    port, key, pid = hurried
    sent = {
        "by the lane": request(key, customer=b"nobody"),
        "refused": request("no-key"),
        "shortest": b"GET / HTTP/1.1\r\n\r\n",
    }[kind] * 1_000
    before = resident_bytes(pid)
    largest = 0
    with Client(port, receive_buffer=4_096) as client:
        client.socket.settimeout(0.1)
        progress = time.monotonic()
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while time.monotonic() - progress < LIMIT_SECONDS + 1 + SLACK_SECONDS:
                with contextlib.suppress(TimeoutError):
                    client.socket.send(sent)
                    progress = time.monotonic()
                largest = max(largest, resident_bytes(pid))
            pytest.fail("The connection stayed open.")
    assert largest - before < LARGEST_GROWTH


def resident_bytes(pid: int) -> int:
    """Return how much memory a process has."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:")[2].split()[0]) * 1_024


@pytest.mark.parametrize("encoding", [b"gzip", b"identity, br", b"x"])
def test_row_41_content_encoding(server: Server, client: Client, encoding: bytes) -> None:
    """A body in any encoding is a 415."""
    body = b'{"branch_id":"b"}'
    client.send(request(server.key, b"Content-Encoding: " + encoding, method=b"POST", body=body))
    answer = client.answer()
    assert answer.status == 415
    assert_error(answer, "unsupported_media_type")


def test_row_41_odd_names(server: Server, client: Client) -> None:
    """Unknown keys that would break a header are counted, never shown in it."""
    odd = ["a\r\nX-Evil: 1", "a\n", "é", "a b", "", "\u0000", "x" * 65, "\u2028", "a,b", '"']
    body = msgspec.json.encode({"branch_id": "b", "plain_1.a-b": 1, **dict.fromkeys(odd, 1)})
    client.send(request(server.key, method=b"POST", body=body))
    answer = client.answer()
    assert answer.status == 200
    assert answer.headers["knownas-ignored"] == f"plain_1.a-b, +{len(odd)}"
    assert "X-Evil" not in answer.headers


# --- What a connection can do ----------------------------------------------------------------


@pytest.mark.parametrize("method", [b"GET", b"POST"])
@pytest.mark.usefixtures("client")
def test_half_closing_client_gets_its_answers(server: Server, method: bytes) -> None:
    """A client that sends, ends, and reads (nc -N) gets all that it asked for, in order."""
    with Client(port_of(server)) as other:
        one = request(server.key, method=method, body=b'{"branch_id":"nc"}')
        other.send(one, one, request(server.key))
        other.socket.shutdown(socket.SHUT_WR)
        answers = [other.answer() for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 200]
        assert other.rest() == b""


def test_half_closing_client_with_half_a_body(server: Server) -> None:
    """A body that ends before its length is a 400, at once."""
    with Client(port_of(server)) as client:
        client.send(request(server.key, b"Content-Length: 100", method=b"POST"), b"{")
        client.socket.shutdown(socket.SHUT_WR)
        client.refusal(400, "parse_error")


def test_pipelined_requests_are_answered_in_order(server: Server, client: Client) -> None:
    """Reads behind a write wait for it, and see it."""
    for number in range(20):
        body = b'{"branch_id":"order-%d"}' % number
        post = request(server.key, method=b"POST", body=body)
        client.send(post, request(server.key) * 60, post, request(server.key, method=b"HEAD"))
        assert client.answer().body == b""
        for _ in range(60):
            found = msgspec.json.decode(client.answer().body)
            assert found["branch_id"] == f"order-{number}"
        assert client.answer().body == b""
        assert client.answer(to_head=True).status == 200


@pytest.mark.usefixtures("client")
def test_deep_pipelines_are_answered_in_order(server: Server) -> None:
    """Thousands of requests sent at once are all answered, by either way, as fast as it reads."""
    numbers = range(4_000)
    with Client(port_of(server), receive_buffer=4_096) as other:
        sent = [
            request(server.key, b"X-Request-Id: %d" % number, path=PATH + b"?" * (number % 50 == 0))
            for number in numbers
        ]
        sender = threading.Thread(target=other.send, args=sent)
        sender.start()
        answers = [other.answer() for _ in numbers]
        sender.join()
    assert [answer.headers["request-id"] for answer in answers] == list(map(str, numbers))
    assert {answer.status for answer in answers} == {200}


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_upgrade_is_ignored(server: Server, client: Client, protocol: bytes) -> None:
    """A request that asks for another protocol is served in this one, its body included."""
    asking = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: " + protocol, b"HTTP2-Settings: A")
    body = b'{"branch_id":"%b"}' % protocol
    client.send(request(server.key, *asking, method=b"POST", body=body), request(server.key))
    assert client.answer().status == 200
    assert msgspec.json.decode(client.answer().body)["branch_id"] == protocol.decode()
    client.send(request(server.key, *asking))
    assert client.answer().status == 200
