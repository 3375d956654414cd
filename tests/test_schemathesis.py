"""The running server against its own OpenAPI document: Schemathesis makes the requests.

Every check and every phase is on. What OpenAPI cannot say stands in `_is_unexplained`: a failure
is dropped only where the contract itself gives the reason, request by request.
"""

import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.core.parameters import ParameterLocation
from schemathesis.engine import Status, events, from_schema
from schemathesis.engine.recorder import ScenarioRecorder
from schemathesis.openapi.checks import IgnoredAuth, RejectedPositiveData

from conftest import PLAIN, TIMES, Server, free_port, knownas, start, stop
from knownas import vault
from knownas.http import batch, openapi
from knownas.webhooks.senders import SENDERS

CREATE_PROFILE = "/api/v2/server-side-api/profile/"
WEBHOOKS = "/api/v1/webhooks/"
RECEIVING = "/webhooks/{sender}/{app}/"
UPSTREAM = "/api/v1/upstream/"
IMPORTS = "/api/v1/imports/"
BATCHES = ("/api/v1/batch/read/", "/api/v1/batch/write/")
# Of itself Schemathesis puts no quote into a header, and so would send no tag that is one.
ENTITY_TAGS = st.from_regex(r'\*|(W/)?"[a-f0-9-]{0,3}"(, "-")?', fullmatch=True)
METRICS_TOKEN = "metrics-token"  # noqa: S105 - a test's own
SENDERS_SECRET = "a secret of all senders"  # noqa: S105 - as above
NEGATIVE: Final = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, "5xx"]
Case = schemathesis.Case[Any]
WHO = ("adapty-customer-user-id", "adapty-profile-id", "adapty-sdk-profile-id")
CHECKED = (*WHO, "knownas-log-position", "if-match", "if-none-match", "idempotency-key")


@pytest.fixture
def patient_server(server: Server, tmp_path: Path) -> Iterator[Server]:
    """Give a second process on the same database that has a master key and lets everybody guess.

    The guard against guessing has tests of its own; here it would hide most 401s behind 429s.
    """
    port = free_port()
    vault.create(str(tmp_path / "master.key"))
    process = start(
        server.database,
        port,
        KNOWNAS_MASTER_KEY_FILE=str(tmp_path / "master.key"),
        KNOWNAS_BAD_KEYS_PER_MINUTE="1000000",
        KNOWNAS_METRICS_TOKEN=METRICS_TOKEN,
    )
    yield server._replace(url=f"http://127.0.0.1:{port}")
    assert stop(process) == 0


@pytest.mark.slow
@pytest.mark.timeout(600 * TIMES)
def test_server_keeps_its_contract(patient_server: Server) -> None:
    """No generated request, alone or in a sequence, gets an answer that the document rules out."""
    _create_profile_of_the_examples(patient_server)
    for sender in SENDERS:
        adopt = ("webhook-in", "adopt", sender, "--stdin")
        knownas(*adopt, database=patient_server.database, stdin=SENDERS_SECRET)
    schemathesis.openapi.format("entity-tags", ENTITY_TAGS)
    schema = schemathesis.openapi.from_url(
        f"{patient_server.url}/openapi.yaml",
        config=schemathesis.Config.from_dict(_config(patient_server)),
    )
    schema.hook("filter_failure")(_is_unexplained)

    @schema.hook
    def after_call(
        _context: schemathesis.HookContext,
        case: Case,
        response: schemathesis.Response,
    ) -> None:
        _clean_up(patient_server, case, response)

    requests: Counter[str] = Counter()
    failures: list[str] = []
    for event in from_schema(schema).execute():
        match event:
            case events.ScenarioFinished(phase=phase, recorder=recorder):
                requests[phase.value] += len(recorder.interactions)
                failures += _failures(recorder)
            case events.NonFatalError(label=label, value=error):
                failures.append(f"{label}: {error!r}")
            case events.FatalError(exception=error):
                raise error

    print(f"{requests.total()} requests: {dict(requests)}")  # noqa: T201 - pytest -rP shows it
    assert not failures, "\n\n".join(failures)
    # About half of what is sent today: far fewer would prove nothing.
    assert requests["examples"] > 5, requests
    assert requests["coverage"] > 1_500, requests
    assert requests["fuzzing"] > 250, requests
    assert requests["stateful"] > 40, requests


