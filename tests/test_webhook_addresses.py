"""Which addresses webhooks may go to, and which URLs."""

from ipaddress import ip_address, ip_network
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import TIMES
from knownas.errors import ValidationError
from knownas.webhooks import targets
from knownas.webhooks.addresses import is_public
from knownas.webhooks.outbound import Sender

SPECIAL: Final = [
    # IANA's registry of special-purpose IPv4 addresses, multicast, and what clouds have inside.
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
    *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16"),
    *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    *("255.255.255.255/32", "169.254.169.254/32", "100.100.100.200/32", "168.63.129.16/32"),
    # The same for IPv6: loopback, unspecified, compatible and mapped, NAT64, discard, ...
    *("::1/128", "::/128", "::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96"),
    *("64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/23", "2001::/32", "2001:2::/48"),
    *("2001:10::/28", "2001:20::/28", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16"),
    *("fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8", "fd00:ec2::254/128"),
]
PUBLIC: Final = [
    *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0"),
    *("126.255.255.255", "128.0.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.167.0.1"),
    *("198.17.255.255", "198.20.0.0", "223.255.255.255", "168.63.129.15"),
    *("2001:200::1", "2001:4860:4860::8888", "2606:4700::1111", "2a00:1450::1", "2000::1"),
]


@pytest.mark.parametrize("network", SPECIAL)
@settings(max_examples=20 * TIMES)
@given(data=st.data())
def test_row_25_no_address_of_a_special_network_is_public(
    network: str, data: st.DataObject
) -> None:
    """Nor its first or its last one."""
    parsed = ip_network(network)
    number = data.draw(st.integers(0, parsed.num_addresses - 1))
    for one in (parsed[0], parsed[-1], parsed[number]):
        assert not is_public(one)


@given(st.ip_addresses(v=4).filter(lambda address: not address.is_global))
def test_row_25_no_address_within_another_one_is_public(address: object) -> None:
    """A private IPv4 address stays so in the shapes that IPv6 has for it."""
    high, low = divmod(int(ip_address(str(address))), 65_536)
    for shape in (
        f"::ffff:{address}",
        f"::{address}",
        f"64:ff9b::{address}",
        f"64:ff9b:1::{address}",
        f"2002:{high:x}:{low:x}::1",
    ):
        assert not is_public(ip_address(shape))


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_beside_them_are_public(address: str) -> None:
    """What is not set aside is served."""
    assert is_public(ip_address(address))


# --- URLs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://example.com", "https://example.com/"),
        ("HTTPS://Example.COM:443/Hook?a=%20B", "https://example.com/Hook?a=%20B"),
        ("https://example.com:8443/", "https://example.com:8443/"),
        ("https://example.com:/", "https://example.com/"),
        ("https://example.com/a//b/../c?", "https://example.com/a//b/../c"),
        ("https://example.com?x=//y", "https://example.com/?x=//y"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example/"),
        ("https://my_worker/", "https://my_worker/"),
        ("https://8.8.8.8/", "https://8.8.8.8/"),
        ("https://[2606:4700:0::1111]:8443/", "https://[2606:4700::1111]:8443/"),
        ("https://" + "a" * 63 + ".example/", "https://" + "a" * 63 + ".example/"),
        ("https://example.com/" + "x" * 1_980, "https://example.com/" + "x" * 1_980),
    ],
)
def test_url_has_one_form(text: str, clean: str) -> None:
    """Scheme, host and port are written in one way, the rest stays as it is."""
    sender = Sender()
    assert sender.clean_url(text) == clean
    assert sender.clean_url(clean) == clean


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "ASCII"),
        (" https://example.com/", "without blanks"),
        ("https://example.com/a b", "without blanks"),
        ("https://example.com/\r\nHost: x", "without blanks"),
        ("https://example.com/\x00", "without blanks"),
        ("https://b\u00fccher.example/", "xn--"),
        ("https://example\uff0ecom/", "xn--"),
        ("https://example.com/" + "x" * 1_981, "at most 2000"),
        ("http://example.com/", "https://"),
        ("ftp://example.com/", "https://"),
        ("file:///etc/passwd", "https://"),
        ("javascript:alert(1)", "https://"),
        ("//example.com/", "https://"),
        ("example.com", "https://"),
        ("https://user@example.com/", "no user name"),
        ("https://user:password@example.com/", "no user name"),
        ("https://@example.com/", "no user name"),
        ("https://example.com\\@127.0.0.1/", "no user name"),
        ("https://example.com/#", "fragment"),
        ("https://example.com/#x", "fragment"),
        ("https://example.com:0/", "port"),
        ("https://example.com:65536/", "port"),
        ("https://example.com:x/", "port"),
        ("https://example.com:+80/", "port"),
        ("https://[::1/", "host"),
        ("https:///path", "host"),
        ("https://", "host"),
        ("https:example.com", "host"),
        ("https://example..com/", "host"),
        ("https://example.com./", "host"),
        ("https://-example.com/", "host"),
        ("https://example-.com/", "host"),
        ("https://exa%6dple.com/", "host"),
        ("https://example.com%2f@x/", "no user name"),
        ("https://exa*mple.com/", "host"),
        ("https://example.com;x/", "host"),
        ("https://" + "a" * 64 + ".example/", "host"),
        ("https://" + "a." * 125 + "example/", "host"),
        ("https://[v1.x]/", "host"),
        ("https://x[2606:4700::1111]/", "host"),
        ("https://[2606:4700::1111]x/", "host"),
        ("https://2606:4700::1111/", "host"),
        ("https://[fe80::1%25eth0]/", "host"),
    ],
)
def test_what_is_no_url_for_webhooks_is_refused(text: str, said: str) -> None:
    """The error is about the field `url` and says what it must be."""
    with pytest.raises(ValidationError) as refused:
        Sender().clean_url(text)
    [field] = refused.value.fields
    assert field.source == "url"
    assert said in field.message


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "0.0.0.0", "10.0.0.1", "169.254.169.254", "[::1]", "[::]"),  # noqa: S104 - not bound to
        *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]"),
        *("[fd00:ec2::254]", "[fe80::1]", "[ff02::1]", "224.0.0.1", "255.255.255.255"),
        # What system look-ups take for 127.0.0.1, and some parsers do not.
        *("127.1", "0x7f.1", "0x7f000001", "2130706433", "017700000001", "0177.0.0.01", "127.0.1"),
        *("127.0.0.1.", "0", "0.0", "[127.0.0.1]"),
    ],
)
def test_row_25_address_inside_is_refused_when_it_is_given(host: str) -> None:
    """However it is written, and with whatever port; nothing is looked up for it."""
    for url in (f"https://{host}/", f"https://{host}:8443/x", f"http://{host}/"):
        with pytest.raises(ValidationError):
            Sender().clean_url(url)


