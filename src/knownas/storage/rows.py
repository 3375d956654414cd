"""Profiles and keys as they stand in a row, whichever database it is of."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from knownas.deliveries import Delivery, Failure, Webhook
from knownas.editing import Ages, TakenBack
from knownas.erasing import customer_name, profile_name
from knownas.history import Change, Difference, Source
from knownas.imports import ENDED, Import
from knownas.model import (
    NO_IDENTIFIERS,
    ApiKey,
    App,
    AppId,
    Attributes,
    Identifiers,
    Policies,
    Policy,
    Profile,
    ProfileId,
)
from knownas.shadows import Result
from knownas.upstreams import Upstream

APP_COLUMNS: Final = "a.id, a.uuid, a.name, a.created_at, a.policies, a.upstream"
"""What `to_app` takes, of `apps a`."""

KEY_COLUMNS: Final = (
    "k.id, k.type, k.label, k.created_at, k.expires_at, k.ended_at, k.rate, k.last_used_at,"
    " a.id, a.uuid, a.name, a.created_at, a.policies, a.upstream"
)
"""What `to_key` takes, of `api_keys k` and `apps a`."""

WEBHOOK_COLUMNS: Final = (
    "id, url, secrets, types, created_at, disabled_at, disabled_because, lost_at"
)
"""What `to_webhook` takes, and `from_webhook` gives."""

DELIVERY_COLUMNS: Final = "revision, state, attempts, next_at, failed_at, failed_status, failure"
"""What `to_delivery` takes, and `from_delivery` gives."""

OPERATOR_COLUMNS: Final = "name, role, created_at, oidc"
"""In the order of an `Operator`."""

ENTRY_COLUMNS: Final = "at, id, operator, app_id, action, about, detail"
"""In the order of an `Entry`."""

INBOUND_COLUMNS: Final = "id, sender, digest, created_at"
"""A `knownas.receiving.InboundSecret`, in the order of its fields."""

LETTER_COLUMNS: Final = "id, sender, at, reason, body, size"
"""A `knownas.receiving.DeadLetter`, in the order of its fields."""

_decode_identifiers = msgspec.json.Decoder(tuple[str | None, ...]).decode
_decode_attributes = msgspec.json.Decoder(tuple[tuple[str, str | int | float], ...]).decode
to_difference = msgspec.json.Decoder(Difference).decode
_decode_ages = msgspec.json.Decoder(Ages).decode
_decode_types = msgspec.json.Decoder(tuple[str, ...]).decode
_decode_policies = msgspec.json.Decoder(dict[str, Policy]).decode
_decode_results = msgspec.json.Decoder(dict[str, Result]).decode
_decode_upstream = msgspec.json.Decoder(Upstream).decode
to_import = msgspec.json.Decoder(Import).decode
_encode = msgspec.json.Encoder().encode


def as_json(value: object) -> str:
    """Return a value as JSON."""
    return _encode(value).decode()


def from_identifiers(identifiers: Identifiers) -> str:
    """Return the JSON list by position of the kind, without the nulls at its end."""
    set_count = len(identifiers)
    while set_count and identifiers[set_count - 1] is None:
        set_count -= 1
    return _encode(identifiers[:set_count]).decode()


def to_identifiers(text: str) -> Identifiers:
    """Return what `from_identifiers` was given, and None for kinds that came later."""
    identifiers = _decode_identifiers(text)
    return identifiers + NO_IDENTIFIERS[len(identifiers) :]


def from_attributes(attributes: Attributes) -> str | None:
    """Return the JSON list of [key, value]; None where there is none."""
    return _encode(attributes).decode() if attributes else None


def to_attributes(text: str | None) -> Attributes:
    """Return what `from_attributes` was given."""
    return () if text is None else _decode_attributes(text)


def from_profile(profile: Profile) -> tuple[Any, ...]:
    """Return all of a profile but its id: customer, identifiers, attributes, times, revision."""
    return (
        profile.customer_user_id,
        from_identifiers(profile.identifiers),
        from_attributes(profile.attributes),
        profile.created_at,
        profile.updated_at,
        profile.revision,
    )


def to_profile(profile_id: ProfileId, row: Iterable[Any]) -> Profile:
    """Return the profile of which `from_profile` gave the row."""
    customer, identifiers, attributes, created_at, updated_at, revision = row
    return Profile(
        profile_id,
        customer,
        to_identifiers(identifiers),
        to_attributes(attributes),
        created_at,
        updated_at,
        revision,
    )


def from_difference(difference: Difference) -> str:
    """Return a difference as JSON, without what is the same on both sides."""
    return _encode(difference).decode()


def about(before: Profile | None, after: Profile | None, undoes: TakenBack | None) -> str | None:
    """Return the name of whom else an entry of the history tells, if of anybody."""
    if undoes is not None:
        return profile_name(undoes.source)
    lost = before.customer_user_id if before else None
    if lost is None or (after is not None and after.customer_user_id == lost):
        return None
    return customer_name(lost)


def to_change(  # noqa: PLR0913, PLR0917 - the columns of a row
    cursor: str, profile_id: ProfileId, revision: int, at: int, source: str, text: str
) -> Change:
    """Return the change that stands in a row of `changes`."""
    return Change(cursor, profile_id, revision, at, Source.of(source), to_difference(text))


def from_ages(ages: Ages) -> str:
    """Return the ages of a profile's identifiers as JSON."""
    return _encode(ages).decode()


