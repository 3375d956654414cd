"""The `knownas` command: what each command does and prints, for people and as JSON, and says."""

import importlib.metadata
import os
import re
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner

from knownas import keys
from knownas.cli import cli
from knownas.model import KINDS
from shell import Shell

ABSENT_ID = "00000000-0000-4000-8000-000000000000"
DAY = 86_400_000
MODULE = [sys.executable, "-m", "knownas"]
SCRIPT = [f"{Path(sys.executable).parent}/knownas"]


@pytest.fixture
def empty(tmp_path: Path) -> Shell:
    """Give a shell where there is no database."""
    return Shell(tmp_path / "knownas.db")


@pytest.fixture
def shell(empty: Shell) -> Shell:
    """Give a shell on a database with the app `default`."""
    empty("app", "create", "default")
    return empty


def program(
    command: list[str], database: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own."""
    environment = {**os.environ, "KNOWNAS_DATABASE": f"sqlite:///{database}"}
    return subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def commands(group: click.Group = cli, *above: str) -> Iterator[tuple[list[str], click.Command]]:
    """Yield every command with its words, groups too, but for what only a server runs."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if command.hidden:
            continue
        yield [*above, name], command
        if isinstance(command, click.Group):
            yield from commands(command, *above, name)


ALL = list(commands())


# --- Help ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "command"), ALL, ids=lambda it: " ".join(it) if isinstance(it, list) else ""
)
def test_every_command_has_help(empty: Shell, words: list[str], command: click.Command) -> None:
    """-h and --help say what a command does, in a sentence, and open no database."""
    printed = empty(*words, "--help")
    assert printed == empty(*words, "-h")
    assert printed.startswith("Usage: ")
    assert command.help
    assert command.help.rstrip().endswith(".")
    assert " ".join(command.help.split()) in " ".join(printed.split())
    assert not empty.database.exists()


def test_help_lists_every_command(empty: Shell) -> None:
    """The first help names what there is."""
    printed = empty("--help")
    for name in (words[0] for words, _ in ALL):
        assert re.search(rf"^  {name} +\S", printed, re.MULTILINE)


def test_every_command_that_prints_has_json() -> None:
    """What is printed for people can be had as JSON; `profile export` prints nothing else."""
    without = [
        " ".join(words)
        for words, command in ALL
        if not isinstance(command, click.Group)
        and "--json" not in [option for it in command.params for option in it.opts]
    ]
    assert without == ["profile export", "serve"]


@pytest.mark.parametrize("command", [MODULE, SCRIPT], ids=["module", "script"])
def test_program_tells_its_version_and_its_errors(command: list[str], tmp_path: Path) -> None:
    """The script and the module are the same program, outside of the tests' own process too."""
    version = program(command, tmp_path, "--version")
    assert version.stdout == f"knownas, version {importlib.metadata.version('knownas')}\n"
    ended = program(command, tmp_path, "serve", "--port", "0")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"knownas: {tmp_path}: ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["coffee"],
        ["app", "coffee"],
        ["app", "create"],
        ["demo", "0"],
        ["demo", "many"],
        ["set", "--customer", "c"],
        ["key", "create", "--type", "other"],
        ["key", "create", "--days", "0"],
        ["key", "rotate", "x", "--overlap", "-1"],
        ["serve", "--port", "65536"],
        ["serve", "--workers", "0"],
        ["get", "--coffee"],
    ],
)
def test_wrong_use_is_explained(empty: Shell, arguments: list[str]) -> None:
    """A command that cannot be read ends with 2, its usage, and no database."""
    ended = CliRunner().invoke(cli, arguments)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "Usage: " in ended.stderr
    assert "Error: " in ended.stderr
    assert not empty.database.exists()


# --- Apps ---------------------------------------------------------------------------------------


