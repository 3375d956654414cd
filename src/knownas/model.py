"""What this server knows: apps, their keys, their profiles, and the kinds of identifier.

Values are frozen and valid by construction: what comes from outside passes through the
`clean_…` functions here, whoever brings it (HTTP, command line, import). Their rules are
those of the wire contract, sections 2, 3 and 5.
"""

import difflib
import re
import sys
from collections.abc import Container, Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple, NewType

import msgspec

from knownas.errors import FieldError, ProfileConflict, ProfileNotFound, ValidationError
from knownas.keys import KeyType
from knownas.upstreams import Upstream


class Kind(NamedTuple):
    """One kind of identifier: its key on the wire, whose it is, what it names, how it looks."""

    name: str
    vendor: str
    description: str
    shape: str
    """What a typical value looks like, in the small language of `knownas.demo`."""


# The one place where the kinds stand. Order matters twice: it is the key order of the wire,
# and a kind's position is its number in stored rows. So a new kind is one new line, at the end.
# Names, order and descriptions: the seed document.
KINDS: Final = (
    Kind("facebook_anonymous_id", "Facebook Ads", "The ID of the user in Facebook Ads integration", "XZ{UUID}"),
    Kind("amplitude_user_id", "Amplitude", "The ID of the user in Amplitude integration", "{d:9}"),
    Kind("amplitude_device_id", "Amplitude", "The ID of the user's device in Amplitude integration", "{UUID}R"),
    Kind("mixpanel_user_id", "Mixpanel", "The ID of the user in Mixpanel integration", "{a:28}"),
    Kind("appmetrica_profile_id", "AppMetrica", "The ID of the user in AppMetrica integration", "{d:19}"),
    Kind("appmetrica_device_id", "AppMetrica", "The ID of the user's device in AppMetrica integration", "{d:19}"),
    Kind("one_signal_player_id", "OneSignal", "The ID of the user in OneSignal integration (Legacy identifier)", "{uuid}"),
    Kind("one_signal_subscription_id", "OneSignal", "The ID of the user in OneSignal integration (Recommended identifier)", "{uuid}"),
    Kind("pushwoosh_hwid", "Pushwoosh", "The ID of the user's device in Pushwoosh integration", "{UUID}"),
    Kind("firebase_app_instance_id", "Firebase", "The ID of the user in Firebase integration", "{X:32}"),
    Kind("airbridge_device_id", "Airbridge", "The ID of the user's device in Airbridge integration", "{uuid}"),
    Kind("appsflyer_id", "AppsFlyer", "The network user's ID in the AppsFlyer integration", "{d:13}-{d:7}"),
    Kind("branch_id", "Branch", "The Branch Key of the user's app in the Branch integration", "{d:19}"),
    Kind("adjust_device_id", "Adjust", "The network user's ID in the Adjust integration", "{x:32}"),
    Kind("tenjin_analytics_installation_id", "Tenjin", "The ID of the user's device in Tenjin integration", "{uuid}"),
    Kind("posthog_distinct_user_id", "PostHog", "The ID of the user in PostHog integration", "{uuid}"),
)  # fmt: skip

KIND_NUMBER: Final = {kind.name: number for number, kind in enumerate(KINDS)}

ALL_KINDS: Final = tuple(range(len(KINDS)))
"""The numbers of all kinds."""

MAX_VALUE_LENGTH: Final = 255
"""Characters of the longest identifier, and of the longest customer id."""

AppId = NewType("AppId", int)
"""The short number under which an app's rows are stored; never shown to a client."""

ProfileId = NewType("ProfileId", str)
"""A profile's UUID in its canonical text: 36 characters, lower case."""

Identifiers = tuple[str | None, ...]
"""A profile's identifiers by kind, in the order of `KINDS`; None where one is not set."""

NO_IDENTIFIERS: Final[Identifiers] = (None,) * len(KINDS)

Attributes = tuple[tuple[str, str | float], ...]
"""A profile's custom attributes: (key, value) in the order in which they were first set."""


Policy = Literal["allow", "reject", "move"]
"""What becomes of an identifier that is set on a profile while another one has it.

`allow`: both have it. `reject`: it is refused. `move`: the other one loses it.
"""

Policies = Mapping[str, Policy]
"""By name of the kind; a kind that is not there is allowed on several profiles."""


class App(msgspec.Struct, frozen=True):
    """One tenant. Nothing of an app is visible through another app's key."""

    id: AppId
    uuid: str
    name: str
    created_at: int
    """Milliseconds since 1970, UTC, as every `…_at` here."""
    policies: Policies = {}
    upstream: Upstream | None = None
    """The other server that knows its profiles, if there is one."""


