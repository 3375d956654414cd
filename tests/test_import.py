"""`knownas import`: what a file has is merged, what is the same changes nothing.

Row 30 of the threat table (a bomb, a broken row, the wrong encoding) stands here, too.
"""

import asyncio
import gzip
import json
import os
import random
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import postgres
from knownas import bootstrap
from knownas.registry import system_clock
from knownas.transfer import formats, importing, unpacking
from knownas.transfer.reports import MAX_PROBLEMS
from knownas.transfer.zstd import zstd
from knownas.webhooks.inbound import Reception
from shell import Shell
from transfers import FILES, ID, Known, counts, problems


@pytest.fixture(params=["sqlite", "postgresql"])
def known(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Known]:
    """Give a database of each kind with the app `default`."""
    shell = Shell(tmp_path / "knownas.db")
    if request.param == "sqlite":
        known = Known(shell, f"sqlite:///{shell.database}")
        known("app", "create", "default")
        yield known
        return
    server_url = request.getfixturevalue("postgres_url")
    url = postgres.new_database(server_url)
    known = Known(shell, url)
    known("app", "create", "default")
    yield known
    postgres.drop_database(server_url, url)


@pytest.fixture
def sqlite(tmp_path: Path) -> Known:
    """Give a SQLite database with the app `default`, for what is the same on each."""
    shell = Shell(tmp_path / "sqlite.db")
    shell("app", "create", "default")
    return Known(shell, f"sqlite:///{shell.database}")


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take several transactions to what is no more than a test's."""
    monkeypatch.setattr(importing, "BATCH", 7)


def written(path: Path, *lines: str) -> Path:
    """Write lines to a file."""
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def many(path: Path, count: int) -> Path:
    """Write a file of customers with two identifiers each."""
    header = "customer_user_id,appsflyer_id,branch_id"
    return written(path, header, *(f"c-{n},a-{n},b-{n}" for n in range(count)))


def test_import_merges(known: Known, tmp_path: Path) -> None:
    """Profiles are made, bound, changed; what a row does not give stays; history says import."""
    known("profile", "create", "--customer", "c-1")
    known("set", "--customer", "c-1", "branch_id=old", "adjust_device_id=kept")
    known("profile", "create", "--profile", ID.format(2))
    file = written(
        tmp_path / "a.csv",
        "\ufeffprofile_id,customer_user_id,branch_id,appsflyer_id,custom_attributes",
        ",c-1,new,,",
        f'{ID.format(2)},c-2, trimmed ,"a,2","[{{""key"": ""k"", ""value"": 1.5}}]"',
        f"{ID.format(3).upper()},,,a3,",
    )
    report = known.imports(file)
    assert counts(report) == {"rows": 3, "new": 1, "changed": 2}
    assert (report["format"], report["problems"], report["ignored_columns"]) == ("csv", [], [])
    first, *others = sorted(known.profiles(), key=lambda one: str(one["customer_user_id"]))
    assert (first["customer_user_id"], first["profile_id"]) == (None, ID.format(3))
    assert [one["identifiers"] for one in others] == [
        {"branch_id": "new", "adjust_device_id": "kept"},
        {"appsflyer_id": "a,2", "branch_id": "trimmed"},
    ]
    assert others[1]["custom_attributes"] == [{"key": "k", "value": 1.5}]
    history = known("profile", "history", "--customer", "c-1")
    assert "branch_id: old -> new" in history
    assert "by import" in history
    assert known("check") == "All is well.\n"


def test_second_import_changes_nothing(known: Known, tmp_path: Path) -> None:
    """The same file again finds all the same, writes nothing, and adds nothing to the history."""
    file = many(tmp_path / "a.csv", 40)
    assert counts(known.imports(file)) == {"rows": 40, "new": 40}
    before, changes = known.profiles(), known("changes", "--json")
    assert counts(known.imports(file)) == {"rows": 40, "same": 40}
    assert (known.profiles(), known("changes", "--json")) == (before, changes)
    assert known("check") == "All is well.\n"


