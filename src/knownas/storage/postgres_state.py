"""What becomes of several profiles, write by write, in memory."""

from collections.abc import Callable, Container, Mapping
from typing import NamedTuple

import msgspec

from knownas.errors import Unauthorized
from knownas.history import Source
from knownas.model import AppId, Profile, ProfileId, ProfileRef
from knownas.storage import postgres_reads as reads
from knownas.storage.postgres_changes import Entry
from knownas.storage.postgres_reads import CustomerKey, ProfileKey

Customers = dict[CustomerKey, ProfileKey]
Profiles = dict[ProfileKey, Profile]


class Write(NamedTuple):
    """What is to become of one profile."""

    app: AppId
    ref: ProfileRef
    change: Callable[[Profile], Profile] | None
    """None deletes it."""
    now: int
    create_as: ProfileId | None
    by: Source
    check: Callable[[Profile], None] | None = None
    """What may stop a deletion."""


class State:
    """What there is after each write of a group."""

    def __init__(
        self,
        customers: Customers,
        profiles: Profiles,
        revisions: Mapping[ProfileKey, int],
        deleted_apps: Container[AppId] = (),
    ) -> None:
        """Begin with what the database has; `revisions` are of ids without a profile."""
        self.customers = dict(customers)
        self.profiles = dict(profiles)
        self.entries: list[Entry] = []
        """What has changed so far."""
        self._revisions = dict(revisions)
        self._deleted_apps = deleted_apps

    def outcome(self, write: Write) -> Profile | BaseException:
        """Apply one write and return what comes of it; an error changes nothing."""
        try:
            return (
                self._delete(write) if write.change is None else self._change(write, write.change)
            )
        except Exception as error:  # noqa: BLE001 - whatever a change raises is told to its caller
            return error

    def _delete(self, write: Write) -> Profile:
        profile = write.ref.settle(*self._look_up(write))
        if write.check is not None:
            write.check(profile)
        self._replace(write, profile, None, max(write.now, profile.updated_at))
        return profile

    def _change(self, write: Write, change: Callable[[Profile], Profile]) -> Profile:
        by_customer, by_id = self._look_up(write)
        before = by_customer or by_id
        if write.create_as is None:
            bound = write.ref.settle(by_customer, by_id)
        else:
            bound = write.ref.settle_or_new(by_customer, by_id, write.create_as, write.now)
            if before is None and write.app in self._deleted_apps:
                raise Unauthorized
        after = change(bound)
        if (after.profile_id, after.customer_user_id) != (bound.profile_id, bound.customer_user_id):
            raise ValueError("A change must leave a profile's ids as they are.")
        if after != before:
            last = before.revision if before else self._revisions.get((write.app, after.profile_id))
            after = msgspec.structs.replace(
                after,
                updated_at=max(write.now, bound.updated_at),  # the clock may have been put back
                revision=(last or 0) + 1,
            )
            self._replace(write, before, after, after.updated_at)
        return after

    def _look_up(self, write: Write) -> tuple[Profile | None, Profile | None]:
        return reads.look_up(write.app, write.ref, self.customers, self.profiles)

    def _replace(
        self, write: Write, before: Profile | None, after: Profile | None, at: int
    ) -> None:
        if before is not None:
            key = (write.app, before.profile_id)
            del self.profiles[key]
            self._revisions[key] = before.revision + 1
            if before.customer_user_id is not None:
                del self.customers[write.app, before.customer_user_id]
        if after is not None:
            key = (write.app, after.profile_id)
            self.profiles[key] = after
            if after.customer_user_id is not None:
                self.customers[write.app, after.customer_user_id] = key
        self.entries.append(Entry(write.app, before, after, at, write.by))
