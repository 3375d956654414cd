"""Demo profiles: plausible values, the same for the same seed, none twice."""

import re
import string
from collections.abc import Callable

import pytest

from knownas import demo
from knownas.model import KINDS, Kind, Profile, clean_identifiers, clean_profile_id

NOW = 1_700_000_000_000
MANY = 2_000
UUID4 = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
FIELDS: dict[str, Callable[[str], str]] = {
    "uuid": lambda _: UUID4,
    "UUID": lambda _: UUID4.replace("a-f", "A-F").replace("89ab", "89AB"),
    "d": lambda length: f"[1-9][0-9]{{{int(length) - 1}}}",
    "x": lambda length: f"[0-9a-f]{{{length}}}",
    "X": lambda length: f"[0-9A-F]{{{length}}}",
    "a": lambda length: f"[0-9A-Za-z]{{{length}}}",
}


def pattern(shape: str) -> str:
    """Return the regular expression of a shape, by the language that `knownas.demo` describes."""
    return "".join(
        re.escape(literal) + (FIELDS[field](length or "") if field is not None else "")
        for literal, field, length, _ in string.Formatter().parse(shape)
    )


def made(*, seed: int = 1, start: int = 0, count: int = MANY) -> list[Profile]:
    """Return demo profiles."""
    return list(demo.profiles(seed=seed, start=start, count=count, now=NOW))


@pytest.fixture(scope="module")
def many() -> list[Profile]:
    """Give as many as the tests need to see everything."""
    return made()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_values_have_the_shape_of_their_kind(many: list[Profile], kind: Kind) -> None:
    """Each kind is set somewhere, always in its shape, and the server would take each value."""
    values = [profile.identifiers[KINDS.index(kind)] for profile in many]
    given = [value for value in values if value is not None]
    assert MANY / 10 < len(given) < MANY
    assert len(set(given)) == len(given)
    for value in given:
        assert re.fullmatch(pattern(kind.shape), value)
        assert clean_identifiers({kind.name: value}) == ({kind.name: value}, [])


def test_profiles_are_plausible(many: list[Profile]) -> None:
    """Each has 2 to 10 identifiers and was made now; one in ten is anonymous."""
    counts = [sum(value is not None for value in profile.identifiers) for profile in many]
    assert set(counts) == set(range(2, 11))
    assert {(one.created_at, one.updated_at, one.attributes) for one in many} == {(NOW, NOW, ())}
    anonymous = [one for one in many if one.customer_user_id is None]
    assert MANY * 0.05 < len(anonymous) < MANY * 0.15


def test_no_profile_comes_twice(many: list[Profile]) -> None:
    """Ids are canonical UUIDs, each once; customers are numbered by their place."""
    ids = {profile.profile_id for profile in many}
    assert len(ids) == MANY
    assert all(clean_profile_id(one, source="test") == one for one in ids)
    for number, profile in enumerate(many):
        assert profile.customer_user_id in {None, f"user-{number}"}


def test_same_seed_makes_the_same(many: list[Profile]) -> None:
    """A profile depends on the seed and its number alone, not on where the making began."""
    assert made(count=100) == many[:100]
    assert made(start=700, count=100) == many[700:800]
    assert made(count=0) == []


def test_another_seed_makes_others(many: list[Profile]) -> None:
    """No id and no value of one seed is one of another."""
    others = made(seed=2)
    assert not {one.profile_id for one in many} & {one.profile_id for one in others}
    values = [
        {value for one in profiles for value in one.identifiers if value is not None}
        for profiles in (many, others)
    ]
    assert not values[0] & values[1]