def test_export_of_events_has_the_latest_of_each(known: Known) -> None:
    """Adapty's events in any order become one profile a person, each value the latest."""
    report = known.imports(FILES / "adapty-events.csv")
    assert report["format"] == "adapty-events"
    assert counts(report) == {"rows": 7, "new": 4, "bad": 3}
    assert problems(report) == [
        (7, "bad", None),
        (8, "bad", "event_datetime"),
        (9, "bad", "integration_ids"),
    ]
    assert known.by_customer() == {
        "c-1": {
            "appsflyer_id": "1741933337626-1",
            "branch_id": "newest",
            "mixpanel_user_id": "it's",
            "adjust_device_id": "a1",
        },
        None: {},
        "c-3": {"one_signal_player_id": "p3"},
        "c-6": {"branch_id": "back\\slash \u00e9"},
    }
    assert report["ignored_columns"] == [{"name": "unheard_of_id", "near": None}]
    again = known.imports(FILES / "adapty-events.csv")
    assert counts(again) == {"rows": 7, "same": 4, "bad": 3}


def test_export_of_revenuecat(known: Known) -> None:
    """Reserved attributes are identifiers, each by its own time; an own id beats an anonymous."""
    report = known.imports(FILES / "revenuecat.csv")
    assert report["format"] == "revenuecat"
    assert counts(report) == {"rows": 5, "new": 4, "bad": 1}
    assert problems(report) == [(7, "bad", "reserved_subscriber_attributes")]
    assert known.by_customer() == {
        "c-1": {"appsflyer_id": "1741933337626-1", "mixpanel_user_id": "m1"},
        "$RCAnonymousID:00000000000000000000000000000002": {"adjust_device_id": "a2"},
        "c-3": {"one_signal_player_id": "o3"},
        "c-4": {},
    }


HEADER = "profile_id,customer_user_id,event_datetime,integration_ids"


def event_row(number: int, minute: int, **values: str) -> str:
    """Return a row of Adapty's export of events."""
    at = f"2026-03-07T10:{minute:02}:00.000000+0000"
    return f'{ID.format(number)},c-{number},{at},"{values}"'


async def hear(url: str, number: int, minute: int, **values: str) -> None:
    """Have Adapty's webhook tell the same."""
    storage = bootstrap.open_storage(url)
    try:
        [app] = await storage.apps()
        reception = Reception(storage, clock=system_clock, new_uuid=uuid.uuid4)
        event = {
            "profile_id": ID.format(number),
            "customer_user_id": f"c-{number}",
            "event_datetime": f"2026-03-07T10:{minute:02}:00.000000+0000",
            "integration_ids": values,
        }
        taken = await reception.receive(app, "adapty", json.dumps(event).encode())
        assert taken.outcome == "applied"
    finally:
        await storage.close()


def test_older_events_change_nothing(known: Known, tmp_path: Path) -> None:
    """Files of events and webhooks may come in any order: each value is the one of the latest."""
    first = written(
        tmp_path / "1.csv",
        HEADER,
        event_row(1, 1, branch_id="1", appsflyer_id="1"),
        event_row(2, 9, branch_id="9"),
    )
    second = written(
        tmp_path / "2.csv",
        HEADER,
        event_row(1, 3, branch_id="3"),
        event_row(1, 5, appsflyer_id="b"),
        event_row(1, 5, appsflyer_id="a"),
    )
    asyncio.run(hear(known.url, 1, 4, branch_id="4"))
    asyncio.run(hear(known.url, 2, 2, branch_id="2", adjust_device_id="2"))
    assert counts(known.imports(second)) == {"rows": 1, "changed": 1}
    assert counts(known.imports(first)) == {"rows": 2, "same": 1, "changed": 1}
    asyncio.run(hear(known.url, 2, 8, branch_id="8"))
    assert known.by_customer() == {
        "c-1": {"branch_id": "4", "appsflyer_id": "b"},
        "c-2": {"branch_id": "9", "adjust_device_id": "2"},
    }
    known("set", "--customer", "c-1", "branch_id=set by hand")
    for file in (first, second):
        assert counts(known.imports(file)).keys() == {"rows", "same"}
    assert known.by_customer()["c-1"]["branch_id"] == "set by hand"
    assert known("check") == "All is well.\n"


def test_events_take_no_customer(known: Known, tmp_path: Path) -> None:
    """Where a customer has another profile, the identifiers are stored, and the row is reported."""
    known("profile", "create", "--customer", "c-1", "--profile", ID.format(9))
    known("policy", "set", "branch_id=reject")
    known("set", "--customer", "c-1", "branch_id=taken")
    file = written(tmp_path / "a.csv", HEADER, event_row(1, 1, appsflyer_id="a", branch_id="taken"))
    for _ in range(2):
        report = known.imports(file)
        assert counts(report) == {"rows": 1, "conflicts": 1}
        assert problems(report) == [
            (2, "conflict", "customer_user_id"),
            (2, "conflict", "branch_id"),
        ]
        assert known.by_customer() == {"c-1": {"branch_id": "taken"}, None: {"appsflyer_id": "a"}}