def test_app_is_made_listed_and_deleted(empty: Shell) -> None:
    """An app has a name and a UUID; deleting asks first, or not."""
    before = time.time_ns() // 1_000_000
    made = empty.json("app", "create", "one")
    assert list(made) == ["name", "app_id", "created_at"]
    assert made["name"] == "one"
    assert str(uuid.UUID(made["app_id"])) == made["app_id"]
    assert before <= made["created_at"] <= time.time_ns() // 1_000_000
    assert re.fullmatch(r"Made the app two \([0-9a-f-]{36}\)\.\n", empty("app", "create", "two"))
    assert [app["name"] for app in empty.json("app", "list")] == ["one", "two"]
    assert empty.json("app", "list")[0] == made
    line = rf"one  {made['app_id']}  \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\dZ\n"
    assert re.match(line, empty("app", "list"))
    assert empty("app", "delete", "two", stdin="y\n").endswith("Deleted the app two.\n")
    assert empty.json("app", "delete", "one", "--yes") == made
    assert empty.json("app", "list") == []
    assert empty("app", "list") == "There is no app.\n"


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_deletion_that_is_not_confirmed_does_nothing(shell: Shell, answer: str) -> None:
    """Anything but yes leaves the app, or the profile, as it is."""
    shell("profile", "create", "--customer", "c")
    for arguments in (["app", "delete", "default"], ["profile", "delete", "--customer", "c"]):
        ended = CliRunner(env={"KNOWNAS_DATABASE": f"sqlite:///{shell.database}"}).invoke(
            cli, arguments, input=answer
        )
        assert ended.exit_code == 1
        assert "Aborted!" in ended.stderr
    assert shell.json("profile", "show", "--customer", "c")["customer_user_id"] == "c"


# --- Keys ---------------------------------------------------------------------------------------


def test_key_is_made_and_shown_once(shell: Shell) -> None:
    """The plain form is the key alone; the JSON has what is kept beside it; no list has it."""
    before = time.time_ns() // 1_000_000
    plain = shell("key", "create").rstrip("\n")
    assert plain.startswith("secret_live_ka_")
    assert not keys.is_mistyped(plain)
    made = shell.json("key", "create", "--type", "public", "--label", "phone", "--days", "2")
    assert list(made) == [
        "key",
        "id",
        "app",
        "type",
        "label",
        "created_at",
        "expires_at",
        "ended_at",
        "rate",
        "last_used_at",
    ]
    assert made["key"].startswith("public_live_ka_")
    assert (made["app"], made["type"], made["label"]) == ("default", "public", "phone")
    assert 0 <= made["expires_at"] - before - 2 * DAY < 60_000
    listed = shell.json("key", "list")
    assert [key["type"] for key in listed] == ["secret", "public"]
    key = made.pop("key")
    assert listed[1] == made
    for printed in (shell("key", "list"), shell("key", "list", "--json")):
        assert key not in printed
        assert plain not in printed
    assert re.search(
        rf"^{made['id']}  public  live  .*Z  never used  phone$", shell("key", "list"), re.MULTILINE
    )


def test_no_key_is_said(shell: Shell) -> None:
    """An app without keys has an empty list."""
    assert shell("key", "list") == "There is no key.\n"
    assert shell.json("key", "list") == []


def test_key_is_adopted_from_standard_input(shell: Shell) -> None:
    """The key comes through a pipe or a prompt, never as an argument, and is not printed."""
    piped = shell.json("key", "adopt", "--stdin", "--label", "adapty", stdin="their.key-1\n")
    assert (piped["type"], piped["label"]) == ("secret", "adapty")
    prompted = shell("key", "adopt", "--type", "public", stdin="their.key-2\n")
    assert re.search(r"Adopted as key_[0-9a-f]{12}\.\n$", prompted)
    assert "their.key" not in prompted
    digests = {row[0] for row in shell.rows("SELECT digest FROM api_keys")}
    assert digests == {keys.digest("their.key-1"), keys.digest("their.key-2")}


def test_key_is_made_with_a_rate_and_gets_another(shell: Shell) -> None:
    """The rate is listed where a key has one; `default` is that of the setting, so it has none."""
    made = shell.json("key", "create", "--rate", "600/minute", "--label", "web")
    adopted = shell.json("key", "adopt", "--stdin", "--rate", "none", stdin="their.key")
    plain = shell.json("key", "create")
    rates = [made["rate"], adopted["rate"], plain["rate"]]
    assert rates == [key["rate"] for key in shell.json("key", "list")]
    assert rates == ["600/minute", "none", None]
    assert re.search(
        r"Z  never used  web  \(rate 600/minute\)$", shell("key", "list"), re.MULTILINE
    )
    said = shell("key", "limit", made["id"], "5/hour")
    assert said == f"The rate of {made['id']} is 5/hour.\n"
    for rate, kept in (("none", "none"), ("default", None)):
        changed = shell.json("key", "limit", plain["id"], rate)
        assert changed == {"id": plain["id"], "rate": kept}
    assert [key["rate"] for key in shell.json("key", "list")] == ["5/hour", "none", None]


