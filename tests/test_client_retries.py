"""What a client does when a server misbehaves: wait, try again, give up, say what it was."""

import asyncio
import email.utils
import time
from collections.abc import Callable
from typing import Final

import httpx2
import pytest

from conftest import free_port
from knownas_client import (
    NO_RETRIES,
    ApiError,
    AsyncClient,
    Client,
    ConnectionFailed,
    Retries,
    UnexpectedAnswer,
)
from knownas_client.calls import Who
from knownas_client.errors import RateLimited, ServiceUnavailable, Unauthorized
from misbehaving import Late, answer, misbehaving

Connect = Callable[..., Client]

KEY: Final = "secret_live_some.key"
WHO: Final = Who(customer_user_id="user-1")
QUICK: Final = Retries(attempts=3, first_wait=0.01)

IDENTIFIERS: Final = answer(200, b'{"appsflyer_id": "1", "branch_id": null}')
SET: Final = answer(200)
GONE: Final = answer(204)
BUSY: Final = answer(
    503,
    b'{"errors": [{"source": null, "errors": ["Later."]}], "error_code": "service_unavailable", '
    b'"status_code": 503}',
    Retry_After="0",
    Request_Id="request-1",
)
LIMITED: Final = (
    b'{"errors": [{"source": null, "errors": ["Too many."]}], "error_code": "rate_limited", '
    b'"status_code": 429}'
)


def test_what_passes_is_tried_again(connect: Connect) -> None:
    """After a 503 and a connection that was closed, the third attempt is the answer."""
    with misbehaving(BUSY, None, IDENTIFIERS) as server:
        client = connect(server.url, KEY, retries=QUICK)
        assert client.get_identifiers(**WHO) == {"appsflyer_id": "1", "branch_id": None}
        assert len(server.requests) == 3
        assert server.header("authorization") == [f"Api-Key {KEY}"] * 3


def test_write_has_one_idempotency_key_over_its_attempts(connect: Connect) -> None:
    """Each call makes a key, and keeps it when it is sent again; reading has none."""
    with misbehaving(None, BUSY, SET, SET, IDENTIFIERS) as server:
        client = connect(server.url, KEY, retries=QUICK)
        client.set_identifiers({"appsflyer_id": "1"}, **WHO)
        client.set_identifiers({"appsflyer_id": "1"}, **WHO)
        client.get_identifiers(**WHO)
        keys = server.header("idempotency-key")
    assert len(set(keys[:3])) == 1
    assert keys[0] != keys[3]
    assert all(keys[:4])
    assert keys[4] == ""


def test_idempotency_key_of_ones_own(connect: Connect) -> None:
    """A key that is given is sent, also by a client that sends none of its own."""
    with misbehaving(SET) as server:
        client = connect(server.url, KEY, idempotency=False)
        client.set_identifiers({"branch_id": "1"}, **WHO)
        client.set_identifiers({"branch_id": "1"}, idempotency_key="mine", **WHO)
        assert server.header("idempotency-key") == ["", "mine"]


def test_retry_after_is_waited_for(connect: Connect) -> None:
    """The next attempt comes no sooner than Retry-After says, in seconds or as a date."""
    date = email.utils.formatdate(time.time() + 2, usegmt=True)
    with misbehaving(
        answer(429, LIMITED, Retry_After="1"), answer(429, LIMITED, Retry_After=date), IDENTIFIERS
    ) as server:
        client = connect(server.url, KEY, retries=QUICK)
        began = time.monotonic()
        client.get_identifiers(**WHO)
        assert time.monotonic() - began >= 1.0
        assert len(server.requests) == 3


def test_retry_after_that_is_too_long_is_told_at_once(connect: Connect) -> None:
    """Where waiting would take longer than is allowed, the error is raised, and says how long."""
    with misbehaving(answer(429, LIMITED, Retry_After="3600")) as server:
        client = connect(server.url, KEY, retries=QUICK)
        with pytest.raises(RateLimited) as raised:
            client.get_identifiers(**WHO)
        assert raised.value.retry_after == 3600
        assert len(server.requests) == 1


def test_attempts_are_bounded(connect: Connect) -> None:
    """After the last attempt the server's error is raised, with all that it says."""
    with misbehaving(BUSY) as server:
        client = connect(server.url, KEY, retries=QUICK)
        with pytest.raises(ServiceUnavailable) as raised:
            client.get_identifiers(**WHO)
        assert len(server.requests) == 3
    error = raised.value
    assert (error.status, error.code, error.request_id) == (503, "service_unavailable", "request-1")
    assert error.errors == ((None, "Later."),)
    assert str(error) == "503 service_unavailable: Later. [request request-1]"