def test_rows_with_a_time(sqlite: Known, tmp_path: Path) -> None:
    """A row that says of which time its identifiers are gives way to what is newer."""
    file = written(
        tmp_path / "a.csv",
        "customer_user_id,branch_id,appsflyer_id,identifiers_at",
        "c-1,2,,2000",
        "c-1,1,1,1000",
        "c-2,1,,1000",
        "c-2,now,,",
        "c-2,2,,2000",
        "c-3,1,,yesterday",
    )
    report = sqlite.imports(file)
    assert counts(report) == {"rows": 6, "new": 2, "changed": 2, "same": 1, "bad": 1}
    assert problems(report) == [(7, "bad", "identifiers_at")]
    assert sqlite.by_customer() == {
        "c-1": {"branch_id": "2", "appsflyer_id": "1"},
        "c-2": {"branch_id": "now"},
    }


def test_dry_run_changes_nothing(known: Known, tmp_path: Path) -> None:
    """It says what would come of it, and which column was probably meant."""
    known.imports(written(tmp_path / "a.csv", "customer_user_id,branch_id", "c-1,1", "c-2,2"))
    before, changes = known.profiles(), known("changes", "--json")
    file = written(
        tmp_path / "b.csv",
        "customer_user_id,branch_id,appsflyerid,amplitude-user-id,note",
        "c-1,1,x,y,z",
        "c-2,changed,x,y,z",
        "c-3,3,x,y,z",
        "c-4,4",
    )
    report = known.imports(file, "--dry-run")
    assert counts(report) == {"rows": 4, "new": 1, "changed": 1, "same": 1, "bad": 1}
    assert report["dry_run"]
    assert problems(report) == [(5, "bad", None)]
    assert report["ignored_columns"] == [
        {"name": "appsflyerid", "near": "appsflyer_id"},
        {"name": "amplitude-user-id", "near": "amplitude_user_id"},
        {"name": "note", "near": None},
    ]
    assert (known.profiles(), known("changes", "--json")) == (before, changes)
    assert "did you mean appsflyer_id?" in known.run("import", str(file), "--dry-run").stdout


def test_conflicts_are_reported(known: Known, tmp_path: Path) -> None:
    """A customer of another profile is left alone; identifiers that get shared are counted."""
    known("profile", "create", "--customer", "c-1", "--profile", ID.format(1))
    file = written(
        tmp_path / "a.csv",
        "profile_id,customer_user_id,branch_id",
        f"{ID.format(2)},c-1,1",
        f"{ID.format(1)},c-2,2",
        ",c-3,same",
        ",c-4,same",
    )
    report = known.imports(file)
    assert counts(report) == {"rows": 4, "new": 2, "conflicts": 2}
    assert [(line, what) for line, what, _ in problems(report)] == [
        (2, "conflict"),
        (3, "conflict"),
    ]
    assert report["shared"] == {"branch_id": 1}
    assert known.by_customer() == {
        "c-1": {},
        "c-3": {"branch_id": "same"},
        "c-4": {"branch_id": "same"},
    }


def test_policies_hold(known: Known, tmp_path: Path) -> None:
    """An identifier of another profile is refused or moved, as the app's policies say."""
    known("policy", "set", "branch_id=reject", "appsflyer_id=move")
    file = written(
        tmp_path / "a.csv",
        "customer_user_id,branch_id,appsflyer_id",
        "c-1,1,a",
        "c-2,1,b",
        "c-3,3,a",
    )
    report = known.imports(file)
    assert counts(report) == {"rows": 3, "new": 2, "conflicts": 1}
    assert problems(report) == [(3, "conflict", "branch_id")]
    assert known.by_customer() == {
        "c-1": {"branch_id": "1"},
        "c-3": {"branch_id": "3", "appsflyer_id": "a"},
    }