@pytest.mark.parametrize("rate", ["", "600", "600/fortnight", "None", "0/minute"])
def test_wrong_rate_is_refused(shell: Shell, rate: str) -> None:
    """One line says what a rate is; nothing is made or changed."""
    key_id = shell.json("key", "create")["id"]
    before = shell.json("key", "list")
    for command in (("create", "--rate", rate), ("limit", key_id, rate)):
        assert shell.fails("key", *command).startswith("rate: Must be a number of requests")
    assert "no key" in shell.fails("key", "limit", "key_unknown", "1/day")
    assert shell.json("key", "list") == before


def test_key_is_revoked(shell: Shell) -> None:
    """A revoked key is listed as ended; revoking it again changes nothing."""
    first, second = (shell.json("key", "create")["id"] for _ in range(2))
    assert shell("key", "revoke", first) == f"Revoked {first}.\n"
    ended_at = shell.json("key", "list")[0]["ended_at"]
    assert shell.json("key", "revoke", second) == {"id": second, "revoked": True}
    shell("key", "revoke", first)
    listed = {key["id"]: key["ended_at"] for key in shell.json("key", "list")}
    assert listed[first] == ended_at
    assert listed[second] is not None
    assert shell("key", "list").count("  ended  ") == 2


def test_key_is_rotated(shell: Shell) -> None:
    """The successor is shown; the old key ends after the overlap, an hour if nothing is said."""
    old = shell.json("key", "create", "--label", "billing")
    now = time.time_ns() // 1_000_000
    new = shell.json("key", "rotate", old["id"])
    assert (new["label"], new["expires_at"]) == ("billing", None)
    assert new["key"] != old["key"]
    ends = {key["id"]: key["expires_at"] for key in shell.json("key", "list")}
    assert 0 <= ends[old["id"]] - now - 3_600_000 < 60_000
    assert not keys.is_mistyped(shell("key", "rotate", new["id"], "--overlap", "0").rstrip("\n"))
    (first,) = [key for key in shell.json("key", "list") if key["id"] == new["id"]]
    assert first["expires_at"] <= time.time_ns() // 1_000_000


# --- Profiles -----------------------------------------------------------------------------------


def test_profile_is_made_shown_and_deleted(shell: Shell) -> None:
    """By customer or id; making it again shows it; deleting shows what it was."""
    made = shell.json("profile", "create", "--customer", "c", "--profile", ABSENT_ID.upper())
    assert made == {
        "profile_id": ABSENT_ID,
        "customer_user_id": "c",
        "identifiers": dict.fromkeys(kind.name for kind in KINDS),
        "custom_attributes": {},
        "created_at": made["created_at"],
        "updated_at": made["created_at"],
        "revision": 1,
    }
    assert shell.json("profile", "create", "--customer", "c") == made
    assert shell.json("profile", "show", "--profile", ABSENT_ID) == made
    shell("set", "--customer", "c", "branch_id=b")
    plain = shell("profile", "show", "--customer", "c")
    for shown in (ABSENT_ID, "c\n", "branch_id = b"):
        assert shown in plain
    assert plain == shell("profile", "delete", "--customer", "c", "--yes")
    assert shell.fails("profile", "show", "--customer", "c") == "Profile not found"
    anonymous = shell.json("profile", "create", "--profile", ABSENT_ID)
    assert (anonymous["customer_user_id"], anonymous["identifiers"]["branch_id"]) == (None, None)
    assert shell.json("profile", "delete", "--profile", ABSENT_ID, "--yes") == anonymous


def test_identifiers_are_set_and_got(shell: Shell) -> None:
    """Values are merged and trimmed as over HTTP; the first `=` ends the kind."""
    shell("profile", "create", "--customer", "c")
    assert shell("get", "--customer", "c") == "No identifier is set.\n"
    plain = shell("set", "--customer", "c", "branch_id=a=b", "appsflyer_id= x ")
    assert plain == "appsflyer_id = x\nbranch_id = a=b\n"
    after = shell.json("set", "--customer", "c", "branch_id=new")
    assert list(after) == [kind.name for kind in KINDS]
    given = {name: value for name, value in after.items() if value is not None}
    assert given == {"appsflyer_id": "x", "branch_id": "new"}
    assert shell.json("get", "--customer", "c") == after
    assert shell("get", "--customer", "c") == "appsflyer_id = x\nbranch_id = new\n"


