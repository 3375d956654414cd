"""`knownas doctor`: looks at all that an installation is made of, and says what to do."""

import asyncio
import os
import resource
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from knownas import bootstrap, ledger, settings
from knownas.condition import Condition, Finding
from knownas.errors import KnownasError
from knownas.http.server import SPARE_FILES
from knownas.settings import Settings, SettingsError
from knownas.storage import StorageError
from knownas.vault import Vault, VaultError

SHORTEST_TOKEN: Final = 16
LATE_SECONDS: Final = 300
"""A feed or a webhook that is so far behind needs to be looked at."""


def examine(
    environment: Mapping[str, str], database: str | None, *, quick: bool
) -> Iterator[Finding]:
    """Yield what there is to say, from the settings to the data.

    `database` goes before that of the environment. `quick` leaves out what reads the whole of it.
    """
    try:
        loaded = settings.load(environment)
    except SettingsError as error:
        yield Finding(
            "settings", "problem", f"{error}", "Correct it: docs/configuration.md has all of them."
        )
        return
    if database:
        loaded = msgspec.structs.replace(loaded, database=database)
    yield from _settings(loaded)
    yield _open_files(loaded)
    yield _master_key(loaded)
    if loaded.database == bootstrap.TEMPORARY:
        yield Finding("database", "note", "It is a temporary one, gone when the server stops.")
        return
    try:
        yield from bootstrap.look_over(loaded, time.time_ns() // 1_000_000)
        pending = bootstrap.pending_migrations(loaded)
        yield _migrations(pending)
        yield from _ledger(loaded)
        if not pending:
            yield from asyncio.run(_inside(loaded, quick=quick))
    except (StorageError, SettingsError) as error:
        yield Finding(
            "database",
            "problem",
            f"{error}",
            "Until it can be opened, servers answer 503 or do not start.",
        )


def _settings(loaded: Settings) -> Iterator[Finding]:
    yield Finding("settings", "ok", "All that are set are understood.")
    if not loaded.metrics_token:
        yield Finding(
            "metrics",
            "note",
            "There are no metrics.",
            "Set KNOWNAS_METRICS_TOKEN to a long random text: docs/operating.md says what for.",
        )
    elif len(loaded.metrics_token) < SHORTEST_TOKEN:
        yield Finding(
            "metrics",
            "warning",
            "The token of the metrics is short enough to be guessed.",
            "Set KNOWNAS_METRICS_TOKEN to what `openssl rand -hex 16` prints.",
        )
    if loaded.access_log:
        yield Finding(
            "settings",
            "note",
            "Each request is logged, so none is answered by the fast lane.",
            "Where speed counts, set KNOWNAS_ACCESS_LOG=off; the metrics count all requests.",
        )


def _open_files(loaded: Settings) -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * loaded.max_connections + SPARE_FILES
    says = f"A server process needs {needed:,} open files"
    if hard != resource.RLIM_INFINITY and hard < needed:
        return Finding(
            "open files",
            "warning",
            f"{says}; this user may have {hard:,}.",
            "Raise the limit (LimitNOFILE= in systemd, ulimit -Hn), or lower "
            "KNOWNAS_MAX_CONNECTIONS.",
        )
    return Finding("open files", "ok", f"{says}, and may have them.")


def _master_key(loaded: Settings) -> Finding:
    if not loaded.master_key_file:
        return Finding(
            "master key",
            "note",
            "There is none, so webhooks, upstreams and erasures are off.",
            "If you want them: `knownas master-key create FILE` and KNOWNAS_MASTER_KEY_FILE.",
        )
    try:
        key_ids = Vault.open(loaded.master_key_file).key_ids
    except VaultError as error:
        return Finding(
            "master key",
            "problem",
            f"{error}",
            "Put back the file from its safe copy, readable for the server's user alone. A new "
            "key does not open what the old one has encrypted.",
        )
    return Finding(
        "master key",
        "ok",
        f"{loaded.master_key_file} has {len(key_ids)}, the newest is {key_ids[0]}.",
    )


def _migrations(pending: list[str]) -> Finding:
    if not pending:
        return Finding("migrations", "ok", "The schema is this program's.")
    return Finding(
        "migrations",
        "warning",
        f"Steps are still to do: {', '.join(pending)}. What is in the tables was not looked at.",
        "Make a backup, then run `knownas migrate`; starting a server does it, too.",
    )


def _ledger(loaded: Settings) -> Iterator[Finding]:
    path = bootstrap.ledger_path(loaded)
    if not path:
        yield Finding(
            "ledger",
            "note",
            "There is no ledger of erasures, so nobody can be erased.",
            "Set KNOWNAS_ERASURE_LEDGER to a file that outlives the database.",
        )
        return
    place = Path(path)
    try:
        entries = ledger.read([path])
    except ledger.LedgerError as error:
        yield Finding(
            "ledger",
            "problem",
            f"{error}",
            "Put back a copy of it: without it, a restored backup has those who were erased.",
        )
        return
    if not os.access(place if place.exists() else place.parent, os.W_OK):
        yield Finding(
            "ledger", "problem", f"{path} cannot be written.", "Give it to the server's user."
        )
    elif place.exists() and place.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield Finding(
            "ledger",
            "warning",
            f"Others than its owner have rights on {path}.",
            f"chmod 600 {path}",
        )
    else:
        yield Finding("ledger", "ok", f"{path} has {len(entries):,} erasures.")


async def _inside(loaded: Settings, *, quick: bool) -> list[Finding]:
    """Open the database as a server does, and look at what is in it."""
    try:
        registry = bootstrap.open_registry(loaded, create=False, with_standby=True)
    except VaultError:
        return []  # told already
    try:
        found = of_condition(await registry.condition(), loaded, registry.now())
        if quick:
            return [*found, Finding("data", "note", "It was not checked.", "Leave out --quick.")]
        problems = await registry.check()
    except KnownasError as error:
        return [Finding("database", "problem", str(error), "Look at the database's own log.")]
    finally:
        await registry.close()
    do = "Keep a copy of the database as it is, and restore the last backup that is sound."
    found += [Finding("data", "problem", f"{problem}.", do) for problem in problems]
    if not problems:
        found.append(Finding("data", "ok", "All tables agree with each other."))
    return found


def of_condition(condition: Condition, loaded: Settings, now: int) -> list[Finding]:
    """Return what there is to say of the condition of a database at a time."""
    found = []
    if condition.feed_lag > LATE_SECONDS * 1_000:
        found.append(
            Finding(
                "feed",
                "warning",
                f"The feed keeps back what is {condition.feed_lag // 1_000:,} s old.",
                "A transaction that writes does not end, in whichever database of the server: "
                "look for it in pg_stat_activity.",
            )
        )
    for queue in condition.queues:
        command = "upstream" if queue.target == "upstream" else "webhook"
        if queue.dead or queue.disabled:
            found.append(
                Finding(
                    f"{queue.target}s",
                    "warning",
                    f"{queue.dead:,} deliveries were given up, {queue.disabled} are switched off.",
                    f"`knownas {command} --help`: look at why, mend it, and replay.",
                )
            )
        if queue.lag > LATE_SECONDS * 1_000:
            found.append(
                Finding(
                    f"{queue.target}s",
                    "warning",
                    f"One has not come to a change that is {queue.lag // 1_000:,} s old.",
                    "Does a server with the master key run? If so, its receiver is slow or away.",
                )
            )
    since = condition.erasures_since
    if since is not None and now - since > loaded.erasure_hours * 3_600_000:
        found.append(
            Finding(
                "erasures",
                "problem",
                f"One waits for {(now - since) // 3_600_000:,} h to be complete, which is longer "
                "than was promised.",
                "Look for `erasures_wait` in the server's log.",
            )
        )
    if (replica := condition.replica) is not None:
        found.append(
            Finding("standby", "ok", f"It answers, {replica.lag / 1_000:.1f} s behind.")
            if replica.is_up
            else Finding(
                "standby",
                "warning",
                "KNOWNAS_READ_DATABASE does not answer as a standby: the primary reads for it.",
                "Start it, or leave the setting out.",
            )
        )
    return found
