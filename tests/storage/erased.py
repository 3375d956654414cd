"""What erasing a person has to do, on the dicts of the state machine."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from knownas.erasing import Person, Whom, customer_name, names_of, profile_name
from knownas.errors import IdentifierShared, ProfileNotFound
from knownas.history import Change
from knownas.model import AppId, Profile, ProfileId, ProfileRef
from knownas.persons import Gathering, Trace, stand_in, without_person

if TYPE_CHECKING:
    from storage.test_state_machine import StorageMachine


class Told(NamedTuple):
    """Of whom else a change tells than of its own profile."""

    name: str
    profile_id: ProfileId
    revision: int


class DictErasures:
    """Erasing on the machine's dicts, in an app."""

    def __init__(self, machine: "StorageMachine", app: AppId) -> None:
        """Erase from what `machine` expects."""
        self.machine = machine
        self.app = app

    @property
    def profiles(self) -> Mapping[ProfileId, Profile]:
        """The profiles that there are."""
        return self.machine.expected[self.app]

    def history(self, profile_id: ProfileId) -> list[Change]:
        """Return a profile's changes, oldest first."""
        return [
            change
            for (app, of, _), change in self.machine.changes.items()
            if (app, of) == (self.app, profile_id)
        ]

    def told(self, name: str) -> list[Told]:
        """Return the changes that tell of a name, oldest first."""
        return [told for app, told in self.machine.told if (app, told.name) == (self.app, name)]

    def end(self, name: str) -> ProfileId | None:
        """Return where an alias leads in the end."""
        last = None
        while alias := self.machine.aliases.get((self.app, name)):
            last = alias.profile_id
            name = profile_name(last)
        return last

    def living(self, whom: Whom) -> Profile | None:
        """Return the profile that there is of whoever is meant."""
        if whom.ref is not None:
            found = self.machine.found(self.app, whom.ref)
            return None if found == (None, None) else whom.ref.settle(*found)
        holders = [
            it
            for it in self.profiles.values()
            if any(it.identifiers[kind] == whom.value for kind in whom.kinds)
        ]
        if len(holders) > 1:
            raise IdentifierShared
        return holders[0] if holders else None

    def deleted_with(self, customer: str) -> set[ProfileId]:
        """Return the profiles that ended, and live on in no other, while they had a customer."""
        ended = set()
        for _, profile_id, revision in self.told(customer_name(customer)):
            is_end = self.machine.changes[self.app, profile_id, revision].action == "deleted"
            _, living = self.machine.found(self.app, ProfileRef(profile_id=profile_id))
            if is_end and living is None:
                ended.add(self.end(profile_name(profile_id)) or profile_id)
        return ended

    def last_with(self, customer: str) -> ProfileId | None:
        """Return who has a customer, or had it last."""
        living, _ = self.machine.found(self.app, ProfileRef(customer))
        told = self.told(customer_name(customer))
        if living is not None:
            return living.profile_id
        return self.end(customer_name(customer)) or (told[-1].profile_id if told else None)

    def person(self, whom: Whom) -> Person:
        """Return all that there is of a person."""
        profile = self.living(whom)
        ids = {profile.profile_id} if profile else self.dead(whom)
        customers = {profile.customer_user_id} - {None} if profile else set()
        if not ids:
            raise ProfileNotFound
        known: object = None
        while known != (ids, customers):
            known = (set(ids), set(customers))
            self.widen(ids, customers)
        found = Gathering(profile)
        for profile_id in ids:
            found.add_id(profile_id)
            for change in self.history(profile_id):
                found.add_change(change)
        for one in customers:
            found.add_customer(one)
        return found.person()

    def widen(self, ids: set[ProfileId], customers: set[str | None]) -> None:
        """Add what leads to a person, and what once did and leads nowhere else."""
        for (app, name), alias in self.machine.aliases.items():
            if app == self.app and alias.profile_id in ids:
                if name.startswith("p:"):
                    ids.add(ProfileId(name[2:]))
                else:
                    customers.add(name[2:])
        changes = [change for profile_id in ids for change in self.history(profile_id)]
        named = {it for change in changes for it in change.difference.customer or ()}
        for customer in (named | customers) - {None}:
            if customer is not None and self.last_with(customer) in ids:
                customers.add(customer)
                ids |= self.deleted_with(customer)

    def dead(self, whom: Whom) -> set[ProfileId]:
        """Return the deleted profiles that a reference led to."""
        ref = whom.ref
        if ref is None:
            return set()
        if ref.profile_id is not None:
            last = self.end(profile_name(ref.profile_id)) or ref.profile_id
            return {last} if self.history(ref.profile_id) else set()
        assert ref.customer_user_id is not None
        last_of_all = self.end(customer_name(ref.customer_user_id))
        return ({last_of_all} if last_of_all else set()) | self.deleted_with(ref.customer_user_id)

    def erase(self, whom: Whom) -> Person:
        """Take a person out of the dicts, and return who it was."""
        person = self.person(whom)
        machine, app = self.machine, self.app
        traces = self.traces(person)
        merges = [machine.changes.get((app, it.profile_id, it.first)) for it in traces]
        for trace, merge in zip(traces, merges, strict=True):
            self.clean(person, trace, merge)
        for profile_id in person.profile_ids:
            machine.expected[app].pop(profile_id, None)
            machine.revisions.pop((app, profile_id), None)
        gone = set(person.profile_ids)
        machine.changes = {
            key: it for key, it in machine.changes.items() if key[0] != app or key[1] not in gone
        }
        for profile_id in gone:
            machine.ages.pop((app, profile_id), None)
        machine.answers = {
            key: it
            for key, it in machine.answers.items()
            if key[0] != app or not any(one in it.answer for one in gone)
        }
        for name in person.names:
            machine.aliases.pop((app, name), None)
            machine.erased.add((app, name))
        machine.told = [
            (of, it)
            for of, it in machine.told
            if of != app or (it.profile_id not in gone and it.name not in person.names)
        ]
        return person

    def traces(self, person: Person) -> list[Trace]:
        """Return the parts of others' histories that tell of a person."""
        found = []
        names = person.names
        for name in names:
            for _, profile_id, revision in self.told(name):
                if profile_id not in person.profile_ids:
                    change = self.machine.changes[self.app, profile_id, revision]
                    first = change.difference.takes_back or 1
                    found.append(Trace(name, profile_id, first, revision))
                    if name.startswith("p:") and profile_name(profile_id) not in names:
                        names.append(profile_name(profile_id))
        return sorted(found, key=lambda trace: trace.name.startswith("c:"))

    def clean(self, person: Person, trace: Trace, merge: Change | None) -> None:
        """Put into a trace what stands for the person; the states that were seen follow."""
        changes = self.machine.changes
        key = (self.app, trace.profile_id)
        stand = stand_in(person, trace, merge)
        for revision in range(trace.first, trace.last + 1):
            change = changes[*key, revision]
            cleaned = without_person(change.difference, stand)
            changes[*key, revision] = change._replace(difference=cleaned)
        state = None
        for change in self.history(trace.profile_id):
            state = change.after(state)
            self.machine.seen[*key, change.revision] = state
        assert state == self.profiles.get(trace.profile_id)


def refuse_erased(
    machine: "StorageMachine", app: AppId, before: Profile | None, after: Profile, *, anew: bool
) -> Profile:
    """Do to a profile what becomes of names that are new to it and were erased."""
    known = set() if before is None else set(names_of(before))
    erased = {(app, name) for name in names_of(after) if name not in known} & machine.erased
    if not erased:
        return after
    if not anew:
        raise ProfileNotFound
    machine.erased -= erased
    return after
