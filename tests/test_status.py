"""`knownas status`: a page of a real server or database, once or again and again."""

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Final

import msgspec
import pytest
from click.testing import CliRunner

from conftest import (
    IDENTIFIERS_PATH,
    METRICS,
    PLAIN,
    PROFILE_PATH,
    Server,
    free_port,
    make_profile,
    start,
)
from knownas.cli import cli
from knownas.cli.readings import ALL_ROUTES, Reading, Span, Status, server_status

TOKEN: Final = "metrics-token"  # noqa: S105 - a test's own
SECONDS: Final = 30
OPENS, CLOSES, HOME = b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[H"

HISTOGRAM: Final = """
# TYPE knownas_request_seconds histogram
knownas_request_seconds_bucket{{route="/",le="0.001"}} {0}
knownas_request_seconds_bucket{{route="/",le="0.01"}} {1}
knownas_request_seconds_bucket{{route="/",le="+Inf"}} {2}
# TYPE knownas_requests_total counter
knownas_requests_total{{method="GET",route="/",status="200"}} {3}
knownas_requests_total{{method="GET",route="/",status="404"}} {4}
knownas_requests_total{{method="GET",route="/",status="503"}} {4}
"""


def run(*arguments: str, code: int = 0, **settings: str) -> str:
    """Run `knownas status` to its end and return what it printed, there or as an error."""
    done = CliRunner().invoke(cli, ["status", *arguments], env=settings)
    assert done.exit_code == code, done.output
    return done.stderr if code else done.stdout


def test_status_of_a_server_for_programs(server: Server) -> None:
    """It has the rates of the time between two looks, and how the database is."""
    make_profile(server, "c", branch_id="b")
    text = run("--url", server.url, "--token", TOKEN, "--once", "--json", "--every", "0.2")
    found = msgspec.json.decode(text, type=Status)
    assert found.server is not None
    assert found.server.processes == 1
    assert found.server.resident_bytes > 10_000_000
    assert found.server.requests[0].route == ALL_ROUTES
    assert [it.route for it in found.server.requests[1:]] == ["/metrics"]
    assert found.server.requests[0].p99_ms is not None
    assert found.server.attempts_per_second == {"delivered": 0, "failed": 0, "dead": 0}
    assert found.database.is_up
    assert found.database.engine == "sqlite"
    assert found.database.profiles == {"default": 1}
    assert [queue.target for queue in found.database.queues] == ["webhook", "upstream"]
    assert found.database.replica_is_up is None


def test_status_of_a_database_is_that_which_its_server_tells(server: Server) -> None:
    """The same but for the server's part, which only it knows."""
    through = run("--url", server.url, "--token", TOKEN, "--once", "--json", "--every", "0.2")
    itself = run("--database", server.database, "--once", "--json")
    first, second = (msgspec.json.decode(text, type=Status) for text in (through, itself))
    assert second.server is None
    free = second.database.free_bytes and first.database.free_bytes
    same = msgspec.structs.replace(second.database, free_bytes=free, log_bytes=None)
    assert same == msgspec.structs.replace(first.database, log_bytes=None, bytes=same.bytes)


def test_status_for_people(server: Server) -> None:
    """The page names routes, operations, the database, and what is behind."""
    headers = {"Authorization": f"Api-Key {server.key}", "adapty-customer-user-id": "c"}
    PLAIN.post(server.url + PROFILE_PATH, headers=headers)
    page = run("--url", server.url, "--once", "--every", "0.2", KNOWNAS_METRICS_TOKEN=TOKEN)
    for line in (
        rf"{re.escape(server.url)}  \d{{4}}-.*Z",
        r"knownas \S+  1 process  \d+ connections?  [0-9.]+ MiB  [0-9.]+ cores",
        r"all +[0-9.]+ +[0-9.]+ +[0-9.]+ +0\.0 +0\.0",
        r"webhooks, attempts a second: 0\.0 delivered  0\.0 failed  0\.0 dead",
        r"database   sqlite \S+  [0-9.]+ [KM]iB.*",
        r"profiles   default \d+",
        r"feed       up to date",
        r"webhook    up to date, 0 tried again, 0 given up",
        r"erasures   none waits",
    ):
        assert re.search(f"^{line}$", page, re.MULTILINE), (line, page)
    assert "\x1b" not in page


def test_what_is_wrong_is_one_line(server: Server, tmp_path: Path) -> None:
    """A wrong token, a server without metrics, none at all, two sources, no token, no database."""
    port = free_port()
    process = start(f"sqlite:///{tmp_path}/off.db", port)
    off = f"http://127.0.0.1:{port}"
    said = {
        run("--url", server.url, "--token", "wrong", "--once", code=1),
        run("--url", off, "--token", TOKEN, "--once", code=1),
        run("--url", f"http://127.0.0.1:{free_port()}", "--token", TOKEN, "--once", code=1),
        run("--url", off, "--once", code=1),
        run("--url", off, "--database", "sqlite://", "--once", code=1),
        run("--url", "ftp://a.example", "--token", TOKEN, "--once", code=1),
        run("--database", f"sqlite:///{tmp_path}/none.db", "--once", code=1),
    }
    process.kill()
    process.wait()
    before = CliRunner().invoke(cli, ["--url", off, "status"])
    assert (before.exit_code, "say --url after it" in before.stderr) == (1, True)
    assert len(said) == 7
    assert all(text.startswith("knownas: ") and text.count("\n") == 1 for text in said)
    assert TOKEN not in "".join(said)


def test_live_page_is_drawn_over_itself(server: Server) -> None:
    """On a terminal it has a screen of its own, never cleared, and gives it back when it ends."""
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 60, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "knownas", "status", "--url", server.url, "--every", "0.2"],
        env={**os.environ, "KNOWNAS_METRICS_TOKEN": TOKEN, "TERM": "xterm"},
        stdin=end,
        stdout=end,
        stderr=end,
    )
    os.close(end)
    shown = b""
    while shown.count(HOME) < 4:
        shown += os.read(terminal, 65_536)
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # nobody writes to it any more
        while True:
            shown += os.read(terminal, 65_536)
    os.close(terminal)
    assert process.wait(SECONDS) == 0
    assert shown.startswith(OPENS)
    assert shown.endswith(CLOSES)
    assert b"\x1b[2J" not in shown
    pages = shown.split(HOME)[2:-1]  # the last one may be a part of a page
    assert len(pages) >= 2
    for page in pages:
        plain = re.sub(r"\x1b\[[?0-9]*[A-Za-z]", "", page.decode())
        assert [line for line in plain.split("\r\n") if len(line) > 60] == []
        assert plain.count("\r\n") < 30


