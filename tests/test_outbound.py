"""Sending webhooks, by real sockets and real TLS, to receivers on this machine.

Only one thing is not real: which addresses a name has. A name server whose answers change is what
an attacker has, so a test says the answers in their order; everything behind them is as always.
"""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from ipaddress import ip_network
from pathlib import Path
from typing import Final, Protocol

import pytest

from knownas import bootstrap
from knownas.settings import Settings, SettingsError
from knownas.webhooks import signatures
from knownas.webhooks.addresses import Network
from knownas.webhooks.outbound import (
    CONNECT_SECONDS,
    Outcome,
    Resolve,
    Sender,
    system_addresses,
)
from receivers import NO_CONTENT, Answering, Authority, Receiver, receiving

pytestmark = pytest.mark.anyio

HOST: Final = "receiver.example"
"""A name that nobody has: it leads somewhere only by what a test answers."""

NOW: Final = 1_764_000_000_123
BODY: Final = b'{"type":"identifiers.changed","data":{}}'
SECRET: Final = signatures.new_secret()
LOOPBACK: Final = ip_network("127.0.0.1/32")
"""The only address that the senders of these tests may go to, beside public ones."""


@pytest.fixture(scope="module")
def anyio_backend() -> object:
    """Run the tests on the loop that servers run on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Give an authority that nobody believes who is not told to."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def tls(authority: Authority) -> ssl.SSLContext:
    """Give what a receiver with a good certificate speaks TLS by."""
    return authority.server_context(HOST)


@pytest.fixture(autouse=True)
def _believed(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have senders believe the authority, as an operator would."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))


class Names:
    """A name server that answers the next of its answers, and the last one from then on."""

    def __init__(self, *answers: Sequence[str]) -> None:
        """Take the answers in their order."""
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str) -> Sequence[str]:
        """Return addresses, as `socket.getaddrinfo` has them."""
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Sending(Protocol):
    """Makes senders, and closes them after the test."""

    def __call__(
        self,
        *answers: Sequence[str],
        networks: Sequence[Network] = (LOOPBACK,),
        seconds: float = 5.0,
        resolve: Resolve | None = None,
    ) -> Sender:
        """Return a sender that may go to 127.0.0.1, where names lead unless told otherwise."""
        ...


@pytest.fixture
async def sender() -> AsyncIterator[Sending]:
    """Give what makes senders."""
    made: list[Sender] = []

    def make(
        *answers: Sequence[str],
        networks: Sequence[Network] = (LOOPBACK,),
        seconds: float = 5.0,
        resolve: Resolve | None = None,
    ) -> Sender:
        names = resolve or Names(*(answers or (["127.0.0.1"],)))
        made.append(Sender(networks, seconds=seconds, resolve=names))
        return made[-1]

    yield make
    for one in made:
        await one.close()


async def send(
    by: Sender, receiver: Receiver, path: str = "/hook", *, url: str = f"https://{HOST}:%d"
) -> Outcome:
    """Send the message to a receiver, by its port."""
    return await by.send(
        url % receiver.port + path, BODY, message_id="msg_1", secrets=[SECRET], now_ms=NOW
    )


def answering(status: str, *headers: str) -> bytes:
    """Return an answer without a body."""
    lines = "".join(f"{line}\r\n" for line in (*headers, "Content-Length: 0"))
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode()


# --- What arrives -------------------------------------------------------------------------------


async def test_message_arrives_as_it_was_given(sender: Sending, tls: ssl.SSLContext) -> None:
    """One POST of the body, with the headers of the specification, by TLS to the host's name."""
    async with receiving(tls=tls) as receiver:
        outcome = await send(sender(), receiver, "/hook?a=%20b")
    assert outcome == Outcome("delivered", 204, "")
    [request] = receiver.requests
    assert request.line == "POST /hook?a=%20b HTTP/1.1"
    assert request.body == BODY
    assert request.headers == {
        "host": f"{HOST}:{receiver.port}",
        "user-agent": "knownas",
        "content-type": "application/json",
        "content-length": str(len(BODY)),
        **signatures.signed_headers(
            [SECRET], message_id="msg_1", timestamp=NOW // 1_000, body=BODY
        ),
    }
    assert receiver.names == [HOST]