NO_RATE: Final = "none"
"""The rate of a key that may make any number of requests."""


class ApiKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a key; the key itself is not."""

    id: str
    app: App
    type: KeyType
    label: str
    created_at: int
    expires_at: int | None = None
    ended_at: int | None = None
    """When it was revoked, or first seen expired: whatever the clock does later, it is over."""
    rate: str | None = None
    """How many requests it may make, as `600/minute`, or `NO_RATE`; None for what the setting says.
    A key that was authenticated has the rate in force, None for no limit."""

    is_ordinary: bool = False
    """Of a key that was authenticated: whether it is a secret one whose requests are neither counted
    nor compared, so that the fast lane may answer them."""

    last_used_at: int | None = None
    """When a request came with it last, to a minute; None: never, as far as is known."""

    def is_live(self, now: int) -> bool:
        """Tell whether the key opens anything at `now` (ms)."""
        return self.ended_at is None and (self.expires_at is None or now < self.expires_at)


class Profile(msgspec.Struct, frozen=True, gc=False):
    """One person or one anonymous installation of an app."""

    profile_id: ProfileId
    customer_user_id: str | None
    identifiers: Identifiers
    attributes: Attributes
    created_at: int
    updated_at: int
    revision: int = 1
    """How often its database has seen it change, its beginning included."""


class LogPosition(NamedTuple):
    """How far the log of a database with standbys was: all that was acknowledged before is in it."""

    timeline: int
    place: int


class ProfileRef(msgspec.Struct, frozen=True):
    """How a request names a profile: by customer, by profile id, or by both."""

    customer_user_id: str | None = None
    profile_id: ProfileId | None = None

    def settle(self, by_customer: Profile | None, by_profile: Profile | None) -> Profile:
        """Return the one profile that this reference names, given what each half found.

        Raises ProfileNotFound when a given half found nothing, ProfileConflict when the halves
        found two profiles (wire contract, section 2).
        """
        if self.customer_user_id is None:
            found = by_profile
        elif self.profile_id is None:
            found = by_customer
        elif by_customer is None or by_profile is None:
            found = None
        elif by_customer.profile_id != by_profile.profile_id:
            raise ProfileConflict
        else:
            found = by_customer
        if found is None:
            raise ProfileNotFound
        return found

    def settle_or_new(
        self, by_customer: Profile | None, by_profile: Profile | None, new_id: ProfileId, now: int
    ) -> Profile:
        """Return the profile to keep under this reference: the found one, bound, or a new one.

        A customer is bound to an anonymous profile that has the given id. Raises
        ProfileConflict when the customer has another profile or the profile another customer.
        """
        if by_customer is not None:
            if self.profile_id is not None and (
                by_profile is None or by_profile.profile_id != by_customer.profile_id
            ):
                raise ProfileConflict(
                    "This customer already has another profile; send only one of the two headers."
                )
            return by_customer
        if by_profile is None:
            profile_id = self.profile_id or new_id
            return Profile(profile_id, self.customer_user_id, NO_IDENTIFIERS, (), now, now)
        if self.customer_user_id is None:
            return by_profile
        if by_profile.customer_user_id is not None:
            raise ProfileConflict(
                "This profile already belongs to another customer; send only one of the two headers."
            )
        return msgspec.structs.replace(by_profile, customer_user_id=self.customer_user_id)


# --- What comes from outside ---------------------------------------------------------------

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_RATE: Final = re.compile(r"[1-9][0-9]{0,8}/(?:second|minute|hour|day)")
_APP_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")
_ATTRIBUTE_KEY: Final = re.compile(r"[A-Za-z0-9_.-]{1,30}")
_MAX_ATTRIBUTES: Final = 30
_MAX_ATTRIBUTE_VALUE: Final = 50
_MAX_EXACT_INTEGER: Final = 2**53
_MAX_HINTS: Final = 10


def clean_app_name(text: str) -> str:
    """Return an app's name: 1 to 63 lower-case letters, digits and hyphens, a letter first."""
    if not _APP_NAME.fullmatch(text):
        raise ValidationError(
            "Must be 1 to 63 lower-case letters, digits or hyphens, starting with a letter.",
            source="name",
        )
    return text


def clean_rate(text: str, *, source: str) -> str:
    """Return a rate of requests: 1 to 999,999,999 by the second, minute, hour or day."""
    if not _RATE.fullmatch(text):
        raise ValidationError(
            "Must be a number of requests and a time, as 600/minute: second, minute, hour or day.",
            source=source,
        )
    return text


