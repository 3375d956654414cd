"""API keys: their form, what a header makes of them, how long one is believed.

The wire contract, section 2, and threat rows 1, 4, 24 and 36, on a registry whose clocks the
tests turn.
"""

import asyncio
import hashlib
import math
import re
import string
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conftest import INJECTIONS, KEY_ALPHABET, sealed
from knownas import keys
from knownas.errors import ServiceUnavailable, Unauthorized, ValidationError
from knownas.keyring import KEY_CACHE_SECONDS, KEY_RENEWAL_SECONDS
from knownas.keys import KeyType
from knownas.model import ApiKey, App, AppId
from knownas.registry import Registry
from knownas.storage.sqlite import SqliteStorage

TYPES: list[KeyType] = list(get_args(KeyType))
VISIBLE = string.ascii_letters + string.digits + string.punctuation
PREFIXES = [f"{key_type}_live_ka_" for key_type in TYPES]
DOCUMENT = Path(__file__).parent.parent / "docs" / "keys.md"

types = st.sampled_from(TYPES)
random_parts = st.text(KEY_ALPHABET, min_size=30, max_size=30)
own_keys = st.builds(
    lambda prefix, part: sealed(prefix + part), st.sampled_from(PREFIXES), random_parts
)
adoptable = st.text(VISIBLE, min_size=1, max_size=255).filter(
    lambda text: not text.startswith(tuple(PREFIXES))
)


# --- The form -----------------------------------------------------------------------------------


@pytest.mark.parametrize("key_type", TYPES)
def test_minted_key_has_the_documented_form(key_type: KeyType) -> None:
    """A type, 30 random characters and their checksum: what scanners are told to look for."""
    key = keys.mint(key_type)
    assert re.fullmatch(rf"{key_type}_live_ka_[0-9A-Za-z]{{36}}", key)
    assert sealed(key[:-6]) == key
    assert keys.OWN_KEY_PATTERN in DOCUMENT.read_text(encoding="utf-8")
    assert re.search(keys.OWN_KEY_PATTERN, f"api_key='{key}'")
    assert not keys.is_mistyped(key)
    assert keys.is_adoptable(key)


def test_row_04_minted_keys_have_178_random_bits() -> None:
    """Each of 30 places takes each of 62 characters, and no key comes twice."""
    minted = [keys.mint("secret") for _ in range(2_000)]
    assert len(set(minted)) == len(minted)
    places = list(zip(*minted, strict=True))[len("secret_live_ka_") : -6]
    assert all(set(place) == set(KEY_ALPHABET) for place in places)
    assert len(places) * math.log2(len(KEY_ALPHABET)) >= 178


@given(own_keys)
def test_every_sealed_key_is_well_typed(key: str) -> None:
    """A key with the right checksum is worth a look-up."""
    assert not keys.is_mistyped(key)


@given(own_keys, st.integers(0, 35), st.characters())
@example(sealed("secret_live_ka_" + "0" * 30), 35, "\n")
@example(sealed("secret_live_ka_" + "0" * 30), 0, "\u0660")
def test_checksum_catches_every_changed_character(key: str, place: int, character: str) -> None:
    """Whatever one character after the prefix becomes, the key is mistyped."""
    place += len(key) - 36
    changed = key[:place] + character + key[place + 1 :]
    assert keys.is_mistyped(changed) == (changed != key)


def test_checksum_catches_every_change_within_the_alphabet() -> None:
    """All 36 x 61 single mistakes in a key are caught, one by one."""
    key = keys.mint("public")
    for place in range(len(key) - 36, len(key)):
        for character in KEY_ALPHABET.replace(key[place], ""):
            assert keys.is_mistyped(key[:place] + character + key[place + 1 :])


