"""RevenueCat's scheduled data export: a row a transaction, the customer's attributes as JSON.

Columns and shape: https://www.revenuecat.com/docs/integrations/scheduled-data-exports; the
attributes: https://www.revenuecat.com/docs/customers/customer-attributes. Each attribute has its
own time.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from knownas.errors import FieldError, ValidationError, noting
from knownas.model import KINDS, NO_IDENTIFIERS, ProfileRef
from knownas.transfer import TransferError
from knownas.transfer.csv_files import Table
from knownas.transfer.latest import Event, latest
from knownas.transfer.rows import Bad, Record, customer_of, identifiers_of, nobody
from knownas.webhooks.revenuecat import ANONYMOUS
from knownas.webhooks.revenuecat import KINDS as KINDS_OF_REVENUECAT

ORIGINAL: Final = "rc_original_app_user_id"
"""The column that tells it from other tables."""
LAST_SEEN: Final = "rc_last_seen_app_user_id_alias"
ATTRIBUTES: Final = "reserved_subscriber_attributes"

_MAX_TIME: Final = 2**53


def records(table: Table) -> Iterator[Record]:
    """Yield one row a customer. Raises TransferError."""
    return latest(_events(table))


def _events(table: Table) -> Iterator[Event | Bad]:
    at = {name: position for position, name in enumerate(table.columns)}
    for name in (ORIGINAL, ATTRIBUTES):
        if name not in at:
            raise TransferError(f"{table.path}: has no column {name}, as RevenueCat's export has.")
    original_at, attributes_at, last_at = at[ORIGINAL], at[ATTRIBUTES], at.get(LAST_SEEN)
    for record in table:
        if isinstance(record, Bad):
            yield record
            continue
        line, values = record
        problems: list[FieldError] = []
        given = _attributes(values[attributes_at], problems)
        identifiers = identifiers_of({kind: value for kind, (value, _) in given.items()}, problems)
        names = [values[original_at], "" if last_at is None else values[last_at]]
        # An id that the app gave says more than one that RevenueCat made; the last one is newest.
        own = [name for name in names if name.strip() and not name.startswith(ANONYMOUS)]
        customer = customer_of((own or names)[-1] or names[0], problems)
        times = tuple(given[kind.name][1] if kind.name in given else 0 for kind in KINDS)
        if problems:
            yield Bad(line, tuple(problems))
        elif customer is None:
            yield nobody(line)
        else:
            yield Event(line, ProfileRef(customer), 0, identifiers or NO_IDENTIFIERS, times)


def _attributes(text: str, problems: list[FieldError]) -> dict[str, tuple[Any, int]]:
    """Return by name of the kind what the attributes have, and since when in ms."""
    found: dict[str, tuple[Any, int]] = {}
    if not text.strip():
        return found
    with noting(problems):
        try:
            given = msgspec.json.decode(text, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise ValidationError("Must be a JSON object.", source=ATTRIBUTES) from None
        for name, kind in KINDS_OF_REVENUECAT.items():
            one = given.get(name)
            if isinstance(one, dict):
                at = one.get("updated_at_ms")
                time = at if isinstance(at, int) and 0 <= at <= _MAX_TIME else 0
                found[kind] = (one.get("value"), time)
            elif one is not None:
                found[kind] = (one, 0)
    return found
