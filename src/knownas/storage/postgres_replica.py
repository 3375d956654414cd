"""Reads from a standby: what a client has written itself it sees there, or it is asked elsewhere.

A write tells how far the primary's log was after it. A read that names such a position is answered
by the standby if that has come so far, by the primary if it has not within a moment. Everything
else is read from the primary, unless stale reads are allowed.

A position is a timeline and a place in its log. What was acknowledged at a place of one timeline
is in every later timeline, too; a standby of an earlier one may follow a primary that is none.
"""

import asyncio
from typing import Any, Final

from knownas.condition import Condition, Replica
from knownas.erasing import Subjects
from knownas.errors import KnownasError, ProfileConflict, ProfileNotFound
from knownas.model import AppId, Identifiers, LogPosition, Profile, ProfileRef
from knownas.storage import postgres_reads as reads
from knownas.storage import unavailable
from knownas.storage.postgres import READERS, PostgresStorage
from knownas.storage.postgres_edit import Job
from knownas.storage.postgres_gather import Gathering, Links
from knownas.storage.postgres_link import Link, Target
from knownas.storage.postgres_state import Write

WAIT_SECONDS: Final = 0.1
"""How long a read waits for a standby that is behind, before the primary is asked."""

POLL_SECONDS: Final = 0.01

REST_SECONDS: Final = 1.0
"""How long a standby is left alone after it failed to answer."""

ANSWER_SECONDS: Final = 0.5
"""How long a standby may take for an answer."""

# The insert position is past all that was acknowledged, whatever `synchronous_commit` is.
_WRITTEN_UP_TO: Final = """
SELECT ('x' || substr(pg_walfile_name(l), 1, 8))::bit(32)::integer, (l - '0/0')::bigint
FROM pg_current_wal_insert_lsn() l
"""
# The timeline is that of the last restart point: at worst a standby that has just changed to a
# new one is not asked for a while.
_REPLAYED_UP_TO: Final = """
SELECT timeline_id, (pg_last_wal_replay_lsn() - '0/0')::bigint
FROM pg_control_checkpoint() WHERE pg_is_in_recovery()
"""

# What is not on the primary's disk yet cannot be expected of a standby.
_FLUSHED_UP_TO: Final = "SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint"
_LAST_REPLAYED: Final = """
SELECT pg_is_in_recovery(), (pg_last_wal_replay_lsn() - '0/0')::bigint,
  (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000)::bigint
"""

Question = tuple[AppId, ProfileRef, LogPosition | None]


class ReplicatedStorage(PostgresStorage):
    """A PostgreSQL database with a standby that answers reads of identifiers."""

    has_standby = True

    def __init__(  # noqa: PLR0913 - two databases
        self,
        url: str,
        *,
        standby: str,
        subjects: Subjects | None = None,
        stale_reads: bool = False,
        prepared: bool = True,
        seconds: float = 5.0,
    ) -> None:
        """Open the database as `PostgresStorage` does; the one at `standby` when it is needed.

        With `stale_reads` the standby answers as well what names no position, as old as it is.
        """
        super().__init__(url, subjects=subjects, prepared=prepared, seconds=seconds)
        self._stale_reads = stale_reads
        target = Target(standby, prepared=prepared, role="standby")
        self._standby = Links(target, READERS, "standby", self.work)
        self._links.append(self._standby)
        self._asked: Gathering[Question, Identifiers | None] = Gathering(
            self._standby, _identifiers, min(ANSWER_SECONDS, seconds)
        )
        self._looks: Gathering[tuple[int, int], Replica] = Gathering(
            self._standby, _looks, min(ANSWER_SECONDS, seconds)
        )
        self._rests_until = 0.0

    async def identifiers_after(
        self, app: AppId, ref: ProfileRef, position: LogPosition
    ) -> Identifiers:
        """See `Storage.identifiers_after`."""
        return await self._from_standby(app, ref, position)

    def identifiers(self, app: AppId, ref: ProfileRef) -> "asyncio.Future[Identifiers]":
        """See `Storage.identifiers`."""
        if self._stale_reads:
            return asyncio.ensure_future(self._from_standby(app, ref, None))
        return asyncio.ensure_future(super().identifiers(app, ref))

    identifiers_in_turn = identifiers

    async def condition(self, *, now: int) -> Condition:
        """See `Storage.condition`."""
        found = await super().condition(now=now)
        [(place,)] = await self._read(lambda link: link.fetch(_FLUSHED_UP_TO))
        try:
            replica = await self._looks.put((now, place))
        except Exception:  # noqa: BLE001 - whatever is wrong with the standby, it does not answer
            replica = Replica(is_up=False)
        return found._replace(replica=replica)

    async def _write(self, link: Link, group: list[Write]) -> list[Profile | BaseException]:
        answers = await super()._write(link, group)
        await self._note_position(link)
        return answers

    async def _edit(self, link: Link, group: list[Job]) -> list[Any]:
        answers = await super()._edit(link, group)
        await self._note_position(link)
        return answers

    async def _note_position(self, link: Link) -> None:
        """Note how far the log is after a commit."""
        try:
            self.log_position = LogPosition(*(await link.fetch(_WRITTEN_UP_TO))[0])
        except Exception as error:
            # It is written, but a client that was not told where would read with an older position.
            link.in_doubt = True
            raise unavailable(error) from error

    async def _from_standby(
        self, app: AppId, ref: ProfileRef, position: LogPosition | None
    ) -> Identifiers:
        by_both = ref.customer_user_id is not None and ref.profile_id is not None
        now = asyncio.get_running_loop().time
        until = now() + WAIT_SECONDS
        while not by_both and now() >= self._rests_until:
            try:
                found = await self._asked.put((app, ref, position))
            except (ProfileNotFound, ProfileConflict):
                raise
            except Exception:  # noqa: BLE001 - whatever is wrong with the standby, the primary answers
                self._rests_until = now() + REST_SECONDS
                break
            if found is not None:
                return found
            if now() >= until:
                break
            await asyncio.sleep(POLL_SECONDS)
        return await super().identifiers(app, ref)


async def _looks(link: Link, asked: list[tuple[int, int]]) -> list[Replica]:
    """Return how far the standby is behind the place where the primary was, at a time."""
    [(is_standby, replayed, replayed_at)] = await link.fetch(_LAST_REPLAYED)
    answers = []
    for now, place in asked:
        behind = max(0, place - (replayed or 0))
        age = max(0, now - (replayed_at or now)) if behind else 0
        answers.append(Replica(is_up=is_standby, lag_bytes=behind, lag=age))
    return answers


async def _identifiers(
    link: Link, questions: list[Question]
) -> list[Identifiers | KnownasError | None]:
    """Read identifiers where the standby has come far enough, else answer None.

    What is read afterwards is at least as new as the position that is read first.
    """
    rows = await link.fetch(_REPLAYED_UP_TO)
    answers: list[Identifiers | KnownasError | None] = [None] * len(questions)
    if not rows or rows[0][1] is None:  # it is no standby, or has not begun
        return answers
    timeline, place = rows[0]
    ready = [
        at
        for at, (_, _, asked) in enumerate(questions)
        if asked is None or (asked.timeline <= timeline and asked.place <= place)
    ]
    if ready:
        found = await reads.identifiers(link, [questions[at][:2] for at in ready])
        for at, answer in zip(ready, found, strict=True):
            answers[at] = answer
    return answers
