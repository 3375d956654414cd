"""The emulator: a real server in memory, which fails when it is told to."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from conftest import IDENTIFIERS_PATH, PLAIN, Server, ask, error_code, free_port, make_profile
from knownas_client import NO_RETRIES, ApiError, Client, ConnectionFailed, Retries, errors
from knownas_client.emulated import KnownasServer, running

QUICK = Retries(first_wait=0.01)
CUSTOMER = "user-1"


@pytest.fixture(scope="module")
def emulator() -> Iterator[KnownasServer]:
    """Give an emulator that runs."""
    with running({}) as server:
        yield server


@pytest.fixture
def emulated(emulator: KnownasServer) -> Iterator[KnownasServer]:
    """Give an app of its own on the emulator."""
    with emulator.app() as server:
        yield server


def get(server: KnownasServer, **headers: str) -> httpx2.Response:
    """Ask for the identifiers of a customer, with more headers."""
    headers |= {"adapty-customer-user-id": CUSTOMER, "Authorization": f"Api-Key {server.key}"}
    return PLAIN.get(server.url + IDENTIFIERS_PATH, headers=headers)


# --- Faults by a header ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "status", "code", "retry_after"),
    [
        ("401", 401, "unauthorized", None),
        ("404", 404, "profile_not_found", None),
        ("408", 408, "request_timeout", None),
        ("429", 429, "rate_limited", "1"),
        ("429;retry-after=2", 429, "rate_limited", "2"),
        ("500", 500, "internal_error", None),
        ("503; retry-after=0; latency=0.01", 503, "service_unavailable", "0"),
    ],
)
def test_header_asks_for_an_error(
    emulated: KnownasServer, fault: str, status: int, code: str, retry_after: str | None
) -> None:
    """The request that has the header is answered as it says, in the contract's error body."""
    emulated.seed({"customer_user_id": CUSTOMER})
    answer = get(emulated, **{"Knownas-Emulate": fault, "X-Request-Id": "mine"})
    assert error_code(answer) == (status, code)
    assert answer.headers.get("retry-after") == retry_after
    assert answer.headers["request-id"] == "mine"
    assert get(emulated).status_code == 200


def test_header_asks_for_the_text_of_the_edge(emulated: KnownasServer) -> None:
    """A 403 is plain text, as what stands in front of Adapty answers, not the API."""
    answer = get(emulated, **{"Knownas-Emulate": "403"})
    assert (answer.status_code, answer.text) == (403, "error code: 1010")
    assert answer.headers["content-type"].startswith("text/plain")


def test_header_asks_for_latency(emulated: KnownasServer) -> None:
    """Without a status the answer is the usual one, only later."""
    emulated.seed({"customer_user_id": CUSTOMER})
    began = time.monotonic()
    assert get(emulated, **{"Knownas-Emulate": "latency=0.3"}).status_code == 200
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize(
    "fault",
    [
        *("", "200", "418", "done", "retry-after=1", "500;500", "429,503", "500;later"),
        *("429;retry-after=-1", "429;retry-after=61", "500;latency=61", "500;latency=x"),
    ],
)
def test_fault_that_is_none_is_refused(emulated: KnownasServer, fault: str) -> None:
    """What is no fault is a 400 that says what one looks like."""
    answer = get(emulated, **{"Knownas-Emulate": fault})
    assert error_code(answer) == (400, "validation_error")
    assert answer.json()["errors"][0]["source"] == "knownas-emulate"
    assert "429;retry-after=2" in answer.text
    assert answer.headers["request-id"]


def test_no_other_server_knows_faults(server: Server) -> None:
    """What the emulator takes is nothing to a server that is none."""
    make_profile(server, CUSTOMER)
    header = [("Knownas-Emulate", "500")]
    assert ask(server, "GET", IDENTIFIERS_PATH, header, customer=CUSTOMER).status_code == 200
    for path in ("apps", "faults"):
        answer = ask(server, "POST", f"/emulator/{path}/", body={})
        assert error_code(answer) == (404, "not_found")


# --- Faults that wait -----------------------------------------------------------------------------


def test_next_requests_fail(emulated: KnownasServer) -> None:
    """So many of the next requests fail, each as it was said, and then none."""
    emulated.seed({"customer_user_id": CUSTOMER})
    emulated.fail_next(429, retry_after=0, times=2)
    emulated.fail_next(500)
    assert [get(emulated).status_code for _ in range(4)] == [429, 429, 500, 200]


