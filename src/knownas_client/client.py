"""The client for code that waits."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Self, TypeVar, Unpack

import httpx2

from knownas_client import adapty, batches, imports, native
from knownas_client.base import DEFAULT_RETRIES, DEFAULT_TIMEOUT, BaseClient
from knownas_client.calls import Answer, Call, ConditionalWriteOf, Once, Paging, Who, WriteOf
from knownas_client.errors import ApiError, KnownasError
from knownas_client.feed import Changes
from knownas_client.models import (
    AdaptyProfile,
    Change,
    CheckedNames,
    CoverageByDay,
    Erased,
    Found,
    Holder,
    Import,
    Merged,
    Policy,
    Profile,
    ReadItem,
    Receipt,
    Shared,
    Side,
    Tagged,
    Undone,
    WriteItem,
    Written,
)
from knownas_client.retries import Retries

T = TypeVar("T")


class Client(BaseClient):
    """Calls one server with one key; good for several threads, and for many calls.

    Whom a call is about is said by `customer_user_id` or `profile_id`; where neither is given,
    ValueError is raised. Each call raises ApiError, by its subclass for the server's `error_code`;
    ConnectionFailed where no answer came; UnexpectedAnswer where it is not that of such a server.
    """

    def __init__(  # noqa: PLR0913 - each has a default
        self,
        url: str,
        key: str,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        retries: Retries = DEFAULT_RETRIES,
        idempotency: bool = True,
        http: httpx2.Client | None = None,
    ) -> None:
        """Take a server's URL, such as `https://ids.example.com` or Adapty's own, and a key.

        `timeout` is in seconds, for each connecting, sending and waiting. With `idempotency` each
        write carries an Idempotency-Key, the same one when it is sent again. An `http` of your own
        (proxies, certificates, limits) is used as it is, and not closed. Raises ValueError.
        """
        super().__init__(url, key, timeout=timeout, retries=retries, idempotency=idempotency)
        self._owns = http is None
        self._http = httpx2.Client() if http is None else http

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if self._owns:
            self._http.close()

    def send(self, call: Call[T]) -> T:
        """Do a call, as often as it takes, and return what it answers."""
        request = self._request(call)
        attempts = self._attempts(call, request)
        while True:
            outcome = self._once(request)
            wait = attempts.wait(outcome)
            if wait is None and isinstance(outcome, Answer):
                return call.result(outcome)
            time.sleep(wait or 0.0)

    def _once(self, request: dict[str, Any]) -> Answer | httpx2.RequestError:
        try:
            response = self._http.request(**request)
        except httpx2.RequestError as error:
            return error
        return self._answer(response)

    def _all(self, paging: Paging[T]) -> Iterator[T]:
        place = paging.start
        while True:
            page = self.send(paging.page(place))
            yield from page.items
            place = page.next
            if place is None:
                return

    # --- Adapty's server-side API -------------------------------------------------------------

    def get_identifiers(self, **who: Unpack[Who]) -> dict[str, str | None]:
        """Return the identifiers of a profile by kind, None for those that are not set."""
        return self.send(adapty.get_identifiers(**who))

    def get_identifiers_if_changed(
        self, etag: str | None, **who: Unpack[Who]
    ) -> Tagged[dict[str, str | None]] | None:
        """Return identifiers and their tag; None while `etag` is still theirs.

        Without an etag, all of it. Of knownas only.
        """
        return self.send(adapty.get_identifiers_if_changed(etag, **who))

    def set_identifiers(
        self, values: Mapping[str, str | None], **terms: Unpack[ConditionalWriteOf]
    ) -> list[str]:
        """Set identifiers of a profile by kind, and return the names of what was left out.

        What is absent or None stays as it is. With `if_match`, the tag of the identifiers, only if
        they are still those; else PreconditionFailed is raised.
        """
        return self.send(adapty.set_identifiers(values, **terms))

    def get_profile(self, **who: Unpack[Who]) -> AdaptyProfile:
        """Return a profile as Adapty's API has it."""
        return self.send(adapty.get_profile(**who))

    def get_profile_if_changed(
        self, etag: str | None, **who: Unpack[Who]
    ) -> Tagged[AdaptyProfile] | None:
        """Return a profile and its tag; None while `etag` is still its own. Of knownas only."""
        return self.send(adapty.get_profile_if_changed(etag, **who))

    def create_profile(
        self, fields: Mapping[str, Any] | None = None, **terms: Unpack[ConditionalWriteOf]
    ) -> AdaptyProfile:
        """Make a profile, or change `fields` of the one that is there, and return it.

        `fields` are those of Adapty's body. Its `custom_attributes` may be a mapping here; a value
        of None removes one.
        """
        return self.send(adapty.create_profile(fields, **terms))

    def update_profile(
        self, fields: Mapping[str, Any], **terms: Unpack[ConditionalWriteOf]
    ) -> AdaptyProfile:
        """Change `fields` of a profile, given as to `create_profile`, and return it."""
        return self.send(adapty.update_profile(fields, **terms))

    def delete_profile(self, **terms: Unpack[ConditionalWriteOf]) -> None:
        """Delete a profile with its identifiers."""
        self.send(adapty.delete_profile(**terms))

    # --- knownas's own API: reading -----------------------------------------------------------

    def find(
        self, value: str, kind: str | None = None, *, page_size: int | None = None
    ) -> Iterator[Holder]:
        """Iterate over the profiles that have an identifier, as one kind or as any."""
        return self._all(native.find(value, kind, page_size))

    def whole_profile(
        self, *, at: int | None = None, revision: int | None = None, **who: Unpack[Who]
    ) -> Profile:
        """Return all that is kept of a profile: as it is, or as it was.

        As of a time (`at`, milliseconds since 1970) or of a `revision`, not of both.
        """
        return self.send(native.whole_profile(at, revision, **who))

    def history(
        self, *, before: int | None = None, page_size: int | None = None, **who: Unpack[Who]
    ) -> Iterator[Change]:
        """Iterate over what happened to a profile, the newest first, `before` a revision."""
        return self._all(native.history(before, page_size, **who))

    def changes(
        self,
        after: str | None = None,
        *,
        follow: bool = True,
        page_size: int | None = None,
        wait: int = 30,
    ) -> Changes:
        """Iterate over an app's changes, the oldest first, `after` a cursor.

        Without one from the oldest that is kept, with `now` from now on. It waits for what is to
        come, asking anew each `wait` seconds (0 to 60), or ends, where it does not `follow`. Keep
        the `cursor` of the change that you are done with, and nothing is missed. Where the history
        after a cursor is not kept any more, CursorExpired is raised.
        """
        return Changes(self.send, after, follow=follow, page_size=page_size, wait=wait)

    def coverage(self) -> CoverageByDay:
        """Return how many profiles have each kind, now and day by day."""
        return self.send(native.coverage())

    def conflicts(self, *, page_size: int | None = None) -> Iterator[Shared]:
        """Iterate over the identifiers that several profiles have."""
        return self._all(native.conflicts(page_size))

    def conflict_counts(self) -> dict[str, int]:
        """Return how many identifiers several profiles have, of each kind that has such."""
        return self.send(native.conflict_counts())

    def policies(self) -> dict[str, Policy]:
        """Return what becomes of an identifier that another profile has, by kind."""
        return self.send(native.policies())

    # --- knownas's own API: batches -----------------------------------------------------------

    def read_many(self, items: Iterable[ReadItem]) -> Iterator[Profile | Found | ApiError]:
        """Iterate over what is read for each item, in order: 1,000 of them in one request.

        For a profile's id or customer it is the Profile, for an identifier what was Found. An item
        that is wrong, or names nobody, has its error here; it is not raised.
        """
        for call in batches.reads(items):
            yield from self.send(call)

    def write_many(
        self, items: Iterable[WriteItem], *, create: bool = False, atomic: bool = False
    ) -> list[Written | ApiError]:
        """Set and clear identifiers of many profiles, and return what became of each, in order.

        They go by 1,000 in a request. With `create` unknown profiles are made. An item that cannot
        be done has its error in the list; with `atomic` BatchFailed is raised instead, and nothing
        is done: that takes one request's worth at most, else ValueError is raised. Where another
        error is raised, the requests before it are done; to write all of it again does no harm.
        """
        calls = batches.writes(items, create=create, atomic=atomic)
        return [result for call in calls for result in self.send(call)]

    # --- knownas's own API: changing ----------------------------------------------------------

    def clear(self, kinds: Sequence[str] | Literal["all"], **terms: Unpack[WriteOf]) -> Profile:
        """Clear identifiers of a profile, of these kinds or all, and return what it is then."""
        return self.send(native.clear(kinds, **terms))

    def bind_customer(
        self,
        customer_user_id: str | None,
        profile_id: str,
        *,
        rebind: bool = False,
        **once: Unpack[Once],
    ) -> Profile:
        """Have a customer be that of a profile, or of none (None), and return the profile.

        What takes a customer from a profile, or a profile from a customer, needs `rebind`.
        """
        return self.send(native.bind_customer(customer_user_id, profile_id, rebind=rebind, **once))

    def merge(
        self,
        survivor: Who,
        source: Who,
        *,
        rules: Mapping[str, Side] | None = None,
        default: Side = "survivor",
        dry_run: bool = False,
        **once: Unpack[Once],
    ) -> Merged:
        """Make one profile of two, or only say what would come of it.

        Where both have something, a rule decides by kind, `customer_user_id` or
        `custom_attributes`, or else `default`.
        """
        return self.send(
            native.merge(survivor, source, rules=rules, default=default, dry_run=dry_run, **once)
        )

    def undo_merge(self, source: str, **once: Unpack[Once]) -> Undone:
        """Make two profiles of one again; `source` is the id of the one that was merged."""
        return self.send(native.undo_merge(source, **once))

    def set_policies(self, policies: Mapping[str, Policy]) -> dict[str, Policy]:
        """Have kinds follow these policies, all others `allow`; return the policy of each."""
        return self.send(native.set_policies(policies))

    # --- knownas's own API: persons -----------------------------------------------------------

    def erase(
        self,
        *,
        value: str | None = None,
        kind: str | None = None,
        reveal: bool = False,
        **who: Unpack[Who],
    ) -> Erased:
        """Erase a person for good, and return the receipt; with `reveal`, also who it was.

        Whom is said by one of `customer_user_id`, `profile_id` and `value` (with its `kind`). It
        is not sent again where its answer was lost: `check_erased` tells.
        """
        return self.send(native.erase(who, value=value, kind=kind, reveal=reveal))

    def erasure(self, erasure_id: str) -> Erased:
        """Return the receipt of an erasure, as it is now."""
        return self.send(native.erasure(erasure_id))

    def erasures(self, *, page_size: int | None = None) -> Iterator[Receipt]:
        """Iterate over an app's receipts, the newest first."""
        return self._all(native.erasures(page_size))

    def check_erased(
        self, *, profile_ids: Sequence[str] = (), customer_user_ids: Sequence[str] = ()
    ) -> CheckedNames:
        """Return which of these were erased: at most 1,000 of each."""
        return self.send(native.check_erased(profile_ids, customer_user_ids))

    def export_person(self, **who: Unpack[Who]) -> dict[str, Any]:
        """Return all that is kept of a person, as JSON has it."""
        return self.send(native.export_person(**who))

    # --- knownas's own API: imports -----------------------------------------------------------

    def upload_import(  # noqa: PLR0913 - each has a default
        self,
        path: str | os.PathLike[str],
        *,
        file_format: str | None = None,
        dry_run: bool = False,
        atomic: bool = False,
        on_error: Literal["skip", "stop"] = "skip",
        resume: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Import:
        """Send a file to be imported, in pieces, and return its import, which goes on by itself.

        `get_import` tells what becomes of it. With `resume`, the id of an import whose upload was
        broken off, the rest is sent. `progress` is told the bytes sent, and of how many. Raises
        OSError where the file cannot be read.
        """
        plan = imports.Plan(file_format, dry_run, atomic, on_error)
        return self._follow(imports.upload(path, plan, resume, progress))

    def get_import(self, import_id: str) -> Import:
        """Return how far an import is, and what came of it once it has ended."""
        return self.send(imports.get(import_id))

    def list_imports(self) -> list[Import]:
        """Return the imports of the app, the newest first, 100 at most."""
        return self.send(imports.listed())

    def cancel_import(self, import_id: str) -> None:
        """Cancel an import, of which what was done stays; or forget one that has ended."""
        self.send(imports.cancel(import_id))

    def _follow(self, steps: imports.Steps) -> Import:
        try:
            call = next(steps)
            while True:
                try:
                    answer = self.send(call)
                except KnownasError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(answer)
        except StopIteration as end:
            found: Import = end.value
            return found
        finally:
            steps.close()