@given(own_keys, st.integers(0, 35))
def test_checksum_catches_lost_and_doubled_characters(key: str, place: int) -> None:
    """A key that is a character short or long is mistyped."""
    place += len(key) - 36
    assert keys.is_mistyped(key[:place] + key[place + 1 :])
    assert keys.is_mistyped(key[:place] + key[place] + key[place:])


@given(own_keys, st.integers(0, 28))
def test_checksum_catches_swapped_neighbours(key: str, place: int) -> None:
    """Two neighbours in the wrong order are caught, unless they are the same."""
    place += len(key) - 36
    swapped = key[:place] + key[place + 1] + key[place] + key[place + 2 :]
    assert keys.is_mistyped(swapped) == (swapped != key)


@given(own_keys)
def test_checksum_covers_the_type(key: str) -> None:
    """A secret key does not become a public one by its name, nor the other way round."""
    other, prefix = PREFIXES if key.startswith(PREFIXES[1]) else PREFIXES[::-1]
    assert keys.is_mistyped(key.replace(prefix, other))


@given(st.text())
@example("secret_live_abcdefgh.0123456789abcdefghijklmnopqrstuv")
@example("Secret_live_ka_x")
@example(" secret_live_ka_x")
def test_only_keys_of_our_form_are_mistyped(text: str) -> None:
    """Whatever does not begin as our keys do is none of the checksum's business."""
    assert keys.is_mistyped(text) == text.startswith(tuple(PREFIXES))


@given(st.one_of(st.text(), st.text(VISIBLE, max_size=300), st.text(VISIBLE + " \n\u00e9")))
@example("x" * 255)
@example("x" * 256)
@example("x\n")
@example("secret_live_ka_x")
def test_adoptable_is_any_visible_text_without_blanks(text: str) -> None:
    """1 to 255 visible ASCII characters, but for what looks like a mistyped key of ours."""
    is_text = 1 <= len(text) <= 255 and all("!" <= character <= "~" for character in text)
    assert keys.is_adoptable(text) == (is_text and not keys.is_mistyped(text))


@given(st.one_of(own_keys, adoptable))
@example("abc")
def test_digest_is_the_sha_256_of_the_whole(key: str) -> None:
    """Keys that differ in anything have digests that differ."""
    assert keys.digest(key) == hashlib.sha256(key.encode("ascii")).digest()
    assert keys.digest(key) != keys.digest(key.swapcase() + "x")


# --- The header ---------------------------------------------------------------------------------


@given(
    st.one_of(own_keys, adoptable),
    st.lists(st.booleans(), min_size=7, max_size=7),
    st.integers(1, 5),
    st.text(" \t", max_size=3),
)
def test_key_is_found_in_its_header(key: str, upper: list[bool], spaces: int, after: str) -> None:
    """The scheme in any case, one or more spaces, the key, and perhaps blanks."""
    scheme = "".join(
        character.upper() if is_upper else character
        for character, is_upper in zip("api-key", upper, strict=True)
    )
    header = f"{scheme}{' ' * spaces}{key}{after}"
    assert keys.from_authorization(header.encode()) == key


@given(st.one_of(st.binary(), st.binary().map(lambda it: b"Api-Key " + it)))
@example(b"")
@example(b"Api-Key")
@example(b"Api-Key ")
@example(b"Api-Key\tx")
@example(b"Api-Key " + b"x" * 256)
@example("Api-Key \u00e9".encode())
@example(b"Bearer x")
def test_any_header_is_a_key_or_none(header: bytes) -> None:
    """Whatever the bytes are: None, or an ASCII text of 1 to 255 characters after the scheme."""
    key = keys.from_authorization(header)
    if key is None:
        scheme, _, rest = header.partition(b" ")
        rest = rest.strip(b" \t")
        is_key = scheme.lower() == b"api-key" and rest.isascii() and 1 <= len(rest) <= 255
        assert not is_key
    else:
        assert header[:8].lower() == b"api-key "
        assert header.strip(b" \t").endswith(key.encode("ascii"))
        assert 1 <= len(key) <= 255


