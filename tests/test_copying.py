"""`knownas copy`: the same afterwards, whatever broke off before, and nothing given up unasked."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw
import httpx2
import msgspec
import pytest

import postgres
from conftest import PROFILE_PATH, free_port, start, stop
from knownas import copying
from shell import Shell

PROFILES = 500


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Give a shell on a database with two apps, three keys and profiles."""
    shell = Shell(tmp_path / "source.db")
    for app in ("default", "other"):
        shell("app", "create", app)
        shell("key", "create", "--app", app, "--rate", "600/minute")
    shell("key", "revoke", shell.json("key", "create", "--label", "old")["id"])
    shell("demo", str(PROFILES))
    shell("demo", "20", "--app", "other", "--seed", "2")
    shell("profile", "create", "--customer", "c")
    return shell


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take several pages to what is no more than a test's."""
    monkeypatch.setattr(copying, "PAGE", 64)


@pytest.fixture
def copy(shell: Shell) -> Shell:
    """Give a shell on the copy of that database, not made yet."""
    return Shell(shell.database.with_name("copy.db"))


@pytest.fixture
def empty_postgres(postgres_url: str) -> Iterator[str]:
    """Give the URL of an empty database of a PostgreSQL server."""
    url = postgres.new_database(postgres_url)
    yield url
    postgres.drop_database(postgres_url, url)


def arguments(source: Shell | str, target: Shell | str) -> tuple[str, ...]:
    """Return the command that copies, from and to shells or URLs."""
    urls = [it if isinstance(it, str) else f"sqlite:///{it.database}" for it in (source, target)]
    return ("copy", "--from", urls[0], "--to", urls[1])


def content(shell: Shell) -> list[object]:
    """Return all that a database holds, but for numbers that are its own affair."""
    statements = [
        "SELECT uuid, name, created_at FROM apps ORDER BY 1",
        """
SELECT k.digest, k.id, a.uuid, type, label, k.created_at, expires_at, ended_at, rate
FROM api_keys k JOIN apps a ON a.id = k.app_id ORDER BY 1
""",
        """
SELECT a.uuid, profile_id, customer_user_id, identifiers, attributes, p.created_at, updated_at
FROM profiles p JOIN apps a ON a.id = p.app_id ORDER BY 1, 2
""",
    ]
    assert shell("check") == "All is well.\n"
    return [shell.rows(statement) for statement in statements]


def test_copy_is_the_same(shell: Shell, copy: Shell) -> None:
    """Apps, keys by their digests, and profiles; both sides have one checksum."""
    done = shell.json(*arguments(shell, copy))["apps"]
    assert [(one["name"], one["keys"], one["profiles"], one["written"]) for one in done] == [
        ("default", 2, PROFILES + 1, PROFILES + 1),
        ("other", 1, 20, 20),
    ]
    assert all(one["is_same"] and not one["kept"] and not one["deleted"] for one in done)
    assert content(copy) == content(shell)
    again = shell.json(*arguments(shell, copy))["apps"]
    assert [one["written"] for one in again] == [0, 0]
    assert [one["checksum"] for one in again] == [one["checksum"] for one in done]
    back = Shell(copy.database.with_name("back.db"))
    assert "both have the checksum" in copy(*arguments(copy, back))
    assert content(back) == content(shell)


def test_second_copy_brings_the_changes(shell: Shell, copy: Shell) -> None:
    """What was made, changed, revoked since comes over; what was deleted too, if told."""
    shell(*arguments(shell, copy))
    shell("set", "--customer", "c", "branch_id=new")
    shell("profile", "create", "--customer", "d")
    shell("profile", "delete", "--customer", "user-1", "--yes")
    shell("profile", "create", "--customer", "user-1")
    shell("key", "limit", shell.json("key", "list")[0]["id"], "1/day")
    shell("key", "revoke", shell.json("key", "list")[1]["id"])
    ended = shell.run(*arguments(shell, copy))
    assert ended.exit_code == 1
    assert "1 profiles of the target are newer there, or only there" in ended.stdout
    assert "both have the checksum" in shell(*arguments(shell, copy), "--overwrite")
    assert content(copy) == content(shell)


def test_target_that_was_used_is_not_given_up_unasked(shell: Shell, copy: Shell) -> None:
    """What was written to the target since stays, and is said, until --overwrite."""
    shell(*arguments(shell, copy))
    time.sleep(0.002)  # its change is later than the source's
    copy("set", "--customer", "c", "branch_id=newer")
    copy("profile", "create", "--customer", "only there")
    ended = shell.run(*arguments(shell, copy), "--json")
    assert ended.exit_code == 1
    first = msgspec.json.decode(ended.stdout)["apps"][0]
    assert (first["is_same"], first["kept"], first["written"]) == (False, 2, 0)
    assert copy("get", "--customer", "c") == "branch_id = newer\n"
    shell(*arguments(shell, copy), "--overwrite")
    assert content(copy) == content(shell)


def test_other_apps_of_the_target_stay(shell: Shell, copy: Shell) -> None:
    """A copy brings its own apps, and touches no other."""
    copy("app", "create", "mine")
    copy("demo", "10", "--app", "mine")
    shell(*arguments(shell, copy), "--overwrite")
    assert copy.rows("SELECT count(*) FROM profiles") == [(PROFILES + 1 + 20 + 10,)]


