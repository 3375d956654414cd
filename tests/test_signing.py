"""Ed25519: the specification's own examples, and that nothing else is believed."""

from typing import Final

import pytest

from knownas import signing

RFC_8032: Final = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555"
            "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
]
"""Section 7.1, tests 1 and 2: private key, public key, message, signature."""


@pytest.mark.parametrize(("key", "public", "message", "signature"), RFC_8032)
def test_signatures_are_those_of_the_specification(
    key: str, public: str, message: str, signature: str
) -> None:
    """The public keys and signatures are the ones that RFC 8032 prints."""
    private = bytes.fromhex(key)
    assert signing.public_key(private).hex() == public
    assert signing.sign(private, bytes.fromhex(message)).hex() == signature
    assert signing.verify(*map(bytes.fromhex, (public, message, signature)))


def test_new_keys_differ_and_sign() -> None:
    """Each new key is another, and what it signs is believed by its public key alone."""
    one, two = signing.new_signing_key(), signing.new_signing_key()
    assert one != two
    signature = signing.sign(one, b"erased")
    assert signing.verify(signing.public_key(one), b"erased", signature)
    assert not signing.verify(signing.public_key(two), b"erased", signature)


def test_what_was_changed_is_not_believed() -> None:
    """A changed message, a signature with any bit turned, and one of another length are refused."""
    key = signing.new_signing_key()
    public, signature = signing.public_key(key), signing.sign(key, b"erased")
    assert not signing.verify(public, b"erasee", signature)
    for bit in range(8 * len(signature)):
        turned = (int.from_bytes(signature) ^ (1 << bit)).to_bytes(len(signature))
        assert not signing.verify(public, b"erased", turned)
    for wrong in (b"", signature[:-1], signature + b"\0"):
        assert not signing.verify(public, b"erased", wrong)


@pytest.mark.parametrize("public", [b"", b"\0" * 31, b"\0" * 33, b"\xff" * 32])
def test_what_is_no_public_key_believes_nothing(public: bytes) -> None:
    """A key of another length, or no point of the curve, is no error: it verifies nothing."""
    signature = signing.sign(signing.new_signing_key(), b"erased")
    assert not signing.verify(public, b"erased", signature)


@pytest.mark.parametrize("key", [b"", b"\0" * 31, b"\0" * 33])
def test_what_is_no_private_key_is_refused(key: bytes) -> None:
    """A private key has 32 bytes."""
    with pytest.raises(ValueError, match="32 bytes"):
        signing.sign(key, b"erased")
    with pytest.raises(ValueError, match="32 bytes"):
        signing.public_key(key)