def test_row_25_operator_allows_networks() -> None:
    """Only addresses of the allowed networks are added, and only for them http:// is good."""
    sender = Sender([ip_network("127.0.0.0/8"), ip_network("fd00::/8")])
    for url in ("http://127.0.0.1:8080/", "https://127.1.2.3/", "https://[fd00::1]/"):
        assert sender.clean_url(url) == url
    for url in (
        "http://8.8.8.8/",
        "https://10.0.0.1/",
        "http://[::1]/",
        "https://[::ffff:7f00:1]/",
    ):
        with pytest.raises(ValidationError, match="validation_error") as refused:
            sender.clean_url(url)
        assert "KNOWNAS_WEBHOOK_NETWORKS" in refused.value.fields[0].message
    assert sender.clean_url("http://worker:8080/") == "http://worker:8080/"


TRICKY = st.text(alphabet="htps:/@[]#?%.\\-_~0123456789abcdefxX \t\u00e9\u2024", max_size=60)


@given(TRICKY | TRICKY.map("https://{}".format) | st.text())
def test_whatever_the_text_it_is_a_url_or_refused(text: str) -> None:
    """Nothing else is raised, and what is accepted has the same parts when it is read again."""
    try:
        target = targets.parse(text)
    except ValidationError:
        return
    assert targets.parse(target.url) == target