def _config(server: Server) -> dict[str, Any]:
    return {
        "seed": 1,
        "continue-on-failure": True,
        "cache": {"enabled": False},
        "auth": {
            "openapi": {
                "apikeyAuth": {"api_key": f"Api-Key {server.key}"},
                "metricsAuth": {"bearer": METRICS_TOKEN},
                "senderAuth": {"api_key": SENDERS_SECRET},
            }
        },
        # Shrinking many failures takes minutes, and what is generated is small already.
        "generation": {"max-examples": 10 * TIMES, "database": "none", "no-shrink": True},
        # A size beyond the limit is 413, as a body beyond it is.
        "checks": {"negative_data_rejection": {"expected-statuses": NEGATIVE}},
        "phases": {"stateful": {"generation": {"max-examples": 30 * TIMES}}},
    }


def _create_profile_of_the_examples(server: Server) -> None:
    """Let both headers of the document's examples name one profile, so that they are served."""
    headers = {
        parameter["name"]: parameter["example"]
        for parameter in openapi.document()["components"]["parameters"].values()
        if parameter["name"] in WHO
    }
    headers["Authorization"] = f"Api-Key {server.key}"
    assert PLAIN.post(server.url + CREATE_PROFILE, headers=headers, json={}).status_code == 200


def _clean_up(server: Server, case: Case, response: schemathesis.Response) -> None:
    """Leave nothing behind that the next request would meet."""
    done = (case.method, case.path, response.status_code)
    if done == ("POST", WEBHOOKS, 200):
        _disable(server, response.json()["data"]["id"])
    if done == ("POST", IMPORTS, 201):
        _cancel(server, response.json()["data"]["id"])
    if done == ("PUT", UPSTREAM, 200):
        _remove_upstream(server)
    if case.method == "DELETE":
        _create_profile_of_the_examples(server)


def _disable(server: Server, webhook_id: str) -> None:
    """Have nothing sent to a host that was made up."""
    headers = {"Authorization": f"Api-Key {server.key}"}
    body = {"id": webhook_id, "enabled": False}
    assert PLAIN.patch(server.url + WEBHOOKS, headers=headers, json=body).status_code == 200


def _cancel(server: Server, import_id: str) -> None:
    """Have room for the next import."""
    headers = {"Authorization": f"Api-Key {server.key}"}
    answer = PLAIN.delete(f"{server.url}{IMPORTS}{import_id}/", headers=headers)
    assert answer.status_code == 204


def _remove_upstream(server: Server) -> None:
    """Have nothing asked of a host that was made up."""
    headers = {"Authorization": f"Api-Key {server.key}"}
    assert PLAIN.delete(server.url + UPSTREAM, headers=headers).status_code == 204


def _failures(recorder: ScenarioRecorder) -> Iterator[str]:
    for case_id, checks in recorder.checks.items():
        interaction = recorder.interactions.get(case_id)
        response = interaction.response if interaction else None
        answer = f"{response.status_code} {response.text}" if response else "no answer"
        for check in checks:
            if check.failure_info is not None:
                found = check.failure_info
                yield f"{check.name}: {found.failure.message}\n{found.code_sample}\n{answer}"
            elif check.status is not Status.SUCCESS:
                yield f"{check.name}: {check.status}"


# --- What OpenAPI cannot say ----------------------------------------------------------------


def _is_unexplained(
    _context: schemathesis.HookContext,
    failure: Failure,
    case: Case,
    response: schemathesis.Response,
) -> bool:
    """Tell whether the failure stays one after what the contract says beyond OpenAPI."""
    if case.path == RECEIVING and _is_to_come_again(failure, response):
        return False
    if isinstance(failure, RejectedPositiveData) and response.status_code in {304, 412}:
        return not _is_conditional(case)
    if isinstance(failure, RejectedPositiveData) and response.status_code in {410, 422}:
        return not _depends_on_what_was(case, response)
    if isinstance(failure, RejectedPositiveData) and response.status_code == 400:
        return not (
            _names_no_profile(case)
            or _depends_on_what_is_stored(response)
            or _names_two_sdk_profiles(case)
            or _repeats_an_attribute(case)
            or _goes_against_a_pair(case)
            or _may_not_be_sent_to(case, response)
        )
    if isinstance(failure, AcceptedNegativeData):
        return not (_only_a_blank_header_is_wrong(case) or _only_items_are_wrong(case))
    return True


def _is_to_come_again(failure: Failure, response: schemathesis.Response) -> bool:
    """Section 6: a wrong secret is no 401, and which app has which secret no schema says."""
    if isinstance(failure, IgnoredAuth):  # what was answered without it only the message tells
        return "got `503 " in failure.message
    return response.status_code == 503 and "header is not a secret" in response.text