def test_commands_work_in_the_app_that_is_named(shell: Shell) -> None:
    """Without --app it is `default`; what is in one app is in no other."""
    shell("app", "create", "other")
    shell("profile", "create", "--customer", "c", "--app", "other")
    shell("key", "create", "--app", "other")
    assert shell.fails("profile", "show", "--customer", "c") == "Profile not found"
    assert shell.json("key", "list") == []
    (key,) = shell.json("key", "list", "--app", "other")
    assert key["app"] == "other"
    assert key["id"] in shell.fails("key", "revoke", key["id"])
    shell("profile", "delete", "--customer", "c", "--app", "other", "--yes")


# --- Demo data ----------------------------------------------------------------------------------


def test_profile_is_found_by_its_identifiers(shell: Shell) -> None:
    """A value finds who has it, as one kind or as any; more than the limit are told of."""
    for number in range(3):
        shell("profile", "create", "--customer", f"c{number}")
        shell("set", "--customer", f"c{number}", "branch_id=shared", f"appsflyer_id=a{number}")
    shell("set", "--customer", "c1", "mixpanel_user_id=a0")
    show = [shell.json("profile", "show", "--customer", f"c{number}") for number in range(3)]
    assert shell.json("profile", "find", "appsflyer_id", "a0") == {
        "found": [{"kind": "appsflyer_id", "profile": show[0]}],
        "more": False,
    }
    found = shell.json("profile", "find", " a0 ")["found"]
    assert [(it["kind"], it["profile"]) for it in found] == [
        ("mixpanel_user_id", show[1]),
        ("appsflyer_id", show[0]),
    ]
    assert shell("profile", "find", "a0").splitlines()[1] == (
        f"appsflyer_id  {show[0]['profile_id']}  c0"
    )
    plain = shell("profile", "find", "shared", "--limit", "2")
    assert plain.endswith("\nThere are more; --limit 4 shows as many.\n")
    assert shell.json("profile", "find", "shared", "--limit", "2")["more"]
    assert len(shell.json("profile", "find", "shared")["found"]) == 3
    assert shell("profile", "find", "nobody") == "No profile has it.\n"


def test_value_that_begins_with_a_dash_is_found(shell: Shell) -> None:
    """After -- everything is a word."""
    shell("profile", "create", "--customer", "c")
    shell("set", "--customer", "c", "branch_id=--all")
    assert shell("profile", "find", "--", "branch_id", "--all").endswith("  c\n")


def test_identifiers_are_cleared(shell: Shell) -> None:
    """Kinds that are named are cleared, or all of them; the profile is shown as it is then."""
    shell("profile", "create", "--customer", "c")
    shell("set", "--customer", "c", "branch_id=b", "appsflyer_id=a", "mixpanel_user_id=m")
    cleared = shell.json("profile", "clear", "--customer", "c", "branch_id", "adjust_device_id")
    assert cleared == shell.json("profile", "show", "--customer", "c")
    assert {name for name, value in cleared["identifiers"].items() if value} == {
        "appsflyer_id",
        "mixpanel_user_id",
    }
    assert " = " not in shell("profile", "clear", "--customer", "c", "--all")
    assert shell("profile", "find", "a") == "No profile has it.\n"
    assert shell("check") == "All is well.\n"


CONTENT = "SELECT hex(profile_id), customer_user_id, identifiers FROM profiles ORDER BY number"