def test_erased_stay_away(known: Known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was erased is not brought back, and is reported, in a dry run, too."""
    key = tmp_path / "master.key"
    known.shell("master-key", "create", str(key))
    monkeypatch.setenv("KNOWNAS_MASTER_KEY_FILE", str(key))
    monkeypatch.setenv("KNOWNAS_ERASURE_LEDGER", str(tmp_path / "ledger"))
    file = many(tmp_path / "a.csv", 20)
    known.imports(file)
    known("erase", "--customer", "c-3", "--yes")
    for arguments in (["--dry-run"], []):
        report = known.imports(file, *arguments)
        assert counts(report) == {"rows": 20, "same": 19, "erased": 1}
        assert problems(report) == [(5, "erased", None)]
    assert "c-3" not in known.by_customer()
    # Nor does it take anything from who is there.
    known("policy", "set", "branch_id=move")
    known("set", "--customer", "c-4", "branch_id=b-3")
    report = known.imports(written(tmp_path / "b.csv", "customer_user_id,branch_id", "c-3,b-3"))
    assert counts(report) == {"rows": 1, "erased": 1}
    assert known.by_customer()["c-4"]["branch_id"] == "b-3"


def test_merged_leads_to_the_survivor(known: Known, tmp_path: Path) -> None:
    """A row that names a merged profile is one of that into which it was merged."""
    known("profile", "create", "--customer", "c-1")
    known("profile", "create", "--customer", "c-2")
    known("profile", "merge", "--customer", "c-1", "--from-customer", "c-2")
    report = known.imports(written(tmp_path / "a.csv", "customer_user_id,branch_id", "c-2,1"))
    assert counts(report) == {"rows": 1, "changed": 1}
    assert known.by_customer() == {"c-1": {"branch_id": "1"}}


def test_one_file_names_a_person_twice(known: Known, tmp_path: Path) -> None:
    """Rows of one person follow each other, within a transaction and beyond."""
    rows = [f"c-{n % 5},{n}" for n in range(20)]
    report = known.imports(written(tmp_path / "a.csv", "customer_user_id,branch_id", *rows))
    assert counts(report) == {"rows": 20, "new": 5, "changed": 15}
    assert known.by_customer() == {f"c-{n}": {"branch_id": str(15 + n)} for n in range(5)}
    assert known("check") == "All is well.\n"


def test_bad_rows_stop_it(known: Known, tmp_path: Path) -> None:
    """With --on-error stop all before the first bad row is imported; with --atomic nothing is."""
    lines = [f"c-{n},{n}" for n in range(20)]
    lines[11] = "c-11,too,many"
    file = written(tmp_path / "a.csv", "customer_user_id,branch_id", *lines)
    report = known.imports(file, "--atomic")
    assert (counts(report), known.profiles()) == ({"rows": 20, "bad": 1}, [])
    report = known.imports(file, "--on-error", "stop")
    assert report["stopped_at_line"] == 13
    assert counts(report) == {"rows": 12, "new": 11, "bad": 1}
    assert len(known.profiles()) == 11
    again = known.imports(file, "--on-error", "stop")
    assert (again["stopped_at_line"], len(known.profiles())) == (13, 11)
    assert counts(known.imports(file)) == {"rows": 20, "new": 19, "bad": 1}
    assert counts(known.imports(many(tmp_path / "b.csv", 30), "--atomic"))["rows"] == 30


def killed(known: Known, file: Path, after: int) -> int:
    """Kill an import when it has made so many profiles; return how many there are."""
    command = [*known.arguments, "import", str(file), "--database", known.url]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while count(known) < after:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    if known.url.startswith("postgresql"):
        # The server notices the death a little later.
        postgres.psql(known.url, "BEGIN; LOCK profiles; COMMIT")
    return count(known)


def count(known: Known) -> int:
    """Return the number of profiles."""
    statement = "SELECT count(*) FROM profiles"
    if known.url.startswith("postgresql"):
        return int(postgres.psql(known.url, statement))
    return int(str(known.shell.rows(statement)[0][0]))


def test_killed_import_goes_on(
    known: Known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After kill -9 the same command goes on where it was: no row twice, none left out."""
    monkeypatch.setattr(importing, "BATCH", 5_000)
    file = many(tmp_path / "a.csv", 60_000)
    there = killed(known, file, 1)
    assert 0 < there < 60_000
    report = known.imports(file)
    assert report["went_on_after"] == there
    assert counts(report) == {"rows": 60_000, "new": 60_000}
    assert count(known) == 60_000
    history = json.loads(known("coverage", "--json"))
    assert history["profiles"] == 60_000
    assert known("check") == "All is well.\n"
    assert counts(known.imports(file)) == {"rows": 60_000, "same": 60_000}


def test_restart_begins_anew(sqlite: Known, tmp_path: Path) -> None:
    """With --restart an import that was stopped does not go on; another file never does."""
    file = written(
        tmp_path / "a.csv", "customer_user_id,branch_id", "c-1,1", "bad,row,here", "c-2,2"
    )
    sqlite.imports(file, "--on-error", "stop")
    assert sqlite.imports(file)["went_on_after"] == 1
    sqlite.imports(file, "--on-error", "stop")
    assert sqlite.imports(file, "--restart")["went_on_after"] == 0
    sqlite.imports(file, "--on-error", "stop")
    os.utime(file, (1, 1))
    assert sqlite.imports(file)["went_on_after"] == 0


# --- formats -------------------------------------------------------------------------------------


def test_lines_of_json(sqlite: Known, tmp_path: Path) -> None:
    """Profiles as an export or a batch has them, or with the kinds beside the names."""
    file = written(
        tmp_path / "a.jsonl",
        '{"customer_user_id": "c-1", "identifiers": {"branch_id": "1", "x": "?"}, "revision": 9}',
        "",
        '{"profile": {"profile_id": "' + ID.format(2) + '", "identifiers": {"branch_id": "2"}}}',
        '{"customer_user_id": "c-3", "branch_id": "3", "apsflyer_id": "?"}',
        '{"customer_user_id": "c-4", "custom_attributes": [{"key": "k", "value": "v"}]}',
        '["a list"]',
        '{"customer_user_id": 5}',
        '{"customer_user_id": "c-6", "identifiers": {"branch_id": 6, "appsflyer_id": "\\u0000"}}',
        '{"identifiers": {"branch_id": "7"}}',
        '{"customer_user_id": "c-8", "identifiers": []}',
        '{"customer_user_id": "c-9", "created_at": "soon", "custom_attributes": [1]}',
        "[" * 5_000,
        '{"customer_user_id": "\\ud800"}',
        '{"customer_user_id": "c-14", "branch_id": 0, "created_at": false}',
    )
    report = sqlite.imports(file)
    assert counts(report) == {"rows": 13, "new": 4, "bad": 9}
    assert problems(report) == [
        (6, "bad", None),
        (7, "bad", "customer_user_id"),
        (8, "bad", "appsflyer_id"),
        (8, "bad", "branch_id"),
        (9, "bad", None),
        (10, "bad", "identifiers"),
        (11, "bad", "custom_attributes[0]"),
        (11, "bad", "created_at"),
        (12, "bad", None),
        (13, "bad", None),
        (14, "bad", "branch_id"),
        (14, "bad", "created_at"),
    ]
    assert report["ignored_columns"] == [
        {"name": "x", "near": None},
        {"name": "apsflyer_id", "near": "appsflyer_id"},
    ]


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_packed_files(sqlite: Known, tmp_path: Path, ending: str) -> None:
    """What is packed is known by its content, not its name; one that is cut off is said to be."""
    plain = many(tmp_path / "plain", 500).read_bytes()
    packed = gzip.compress(plain) if ending == "gz" else zstd().compress(plain)
    file = tmp_path / "packed"
    file.write_bytes(packed)
    assert counts(sqlite.imports(file)) == {"rows": 500, "new": 500}
    file.write_bytes(packed[:-40])
    ended = sqlite.run("import", str(file))
    assert ended.exit_code == 1
    assert "is damaged, or cut off" in ended.stderr


def test_parquet(sqlite: Known, tmp_path: Path) -> None:
    """A Parquet file has the same columns; a value that is no text is bad by its row."""
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "a.parquet"
    table = {
        "customer_user_id": ["c-1", "c-2", None],
        "branch_id": ["1", None, "3"],
        "x": [1, 2, 3],
    }
    parquet.write_table(pa.table(table), file)
    report = sqlite.imports(file)
    assert report["format"] == "parquet"
    assert counts(report) == {"rows": 3, "new": 2, "bad": 1}
    assert problems(report) == [(3, "bad", None)]
    assert report["ignored_columns"] == [{"name": "x", "near": None}]
    parquet.write_table(pa.table({"customer_user_id": [1]}), file)
    assert problems(sqlite.imports(file)) == [(1, "bad", "customer_user_id")]
    file.write_bytes(b"PAR1 and nothing else PAR1")
    assert "is no Parquet file" in sqlite.fails("import", str(file))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no header"),
        (b"\n", "has no header"),
        (b"name,branch_id\n", "has no column profile_id or customer_user_id"),
        (b"customer_user_id,branch_id,branch_id\n", "has the column 'branch_id' twice"),
        ("customer_user_id\nc\n".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        (b"customer_user_id,\xff\n", "line 1: Line 1 is not UTF-8 at byte 18"),
    ],
)
def test_files_that_are_none(sqlite: Known, tmp_path: Path, content: bytes, said: str) -> None:
    """What cannot be a table is refused in one line that says why."""
    file = tmp_path / "a.csv"
    file.write_bytes(content)
    assert said in sqlite.fails("import", str(file))
    assert "No such file" in sqlite.fails("import", str(tmp_path / "absent.csv"))


