"""What the server answers, as frozen values. Times are in milliseconds since 1970, UTC.

What a newer server adds to an answer is passed over. Kinds of identifier are texts, so a new kind
needs no new client.
"""

from typing import Any, Generic, Literal, TypedDict, TypeVar

import msgspec

T = TypeVar("T")

Policy = Literal["allow", "reject", "move"]
"""What becomes of an identifier that is set while another profile has it."""
Side = Literal["survivor", "source"]
"""Whose value a merge keeps."""


class Tagged(msgspec.Struct, Generic[T], frozen=True):
    """An answer with the entity tag by which it is known again."""

    value: T
    etag: str


class Attribute(msgspec.Struct, frozen=True):
    """One custom attribute."""

    key: str
    value: str | float


class AdaptyProfile(msgspec.Struct, frozen=True):
    """A profile as Adapty's server-side API has it; purchases are no part of knownas."""

    app_id: str
    profile_id: str
    customer_user_id: str | None = None
    total_revenue_usd: float = 0.0
    segment_hash: str = ""
    timestamp: int = 0
    """When it was answered."""
    custom_attributes: Any = ()
    """From knownas a list of `{"key": …, "value": …}`."""
    access_levels: Any = ()
    subscriptions: Any = ()
    non_subscriptions: Any = ()


class Profile(msgspec.Struct, frozen=True):
    """All that knownas keeps of a profile."""

    profile_id: str
    customer_user_id: str | None
    identifiers: dict[str, str]
    """By kind, those that are set."""
    custom_attributes: list[Attribute]
    created_at: int
    updated_at: int
    revision: int
    """How often it has changed, its beginning included."""


class Holder(msgspec.Struct, frozen=True):
    """A profile that has an identifier, and as which kind."""

    kind: str
    profile: Profile


class Found(msgspec.Struct, frozen=True):
    """What a batch finds by an identifier: at most ten profiles, and whether there are more."""

    profiles: list[Profile]
    more: bool


class Written(msgspec.Struct, frozen=True):
    """What became of a profile in a batch."""

    profile_id: str
    revision: int


class Source(msgspec.Struct, frozen=True):
    """By which way, and by which key, something changed."""

    via: str
    key_id: str | None = None


class Difference(msgspec.Struct, frozen=True):
    """A text before and after; None where there was none."""

    old: str | None
    new: str | None


class AttributesDifference(msgspec.Struct, frozen=True):
    """The custom attributes before and after."""

    old: list[Attribute]
    new: list[Attribute]


class Differences(msgspec.Struct, frozen=True):
    """What a change changed."""

    customer_user_id: Difference | None = None
    identifiers: dict[str, Difference] = {}
    """By kind."""
    custom_attributes: AttributesDifference | None = None


class Change(msgspec.Struct, frozen=True):
    """One change of a profile, or the erasure of a person."""

    cursor: str
    """Where the feed goes on after it."""
    type: str
    """`profile.created`, `profile.changed`, `profile.deleted` or `profile.erased`."""
    at: int
    source: Source
    profile_id: str | None = None
    """None for an erasure, which tells nothing of whom."""
    revision: int | None = None
    changes: Differences = Differences()
    shared: list[str] = []
    """The kinds whose new identifier another profile has, too."""
    erasure_id: str | None = None


class Clash(msgspec.Struct, frozen=True):
    """What both profiles of a merge had, each its own, and whose is kept."""

    field: str
    survivor: str | float | None
    source: str | float | None
    kept: Side


class Merged(msgspec.Struct, frozen=True):
    """What comes of a merge."""

    dry_run: bool
    survivor: Profile
    """As it is then."""
    source: Profile
    """As it was."""
    conflicts: list[Clash]
    notes: list[str]


class Undone(msgspec.Struct, frozen=True):
    """The two profiles that a merge had made one."""

    survivor: Profile
    source: Profile


class Coverage(msgspec.Struct, frozen=True):
    """How many profiles there are, and how many of them have each kind."""

    profiles: int
    identifiers: dict[str, int]


class CoverageOfDay(Coverage, frozen=True, kw_only=True):
    """How it was at the end of a day."""

    day: str | None
    """As `2026-01-31`, in UTC; None for all before it was counted."""


class CoverageByDay(msgspec.Struct, frozen=True):
    """How many have which, now and at the end of each day on which it changed."""

    now: Coverage = msgspec.field(name="data")
    days: list[CoverageOfDay] = []


class Shared(msgspec.Struct, frozen=True):
    """An identifier that several profiles have, and how many."""

    kind: str
    value: str
    profiles: int


class Vendor(msgspec.Struct, frozen=True):
    """Another system that knew an erased person, and is to be asked next."""

    vendor: str
    kinds: list[str]


class Waiting(msgspec.Struct, frozen=True):
    """What goes on having the person's data for a while, and whose it is to end that."""

    what: str
    who: str
    until: int | None


class Counted(msgspec.Struct, frozen=True):
    """How much of a person was erased."""

    profiles: int
    customers: int
    identifiers: dict[str, int]
    """By kind."""
    history: int
    vendors: list[Vendor]


class Receipt(msgspec.Struct, frozen=True):
    """What was erased, and what still waits."""

    id: str
    app_id: str
    erased_at: int
    complete: bool
    completed_at: int | None
    erased: Counted
    waits: list[Waiting]


class Person(msgspec.Struct, frozen=True):
    """Who was erased: told once, to who asks for it at the erasure."""

    profile_ids: list[str]
    customer_user_ids: list[str]
    identifiers: dict[str, list[str]]


class Erased(msgspec.Struct, frozen=True):
    """A receipt, as it can be read and as it is signed."""

    receipt: Receipt
    signed: str
    person: Person | None = None


class Checked(msgspec.Struct, frozen=True):
    """A name that was erased, and when someone began anew under it."""

    id: str
    erased_at: int
    revived_at: int | None


class CheckedNames(msgspec.Struct, frozen=True):
    """Those of the given names that were erased."""

    profile_ids: list[Checked]
    customer_user_ids: list[Checked]


class ImportProgress(msgspec.Struct, frozen=True):
    """How far an import has come."""

    done: int
    of: int
    """What there is to do, in the unit of `done`: bytes, or rows of a Parquet file."""
    rows: int
    rows_per_second: int


class Import(msgspec.Struct, frozen=True):
    """A file that is uploaded and imported."""

    id: str
    name: str
    state: Literal["uploading", "waiting", "running", "done", "failed", "cancelled"]
    size: int | None
    received: int
    created_at: int
    changed_at: int
    progress: ImportProgress
    report: dict[str, Any] | None
    """What came of it, as `knownas import --json` has it."""
    failure: str | None
    """Why it failed."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing comes after."""
        return self.state in {"done", "failed", "cancelled"}


class ReadItem(TypedDict, total=False):
    """What one item of a batch reads: a profile by its ids, or who has an identifier."""

    customer_user_id: str
    profile_id: str
    kind: str
    value: str


class WriteItem(TypedDict, total=False):
    """What one item of a batch sets and clears; what it clears is cleared first."""

    customer_user_id: str
    profile_id: str
    identifiers: dict[str, str]
    clear: list[str] | Literal["all"]