def test_time_is_bounded(connect: Connect) -> None:
    """However many attempts are allowed, none begins after the time is over."""
    with misbehaving(BUSY) as server:
        retries = Retries(attempts=1_000, seconds=0.2, first_wait=0.15)
        client = connect(server.url, KEY, retries=retries)
        with pytest.raises(ServiceUnavailable):
            client.get_identifiers(**WHO)
        assert len(server.requests) <= 3


def test_what_will_not_pass_is_not_tried_again(connect: Connect) -> None:
    """An error of the request itself is raised at the first answer."""
    body = b'{"errors": ["Invalid API key"], "error_code": "unauthorized", "status_code": 401}'
    with misbehaving(answer(401, body)) as server:
        client = connect(server.url, KEY, retries=QUICK)
        with pytest.raises(Unauthorized, match="Invalid API key"):
            client.get_identifiers(**WHO)
        assert len(server.requests) == 1


def test_connection_that_fails_is_told(connect: Connect) -> None:
    """Where nobody listens, each attempt fails, and the last failure is the cause."""
    client = connect(f"http://127.0.0.1:{free_port()}", KEY, retries=QUICK)
    with pytest.raises(ConnectionFailed, match="3 attempts") as raised:
        client.get_identifiers(**WHO)
    assert isinstance(raised.value.__cause__, httpx2.ConnectError)


def test_what_may_have_been_done_is_not_done_twice(connect: Connect) -> None:
    """A deletion without an Idempotency-Key is not sent again when its answer was lost."""
    with misbehaving(None, GONE) as server:
        client = connect(server.url, KEY, retries=QUICK, idempotency=False)
        with pytest.raises(ConnectionFailed):
            client.delete_profile(**WHO)
        assert len(server.requests) == 1
    with misbehaving(None, GONE) as server:
        connect(server.url, KEY, retries=QUICK).delete_profile(**WHO)
        assert len(server.requests) == 2
    with misbehaving(answer(429, LIMITED, Retry_After="0"), BUSY) as server:
        client = connect(server.url, KEY, retries=QUICK, idempotency=False)
        with pytest.raises(ServiceUnavailable):
            client.delete_profile(**WHO)
        assert len(server.requests) == 2


def test_proxy_without_an_answer_is_no_answer(connect: Connect) -> None:
    """A 502 or 504 is tried again, unless something might be done twice."""
    lost = answer(502, b"<html>Bad Gateway</html>"), answer(504)
    with misbehaving(*lost, IDENTIFIERS) as server:
        assert connect(server.url, KEY, retries=QUICK).get_identifiers(**WHO)
    with misbehaving(*lost, GONE) as server:
        client = connect(server.url, KEY, retries=QUICK, idempotency=False)
        with pytest.raises(ApiError, match="502 without an error code: <html>Bad Gateway</html>"):
            client.delete_profile(**WHO)
        assert len(server.requests) == 1


def test_erasing_is_never_sent_twice_in_doubt(connect: Connect) -> None:
    """An erasure whose answer was lost is left to who asked for it, since no key guards it."""
    with misbehaving(None) as server:
        client = connect(server.url, KEY, retries=QUICK)
        with pytest.raises(ConnectionFailed):
            client.erase(**WHO)
        assert len(server.requests) == 1
        assert server.header("idempotency-key") == [""]


def test_silence_ends(connect: Connect) -> None:
    """A server that says nothing is waited for as long as the timeout says."""
    with misbehaving(Late(30, IDENTIFIERS)) as server:
        client = connect(server.url, KEY, retries=NO_RETRIES, timeout=0.1)
        with pytest.raises(ConnectionFailed) as raised:
            client.get_identifiers(**WHO)
        assert isinstance(raised.value.__cause__, httpx2.ReadTimeout)


def test_long_poll_is_waited_for(connect: Connect) -> None:
    """Who asks the server to wait waits longer than the timeout, too."""
    page = answer(200, b'{"data": [], "next": "c2"}')
    with misbehaving(Late(0.5, page), answer(410, b"{}")) as server:
        client = connect(server.url, KEY, retries=NO_RETRIES, timeout=0.2)
        changes = client.changes("c1", wait=5)
        with pytest.raises(ApiError, match="410"):
            next(changes)
        assert changes.cursor == "c2"
        assert b"after=c1&wait=5" in server.requests[0]
        assert b"after=c2&wait=5" in server.requests[1]