# --- A registry whose clocks the tests turn -----------------------------------------------------


class Watched(SqliteStorage):
    """A storage that counts look-ups of keys, takes its time for them, and can be away."""

    def __init__(self) -> None:
        """Open a temporary database."""
        super().__init__(None)
        self.looked_up: list[bytes] = []
        self.monotonic = 100.0
        self.read_seconds = 0.0
        self.is_away = False

    async def key_by_digest(self, digest: bytes) -> ApiKey | None:
        """Count, wait, and look up."""
        self.looked_up.append(digest)
        if self.is_away:
            raise ServiceUnavailable
        found = await super().key_by_digest(digest)
        self.monotonic += self.read_seconds
        return found

    async def note_key_uses(self, uses: Mapping[tuple[AppId, str], int]) -> None:
        """Note them, unless it is away."""
        if self.is_away:
            raise ServiceUnavailable
        await super().note_key_uses(uses)


class Process:
    """One server process: a registry over the storage that it shares with others."""

    def __init__(self, storage: Watched) -> None:
        """Start at the time 1,000 ms."""
        self.now = 1_000
        self.storage = storage
        self.registry = Registry(
            storage, clock=lambda: self.now, monotonic=lambda: storage.monotonic
        )

    async def opens(self, key: str) -> bool:
        """Tell whether the server lets a key in."""
        try:
            await self.registry.keyring.authenticate(b"Api-Key " + key.encode())
        except Unauthorized:
            return False
        return True


@pytest.fixture
async def storage() -> AsyncIterator[Watched]:
    """Give a storage over a fresh database."""
    storage = Watched()
    yield storage
    await storage.close()


@pytest.fixture
async def server(storage: Watched) -> Process:
    """Give a server on it."""
    return Process(storage)


@pytest.fixture
async def another(storage: Watched) -> Process:
    """Give another server process on the same database."""
    return Process(storage)


@pytest.fixture
async def app(server: Process) -> App:
    """Give an app."""
    return await server.registry.create_app("one")


@pytest.mark.anyio
async def test_row_01_mistyped_key_never_reaches_the_storage(server: Process, app: App) -> None:
    """A wrong checksum, a wrong length, no key at all: refused without a look-up."""
    key, _ = await server.registry.keyring.create(app, "secret")
    mistyped = key[:-1] + ("0" if key[-1] != "0" else "1")
    for text in (
        mistyped,
        key[:-1],
        key + "0",
        "secret_live_ka_",
        "public_live_ka_\u00e9",
        "",
        " ",
    ):
        assert not await server.opens(text)
    for header in (None, b"", key.encode(), b"Bearer " + key.encode(), b"Api-Key " + b"x" * 256):
        with pytest.raises(Unauthorized):
            await server.registry.keyring.authenticate(header)
    assert server.storage.looked_up == []
    assert await server.opens(key)
    assert server.storage.looked_up == [keys.digest(key)]


@pytest.mark.anyio
async def test_row_04_unknown_and_near_miss_cost_the_same(server: Process, app: App) -> None:
    """Each costs one look-up by digest, every time; no look-up sees any of the key's text."""
    key, _ = await server.registry.keyring.create(app, "secret")
    near_miss = sealed(key[:-7] + ("0" if key[-7] != "0" else "1"))
    tried = [near_miss, sealed("secret_live_ka_" + "x" * 30), "unknown", near_miss]
    for text in tried:
        assert not await server.opens(text)
    assert server.storage.looked_up == [keys.digest(text) for text in tried]


@pytest.mark.anyio
@pytest.mark.parametrize("text", INJECTIONS)
async def test_row_24_key_is_never_sql(server: Process, app: App, text: str) -> None:
    """As a key SQL opens nothing, and what can be adopted is a key like any other."""
    assert not await server.opens(text)
    if not keys.is_adoptable(text):
        with pytest.raises(ValidationError):
            await server.registry.keyring.adopt(app, text, "secret", label=text)
        return
    adopted = await server.registry.keyring.adopt(app, text, "secret", label=text)
    assert await server.opens(text)
    assert [key.label for key in await server.registry.keyring.of_app(app.id)] == [text]
    await server.registry.keyring.revoke(app.id, adopted.id)
    assert not await server.opens(text)


