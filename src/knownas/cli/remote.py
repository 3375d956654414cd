"""What commands ask of a registry, asked of a server: for `knownas --url URL …`.

It has those of the registry's methods that such commands call, with the same values in and out. So
a command is written once, and prints the same of a database and of a server.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from knownas.as_of import Moment
from knownas.errors import ValidationError
from knownas.history import DAY_MS, Change, ChangesPage, Coverage, Difference, Shared, Source
from knownas.imports import Plan
from knownas.lookups import Holder, Holders, Place, Sought
from knownas.merging import Clash, Merge, Side, Undone
from knownas.model import (
    KIND_NUMBER,
    KINDS,
    App,
    AppId,
    Attributes,
    Policies,
    Profile,
    ProfileId,
    ProfileRef,
    clean_policies,
)
from knownas_client import AsyncClient, Who, models

_APP: Final = App(AppId(0), "", "default", 0)
"""Stands for the app of the key."""
_MORE: Final = Place(0, 0)
"""Stands for a place after which there is more; nobody asks for it."""
_MAX_PAGE: Final = 1_000


class Remote:
    """A server, in the place of a registry."""

    def __init__(self, client: AsyncClient) -> None:
        """Ask by a client, which is closed with this."""
        self._client = client
        self.eraser = self
        """Stands for the registry's, too."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - it has no other attribute
        """Refuse what only a registry has."""
        raise ValidationError("This needs the database itself; leave out --url.", source="--url")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def app(self, name: str) -> App:
        """Return what stands for the app of the key. Raises ValidationError for another name."""
        if name != _APP.name:
            raise ValidationError("The key says which app it is.", source="--app")
        return _APP

    # --- Profiles -----------------------------------------------------------------------------

    async def profile(self, _app: AppId, ref: ProfileRef) -> Profile:
        """Return a profile."""
        return _profile(await self._client.whole_profile(**_who(ref)))

    async def profile_as_of(self, _app: AppId, ref: ProfileRef, moment: Moment) -> Profile:
        """Return a profile as it was."""
        found = await self._client.whole_profile(
            at=moment.at, revision=moment.revision, **_who(ref)
        )
        return _profile(found)

    async def set_identifiers(
        self, app: App, ref: ProfileRef, values: Mapping[str, str], **_terms: object
    ) -> Profile:
        """Set identifiers, and return the profile as it is then."""
        await self._client.set_identifiers(values, **_who(ref))
        return await self.profile(app.id, ref)

    async def put_profile(
        self, app: AppId, ref: ProfileRef, attributes: Mapping[str, Any], **_terms: object
    ) -> Profile:
        """Make a profile, or return the one that is there."""
        await self._client.create_profile({"custom_attributes": attributes}, **_who(ref))
        return await self.profile(app, ref)

    async def clear_identifiers(
        self, _app: AppId, ref: ProfileRef, kinds: Iterable[int], **_terms: object
    ) -> Profile:
        """Clear identifiers, and return the profile as it is then."""
        names = [KINDS[kind].name for kind in kinds]
        return _profile(await self._client.clear(names, **_who(ref)))

    async def delete_profile(self, app: AppId, ref: ProfileRef, **_terms: object) -> Profile:
        """Delete a profile, and return what it was."""
        was = await self.profile(app, ref)
        await self._client.delete_profile(**_who(ref))
        return was

    async def holders(self, _app: AppId, sought: Sought) -> Holders:
        """Return the profiles that have a value, as one kind or as any."""
        kind = KINDS[sought.kinds[0]].name if len(sought.kinds) == 1 else None
        found: list[Holder] = []
        async for one in self._client.find(sought.value, kind):
            if len(found) == sought.limit:
                return Holders(found, _MORE)
            found.append(Holder(KIND_NUMBER[one.kind], _profile(one.profile)))
        return Holders(found, None)

    # --- Who is who ---------------------------------------------------------------------------

    async def bind_customer(
        self,
        _app: AppId,
        profile_id: ProfileId,
        customer: str | None,
        *,
        rebind: bool,
        **_terms: object,
    ) -> Profile:
        """Have a customer be that of a profile, or of none."""
        return _profile(await self._client.bind_customer(customer, profile_id, rebind=rebind))

    async def merge(
        self,
        _app: App,
        survivor: ProfileRef,
        source: ProfileRef,
        *,
        rules: Mapping[str, Side],
        default: Side,
        dry_run: bool,
    ) -> Merge:
        """Make one profile of two, or say what would come of it."""
        merged = await self._client.merge(
            _who(survivor), _who(source), rules=rules, default=default, dry_run=dry_run
        )
        after = _profile(merged.survivor)
        clashes = [Clash(it.field, it.survivor, it.source, it.kept) for it in merged.conflicts]
        return Merge(after, after, _profile(merged.source), clashes)

    async def undo_merge(self, _app: AppId, source: ProfileId) -> Undone:
        """Make two profiles of one again."""
        undone = await self._client.undo_merge(source)
        return Undone(_profile(undone.survivor), _profile(undone.source))

    # --- Imports ------------------------------------------------------------------------------

    async def upload(
        self, path: str, plan: Plan, progress: Callable[[int, int], None]
    ) -> models.Import:
        """Send a file to be imported."""
        return await self._client.upload_import(
            path,
            file_format=plan.format,
            dry_run=plan.dry_run,
            atomic=plan.atomic,
            on_error=plan.on_error,
            progress=progress,
        )

    async def get_import(self, import_id: str) -> models.Import:
        """Return how far an import is."""
        return await self._client.get_import(import_id)

    # --- What was and is ----------------------------------------------------------------------

    async def history(
        self, _app: AppId, ref: ProfileRef, *, before: int | None, limit: int
    ) -> list[Change]:
        """Return what happened to a profile, the newest first."""
        found: list[Change] = []
        size = min(limit, _MAX_PAGE)
        async for change in self._client.history(before=before, page_size=size, **_who(ref)):
            found.append(_change(change))
            if len(found) == limit:
                break
        return found

    async def changes(self, _app: AppId, cursor: str | None, limit: int) -> ChangesPage:
        """Return the changes after a cursor, the oldest first."""
        feed = self._client.changes(cursor, follow=False, page_size=limit)
        found: list[Change] = []
        async for change in feed:
            found.append(_change(change))
            if len(found) == limit:
                break
        return ChangesPage(found, feed.cursor or "")

    async def end_of_changes(self) -> str:
        """Return the cursor of whoever wants what is still to come."""
        return (await self.changes(_APP.id, "now", 1)).cursor

    async def coverage(self, _app: AppId) -> tuple[Coverage, dict[int, Coverage]]:
        """Return how many profiles have each kind, now and by days since 1970."""
        found = await self._client.coverage()
        return _coverage(found.now), {_day(one.day): _coverage(one) for one in found.days}

    async def shared(self, _app: AppId, _after: tuple[int, str] | None, limit: int) -> list[Shared]:
        """Return identifiers that several profiles have, the first ones."""
        found: list[Shared] = []
        async for one in self._client.conflicts(page_size=min(limit, _MAX_PAGE)):
            found.append(Shared(KIND_NUMBER[one.kind], one.value, one.profiles))
            if len(found) == limit:
                break
        return found

    async def policies(self, _app: App) -> Policies:
        """Return the policies of the app."""
        return clean_policies(await self._client.policies())

    async def set_policies(self, _app: AppId, policies: Policies) -> None:
        """Have kinds follow these policies, all others `allow`."""
        await self._client.set_policies(policies)

    async def export(self, _app: App, ref: ProfileRef) -> dict[str, Any]:
        """Return all that is kept of a person."""
        return await self._client.export_person(**_who(ref))

    async def count_shared(self, _app: AppId) -> dict[int, int]:
        """Return by kind how many identifiers several profiles have."""
        counts = await self._client.conflict_counts()
        return {KIND_NUMBER[name]: count for name, count in counts.items()}