async def test_row_26_receiver_can_tell_a_delivery_from_a_forged_or_replayed_one(
    sender: Sending, tls: ssl.SSLContext
) -> None:
    """What came over the wire is believed with either secret of a change, now and unchanged."""
    old, new = signatures.new_secret(), signatures.new_secret()
    async with receiving(tls=tls) as receiver:
        url = f"https://{HOST}:{receiver.port}/"
        for _ in range(2):
            await sender().send(url, BODY, message_id="msg_1", secrets=[new, old], now_ms=NOW)
    first, second = receiver.requests
    assert first == second
    for secret in (old, new):
        assert signatures.verify([secret], first.headers, first.body, now=NOW / 1_000)
        assert not signatures.verify([secret], first.headers, first.body + b" ", now=NOW / 1_000)
        assert not signatures.verify([secret], first.headers, first.body, now=NOW / 1_000 + 301)
    assert not signatures.verify([SECRET], first.headers, first.body, now=NOW / 1_000)


@pytest.mark.parametrize(
    ("status", "result"),
    [
        *((f"{status} S", "delivered") for status in (200, 201, 202, 204, 299)),
        *((f"{status} S", "failed") for status in (300, 304, 400, 401, 404, 409, 429, 500, 503)),
        ("410 Gone", "gone"),
    ],
)
async def test_status_decides(
    sender: Sending, tls: ssl.SSLContext, status: str, result: str
) -> None:
    """2xx is delivered, 410 ends it, everything else failed; the reason names the status."""
    async with receiving(tls=tls, answer=answering(status)) as receiver:
        outcome = await send(sender(), receiver)
    assert (outcome.result, outcome.status) == (result, int(status[:3]))
    assert (outcome.reason == "") == (result == "delivered")
    assert result == "delivered" or status[:3] in outcome.reason


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("120", 120),
        ("0", 0),
        ("Mon, 24 Nov 2025 16:05:00 GMT", 300),
        ("Mon, 24 Nov 2025 16:05:00 -0000", 300),
        ("Mon, 24 Nov 2025 15:00:00 GMT", 0),
        *((text, None) for text in ("", "soon", "-1", "1.5", "1e9", "9999999999", "\u00b2")),
        *((text, None) for text in ("Mon, 99 Nov 2025 16:05:00 GMT", "1 Jan 99999999999999 0:0:0")),
    ],
)
async def test_receiver_may_ask_for_time(
    sender: Sending, tls: ssl.SSLContext, given: str, seconds: int | None
) -> None:
    """Retry-After is read in seconds or as a date; what is neither counts as none."""
    answer = answering("503 Busy", f"Retry-After: {given}").decode().encode("latin-1")
    async with receiving(tls=tls, answer=answer) as receiver:
        outcome = await send(sender(), receiver)
    assert (outcome.result, outcome.status, outcome.retry_after) == ("failed", 503, seconds)


async def test_early_hints_are_no_answer(sender: Sending, tls: ssl.SSLContext) -> None:
    """A 1xx is passed over; what follows it counts."""
    answer = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + NO_CONTENT
    async with receiving(tls=tls, answer=answer) as receiver:
        assert (await send(sender(), receiver)).status == 204


async def test_burst_uses_one_connection(sender: Sending, tls: ssl.SSLContext) -> None:
    """Deliveries that follow one another closely need one TLS handshake and one look-up."""
    names = Names(["127.0.0.1"])
    by = sender(resolve=names)
    async with receiving(tls=tls, keeps=True) as receiver:
        for _ in range(20):
            assert (await send(by, receiver)).result == "delivered"
    assert len(receiver.requests) == 20
    assert (receiver.connections, names.asked) == (1, [HOST])


async def test_connection_that_was_closed_meanwhile_fails_nothing(
    sender: Sending, tls: ssl.SSLContext
) -> None:
    """A receiver that closes without saying so gets each message all the same."""
    by = sender()
    for context, url in ((tls, f"https://{HOST}:%d"), (None, f"http://{HOST}:%d")):
        async with receiving(tls=context) as receiver:
            for _ in range(50):
                assert (await send(by, receiver, url=url)).result == "delivered"
        assert len(receiver.requests) >= 50


# --- Where it may go: row 25 --------------------------------------------------------------------