@pytest.mark.anyio
async def test_unknown_key_is_not_remembered(server: Process, another: Process, app: App) -> None:
    """A key that was refused is let in as soon as another process has adopted it."""
    assert not await server.opens("their-key")
    assert not await server.opens("their-key")
    assert len(server.storage.looked_up) == 2
    await another.registry.keyring.adopt(app, "their-key", "secret")
    assert await server.opens("their-key")


@pytest.mark.anyio
async def test_key_is_believed_for_half_a_second(
    server: Process, another: Process, app: App
) -> None:
    """A key that another process revokes is let in until then, and not any longer."""
    key, kept = await server.registry.keyring.create(app, "secret")
    assert await server.opens(key)
    await another.registry.keyring.revoke(app.id, kept.id)
    assert not await another.opens(key)
    server.storage.monotonic += KEY_CACHE_SECONDS - 0.001
    assert await server.opens(key)
    server.storage.monotonic += 0.001
    assert not await server.opens(key)


@pytest.mark.anyio
async def test_belief_begins_with_the_read(server: Process, another: Process, app: App) -> None:
    """What a slow read brings is believed from when the read began, not from when it ended."""
    key, kept = await server.registry.keyring.create(app, "secret")
    server.storage.read_seconds = 0.4
    assert await server.opens(key)
    await another.registry.keyring.revoke(app.id, kept.id)
    server.storage.monotonic += 0.11
    assert not await server.opens(key)


@pytest.mark.anyio
async def test_believed_key_costs_no_look_up(server: Process, app: App) -> None:
    """A key is read once in half a second, however often it comes."""
    key, _ = await server.registry.keyring.create(app, "secret")
    for _ in range(80):
        assert await server.opens(key)
        server.storage.monotonic += KEY_CACHE_SECONDS / 8
    assert len(server.storage.looked_up) == 10


@pytest.mark.anyio
async def test_key_in_use_is_renewed_before_its_belief_ends(
    server: Process, another: Process, app: App
) -> None:
    """No request waits for that read: the next one finds the key, or that it was revoked."""
    key, kept = await server.registry.keyring.create(app, "secret")
    header = b"Api-Key " + key.encode()
    assert await server.opens(key)
    for _ in range(3):
        server.storage.monotonic += KEY_CACHE_SECONDS - KEY_RENEWAL_SECONDS
        for _ in range(5):  # by the first, the others find that it is under way or done
            assert server.registry.keyring.believed_key(header) is not None
        await asyncio.sleep(0)
    assert len(server.storage.looked_up) == 4
    await another.registry.keyring.revoke(app.id, kept.id)
    server.storage.monotonic += KEY_CACHE_SECONDS - KEY_RENEWAL_SECONDS
    assert server.registry.keyring.believed_key(header) is not None
    await asyncio.sleep(0)
    assert server.registry.keyring.believed_key(header) is None


@pytest.mark.anyio
async def test_last_use_of_a_key_is_written(server: Process, another: Process, app: App) -> None:
    """By each process, while one that cannot write keeps it for later; no refused key has a use."""
    key, live = await server.registry.keyring.create(app, "secret")
    gone, ended = await server.registry.keyring.create(app, "secret")
    await server.registry.keyring.revoke(app.id, ended.id)

    async def uses() -> list[int | None]:
        kept = {one.id: one for one in await server.registry.keyring.of_app(app.id)}
        return [kept[one.id].last_used_at for one in (live, ended)]

    server.now, another.now = 5_000, 4_000
    assert await server.opens(key)
    assert await another.opens(key)
    assert not await server.opens(gone)
    server.storage.is_away = True
    with pytest.raises(ServiceUnavailable):
        await server.registry.keyring.write_uses()
    server.storage.is_away = False
    assert await uses() == [None, None]
    await another.registry.keyring.write_uses()
    assert await uses() == [4_000, None]
    for _ in range(2):
        await server.registry.keyring.write_uses()
    assert await uses() == [5_000, None]