def test_reading_fails_on_a_connection_that_was_used(emulated: KnownasServer) -> None:
    """A request that is like the one before by the same connection fails, too."""
    emulated.seed({"customer_user_id": CUSTOMER})
    client = emulated.client(retries=NO_RETRIES)
    for _ in range(3):
        client.get_identifiers(customer_user_id=CUSTOMER)
        emulated.fail_next(500)
        with pytest.raises(errors.InternalError):
            client.get_identifiers(customer_user_id=CUSTOMER)


def test_apps_do_not_meet(emulator: KnownasServer, emulated: KnownasServer) -> None:
    """Neither the faults nor the profiles of one app are those of another one."""
    emulated.seed({"customer_user_id": CUSTOMER})
    with emulator.app() as other:
        other.fail_next(500)
        assert get(emulated).status_code == 200
        assert get(other).status_code == 500
        assert error_code(get(other)) == (404, "profile_not_found")


def test_faults_are_forgotten(emulated: KnownasServer) -> None:
    """What has not come yet need not come."""
    emulated.seed({"customer_user_id": CUSTOMER})
    emulated.fail_next(500, times=5)
    assert get(emulated).status_code == 500
    emulated.stop_failing()
    assert get(emulated).status_code == 200


def test_client_gets_through(emulated: KnownasServer) -> None:
    """The client that the server gives tries again, as it would elsewhere."""
    emulated.seed({"customer_user_id": CUSTOMER})
    emulated.fail_next(503, retry_after=0, times=2)
    client = emulated.client(retries=QUICK)
    client.set_identifiers({"branch_id": "1"}, customer_user_id=CUSTOMER)
    emulated.fail_next(403)
    with pytest.raises(ApiError, match="error code: 1010"):
        client.get_identifiers(customer_user_id=CUSTOMER)


def test_lost_answer_is_no_second_write(emulated: KnownasServer) -> None:
    """A write that was done, and whose answer was lost, is done once when it is sent again."""
    survivor, source = emulated.seed(
        {"customer_user_id": CUSTOMER},
        {"customer_user_id": "user-2", "identifiers": {"branch_id": "1"}},
    )
    client = emulated.client(retries=QUICK)
    emulated.fail_next(503, retry_after=0, done=True)
    merged = client.merge({"customer_user_id": CUSTOMER}, {"profile_id": source.profile_id})
    assert merged.survivor.profile_id == survivor.profile_id
    told = list(client.history(customer_user_id=CUSTOMER))
    assert [change.source.via for change in told].count("merge") == 1


@pytest.mark.parametrize(
    "body", [{}, {"fault": "200"}, {"fault": 500}, {"fault": "500", "times": 0},
             {"fault": "500", "times": True}, {"fault": "500", "more": 1}],
)  # fmt: skip
def test_wrong_orders_are_refused(emulated: KnownasServer, body: object) -> None:
    """A fault that is asked for in a wrong way is a 400, and who has no key gets a 401."""
    url = f"{emulated.url}/emulator/faults/"
    headers = {"Authorization": f"Api-Key {emulated.key}"}
    assert PLAIN.post(url, json=body, headers=headers).status_code == 400
    assert error_code(PLAIN.post(url, json=body)) == (401, "unauthorized")
    assert error_code(PLAIN.get(url, headers=headers)) == (405, "method_not_allowed")


# --- Profiles to begin with -----------------------------------------------------------------------


def test_profiles_are_seeded(emulated: KnownasServer) -> None:
    """Profiles are made with what they have, and returned."""
    one, two = emulated.seed(
        {
            "customer_user_id": CUSTOMER,
            "identifiers": {"appsflyer_id": "1"},
            "custom_attributes": {"plan": "gold"},
        },
        {"profile_id": "3B9F6C1D-7E24-4A85-9C30-8D1F5E7A2B46"},
    )
    assert (one.customer_user_id, one.identifiers) == (CUSTOMER, {"appsflyer_id": "1"})
    assert [(it.key, it.value) for it in one.custom_attributes] == [("plan", "gold")]
    assert two.profile_id == "3b9f6c1d-7e24-4a85-9c30-8d1f5e7a2b46"
    with pytest.raises(errors.ValidationError):
        emulated.seed({"customer_user_id": CUSTOMER, "identifiers": {"brunch_id": "1"}})


