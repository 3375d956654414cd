"""`knownas export`: what comes out goes in again, unchanged; row 23 of the threat table."""

import asyncio
import csv
import io
import json
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import INJECTIONS, LOOKALIKES
from knownas.erasing import Subjects
from knownas.model import KINDS, App, Profile, ProfileId
from knownas.storage.sqlite import SqliteStorage
from knownas.transfer import exporting, formats, importing
from knownas.transfer.reports import Tally, Telling
from knownas.transfer.rows import OWN_COLUMNS
from knownas.vault import Vault
from shell import Shell
from transfers import ID, Known

NOW = 1_700_000_000_000
FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\u00a0=1", "'=1", "a=1")
FORMATS = ("csv", "jsonl", "parquet")


@pytest.fixture
def known(tmp_path: Path) -> Known:
    """Give a database with the app `default`."""
    shell = Shell(tmp_path / "knownas.db")
    shell("app", "create", "default")
    return Known(shell, f"sqlite:///{shell.database}")


def texts() -> st.SearchStrategy[str]:
    """Make values as they are stored: trimmed, without control characters, up to 255 long."""
    allowed = st.characters(exclude_categories=["Cc", "Cs"])
    odd = st.sampled_from([*INJECTIONS, *LOOKALIKES, *FORMULAS, '"', ",", "a\u2028b", "{'a': 1}"])
    return st.one_of(odd, st.text(allowed, max_size=40)).map(str.strip).filter(bool)


def profiles() -> st.SearchStrategy[list[Profile]]:
    """Make profiles of which no two have an id or a customer in common."""
    attributes = st.dictionaries(
        st.text("abcXYZ09_.-", min_size=1, max_size=30),
        st.one_of(
            st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=50),
            st.integers(-(2**53), 2**53),
            st.floats(allow_nan=False, allow_infinity=False),
        ),
        max_size=5,
    )
    one = st.builds(
        lambda identifiers, attributes, created_at, customer: Profile(
            ProfileId(str(uuid.uuid4())),
            customer,
            tuple(identifiers),
            tuple(attributes.items()),
            created_at,
            created_at,
        ),
        st.lists(st.none() | texts(), min_size=len(KINDS), max_size=len(KINDS)),
        attributes,
        st.integers(0, NOW),
        st.none() | texts(),
    )
    return st.lists(one, max_size=8, unique_by=lambda it: it.customer_user_id or str(it.profile_id))


def storages() -> Iterator[SqliteStorage]:
    """Give databases without end."""
    while True:
        yield SqliteStorage(None, subjects=Subjects(Vault("", {})))


async def all_of(storage: SqliteStorage, app: App) -> list[Profile]:
    """Return an app's profiles, but for what a database counts for itself."""
    found = await storage.profiles_after(app.id, None, 100)
    return [msgspec.structs.replace(one, updated_at=0, revision=1) for one in found]


async def round_trip(made: list[Profile], file_format: str, file: Path) -> list[list[Profile]]:
    """Export profiles, import the file elsewhere; return what is here and what is there."""
    found = []
    for storage, is_source in zip(storages(), (True, False), strict=False):
        app = await storage.create_app(str(uuid.uuid4()), "one", now=1)
        if is_source:
            await storage.add_profiles(app.id, made, now=NOW)
            options = exporting.Options(file_format, overwrite=True)
            await exporting.run(storage, app, str(file), options, progress=lambda *_: None)
        else:
            report = await importing.run(
                storage,
                Subjects(Vault("", {})),
                app,
                lambda: formats.open_source(str(file), None),
                importing.Options(),
                clock=lambda: NOW,
                telling=Telling(lambda *_: None, lambda _: None),
            )
            assert report.done == Tally(rows=len(made), new=len(made))
        found.append(await all_of(storage, app))
        await storage.close()
    return found