def clean_profile_id(text: str, *, source: str) -> ProfileId:
    """Return the canonical form of a UUID given in the text form of RFC 9562, in any case."""
    if not _UUID.fullmatch(text):
        raise ValidationError(
            "Must be a UUID in the form 8-4-4-4-12 hexadecimal digits.", source=source
        )
    return ProfileId(text.lower())


def clean_customer_user_id(raw: bytes, *, source: str) -> str:
    """Return a customer id from the bytes of a header: compared byte by byte ever after."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise ValidationError("Must be UTF-8.", source=source) from None
    if problem := _text_problem(text):
        raise ValidationError(problem, source=source)
    return text


def clean_customer_text(text: str, *, source: str) -> str:
    """Return a customer id from a text, trimmed as a header's value is."""
    trimmed = text.strip(" \t")
    if problem := _text_problem(trimmed):
        raise ValidationError(problem, source=source)
    return trimmed


def clean_identifiers(
    fields: Mapping[str, object], *, reject_unknown: bool = False
) -> tuple[dict[str, str], list[str]]:
    """Return the known identifiers of a body, trimmed, and the names of its unknown keys.

    None means "not given". Raises ValidationError with one entry per bad field, or when no
    identifier is left. An unknown key is an error, which names the known one near it, where
    `reject_unknown` says so or no identifier is left.
    """
    values: dict[str, str] = {}
    unknown: list[str] = []
    problems: list[FieldError] = []
    for name, value in fields.items():
        if name not in KIND_NUMBER:
            unknown.append(name)
        elif isinstance(value, str):
            trimmed = value.strip()
            if problem := _text_problem(trimmed):
                problems.append(FieldError(name, problem))
            else:
                values[name] = trimmed
        elif value is not None:
            problems.append(FieldError(name, "Must be a string."))
    if reject_unknown or not (values or problems):
        problems += unknown_kinds(unknown)
    if problems:
        raise ValidationError(fields=problems)
    if values:
        return values, unknown
    raise ValidationError("At least one integration identifier must be provided.")


def clean_value(text: str, *, source: str) -> str:
    """Return an identifier that is looked for, trimmed as those are that are stored."""
    trimmed = text.strip()
    if problem := _text_problem(trimmed):
        raise ValidationError(problem, source=source)
    return trimmed


def clean_kind(name: str, *, source: str) -> int:
    """Return the number of a kind. Raises ValidationError, which names the nearest kind."""
    number = KIND_NUMBER.get(name)
    if number is None:
        raise ValidationError(_unknown_kind_message(name, hint=True), source=source)
    return number


def clean_kinds(raw: object, *, source: str) -> tuple[int, ...]:
    """Return the numbers of the kinds in a list of names, or of all for the text "all".

    Raises ValidationError with one entry per bad item.
    """
    if raw == "all":
        return ALL_KINDS
    if not isinstance(raw, list) or not raw:
        raise ValidationError('Must be a list of kinds of identifier, or "all".', source=source)
    problems: list[FieldError] = []
    for position, name in enumerate(raw):
        if not isinstance(name, str):
            problem = "Must be a string."
        elif name not in KIND_NUMBER:
            problem = _unknown_kind_message(name, hint=len(problems) < _MAX_HINTS)
        else:
            continue
        problems.append(FieldError(f"{source}[{position}]", problem))
    if problems:
        raise ValidationError(fields=problems)
    return tuple(sorted({KIND_NUMBER[name] for name in raw}))


def clean_policies(fields: Mapping[str, object]) -> Policies:
    """Return the policies of a body by name of the kind, those that are not `allow`.

    Raises ValidationError with one entry per bad field.
    """
    problems = unknown_kinds(name for name in fields if name not in KIND_NUMBER)
    policies: dict[str, Policy] = {}
    for name, value in fields.items():
        if value == "reject":
            policies[name] = "reject"
        elif value == "move":
            policies[name] = "move"
        elif value != "allow" and name in KIND_NUMBER:
            problems.append(FieldError(name, "Must be allow, reject or move."))
    if problems:
        raise ValidationError(fields=problems)
    return policies


def policies_by_name(policies: Policies) -> dict[str, Policy]:
    """Return the policy of every kind, in the order of the kinds."""
    return {name: policies.get(name, "allow") for name in KIND_NUMBER}


def unknown_kinds(names: Iterable[str]) -> list[FieldError]:
    """Say of each name that it is no kind of identifier, and which kind it may have meant."""
    return [
        # A hint costs a comparison with every kind, so a hostile body gets only a few.
        FieldError(name, _unknown_kind_message(name, hint=position < _MAX_HINTS))
        for position, name in enumerate(names)
    ]