INSIDE: Final = [
    *("127.0.0.2", "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1"),
    *("0.0.0.0", "224.0.0.1", "255.255.255.255", "192.0.0.192", "168.63.129.16"),  # noqa: S104 - not bound to
    *("::1", "::", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"),
    *("fd00:ec2::254", "fe80::1", "fe80::1%lo", "ff02::1", "2001::1"),
]


@pytest.mark.parametrize("address", INSIDE)
async def test_row_25_name_that_leads_inside_is_refused(sender: Sending, address: str) -> None:
    """Also when it leads to an allowed address as well; nobody is connected to."""
    async with receiving() as receiver:
        for answer in ([address], ["127.0.0.1", address], [address, "127.0.0.1"]):
            outcome = await send(sender(answer), receiver)
            assert (outcome.result, outcome.status) == ("refused", None)
            assert "KNOWNAS_WEBHOOK_NETWORKS" in outcome.reason
            assert address not in outcome.reason
    assert receiver.connections == 0


async def test_row_25_name_that_leads_elsewhere_at_the_next_look_up_changes_nothing(
    sender: Sending, tls: ssl.SSLContext
) -> None:
    """A delivery looks a name up once, and connects to the very address that was checked."""
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    by = sender(resolve=names)
    async with (
        receiving(tls=tls) as receiver,
        receiving("127.0.0.2", tls=tls, port=receiver.port) as inside,
    ):
        assert (await send(by, receiver)).result == "delivered"
        assert names.asked == [HOST]
        assert (await send(by, receiver)).result == "refused"
        assert names.asked == [HOST, HOST]
    assert (len(receiver.requests), inside.connections) == (1, 0)


async def test_row_25_own_machine_is_refused_by_the_systems_look_up(sender: Sending) -> None:
    """`localhost` leads to this machine by whatever the system knows, and is refused."""
    async with receiving() as receiver:
        for networks in ([], [ip_network("10.0.0.0/8")]):
            outcome = await send(
                sender(networks=networks, resolve=system_addresses),
                receiver,
                url="https://localhost:%d",
            )
            assert outcome.result == "refused"
    assert receiver.connections == 0


async def test_row_25_operator_may_allow_it() -> None:
    """With its network in the setting, the same name is served, without TLS as well."""
    settings = Settings(webhook_networks="127.0.0.0/8, ::1")
    by = bootstrap.open_sender(settings)
    async with receiving() as receiver:
        outcome = await send(by, receiver, url="http://localhost:%d")
    await by.close()
    assert outcome.result == "delivered"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_row_25_redirects_are_not_followed(
    sender: Sending, tls: ssl.SSLContext, status: int
) -> None:
    """They count as a failure, even to where a message may go."""
    async with receiving() as other:
        answer = answering(f"{status} Moved", f"Location: http://127.0.0.1:{other.port}/")
        async with receiving(tls=tls, answer=answer) as receiver:
            outcome = await send(sender(), receiver)
    assert (outcome.result, outcome.status) == ("failed", status)
    assert other.connections == 0


async def test_row_25_plain_http_goes_to_allowed_networks_only(sender: Sending) -> None:
    """A public address gets nothing that everybody on the way could read."""
    async with receiving() as receiver:
        assert (await send(sender(), receiver, url="http://x:%d")).result == "delivered"
        for answer in (["8.8.8.8"], ["127.0.0.1", "8.8.8.8"]):
            outcome = await send(sender(answer), receiver, url="http://x:%d")
            assert outcome.result == "refused"
            assert "http://" in outcome.reason
    assert receiver.connections == 1


@pytest.mark.parametrize(
    "url",
    [
        *("https://127.0.0.2:%d", "https://[::1]:%d", "https://127.1:%d", "http://8.8.8.8:%d"),
        *("https://u:p@127.0.0.1:%d", "ftp://127.0.0.1:%d", "https://127.0.0.1:%d/#", ""),
    ],
)
async def test_row_25_url_is_checked_again_when_it_is_sent_to(sender: Sending, url: str) -> None:
    """A URL that was stored under another setting, or by another program, is refused."""
    outcome = await sender().send(
        url.replace("%d", "8080"), BODY, message_id="msg_1", secrets=[SECRET], now_ms=NOW
    )
    assert (outcome.result, outcome.status) == ("refused", None)
    assert outcome.reason


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "https_proxy"])
async def test_row_25_proxies_of_the_environment_are_not_used(
    sender: Sending, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """A proxy would look the name up itself, and connect to where nothing was checked."""
    async with receiving() as proxy, receiving(tls=tls) as receiver, receiving() as plain:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
        assert (await send(sender(), receiver)).result == "delivered"
        assert (await send(sender(), plain, url="http://x:%d")).result == "delivered"
    assert proxy.connections == 0


async def test_addresses_are_checked_where_they_are_given(
    sender: Sending, authority: Authority
) -> None:
    """An address needs no look-up; its certificate has to name it, and `Host` has its brackets."""
    by = sender([], networks=[LOOPBACK, ip_network("::1")])
    context = authority.server_context("127.0.0.1", "::1")
    for address, url in (("127.0.0.1", "127.0.0.1:%d"), ("::1", "[::1]:%d")):
        async with receiving(address, tls=context) as receiver:
            outcome = await send(by, receiver, url=f"https://{url}")
        assert outcome.result == "delivered", outcome
        assert receiver.requests[0].headers["host"] == url % receiver.port
        assert receiver.names[-1] is None


# --- Whom it believes ---------------------------------------------------------------------------


async def test_certificate_must_be_of_the_host_and_of_a_trusted_authority(
    sender: Sending, authority: Authority, tmp_path: Path
) -> None:
    """Of another host, run out, or of another authority: nothing is sent, the reason says why."""
    stranger = Authority(tmp_path)
    for context, said in (
        (authority.server_context("other.example"), "Hostname mismatch"),
        (authority.server_context("127.0.0.1"), "Hostname mismatch"),
        (authority.server_context(HOST, days=-1), "expired"),
        (stranger.server_context(HOST), "signature failure"),
    ):
        async with receiving(tls=context) as receiver:
            outcome = await send(sender(), receiver)
        assert (outcome.result, outcome.status) == ("failed", None)
        assert outcome.reason.startswith("The host's certificate is not good: ")
        assert said in outcome.reason
        assert receiver.requests == []


async def test_receiver_without_tls_gets_nothing(sender: Sending) -> None:
    """A port that speaks plain HTTP is no https:// receiver."""
    async with receiving() as receiver:
        outcome = await send(sender(seconds=0.5), receiver)
    assert outcome.result == "failed"
    assert receiver.requests == []


# --- What goes wrong ----------------------------------------------------------------------------


async def silent(writer: asyncio.StreamWriter) -> None:
    """Never answer."""
    del writer
    await asyncio.sleep(60)


async def dripping(writer: asyncio.StreamWriter) -> None:
    """Begin an answer and go on byte by byte, never slow enough for a timeout of one read."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X")
        await writer.drain()
        await asyncio.sleep(0.02)


async def hinting(writer: asyncio.StreamWriter) -> None:
    """Answer with nothing but early hints."""
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


async def stalling(writer: asyncio.StreamWriter) -> None:
    """Answer 200 and never end the body."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
    await writer.drain()
    await asyncio.sleep(60)


@pytest.mark.parametrize("answer", [silent, dripping, hinting])
async def test_whole_delivery_has_one_deadline(
    sender: Sending, tls: ssl.SSLContext, answer: Answering
) -> None:
    """However slowly a receiver answers, its time is over."""
    async with receiving(tls=tls, answer=answer) as receiver:
        outcome = await send(sender(seconds=0.5), receiver)
    assert outcome == Outcome("failed", None, "The receiver took too long.")


async def test_silent_name_server_has_the_same_deadline(sender: Sending) -> None:
    """A look-up that hangs ends the delivery in time, and holds up no other."""
    ended = threading.Event()

    def hang(host: str) -> Sequence[str]:
        if host == HOST:
            ended.wait(30)
        return ["127.0.0.1"]

    by = sender(seconds=1.0, resolve=hang)
    async with receiving() as receiver:
        hanging = [asyncio.create_task(send(by, receiver)) for _ in range(50)]
        outcome = await send(by, receiver, url="http://other.example:%d")
        assert outcome.result == "delivered"
        outcomes = await asyncio.gather(*hanging)
    ended.set()
    assert set(outcomes) == {Outcome("failed", None, "The receiver took too long.")}


async def test_status_counts_whatever_follows_it(sender: Sending, tls: ssl.SSLContext) -> None:
    """A receiver that answered 200 has the message, also when its body breaks off or never ends."""
    for answer in (stalling, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345"):
        async with receiving(tls=tls, answer=answer) as receiver:
            outcome = await send(sender(seconds=0.5), receiver)
        assert outcome == Outcome("delivered", 200, "")


async def test_endless_answer_is_cut_off(sender: Sending, tls: ssl.SSLContext) -> None:
    """No more than 64 KiB of it are read, then the connection is closed."""
    written = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while written < 100_000_000:
            writer.write(b"x" * 65_536)
            await writer.drain()
            written += 65_536

    async with receiving(tls=tls, answer=endless) as receiver:
        outcome = await send(sender(), receiver)
        await asyncio.gather(*receiver.writers.values())
    assert outcome.result == "delivered"
    assert written < 20_000_000  # what the sockets' buffers took


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000,
        b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 100_000 + b"\r\n",
        b"HTTP/1.1 2OO OK\r\n\r\n",
        b"HTTP/1.1 99 Low\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
        b"\x00" * 1_000,
        b"",
    ],
    ids=["header", "headers", "status", "low", "ssh", "encoding", "zeros", "nothing"],
)
async def test_what_is_no_answer_failed(
    sender: Sending, tls: ssl.SSLContext, answer: bytes
) -> None:
    """Whatever comes back, it is an outcome, never an error."""
    async with receiving(tls=tls, answer=answer) as receiver:
        outcome = await send(sender(), receiver)
    assert outcome == Outcome("failed", None, "The receiver did not answer by HTTP.")