def test_copy_goes_both_ways(shell: Shell, copy: Shell, empty_postgres: str) -> None:
    """Through PostgreSQL and back it is the same, and sound on the way; changes come along."""
    over = shell.json(*arguments(shell, empty_postgres))["apps"]
    assert [(one["is_same"], one["written"]) for one in over] == [(True, PROFILES + 1), (True, 20)]
    assert shell("check", "--database", empty_postgres) == "All is well.\n"
    assert "both have the checksum" in copy(*arguments(empty_postgres, copy))
    assert content(copy) == content(shell)
    shell("set", "--customer", "c", "branch_id=new")
    shell("profile", "delete", "--customer", "user-1", "--yes")
    shell("profile", "create", "--customer", "user-1")
    shell("key", "revoke", shell.json("key", "list")[0]["id"])
    for urls in ((shell, empty_postgres), (empty_postgres, copy)):
        again = shell.json(*arguments(*urls), "--overwrite")["apps"]
        assert [(one["is_same"], one["written"]) for one in again] == [(True, 2), (True, 0)]
    assert shell("check", "--database", empty_postgres) == "All is well.\n"
    assert content(copy) == content(shell)


def test_killed_copy_to_postgresql_goes_on(shell: Shell, empty_postgres: str) -> None:
    """As the one to a file: what had come over is not written again."""

    def copied() -> int:
        try:
            found = postgres.psql(empty_postgres, "SELECT count(*) FROM profiles WHERE app_id = 1")
        except subprocess.CalledProcessError:  # there is no table yet
            return 0
        return int(found)

    shell("demo", "15000")
    command = [sys.executable, "-m", "knownas", *arguments(shell, empty_postgres)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and copied() == 0:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    postgres.psql(
        empty_postgres, "BEGIN; LOCK profiles; COMMIT"
    )  # the server notices the death a little later
    before = copied()
    assert 0 < before < 15_000 + PROFILES
    done = shell.json(*arguments(shell, empty_postgres))["apps"]
    assert done[0]["is_same"]
    assert done[0]["written"] == done[0]["profiles"] - before
    assert shell("check", "--database", empty_postgres) == "All is well.\n"


def test_killed_copy_goes_on(shell: Shell, copy: Shell) -> None:
    """After kill -9 in the midst of it, the same command finishes it, and writes the rest only."""
    shell("demo", "20000")
    command = [sys.executable, "-m", "knownas", *arguments(shell, copy)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and copied(copy) == 0:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    before = copied(copy)
    assert 0 < before < 20_000 + PROFILES
    done = shell.json(*arguments(shell, copy))["apps"]
    assert done[0]["written"] == done[0]["profiles"] - before
    assert content(copy) == content(shell)


def copied(copy: Shell) -> int:
    """Return how many profiles of the first app have come over by now."""
    if not copy.database.exists():
        return 0
    try:
        ((count,),) = copy.rows("SELECT count(*) FROM profiles WHERE app_id = 1")
    except apsw.Error:  # there is no table yet
        return 0
    assert isinstance(count, int)
    return count


def test_copy_while_a_server_writes(shell: Shell, copy: Shell) -> None:
    """A source in use can be copied; what came meanwhile comes with the next copy."""
    port = free_port()
    process = start(f"sqlite:///{shell.database}", port)
    key = shell.json("key", "create")["key"]

    def write() -> None:
        with httpx2.Client(headers={"Authorization": f"Api-Key {key}"}) as http:
            for number in range(200):
                headers = {"adapty-customer-user-id": f"new-{number}"}
                url = f"http://127.0.0.1:{port}{PROFILE_PATH}"
                http.post(url, headers=headers).raise_for_status()

    try:
        with ThreadPoolExecutor() as threads:
            writing = threads.submit(write)
            while not writing.done():
                shell.run(*arguments(shell, copy))
            writing.result()
    finally:
        assert stop(process) == 0
    assert "both have the checksum" in shell(*arguments(shell, copy))
    assert content(copy) == content(shell)


def test_progress_goes_up_to_the_end(shell: Shell, copy: Shell) -> None:
    """The bar is on standard error, with a rate, and not where the output goes."""
    ended = shell.run(*arguments(shell, copy), "--json")
    assert ended.stdout.count("\n") == 1
    assert ended.stderr.startswith("Profiles")


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("none.db", "copy.db", "There is no database at"),
        ("source.db", "source.db", "Both databases are the same."),
        ("source.db", "taken.db", "another app of the name 'default'"),
        ("source.db", "text", "file is not a database"),
    ],
)
def test_what_cannot_be_copied_is_one_line(
    shell: Shell, source: str, target: str, said: str
) -> None:
    """Each says what is in the way, and changes nothing."""
    folder = shell.database.parent
    Shell(folder / "taken.db")("app", "create", "default")
    (folder / "text").write_text("This is no database. " * 100, encoding="utf-8")
    before = content(shell)
    urls = [f"sqlite:///{folder}/{name}" for name in (source, target)]
    assert said in shell.fails("copy", "--from", urls[0], "--to", urls[1])
    assert content(shell) == before
    assert Shell(folder / "taken.db").rows("SELECT count(*) FROM profiles") == [(0,)]


def test_key_in_use_by_another_app_is_refused(shell: Shell, copy: Shell) -> None:
    """A key opens one app only, also in the target."""
    text = "theirs-already"
    copy("app", "create", "mine")
    copy("key", "adopt", "--stdin", "--app", "mine", stdin=text)
    shell("key", "adopt", "--stdin", stdin=text)
    assert "Another app has this key" in shell.fails(*arguments(shell, copy))


def test_senders_are_let_in_by_the_copy(shell: Shell, copy: Shell) -> None:
    """The secrets of webhooks that others send come along, however often it is copied."""
    made = shell.json("webhook-in", "create", "adapty")
    for _ in range(2):
        shell(*arguments(shell, copy))
    assert copy.json("webhook-in", "list") == shell.json("webhook-in", "list")
    assert made["id"] in copy("webhook-in", "list")