def test_report_has_every_problem(sqlite: Known, tmp_path: Path) -> None:
    """--report has a line of JSON for each row that was not imported."""
    file = written(tmp_path / "a.csv", "customer_user_id", *["a,b"] * 300)
    report_file = tmp_path / "report.jsonl"
    report = sqlite.imports(file, "--report", str(report_file))
    assert len(report["problems"]) == MAX_PROBLEMS
    told = [json.loads(line) for line in report_file.read_text().splitlines()]
    assert [one["line"] for one in told] == list(range(2, 302))
    assert "and 290 more" in sqlite.run("import", str(file)).stdout


# --- row 30 --------------------------------------------------------------------------------------


def test_30_broken_rows_and_encodings(known: Known, tmp_path: Path) -> None:
    """Each bad row is reported with its line, whatever is wrong with it; all others are kept."""
    file = tmp_path / "a.csv"
    lines = [
        b"customer_user_id,branch_id",
        b"c-1,1",
        b"caf\xe9,2",
        b"c-3,3",
        b"c-4," + b"x" * 256,
        b"c-5,a\x00b",
        b"c-6," + b"x" * 200_000,
        b'c-7,"no ' + b"end",
        b"c-8,8",
        b'c-9,"9"9',
        b"c-10,10",
        b"c-11",
        b"," * 5,
        "c-12,\U0001f468\u200d\U0001f469".encode(),
    ]
    file.write_bytes(b"\n".join(lines[:7] + lines[9:]) + b"\n" + lines[7] + b"\n" + lines[8])
    report = known.imports(file)
    assert [(line, what) for line, what, _ in problems(report)] == [
        (line, "bad") for line in (3, 5, 6, 7, 8, 10, 11, 13)
    ]
    assert known.by_customer() == {
        "c-1": {"branch_id": "1"},
        "c-3": {"branch_id": "3"},
        "c-10": {"branch_id": "10"},
        "c-12": {"branch_id": "\U0001f468\u200d\U0001f469"},
    }


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_30_bomb(sqlite: Known, tmp_path: Path, ending: str) -> None:
    """A file that unpacks to far more than any table is not read to its end."""
    file = tmp_path / "bomb"
    with gzip.open(file, "wb") if ending == "gz" else zstd().open(file, "wb") as bomb:
        bomb.write(b"customer_user_id\nc-1\n")
        for _ in range(200):
            bomb.write(bytes(1024 * 1024))
    ended = sqlite.run("import", str(file))
    assert ended.exit_code == 1
    assert "unpacks to more than 250 times its size" in ended.stderr