def nearest_kind(name: str) -> str | None:
    """Return the kind that `name` most likely means: same vendor first, then close spelling."""
    name = name[: 2 * max(map(len, KIND_NUMBER))].lower()
    vendor = name.partition("_")[0]
    same_vendor = [kind for kind in KIND_NUMBER if kind.partition("_")[0] == vendor]
    near = difflib.get_close_matches(name, same_vendor, n=1, cutoff=0.0)
    near = near or difflib.get_close_matches(name, KIND_NUMBER, n=1, cutoff=0.8)
    return near[0] if near else None


def merge_identifiers(current: Identifiers, values: Mapping[str, str]) -> Identifiers:
    """Return `current` with `values` (by kind name) set and all else as it was."""
    merged = list(current)
    for name, value in values.items():
        merged[KIND_NUMBER[name]] = value
    return tuple(merged)


def clear_identifiers(current: Identifiers, kinds: Container[int]) -> Identifiers:
    """Return `current` without the identifiers of these kinds, and all else as it was."""
    return tuple(None if kind in kinds else value for kind, value in enumerate(current))


def identifiers_by_name(identifiers: Identifiers) -> dict[str, str | None]:
    """Return the identifiers as the wire's object: every kind, in order."""
    return {kind.name: value for kind, value in zip(KINDS, identifiers, strict=True)}


def clean_attributes(raw: object) -> dict[str, str | float | None]:
    """Return custom attributes as a patch by key; None removes (wire contract, section 5).

    Raises ValidationError with one entry per bad item.
    """
    if not isinstance(raw, list):
        raise ValidationError(
            'Must be a list of {"key": …, "value": …} objects.', source="custom_attributes"
        )
    if len(raw) > 2 * _MAX_ATTRIBUTES:  # to replace them all
        raise ValidationError(f"At most {_MAX_ATTRIBUTES} are allowed.", source="custom_attributes")
    patch: dict[str, str | float | None] = {}
    problems: list[FieldError] = []
    for position, item in enumerate(raw):
        source = f"custom_attributes[{position}]"
        problem = _attribute_problem(item)
        if problem is None and item["key"] in patch:
            problem = "This key stands in the list twice."
        if problem:
            problems.append(FieldError(source, problem))
        else:
            patch[item["key"]] = _attribute_value(item["value"])
    if problems:
        raise ValidationError(fields=problems)
    return patch


def merge_attributes(current: Attributes, patch: Mapping[str, str | float | None]) -> Attributes:
    """Return `current` with the patch applied. Raises ValidationError past 30 attributes."""
    merged = dict(current)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    if len(merged) > _MAX_ATTRIBUTES:
        raise ValidationError(
            f"The profile would have {len(merged)} custom attributes; "
            f"at most {_MAX_ATTRIBUTES} are allowed.",
            source="custom_attributes",
        )
    return tuple(merged.items())


def _text_problem(text: str) -> str | None:
    if not text:
        return "Must not be blank."
    if len(text) > MAX_VALUE_LENGTH:
        return f"Must be at most {MAX_VALUE_LENGTH} characters; this has {len(text)}."
    if not text.isprintable() and _CONTROL.search(text):
        return "Must not contain control characters."
    return None


def _unknown_kind_message(name: str, *, hint: bool) -> str:
    near = nearest_kind(name) if hint else None
    return f"Unknown identifier; did you mean {near}?" if near else "Unknown identifier."


def _attribute_value(value: Any) -> str | float | None:  # noqa: ANN401 - checked just before
    if isinstance(value, int) and abs(value) > _MAX_EXACT_INTEGER:
        return float(value)
    return value or None if isinstance(value, str) else value


def _attribute_problem(item: Any) -> str | None:  # noqa: ANN401, PLR0911 - what a client sent; one line a rule
    if not isinstance(item, dict) or "key" not in item or "value" not in item:
        return 'Must be an object {"key": …, "value": …}.'
    if unknown := sorted(item.keys() - {"key", "value"}):
        return f"Must have no other member than key and value; this has {len(unknown)} more."
    key, value = item["key"], item["value"]
    if not isinstance(key, str) or not _ATTRIBUTE_KEY.fullmatch(key):
        return "The key must be 1 to 30 letters, digits, dashes, points or underscores."
    if value is None:
        return None
    if isinstance(value, str):
        if len(value) > _MAX_ATTRIBUTE_VALUE or _CONTROL.search(value):
            return "A text value must be at most 50 characters, without control characters."
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "The value must be a text or a number; null or an empty text removes it."
    if not -sys.float_info.max <= value <= sys.float_info.max:
        return "A number must fit a 64-bit float."
    return None