def test_persons_are_erased(emulated: KnownasServer, connect: Callable[..., Client]) -> None:
    """An emulator can all that a server can, erasures with their receipts included."""
    client = connect(emulated.url, emulated.key)
    for number in range(3):
        emulated.seed(
            {"customer_user_id": f"user-{number}", "identifiers": {"branch_id": f"b-{number}"}}
        )
    assert "user-0" in str(client.export_person(customer_user_id="user-0"))
    erased = [
        client.erase(customer_user_id="user-0", reveal=True),
        client.erase(value="b-1", kind="branch_id"),
        client.erase(value="b-2"),
    ]
    assert erased[0].receipt.erased.identifiers == {"branch_id": 1}
    assert erased[0].person is not None
    assert erased[0].person.customer_user_ids == ["user-0"]
    assert erased[1].person is None
    ids = {it.receipt.id for it in erased}
    assert {it.id for it in client.erasures(page_size=2)} == ids
    assert client.erasure(erased[1].receipt.id).receipt.id == erased[1].receipt.id
    checked = client.check_erased(customer_user_ids=["user-0", "user-9"])
    assert [it.id for it in checked.customer_user_ids] == ["user-0"]
    with pytest.raises(errors.ErasureNotFound):
        client.erasure("00000000-0000-4000-8000-000000000000")
    told = [change for change in client.changes(follow=False) if change.erasure_id]
    assert {change.erasure_id for change in told} == ids
    assert {change.profile_id for change in told} == {None}


# --- The command ----------------------------------------------------------------------------------


def test_command_has_a_fixed_key_and_a_seed(tmp_path: Path) -> None:
    """The key comes from outside, and the profiles of a file are there from the beginning."""
    seed = tmp_path / "seed.json"
    seed.write_text(
        json.dumps(
            [
                {
                    "customer_user_id": CUSTOMER,
                    "identifiers": {"appsflyer_id": "1"},
                    "custom_attributes": [{"key": "plan", "value": "gold"}],
                }
            ]
        )
    )
    port = free_port()
    command = [sys.executable, "-m", "knownas", "emulator", "--port", str(port)]
    with (
        pytest.MonkeyPatch.context() as patch,
        (tmp_path / "log").open("wb") as log,
    ):
        patch.setenv("KNOWNAS_KEY", "secret_live_fixed.key")
        patch.setenv("KNOWNAS_DATABASE", f"sqlite:///{tmp_path}/never.db")
        with subprocess.Popen(
            [*command, "--seed-file", str(seed)], stdout=subprocess.PIPE, stderr=log
        ) as process:
            assert process.stdout is not None
            line = process.stdout.readline().decode()
            assert re.fullmatch(r"knownas emulator: http://127\.0\.0\.1:\d+, key \S+\n", line)
            with Client(f"http://127.0.0.1:{port}", "secret_live_fixed.key") as client:
                profile = client.whole_profile(customer_user_id=CUSTOMER)
            process.terminate()
            assert process.wait(10) == 0
    assert profile.identifiers == {"appsflyer_id": "1"}
    assert profile.custom_attributes[0].value == "gold"
    assert not (tmp_path / "never.db").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("not JSON", "malformed"),
        ('{"customer_user_id": "1"}', "must be a list"),
        ("[1]", r"\[0\]: Must be an object"),
        ('[{"customer_user_id": "1"}, {}]', r"\[1\]"),
        ('[{"customer_user_id": "1", "identifiers": {"brunch_id": "1"}}]', "branch_id"),
        ('[{"customer_user_id": "1", "identifiers": 1}]', "identifiers: Must be an object"),
        ('[{"customer_user_id": "1", "custom_attributes": {"a": 1}}]', "custom_attributes"),
    ],
)
def test_wrong_seed_is_told(tmp_path: Path, content: str, said: str) -> None:
    """A seed file that is none ends the command with one line that says where."""
    seed = tmp_path / "seed.json"
    seed.write_text(content)
    command = [sys.executable, "-m", "knownas", "emulator", "--port", "0", "--seed-file", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert re.search(said, line), line


def test_emulator_that_does_not_start_is_told() -> None:
    """Settings that are none, for one, are in the error that a test suite sees."""
    with (
        pytest.raises(RuntimeError, match="KNOWNAS_ERROR_DIALECT"),
        running({"KNOWNAS_ERROR_DIALECT": "none"}),
    ):
        pass


def test_settings_are_those_of_the_test_suite() -> None:
    """An emulator under settings of one's own speaks, for one, as Adapty's server was seen to."""
    with (
        running({"KNOWNAS_ERROR_DIALECT": "live"}) as emulator,
        pytest.raises(errors.ProfileNotFound) as raised,
    ):
        emulator.client().get_profile(customer_user_id="nobody")
    assert raised.value.code == "profile_does_not_exist"


def test_closed_server_is_gone() -> None:
    """When its block ends, nothing is left of an emulator."""
    with running({}) as emulator:
        url, key = emulator.url, emulator.key
    with (
        Client(url, key, retries=NO_RETRIES) as client,
        pytest.raises(ConnectionFailed),
    ):
        client.policies()