def test_30_memory_is_flat(tmp_path: Path) -> None:
    """Neither one line without an end nor many rows take more memory than a few batches do."""
    file = tmp_path / "line.csv"
    with file.open("wb") as out:
        out.write(b"customer_user_id\n")
        for _ in range(64):
            out.write(b"x" * 1024 * 1024)
        out.write(b"\nc-1\n")
    lines = unpacking.Lines(str(file))
    longest = max(len(line) for line in lines)
    assert longest <= unpacking.MAX_LINE + 1
    lines.close()
    source = formats.open_source(str(file), None)
    records = list(source.records)
    source.close()
    assert [one.line for one in records] == [2, 3]


def test_30_random_bytes_never_break_it(sqlite: Known, tmp_path: Path) -> None:
    """Whatever bytes a file has, the import ends with a report or one line."""
    rng = random.Random(30)  # noqa: S311 - no secret
    starts = [
        b"customer_user_id,branch_id\n",
        b"",
        b"{",
        b"PAR1",
        b"\x1f\x8b\x08",
        b"\x28\xb5\x2f\xfd",
    ]
    alphabet = [
        b'"',
        b",",
        b"\n",
        b"\r",
        b"\\",
        b"{",
        b"}",
        b"'",
        b":",
        b"\x00",
        b"\xff",
        b"c",
        b"1",
    ]
    for number in range(120):
        file = tmp_path / f"{number}"
        body = b"".join(rng.choices(alphabet, k=rng.randrange(200)))
        file.write_bytes(rng.choice(starts) + body)
        ended = sqlite.run("import", str(file), "--dry-run")
        assert ended.exit_code in {0, 1}