def to_ages(text: str | None) -> Ages:
    """Return what `from_ages` was given; of None that nothing is known."""
    return Ages() if text is None else _decode_ages(text)


def from_policies(policies: Policies) -> str | None:
    """Return the policies as a JSON object; None where there is none."""
    return _encode(policies).decode() if policies else None


def to_app(row: Iterable[Any]) -> App:
    """Return the app that stands in a row of `APP_COLUMNS`."""
    number, uuid, name, created_at, policies, upstream = row
    return App(
        number,
        uuid,
        name,
        created_at,
        _decode_policies(policies) if policies else {},
        to_upstream(upstream),
    )


def from_upstream(upstream: Upstream | None) -> str | None:
    """Return an upstream as JSON, its sealed key in base64; None where there is none."""
    return None if upstream is None else _encode(upstream).decode()


def to_upstream(text: str | None) -> Upstream | None:
    """Return what `from_upstream` was given."""
    return None if text is None else _decode_upstream(text)


def from_import(one: Import) -> tuple[int | None, str]:
    """Return when an import has ended, and all of it as JSON, which `to_import` takes."""
    return (one.changed_at if one.state in ENDED else None), _encode(one).decode()


def to_results(text: str) -> dict[str, Result]:
    """Return the results by name of the kind that stand in a row."""
    return _decode_results(text)


def from_key(app: AppId, key: ApiKey, digest: bytes) -> tuple[Any, ...]:
    """Return a row of `api_keys`, in the order of its columns."""
    times = (key.created_at, key.expires_at, key.ended_at)
    return (digest, key.id, app, key.type, key.label, *times, key.rate)


def to_key(row: Iterable[Any]) -> ApiKey:
    """Return the key that stands in a row of `KEY_COLUMNS`."""
    key_id, key_type, label, created_at, expires_at, ended_at, rate, last_used_at, *app = row
    return ApiKey(
        key_id,
        to_app(app),
        key_type,
        label,
        created_at,
        expires_at,
        ended_at,
        rate,
        last_used_at=last_used_at,
    )


def from_webhook(webhook: Webhook) -> tuple[Any, ...]:
    """Return a webhook in the order of `WEBHOOK_COLUMNS`."""
    types = None if webhook.types is None else _encode(webhook.types).decode()
    return (*webhook[:3], types, *webhook[4:])


def to_webhook(row: Iterable[Any]) -> Webhook:
    """Return the webhook of which `from_webhook` gave the row."""
    webhook_id, url, secrets, types, *times = row
    return Webhook(
        webhook_id, url, secrets, None if types is None else _decode_types(types), *times
    )


def from_failure(failure: Failure | None) -> tuple[Any, ...]:
    """Return a failure as three columns, all None where there was none."""
    return (None, None, None) if failure is None else failure


def to_failure(at: int | None, status: int | None, reason: str | None) -> Failure | None:
    """Return what `from_failure` was given."""
    return None if at is None or reason is None else Failure(at, status, reason)


def from_delivery(delivery: Delivery) -> tuple[Any, ...]:
    """Return all of a delivery but its profile, in the order of `DELIVERY_COLUMNS`."""
    return (*delivery[1:5], *from_failure(delivery.failure))


def to_delivery(profile_id: ProfileId, row: Iterable[Any]) -> Delivery:
    """Return the delivery of which `from_delivery` gave the row."""
    revision, state, attempts, next_at, *failure = row
    return Delivery(profile_id, revision, state, attempts, next_at, to_failure(*failure))