@pytest.fixture
def with_master_key(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Give a shell on a database with the app `default`, and a master key."""
    monkeypatch.setenv("KNOWNAS_MASTER_KEY_FILE", str(tmp_path / "master.key"))
    shell("master-key", "create")
    return shell


def test_webhook_is_made_listed_changed_and_deleted(with_master_key: Shell) -> None:
    """Its secrets are shown when they are made, and in no list."""
    shell, url = with_master_key, "https://hooks.example/knownas"
    assert shell("webhook", "list") == "There is no webhook.\n"
    made = shell.json("webhook", "add", url, "--type", "profile.deleted")
    webhook_id = made["id"]
    assert (made["url"], made["types"]) == (url, ["profile.deleted"])
    [listed] = shell.json("webhook", "list")
    assert listed == {name: value for name, value in made.items() if name != "secret"}
    assert f"{webhook_id}  enabled  0 pending  0 dead  {url}" in shell("webhook", "list")
    new = shell("webhook", "rotate", webhook_id, "--overlap", "60").strip()
    assert new.startswith("whsec_")
    assert new != made["secret"]
    assert shell("webhook", "disable", webhook_id) == f"Disabled {webhook_id}.\n"
    assert "  disabled  " in shell("webhook", "list")
    assert shell("webhook", "enable", webhook_id) == f"Enabled {webhook_id}.\n"
    assert shell("webhook", "delete", webhook_id) == f"Deleted {webhook_id}.\n"
    assert "no such webhook" in shell.fails("webhook", "delete", webhook_id)


def test_dead_letters_are_listed_and_replayed(with_master_key: Shell) -> None:
    """All that was given up, or one of it, is tried again."""
    shell = with_master_key
    webhook_id = shell.json("webhook", "add", "https://hooks.example/")["id"]
    assert shell("webhook", "dead", webhook_id) == "Nothing was given up.\n"
    shell.rows(
        "WITH RECURSIVE n (revision) AS (SELECT 1 UNION ALL SELECT revision + 1 FROM n LIMIT 1500)"
        " INSERT INTO deliveries SELECT app_id, id, zeroblob(16), revision, 'dead', 12, NULL, 5,"
        " 500, 'The receiver answered 500.' FROM webhooks, n"
    )
    dead = shell.json("webhook", "dead", webhook_id)
    assert len(dead) == 1_500
    assert dead[0]["failure"] == {"at": 5, "status": 500, "reason": "The receiver answered 500."}
    line = f"{uuid.UUID(int=0)}  1  The receiver answered 500.\n"
    assert shell("webhook", "dead", webhook_id).startswith(line)
    one = ("--profile", str(uuid.UUID(int=0)), "--revision", "7")
    replayed = shell.json("webhook", "replay", webhook_id, *one)
    assert (replayed["replayed"], replayed["dead"]) == (1, 1_499)
    assert shell("webhook", "replay", webhook_id) == "1499 are tried again.\n"
    assert "or neither" in shell.fails("webhook", "replay", webhook_id, "--revision", "7")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "http://hooks.example/"], "Must begin with https://."),
        (["add", "https://127.0.0.1/"], "not public"),
        (["add", "https://hooks.example/", "--type", "x"], "Must be a list of profile.created"),
        (["replay", "whk_0"], "no such webhook"),
    ],
)
def test_wrong_webhook_is_refused(with_master_key: Shell, arguments: list[str], said: str) -> None:
    """One line says why."""
    assert said in with_master_key.fails("webhook", *arguments)


def test_webhook_needs_a_master_key(shell: Shell) -> None:
    """Without one it is said what makes it."""
    assert "knownas master-key create" in shell.fails("webhook", "add", "https://hooks.example/")


def test_demo_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    """Two databases get the same profiles, with another seed others, whatever the chunks."""
    contents = []
    for name, steps in {
        "a": [["50"]],
        "b": [["20"], ["30", "--seed", "1"]],
        "c": [["50", "--seed", "2"]],
    }.items():
        shell = Shell(tmp_path / f"{name}.db")
        shell("app", "create", "default")
        for step in steps:
            shell("demo", *step)
        contents.append(shell.rows(CONTENT))
    first, in_two_steps, other_seed = contents
    assert len(first) == 50
    assert first == in_two_steps
    assert not {row[0] for row in first} & {row[0] for row in other_seed}


def test_demo_says_what_it_added_and_is_sound(shell: Shell) -> None:
    """500 profiles are added after those that are there, and `check` finds nothing wrong."""
    assert shell("demo", "500") == "Added 500 profiles to the app default.\n"
    assert shell("check") == "All is well.\n"
    assert shell.json("demo", "3") == {"added": 3}
    assert shell.rows("SELECT count(*) FROM profiles") == [(503,)]
    assert shell.json("check") == {"problems": []}


# --- The database -------------------------------------------------------------------------------


def test_migrate_says_what_it_did(empty: Shell) -> None:
    """The first time it makes the database and names each step, then there is nothing to do."""
    done = empty.json("migrate")["applied"]
    assert done[0] == "0001_initial"
    assert empty("migrate") == "The schema is up to date.\n"
    assert empty.json("migrate") == {"applied": []}
    again = Shell(empty.database.with_name("again.db"))
    assert again("migrate") == "".join(f"{step}\n" for step in done)


def test_check_names_what_is_broken(shell: Shell) -> None:
    """A broken promise is printed, as text or JSON, and ends with 1."""
    shell("demo", "1")
    shell.rows("DELETE FROM identifiers")
    runner = CliRunner(env={"KNOWNAS_DATABASE": f"sqlite:///{shell.database}"})
    plain = runner.invoke(cli, ["check"], catch_exceptions=False)
    as_json = runner.invoke(cli, ["check", "--json"], catch_exceptions=False)
    assert (plain.exit_code, as_json.exit_code) == (1, 1)
    assert re.fullmatch(
        r"\d+ identifiers of profiles that the reverse index does not have\n"
        r"\d+ kinds whose coverage is not that of the profiles\n",
        plain.stdout,
    )
    assert msgspec.json.decode(as_json.stdout) == {"problems": plain.stdout.splitlines()}


def test_option_wins_over_the_variable(shell: Shell, tmp_path: Path) -> None:
    """--database names another database than KNOWNAS_DATABASE."""
    url = f"sqlite:///{tmp_path}/other.db"
    shell("app", "create", "other", "--database", url)
    assert [app["name"] for app in shell.json("app", "list")] == ["default"]
    assert [app["name"] for app in shell.json("app", "list", "--database", url)] == ["other"]


# --- Errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["app", "create", "default"], "name: There is an app of this name already."),
        (["app", "create", "No Name"], "name: Must be 1 to 63 lower-case letters"),
        (["app", "delete", "nope", "--yes"], "app: There is no app 'nope'"),
        (["key", "create", "--app", "nope"], "app: There is no app 'nope'"),
        (["key", "revoke", "key_nope"], "key: The app has no key 'key_nope'"),
        (["key", "rotate", "key_nope"], "key: The app has no key 'key_nope'"),
        (["key", "adopt", "--stdin"], "key: Must be 1 to 255 visible ASCII characters"),
        (["get"], "Say whom: --customer ID or --profile UUID."),
        (["get", "--customer", ""], "Say whom: --customer ID or --profile UUID."),
        (["get", "--customer", "nobody"], "Profile not found"),
        (["get", "--customer", "x" * 256], "--customer: Must be at most 255 characters"),
        (["get", "--customer", "a\nb"], "--customer: Must not contain control characters."),
        (["get", "--customer", "\udcff"], "--customer: Must be UTF-8."),
        (["get", "--profile", "x"], "--profile: Must be a UUID"),
        (["get", "--profile", ABSENT_ID], "Profile not found"),
        (["set", "--customer", "nobody", "branch_id=x"], "Profile not found"),
        (["set", "branch_id=x"], "Say whom: --customer ID or --profile UUID."),
        (["set", "--customer", "c", "branch_id"], "branch_id: Must not be blank."),
        (["set", "--customer", "c", "branch_id=" + "x" * 256], "branch_id: Must be at most 255"),
        (["set", "--customer", "c", "branch_id=\udcff"], "branch_id: Must not contain control"),
        (["set", "--customer", "c", "mixpanel_id=x"], "did you mean mixpanel_user_id?"),
        (["set", "--customer", "c", "branch_id=x", "app_id=y"], "app_id: Unknown identifier"),
        (["set", "--customer", "c", "branch_id=x", "branch_id=y"], "An identifier is given twice."),
        (["set", "--customer", "c", "a=x", "b=y"], "b: Unknown identifier."),
        (["profile", "show", "--customer", "nobody"], "Profile not found"),
        (["profile", "clear", "--customer", "nobody", "--all"], "Profile not found"),
        (["profile", "clear", "--all"], "Say whom: --customer ID or --profile UUID."),
        (["profile", "clear", "--customer", "c"], "Name the kinds of identifier to clear"),
        (["profile", "clear", "branch_id", "--all"], "Name the kinds of identifier to clear"),
        (["profile", "clear", "branchid", "x"], "branchid: Unknown identifier; did you mean"),
        (["profile", "find", "brunch_id", "x"], "kind: Unknown identifier; did you mean"),
        (["profile", "find", "branch_id", "x", "y"], "Say one value, and before it at most one"),
        (["profile", "find", " "], "value: Must not be blank."),
        (["profile", "delete", "--customer", "nobody", "--yes"], "Profile not found"),
        (["demo", "1", "--app", "nope"], "app: There is no app 'nope'"),
    ],
    ids=lambda value: (
        " ".join(value)[:50].encode("ascii", "replace").decode() if isinstance(value, list) else ""
    ),
)
def test_error_is_one_line(shell: Shell, arguments: list[str], said: str) -> None:
    """Whatever goes wrong is said in one line, with 1 as the exit code, and changes nothing."""
    tables = "SELECT (SELECT count(*) FROM apps), (SELECT count(*) FROM api_keys)"
    before = shell.rows(tables)
    assert said in shell.fails(*arguments)
    assert shell.rows(tables) == before


def test_names_of_two_profiles_conflict(shell: Shell) -> None:
    """A customer and an id of two profiles are refused as over HTTP."""
    shell("profile", "create", "--customer", "c")
    shell("profile", "create", "--profile", ABSENT_ID)
    both = ["--customer", "c", "--profile", ABSENT_ID]
    for arguments in (["get"], ["set", "branch_id=x"], ["profile", "create"], ["profile", "show"]):
        assert "profile" in shell.fails(*arguments, *both)


@pytest.mark.parametrize("given", [b"\xff\xfe", b"a b", b"\xc3\xa9", b"secret_live_ka_x", b"\x00"])
def test_what_is_no_key_is_not_adopted(shell: Shell, given: bytes) -> None:
    """Whatever comes through the pipe, also what is no text, is refused in one line."""
    assert "key: Must be" in shell.fails("key", "adopt", "--stdin", stdin=given)
    assert shell.json("key", "list") == []


def test_key_in_use_is_not_adopted(shell: Shell) -> None:
    """One text opens one app."""
    shell("key", "adopt", "--stdin", stdin="theirs")
    assert "in use" in shell.fails("key", "adopt", "--stdin", stdin="theirs")


@pytest.mark.parametrize(
    "arguments", [["app", "create", "new"], ["key", "list"], ["migrate"]], ids=" ".join
)
@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("folder", "folder: "),
        ("no-folder/knownas.db", "no-folder/knownas.db"),
        ("text", "text: file is not a database."),
        ("newer", "schema version 9999"),
    ],
)
def test_database_that_cannot_be_opened(
    shell: Shell, arguments: list[str], file: str, said: str
) -> None:
    """A folder, a file of something else, a newer schema: one line that names what is wrong."""
    folder = shell.database.parent
    (folder / "folder").mkdir()
    (folder / "text").write_text("This is no database. " * 100, encoding="utf-8")
    shell.rows("INSERT INTO schema_version VALUES (9999, 'later', 'x', 0)")
    shell.database.rename(folder / "newer")
    assert said in shell.fails(*arguments, "--database", f"sqlite:///{folder}/{file}")


@pytest.mark.parametrize(
    "arguments",
    [
        ["app", "list"],
        ["app", "delete", "x", "--yes"],
        ["key", "create"],
        ["get", "--customer", "c"],
        ["demo", "1"],
        ["check"],
    ],
    ids=" ".join,
)
def test_mistyped_database_is_not_made(empty: Shell, arguments: list[str]) -> None:
    """A command that needs something to be there makes no empty database, and says so."""
    assert "There is no database at" in empty.fails(*arguments)
    assert not empty.database.exists()


@pytest.mark.parametrize("url", ["mysql://user:canary@host/db", "sqlite:/x.db", "knownas.db"])
def test_other_databases_are_refused(empty: Shell, url: str) -> None:
    """A URL that names no database of this program is refused, and not repeated."""
    line = empty.fails("app", "list", "--database", url)
    assert "sqlite:///path" in line
    assert "canary" not in line


def test_address_in_use_is_said(tmp_path: Path) -> None:
    """A port that another program listens on is named."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = program(MODULE, tmp_path / "knownas.db", "serve", "--port", address.split(":")[1])
    assert (ended.returncode, ended.stdout) == (1, "")
    assert re.fullmatch(rf"knownas: Cannot listen on {address}: .+\.\n", ended.stderr)


def test_temporary_database_has_one_worker(empty: Shell) -> None:
    """Several processes cannot share a database that is gone with the first of them."""
    line = empty.fails("serve", "--database", "sqlite://", "--workers", "2")
    assert line.startswith("--workers: ")
