"""Errors: one shape on every route, in each dialect; nothing secret in what is logged or stored."""

import functools
import subprocess
import sys
from pathlib import Path

import httpx2
import jsonschema_rs
import pytest

from conftest import PLAIN, Server, free_port, knownas, start, stop
from knownas.errors import FieldError, KnownasError, ProfileNotFound, Unauthorized, ValidationError
from knownas.http import openapi, wire
from knownas.http.app import ROUTES

PATH = ROUTES[0].path


@pytest.mark.parametrize(
    ("dialect", "error", "expected"),
    [
        (
            "schema",
            Unauthorized(),
            (
                b'{"errors":[{"source":null,"errors":["Invalid API key"]}],'
                b'"error_code":"unauthorized","status_code":401}'
            ),
        ),
        (
            "example",
            Unauthorized(),
            b'{"errors":["Invalid API key"],"error_code":"unauthorized","status_code":401}',
        ),
        (
            "live",
            Unauthorized(),
            (
                b'{"errors":[{"source":null,"errors":'
                b'["Authentication credentials were not provided."]}],'
                b'"error_code":"not_authenticated","status_code":401}'
            ),
        ),
        (
            "schema",
            ProfileNotFound(),
            (
                b'{"errors":[{"source":null,"errors":["Profile not found"]}],'
                b'"error_code":"profile_not_found","status_code":404}'
            ),
        ),
        (
            "example",
            ProfileNotFound(),
            b'{"errors":["Profile not found"],"error_code":"profile_not_found","status_code":404}',
        ),
        (
            "live",
            ProfileNotFound(),
            (
                b'{"errors":[{"source":null,"errors":["Profile not found"]}],'
                b'"error_code":"profile_does_not_exist","status_code":404}'
            ),
        ),
        (
            "example",
            ValidationError(fields=[FieldError("branch_id", "Must be a string.")]),
            (
                b'{"errors":["branch_id: Must be a string."],'
                b'"error_code":"validation_error","status_code":400}'
            ),
        ),
    ],
)
def test_error_in_each_dialect(dialect: str, error: KnownasError, expected: bytes) -> None:
    """The contract's table of dialects, byte for byte."""
    assert wire.error_body(error, dialect) == expected


@functools.cache
def error_validator() -> jsonschema_rs.Validator:
    """Return what holds a body to the document's one shape of errors."""
    schema = {"$ref": "#/components/schemas/ErrorResponse", **openapi.document()}
    return jsonschema_rs.validator_for(schema)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", [resource.path for resource in ROUTES] + ["/nowhere"])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"data":1}', b"x" * 70_000])
def test_every_error_has_one_shape(server: Server, path: str, method: str, body: bytes) -> None:
    """Whatever is sent anywhere, an error has the one body and a Request-Id, and is no 500."""
    answer = PLAIN.request(
        method,
        server.url + path,
        content=body,
        headers={"Authorization": f"Api-Key {server.key}", "adapty-customer-user-id": "no one"},
    )
    assert answer.headers["request-id"]
    # 501 is what this server, which has no master key, says of what needs one.
    assert answer.status_code < 500 or answer.status_code == 501
    if answer.status_code >= 400:
        error_validator().validate(answer.json())
        assert answer.json()["status_code"] == answer.status_code


def test_allow_is_the_tables(server: Server) -> None:
    """For every path, Allow lists the methods of the route table."""
    for resource in ROUTES:
        answer = PLAIN.request("OPTIONS", server.url + resource.path)
        expected = {*resource.methods, *({"HEAD"} if "GET" in resource.methods else ())}
        assert (answer.status_code, set(answer.headers["allow"].split(", "))) == (405, expected)


def test_key_guessing_is_limited_by_address(tmp_path: Path) -> None:
    """Distinct bad keys get 429 past the limit; a stale one stays 401; a valid one still works."""
    database = f"sqlite:///{tmp_path}/knownas.db"
    process = start(database, port := free_port(), KNOWNAS_BAD_KEYS_PER_MINUTE="3")
    key = knownas("key", "create", database=database).strip()

    def ask(text: str) -> httpx2.Response:
        headers = {"Authorization": f"Api-Key {text}", "adapty-customer-user-id": "c"}
        return PLAIN.get(f"http://127.0.0.1:{port}{PATH}", headers=headers)

    try:
        statuses = [ask(f"guess-{number}").status_code for number in range(4)]
        assert statuses == [401, 401, 401, 429]
        assert int(ask("guess-5").headers["retry-after"]) > 0
        assert ask("guess-0").status_code == 401
        assert ask(key).status_code == 404
    finally:
        assert stop(process) == 0


def test_nothing_secret_is_logged_or_stored(tmp_path: Path) -> None:
    """A canary in key, customer and identifiers is in no log; the key is not in the database."""
    database = f"sqlite:///{tmp_path}/knownas.db"
    process = start(
        database,
        port := free_port(),
        KNOWNAS_ACCESS_LOG="on",
        KNOWNAS_LOG_FORMAT="json",
        KNOWNAS_METRICS_TOKEN="metrics",  # noqa: S106 - a test's own
    )
    adopted = "canary-key-0123456789"
    knownas("key", "adopt", "--stdin", database=database, stdin=adopted)
    with httpx2.Client(
        base_url=f"http://127.0.0.1:{port}",
        headers={"Authorization": f"Api-Key {adopted}", "adapty-customer-user-id": "canary-c"},
    ) as http:
        assert http.post(ROUTES[1].path).status_code == 200
        body = {"branch_id": "canary-v", "canary-unknown": "canary"}
        assert http.post(PATH, json=body).status_code == 200
        assert http.get(PATH + "?canary-query").status_code == 200
        assert http.get("/canary-path").status_code == 404
        http.post(PATH, content=b'{"branch_id": "canary", "canary"')
        metrics = http.get("/metrics", headers={"Authorization": "Bearer metrics"}).text
    assert stop(process) == 0
    log = (tmp_path / "knownas.log").read_text(encoding="utf-8")
    assert '"event": "request"' in log
    assert "canary" not in log.lower() + metrics
    for file in tmp_path.glob("knownas.db*"):
        assert adopted.encode() not in file.read_bytes()


UNFORESEEN = """
import asyncio, sys
from knownas import logs

logs.configure(sys.argv[1])

def fail(secret):
    raise ValueError(secret)

async def fail_later(secret):
    fail(secret)

async def main():
    asyncio.get_running_loop().call_soon(fail, "canary-1")
    task = asyncio.create_task(fail_later("canary-2"))
    await asyncio.sleep(0.01)
    del task

asyncio.run(main())
"""


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_row_28_what_a_library_logs_shows_no_value(log_format: str) -> None:
    """An error that asyncio or uvicorn meets is logged by type and place, without its text."""
    ended = subprocess.run(
        [sys.executable, "-c", UNFORESEEN, log_format],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = ended.stderr.splitlines()
    assert len(lines) == 2
    assert all("ValueError" in line and "fail" in line for line in lines)
    assert "canary" not in ended.stderr