def test_into_a_pipe_looks_come_as_lines(server: Server) -> None:
    """Where it is no terminal, each look is printed below the one before."""
    look = ["--database", server.database, "--json", "--every", "0.2"]
    with subprocess.Popen(
        [sys.executable, "-m", "knownas", "status", *look], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 0
    times = [msgspec.json.decode(line, type=Status).at for line in lines]
    assert times == sorted(set(times))


def test_rates_and_quantiles_are_those_between_two_readings() -> None:
    """Within a bucket they are spread evenly; past the last bound it is that bound."""
    before = Reading(HISTOGRAM.format(100, 100, 100, 100, 0), 10.0)
    after = Reading(HISTOGRAM.format(150, 200, 200, 200, 4), 12.0)
    [everything, route] = server_status(Span(before, after)).requests
    assert everything.route == ALL_ROUTES
    assert everything.per_second == route.per_second == pytest.approx(54)
    assert route.p50_ms == pytest.approx(1.0)
    assert route.p99_ms == pytest.approx(1 + 9 * 0.98)
    assert (route.refused_per_second, route.failed_per_second) == (2, 2)
    late = Reading(HISTOGRAM.format(150, 200, 400, 200, 4), 13.0)
    assert Span(after, late).quantile("request_seconds", 0.5) == pytest.approx(0.01)
    assert Span(late, late).quantile("request_seconds", 0.5) is None


def test_counter_that_begins_anew_is_counted_from_nothing() -> None:
    """A server that was restarted has no negative rates."""
    before = Reading(HISTOGRAM.format(100, 100, 100, 1_000, 0), 10.0)
    after = Reading(HISTOGRAM.format(5, 5, 5, 5, 0), 11.0)
    assert server_status(Span(before, after)).requests[0].per_second == 5


def test_what_is_no_metrics_is_refused() -> None:
    """A page of something else is a ValueError, not a status."""
    with pytest.raises(ValueError, match="html"):
        Reading("<html>no</html>\n{", 0.0)


def test_metrics_of_a_server_are_read_whole(server: Server) -> None:
    """What the server says is read as it is said."""
    PLAIN.get(server.url + IDENTIFIERS_PATH)
    text = PLAIN.get(f"{server.url}/metrics", headers=METRICS).text
    reading = Reading(text, 0.0)
    assert reading.texts("info")["version"]
    assert reading.by("requests_total", "status")["401"] >= 1