async def test_connection_that_is_cut_failed(sender: Sending, tls: ssl.SSLContext) -> None:
    """A receiver that resets the connection is an outcome, too."""

    async def cut(writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with receiving(tls=tls, answer=cut) as receiver:
        outcome = await send(sender(), receiver)
    assert (outcome.result, outcome.status) == ("failed", None)
    assert outcome.reason


async def test_closed_port_and_unknown_name_failed(sender: Sending) -> None:
    """Both may be better next time, so they are failures, not refusals."""
    async with receiving() as receiver:
        pass
    outcome = await send(sender(), receiver)
    assert outcome == Outcome("failed", None, "The host does not accept a connection.")
    unknown = Outcome("failed", None, "The host's name is not known.")
    assert await send(sender([]), receiver) == unknown
    by_system = sender(resolve=system_addresses)
    assert await send(by_system, receiver, url="https://receiver.invalid:%d") == unknown


async def test_next_address_is_tried(sender: Sending, tls: ssl.SSLContext) -> None:
    """Where the first of a host's addresses does not accept, the second one does."""
    by = sender(["127.0.0.9", "127.0.0.9", "127.0.0.1"], networks=[ip_network("127.0.0.0/8")])
    async with receiving(tls=tls) as receiver:
        assert (await send(by, receiver)).result == "delivered"


@pytest.mark.slow
async def test_silent_address_leaves_time_for_the_next(
    sender: Sending, tls: ssl.SSLContext
) -> None:
    """An address that takes no connection and refuses none is given up after three seconds."""
    by = sender(["127.0.0.9", "127.0.0.1"], networks=[ip_network("127.0.0.0/8")], seconds=10.0)
    async with receiving(tls=tls) as receiver:
        with socket.create_server(("127.0.0.9", receiver.port), backlog=0), ExitStack() as full:
            for _ in range(2):  # what its queue holds; Linux answers no more
                waiting = full.enter_context(socket.socket())
                waiting.settimeout(0)
                waiting.connect_ex(("127.0.0.9", receiver.port))
            began = time.monotonic()
            outcome = await send(by, receiver)
            waited = time.monotonic() - began
    assert outcome.result == "delivered"
    assert waited >= CONNECT_SECONDS


async def test_reasons_show_no_secret(sender: Sending) -> None:
    """A URL may have a token in its path: no outcome shows it."""
    async with receiving(answer=answering("500 canary", "X: canary")) as receiver:
        for url, by in (
            ("http://x:%d", sender()),
            ("https://x:%d", sender(seconds=0.5)),
            ("https://x:%d", sender(["10.0.0.1"])),
            ("ftp://x:%d", sender()),
        ):
            outcome = await send(by, receiver, "/canary?canary", url=url)
            assert outcome.result in {"failed", "refused"}
            assert "canary" not in outcome.reason
            assert SECRET not in outcome.reason


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux's list of open files")
async def test_no_connection_stays_open(sender: Sending, tls: ssl.SSLContext) -> None:
    """After a hundred deliveries, good and bad, as many files are open as before."""

    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    by, hurried = sender(), sender(seconds=0.05)
    async with (
        receiving(tls=tls, keeps=True) as good,
        receiving(tls=tls, answer=b"") as broken,
        receiving(tls=tls, answer=stalling) as stalled,
        receiving(keeps=True) as without_tls,
    ):
        before = open_files()
        for _ in range(25):
            await send(by, good)
            await send(by, broken)
            await send(hurried, stalled)
            await send(hurried, without_tls)  # its handshake never ends
        await by.close()
        await hurried.close()
        for receiver in (good, broken, stalled, without_tls):
            for task in receiver.writers.values():
                task.cancel()
            await asyncio.gather(*receiver.writers.values())
        await asyncio.sleep(0)
        assert open_files() <= before


# --- The settings -------------------------------------------------------------------------------


async def test_certificates_that_cannot_be_read_stop_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is one line and says which setting."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "absent.pem"))
    with pytest.raises(SettingsError, match="SSL_CERT_FILE"):
        bootstrap.open_sender(Settings())