def _names_no_profile(case: Case) -> bool:
    """Section 2: one of two headers is required. OpenAPI has no "either" for headers."""
    return not _who(case) and _sdk_data(case).get("profile_id") is None


def _depends_on_what_is_stored(response: schemathesis.Response) -> bool:
    """Sections 2 and 5: two headers that name two profiles; attributes that make more than 30.

    Neither can be seen from the request, which is all that a schema describes.
    """
    answer = response.json()
    return answer["error_code"] == "profile_conflict" or any(
        "The profile would have" in message for it in answer["errors"] for message in it["errors"]
    )


def _is_conditional(case: Case) -> bool:
    """Whether a tag is that of what is stored cannot be seen from the request, either."""
    return not {"if-match", "if-none-match"}.isdisjoint(_given(case))


def _depends_on_what_was(case: Case, response: schemathesis.Response) -> bool:
    """Whether a cursor, a time or an Idempotency-Key is good depends on what came before it."""
    given = {**(case.query or {}), **_given(case)}
    means = {
        "cursor_expired": "after",
        "history_expired": "at",
        "idempotency_conflict": "idempotency-key",
    }
    return means[response.json()["error_code"]] in given


def _names_two_sdk_profiles(case: Case) -> bool:
    """Section 3: header and body of the SDK's call must agree. A schema sees one of the two."""
    header = _who(case).get("adapty-sdk-profile-id")
    body = _sdk_data(case).get("profile_id")
    return header is not None and isinstance(body, str) and header.lower() != body.lower()


def _repeats_an_attribute(case: Case) -> bool:
    """Section 5: attributes are a list here and a mapping in truth. No schema says "unique key"."""
    attributes: Any = case.body.get("custom_attributes") if isinstance(case.body, dict) else None
    keys = [item["key"] for item in attributes or []]
    return len(set(keys)) < len(keys)


def _goes_against_a_pair(case: Case) -> bool:
    """Of two parameters one excludes the other, or needs it: not to be said in OpenAPI."""
    given = set(case.query or {})
    return {"at", "revision"} <= given or len({"after_kind", "after_value"} & given) == 1


def _may_not_be_sent_to(case: Case, response: schemathesis.Response) -> bool:
    """Where a URL may lead, and how many webhooks there are already, no pattern says.

    Nor does it say that a new upstream needs a key.
    """
    found = {it["source"]: it["errors"] for it in response.json()["errors"]}
    if case.path == UPSTREAM:
        return found.keys() <= {"url", "key"}
    if case.path != WEBHOOKS or not isinstance(case.body, dict):
        return False
    return found.keys() == {"url"} or "at most 20 webhooks" in str(found.get(None))


def _only_a_blank_header_is_wrong(case: Case) -> bool:
    """Section 2: a blank header counts as absent, so one beside a good one is served.

    The schema of the header is kept clear of it: a client should not send one.
    """
    if case.meta is None or case.meta.is_negative_at(ParameterLocation.BODY):
        return False
    given = _given(case)
    blank = [name for name in case.headers if name.lower() in CHECKED and name.lower() not in given]
    return bool(blank) and all(_header_schema(name).is_valid(it) for name, it in given.items())


def _only_items_are_wrong(case: Case) -> bool:
    """Say of a batch that it is one: an item that is wrong fails alone, within a 200."""
    if case.path not in BATCHES or not isinstance(case.body, dict) or case.body.keys() != {"items"}:
        return False
    items = case.body["items"]
    return isinstance(items, list) and 1 <= len(items) <= batch.MAX_ITEMS


def _given(case: Case) -> dict[str, str]:
    """Return the headers that are checked, the blank ones left out."""
    headers = {name.lower(): str(value).strip(" \t") for name, value in case.headers.items()}
    return {name: headers[name] for name in CHECKED if headers.get(name)}


def _who(case: Case) -> dict[str, str]:
    """Return those of them that name a profile."""
    return {name: value for name, value in _given(case).items() if name in WHO}


@functools.cache
def _header_schema(name: str) -> jsonschema_rs.Draft202012Validator:
    components = openapi.document()["components"]
    schemas = {it["name"].lower(): it["schema"] for it in components["parameters"].values()}
    schema = schemas.get(name, {"$ref": "#/components/schemas/ProfileId"})
    return jsonschema_rs.Draft202012Validator({**schema, "components": components})


def _sdk_data(case: Case) -> Mapping[str, Any]:
    data = case.body.get("data") if isinstance(case.body, dict) else None
    return data if isinstance(data, dict) else {}