def _who(ref: ProfileRef) -> Who:
    return Who(customer_user_id=ref.customer_user_id, profile_id=ref.profile_id)


def _profile(found: models.Profile) -> Profile:
    return Profile(
        ProfileId(found.profile_id),
        found.customer_user_id,
        tuple(found.identifiers.get(kind.name) for kind in KINDS),
        _attributes(found.custom_attributes),
        found.created_at,
        found.updated_at,
        found.revision,
    )


def _attributes(found: Sequence[models.Attribute]) -> Attributes:
    return tuple((one.key, one.value) for one in found)


def _change(found: models.Change) -> Change:
    changes = found.changes
    customer, attributes = changes.customer_user_id, changes.custom_attributes
    erased = found.type == "profile.erased"
    return Change(
        found.cursor,
        ProfileId((found.erasure_id if erased else found.profile_id) or ""),
        found.revision or 0,
        found.at,
        Source(found.source.via, found.source.key_id),  # type: ignore[arg-type] # as a server has it
        Difference(
            identifiers=tuple(
                (KIND_NUMBER[name], it.old, it.new)
                for name, it in changes.identifiers.items()
                if name in KIND_NUMBER
            ),
            customer=None if customer is None else (customer.old, customer.new),
            attributes=None
            if attributes is None
            else (_attributes(attributes.old), _attributes(attributes.new)),
            created_at=_BEGIN_OR_END.get(found.type, _neither)(found.at),
            shared=tuple(KIND_NUMBER[name] for name in found.shared if name in KIND_NUMBER),
            erased=erased,
        ),
    )


_Ends = tuple[int | None, int | None]
_BEGIN_OR_END: Final[Mapping[str, Callable[[int], _Ends | None]]] = {
    "profile.created": lambda at: (None, at),
    "profile.deleted": lambda at: (at, None),
}


def _neither(_at: int) -> None:
    return None


def _coverage(found: models.Coverage) -> Coverage:
    return Coverage(found.profiles, found.identifiers)


def _day(text: str | None) -> int:
    if text is None:
        return 0
    return round(datetime.fromisoformat(f"{text}T00:00:00Z").timestamp() * 1_000) // DAY_MS
