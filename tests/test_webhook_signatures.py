"""Signatures of webhooks: the specification's own example, and what a receiver must not believe."""

import base64
from typing import Final

import pytest

from knownas.webhooks import signatures

SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - the specification's own
OTHER: Final = "whsec_" + base64.b64encode(bytes(range(24))).decode()
MESSAGE_ID: Final = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP: Final = 1_614_265_330
BODY: Final = b'{"test": 2432232314}'
SIGNATURE: Final = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
"""Of the above, as the tests of the specification's libraries have it."""


def headers_of(*secrets: str, message_id: str = MESSAGE_ID, body: bytes = BODY) -> dict[str, str]:
    """Return the headers of a delivery at TIMESTAMP."""
    return signatures.signed_headers(secrets, message_id=message_id, timestamp=TIMESTAMP, body=body)


def is_believed(
    headers: dict[str, str], *secrets: str, body: bytes = BODY, now: float = TIMESTAMP
) -> bool:
    """Tell whether a receiver with these secrets, or with SECRET, takes the delivery."""
    return signatures.verify(secrets or (SECRET,), headers, body, now=now)


# --- What is signed -----------------------------------------------------------------------------


def test_signature_is_that_of_the_specification() -> None:
    """Its example comes out as it is printed there, under the three headers that it names."""
    assert headers_of(SECRET) == {
        "webhook-id": MESSAGE_ID,
        "webhook-timestamp": str(TIMESTAMP),
        "webhook-signature": SIGNATURE,
    }
    assert is_believed(headers_of(SECRET))


@pytest.mark.parametrize("body", [b"", b"{}", '{"\u00e9": 1}'.encode(), bytes(range(256))])
def test_every_body_can_be_signed(body: bytes) -> None:
    """The bytes are signed as they are."""
    assert is_believed(headers_of(SECRET, body=body), body=body)


def test_while_a_secret_is_changed_both_are_good() -> None:
    """Signed twice, a delivery is believed by receivers with either secret, and by no other."""
    headers = headers_of(OTHER, SECRET)
    assert headers["webhook-signature"].split()[1] == SIGNATURE
    assert is_believed(headers, SECRET)
    assert is_believed(headers, OTHER)
    assert is_believed(headers, signatures.new_secret(), OTHER)
    assert not is_believed(headers, signatures.new_secret())


def test_signatures_of_other_versions_are_passed_over() -> None:
    """What stands beside a good one takes nothing from it, and adds nothing without it."""
    others = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7Aw== v1,AAAA"
    headers = headers_of(SECRET)
    assert is_believed({**headers, "webhook-signature": f"{others} {SIGNATURE} {others}"})
    assert not is_believed({**headers, "webhook-signature": others})


def test_new_secret_has_the_form_of_the_specification() -> None:
    """24 random bytes in base64 behind whsec_, each time others."""
    made = {signatures.new_secret() for _ in range(100)}
    assert len(made) == 100
    for secret in made:
        assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 24


@pytest.mark.parametrize(
    "secret",
    [
        *("", "whsec_", SECRET.removeprefix("whsec_"), SECRET[:-1], SECRET[:-4], SECRET + "\n"),
        *("whsec_\u00e9" + SECRET[7:], "whsec_" + base64.b64encode(bytes(65)).decode()),
    ],
)
def test_secret_of_another_form_is_refused(secret: str) -> None:
    """No delivery is signed with half of a secret; the error does not show it."""
    for action in (lambda: headers_of(secret), lambda: is_believed({}, secret)):
        with pytest.raises(ValueError, match="24 to 64 bytes") as refused:
            action()
        assert "MfKQ9r8GKYqr" not in str(refused.value)


@pytest.mark.parametrize("message_id", ["", "a.b", "a b", "a\r\nb", "\u00e9", "a" * 256])
def test_id_that_could_be_read_as_something_else_is_refused(message_id: str) -> None:
    """No full stop, which ends the id in what is signed, and nothing that ends a header."""
    with pytest.raises(ValueError, match="letters, digits"):
        headers_of(SECRET, message_id=message_id)


# --- Row 26 -------------------------------------------------------------------------------------


def test_row_26_forged_delivery_is_not_believed() -> None:
    """Another body, id, time stamp or secret, a missing header, part of a signature: refused."""
    headers = headers_of(SECRET)
    assert not is_believed(headers, body=BODY + b" ")
    assert not is_believed(headers, body=b"")
    assert not is_believed(headers, OTHER)
    assert not is_believed({**headers, "webhook-id": MESSAGE_ID[:-1]})
    assert not is_believed({**headers, "webhook-timestamp": str(TIMESTAMP + 1)})
    for name in headers:
        assert not is_believed({**headers, name: ""})
        assert not is_believed({other: value for other, value in headers.items() if other != name})
    for forged in (
        SIGNATURE[:8],
        "v1,",
        SIGNATURE[3:],
        SIGNATURE.upper(),
        SIGNATURE[:-1],
        "\u00e9",
    ):
        assert not is_believed({**headers, "webhook-signature": forged})
    for stamp in ("hello", "-1", "1e9", "\u0661", "1" * 13, f"{TIMESTAMP}.0", f" {TIMESTAMP}"):
        assert not is_believed({**headers, "webhook-timestamp": stamp})


def test_row_26_parts_cannot_be_moved() -> None:
    """A full stop cannot carry a part of the body into the time stamp or the id, or back."""
    headers = headers_of(SECRET, body=b"1.2")
    assert not is_believed({**headers, "webhook-timestamp": f"{TIMESTAMP}.1"}, body=b"2")
    assert not is_believed(
        {**headers, "webhook-id": f"{MESSAGE_ID}.{TIMESTAMP}", "webhook-timestamp": "1"}, body=b"2"
    )


def test_row_26_replayed_delivery_is_not_believed() -> None:
    """A recorded request is good for five minutes; a clock that is behind is forgiven as much."""
    headers = headers_of(SECRET)
    for now in (TIMESTAMP - 300.0, TIMESTAMP + 300.0):
        assert is_believed(headers, now=now)
    for now in (TIMESTAMP - 300.1, TIMESTAMP + 300.1, TIMESTAMP + 86_400, 0):
        assert not is_believed(headers, now=now)
    assert signatures.verify([SECRET], headers, BODY, now=TIMESTAMP + 3_600, tolerance=3_600)