@pytest.mark.anyio
async def test_server_that_revokes_knows_at_once(server: Process, app: App) -> None:
    """The process that revokes or rotates a key does not believe in it any longer."""
    key, kept = await server.registry.keyring.create(app, "secret")
    rotated, its = await server.registry.keyring.create(app, "secret")
    assert await server.opens(key)
    assert await server.opens(rotated)
    await server.registry.keyring.revoke(app.id, kept.id)
    await server.registry.keyring.rotate(app, its.id, overlap_seconds=0)
    assert not await server.opens(key)
    assert not await server.opens(rotated)


@pytest.mark.anyio
async def test_key_that_cannot_be_refreshed_is_not_let_in(server: Process, app: App) -> None:
    """When the database is away a belief runs out like any other, and then it is a 503."""
    key, _ = await server.registry.keyring.create(app, "secret")
    assert await server.opens(key)
    server.storage.is_away = True
    server.storage.monotonic += KEY_CACHE_SECONDS / 2
    assert await server.opens(key)
    server.storage.monotonic += KEY_CACHE_SECONDS / 2
    for _ in range(2):
        with pytest.raises(ServiceUnavailable):
            await server.opens(key)
    server.storage.is_away = False
    assert await server.opens(key)


# --- Expiry and rotation ------------------------------------------------------------------------


@pytest.mark.anyio
async def test_key_opens_until_it_expires(server: Process, app: App) -> None:
    """It is good up to the last millisecond, and not at the time that it was given."""
    key, _ = await server.registry.keyring.create(app, "secret", expires_at=2_000)
    server.now = 1_999
    assert await server.opens(key)
    server.now = 2_000
    assert not await server.opens(key)


@pytest.mark.anyio
async def test_row_36_expired_key_stays_expired(
    server: Process, another: Process, app: App
) -> None:
    """A key that was once seen expired opens nothing, wherever the clock is put back."""
    key, _ = await server.registry.keyring.create(app, "secret", expires_at=2_000)
    assert await server.opens(key)
    server.now = 2_000
    assert not await server.opens(key)
    await server.registry.create_app("later")  # a write after which the end is written, too
    server.now = 1_500
    assert not await server.opens(key)
    assert not await another.opens(key)
    assert [kept.ended_at for kept in await server.registry.keyring.of_app(app.id)] == [2_000]


@pytest.mark.anyio
async def test_both_keys_are_good_while_they_overlap(server: Process, app: App) -> None:
    """The successor is good at once and stays so; the old key ends with the overlap."""
    old, kept = await server.registry.keyring.create(app, "public", label="phone")
    new, successor = await server.registry.keyring.rotate(app, kept.id, overlap_seconds=60)
    assert (successor.type, successor.label, successor.expires_at) == ("public", "phone", None)
    assert await server.opens(old)
    assert await server.opens(new)
    server.now += 60_000 - 1
    assert await server.opens(old)
    server.now += 1
    assert not await server.opens(old)
    assert await server.opens(new)


@pytest.mark.anyio
async def test_overlap_gives_no_key_more_time(server: Process, app: App) -> None:
    """A key that expires before the overlap is over expires when it would have."""
    old, kept = await server.registry.keyring.create(app, "secret", expires_at=2_000)
    await server.registry.keyring.rotate(app, kept.id, overlap_seconds=60)
    server.now = 2_000
    assert not await server.opens(old)