@pytest.mark.parametrize("file_format", FORMATS)
@given(data=st.data())
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_comes_out_goes_in(tmp_path: Path, file_format: str, data: st.DataObject) -> None:
    """Every lossless format brings ids, identifiers, attributes and beginnings back unchanged."""
    made = data.draw(profiles())
    file = tmp_path / f"file.{file_format}"
    there, back = asyncio.run(round_trip(made, file_format, file))
    assert back == there
    assert len(there) == len(made)


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "csv.zst", "jsonl", "jsonl.gz", "parquet"])
def test_export_by_name(known: Known, tmp_path: Path, ending: str) -> None:
    """The name says the format and the packing; only the owner can read it; nothing is replaced."""
    known("demo", "50")
    file = tmp_path / f"out.{ending}"
    report = json.loads(known("export", "--output", str(file), "--json"))
    assert (report["profiles"], report["left_out"]) == (50, 0)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "is there already" in known.fails("export", "--output", str(file))
    known("export", "--output", str(file), "--overwrite")
    assert known.imports(file)["same"] == 50
    assert sorted(it.name for it in tmp_path.iterdir() if it.name.startswith("out")) == [file.name]


def test_export_to_standard_output(known: Known) -> None:
    """`-` prints the profiles, and the report elsewhere."""
    known("profile", "create", "--customer", "c-1", "--profile", ID.format(1))
    ended = known.run("export", "--output", "-", "--format", "csv", "--json")
    header, row = csv.reader(io.StringIO(ended.stdout))
    assert tuple(header) == OWN_COLUMNS
    assert row[:2] == [ID.format(1), "c-1"]
    assert json.loads(ended.stderr.splitlines()[-1])["profiles"] == 1
    assert "Say what to write" in known.fails("export", "--output", "-")
    assert "--spreadsheet is for CSV" in known.fails(
        "export", "--output", "-", "--format", "jsonl", "--spreadsheet"
    )


def test_export_for_adapty(known: Known, tmp_path: Path) -> None:
    """Adapty's columns without quotes; what would need them is left out and named."""
    for customer, value in (("c-1", "plain"), ("c-2", "with,comma"), ("c,3", "x"), ('c"4', "x")):
        known("profile", "create", "--customer", customer)
        known(
            "set",
            "--customer",
            customer,
            f"branch_id={value}",
            "tenjin_analytics_installation_id=t",
        )
    known("profile", "create", "--profile", ID.format(9))
    file = tmp_path / "adapty.csv"
    report = json.loads(known("export", "--output", str(file), "--format", "adapty", "--json"))
    header, *lines = file.read_text().splitlines()
    assert header == (
        "user_id,amplitude_user_id,amplitude_device_id,mixpanel_user_id,appmetrica_profile_id,"
        "appmetrica_device_id,appsflyer_id,adjust_device_id,facebook_anonymous_id,branch_id"
    )
    assert sorted(lines) == ["c-1,,,,,,,,,plain", "c-2,,,,,,,,,"]
    assert (report["profiles"], report["left_out"]) == (5, 4)
    assert sorted(one["source"] for one in report["left_out_first"]) == [
        "branch_id",
        "user_id",
        "user_id",
        "user_id",
    ]
    assert "Left out" in known("export", "--output", str(tmp_path / "b"), "--format", "adapty")
    assert known.imports(file)["same"] == 2


def test_23_formulas(known: Known, tmp_path: Path) -> None:
    """A spreadsheet takes no cell for a formula; the lossless form has each as it is."""
    for number, value in enumerate(FORMULAS):
        known("profile", "create", "--customer", f"{value} {number}")
        known("set", "--customer", f"{value} {number}", f"branch_id={value}")
    lossless, guarded = tmp_path / "a.csv", tmp_path / "b.csv"
    known("export", "--output", str(lossless))
    known("export", "--output", str(guarded), "--spreadsheet")
    with lossless.open(newline="") as file:
        assert {row["branch_id"] for row in csv.DictReader(file)} == {it.strip() for it in FORMULAS}
    with guarded.open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert "'=1+1" in cells
    assert known.imports(lossless)["same"] == len(FORMULAS)