def test_answer_of_another_server_is_no_result(connect: Connect) -> None:
    """A page of HTML with status 200, or JSON of another form, is an UnexpectedAnswer."""
    for body in (b"<html>Welcome to nginx</html>", b'{"appsflyer_id": 1}', b""):
        with misbehaving(answer(200, body)) as server:
            client = connect(server.url, KEY)
            with pytest.raises(UnexpectedAnswer, match="GET /api/v2/"):
                client.get_identifiers(**WHO)


def test_text_of_the_network_in_front_is_told(connect: Connect) -> None:
    """An error that is none of the API's is an ApiError without a code, which quotes it."""
    with misbehaving(answer(403, b"error code: 1010")) as server:
        client = connect(server.url, KEY)
        with pytest.raises(ApiError) as raised:
            client.get_identifiers(**WHO)
    assert type(raised.value) is ApiError
    assert (raised.value.status, raised.value.code) == (403, "")
    assert str(raised.value) == "403 without an error code: error code: 1010"


def test_redirect_is_not_followed(connect: Connect) -> None:
    """The key goes to nobody else: a redirect is an error."""
    with (
        misbehaving(IDENTIFIERS) as elsewhere,
        misbehaving(answer(301, Location=elsewhere.url)) as server,
    ):
        client = connect(server.url, KEY)
        with pytest.raises(ApiError, match="301"):
            client.get_identifiers(**WHO)
        assert elsewhere.requests == []


def test_url_may_have_a_path(connect: Connect) -> None:
    """Behind a proxy, the server's paths follow the path of the URL."""
    with misbehaving(IDENTIFIERS) as server:
        connect(f"{server.url}/ids/", KEY).get_identifiers(**WHO)
        assert server.requests[0].startswith(b"GET /ids/api/v2/server-side-api/integration/")


def test_profile_of_adapty_is_understood(connect: Connect) -> None:
    """What Adapty adds to a profile, or has in another form than knownas, is no obstacle."""
    body = b"""{"data": {"app_id": "a", "profile_id": "p", "customer_user_id": null, "new": 1,
        "total_revenue_usd": 9.99, "segment_hash": "s", "timestamp": 5,
        "custom_attributes": {"k": 1}, "access_levels": {"premium": {"id": "premium"}},
        "subscriptions": null, "non_subscriptions": []}}"""
    with misbehaving(answer(200, body)) as server:
        profile = connect(server.url, KEY).get_profile(**WHO)
    assert (profile.profile_id, profile.total_revenue_usd) == ("p", 9.99)
    assert profile.access_levels == {"premium": {"id": "premium"}}
    assert profile.subscriptions is None


def test_own_writes_are_seen_through_a_standby(connect: Connect) -> None:
    """Reads say how far the log was after the client's last write, where the server told it."""
    earlier, later = ("00000001" + place.rjust(16, "0") for place in ("a0", "b0"))
    told = (answer(200, Knownas_Log_Position=place) for place in (later, earlier))
    with misbehaving(IDENTIFIERS, *told, IDENTIFIERS) as server:
        client = connect(server.url, KEY)
        client.get_identifiers(**WHO)
        for _ in range(2):
            client.set_identifiers({"branch_id": "1"}, **WHO)
        client.get_identifiers(**WHO)
        assert server.header("knownas-log-position") == ["", "", "", later]


def test_http_client_of_ones_own_is_used_and_left_open() -> None:
    """Whatever it adds to requests is there, and closing the client does not close it."""
    with misbehaving(IDENTIFIERS) as server:
        own = httpx2.Client(headers={"X-Through": "proxy"})
        for _ in range(2):
            with Client(server.url, KEY, http=own) as client:
                client.get_identifiers(**WHO)
        own.close()

        async def run() -> None:
            async with httpx2.AsyncClient(headers={"X-Through": "proxy"}) as own:
                for _ in range(2):
                    async with AsyncClient(server.url, KEY, http=own) as client:
                        await client.get_identifiers(**WHO)

        asyncio.run(run())
        assert server.header("x-through") == ["proxy"] * 4


def test_what_cannot_be_sent_is_refused(connect: Connect) -> None:
    """A call that names nobody, and a client without a server or a key, is a ValueError."""
    with misbehaving(IDENTIFIERS) as server:
        client = connect(server.url, KEY)
        for who in (Who(), Who(customer_user_id=" "), Who(customer_user_id="a\r\nb: c")):
            with pytest.raises(ValueError, match="customer_user_id"):
                client.get_identifiers(**who)
        with pytest.raises(ValueError, match="badly formed"):
            client.get_identifiers(profile_id="user-1")
        assert server.requests == []
    for url, key in (
        ("ftp://host", KEY),
        ("host:8080", KEY),
        ("http://host", ""),
        ("http://host", "a\n"),
    ):
        with pytest.raises(ValueError, match="is"):
            connect(url, key)