@pytest.mark.anyio
async def test_successor_lives_as_long_as_the_key_was_made_for(server: Process, app: App) -> None:
    """A key for a second is followed by a key for a second."""
    _, kept = await server.registry.keyring.create(app, "secret", expires_at=2_000)
    server.now = 1_700
    new, successor = await server.registry.keyring.rotate(app, kept.id, overlap_seconds=0)
    assert successor.expires_at == 2_700
    server.now = 2_699
    assert await server.opens(new)
    server.now = 2_700
    assert not await server.opens(new)


@pytest.mark.anyio
async def test_only_a_live_key_of_the_app_is_rotated(server: Process, app: App) -> None:
    """An unknown, a revoked, an expired key, and one of another app, have no successor."""
    other = await server.registry.create_app("two")
    _, theirs = await server.registry.keyring.create(other, "secret")
    _, revoked = await server.registry.keyring.create(app, "secret")
    await server.registry.keyring.revoke(app.id, revoked.id)
    _, expired = await server.registry.keyring.create(app, "secret", expires_at=1_000)
    before = await server.registry.keyring.of_app(app.id)
    for key_id in ("key_unknown", theirs.id, revoked.id, expired.id):
        with pytest.raises(ValidationError):
            await server.registry.keyring.rotate(app, key_id, overlap_seconds=0)
    assert await server.registry.keyring.of_app(app.id) == before
    assert await server.registry.keyring.of_app(other.id) == [theirs]


@pytest.mark.anyio
async def test_only_a_key_of_the_app_is_revoked(server: Process, app: App) -> None:
    """An unknown key and one of another app are refused, and live on."""
    other = await server.registry.create_app("two")
    theirs, kept = await server.registry.keyring.create(other, "secret")
    for key_id in ("key_unknown", kept.id):
        with pytest.raises(ValidationError):
            await server.registry.keyring.revoke(app.id, key_id)
    assert await server.opens(theirs)


# --- Bringing one's own -------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("key_type", TYPES)
@pytest.mark.parametrize(
    "text", ["secret_live_abcdefgh.0123456789abcdefghijklmnopqrstuv", "x", "~" * 255]
)
async def test_adopted_key_opens_its_app(
    server: Process, app: App, key_type: KeyType, text: str
) -> None:
    """A key from elsewhere is a key of the app and the type that it was adopted as."""
    adopted = await server.registry.keyring.adopt(
        app, text, key_type, label="theirs", expires_at=9_000
    )
    found = await server.registry.keyring.authenticate(b"Api-Key " + text.encode())
    assert msgspec.structs.replace(found, is_ordinary=False) == adopted
    assert found.is_ordinary == (key_type == "secret")
    assert (found.app, found.type, found.label, found.expires_at) == (
        app,
        key_type,
        "theirs",
        9_000,
    )


@pytest.mark.anyio
@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "a b", "a\tb", "a\n", "\u00e9", "a\x00", "\x7f", "x" * 256, "secret_live_ka_x"),
        "public_live_ka_" + "0" * 36,
    ],
)
async def test_what_is_no_key_is_not_adopted(server: Process, app: App, text: str) -> None:
    """Blanks, control and other characters, too many, and a mistyped key of ours: refused."""
    with pytest.raises(ValidationError):
        await server.registry.keyring.adopt(app, text, "secret")
    assert await server.registry.keyring.of_app(app.id) == []


@pytest.mark.anyio
async def test_key_is_adopted_once(server: Process, app: App) -> None:
    """A text that opens an app, alive or ended, opens no other."""
    other = await server.registry.create_app("two")
    adopted = await server.registry.keyring.adopt(app, "theirs", "secret")
    for one in (app, other):
        with pytest.raises(ValidationError):
            await server.registry.keyring.adopt(one, "theirs", "public")
    await server.registry.keyring.revoke(app.id, adopted.id)
    with pytest.raises(ValidationError):
        await server.registry.keyring.adopt(other, "theirs", "secret")
