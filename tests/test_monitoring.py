"""What `deploy/` has for Prometheus and Grafana: rules and a dashboard that a real server feeds."""

import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from conftest import METRICS, Server
from knownas.http.app import ROUTES

DEPLOY: Final = Path(__file__).parent.parent / "deploy"
RULES: Final = DEPLOY / "prometheus" / "alerts.yml"
CONFIGURATION: Final = DEPLOY / "prometheus" / "knownas.yml"
DASHBOARD: Final[dict[str, Any]] = json.loads((DEPLOY / "grafana" / "knownas.json").read_text())
TESTS_OF_RULES: Final = Path(__file__).parent / "files" / "alerts.yml"

PARTS: Final = re.compile(r"_(?:bucket|sum|count)\Z")
"""What a histogram's name is followed by."""
NAME: Final = re.compile(r"\bknownas_\w+")
ROUTE: Final = re.compile(r'route="([^"]+)"')
GROUPED_BY: Final = re.compile(r"\bby \(([^)]*)\)")
DURATION: Final = re.compile(r"[0-9]+[smhd]")

# What Prometheus and the dashboard itself add to each sample.
ADDED: Final = frozenset({"job", "instance", "le"})

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian's prometheus) is not installed"
)


def rules() -> list[dict[str, Any]]:
    """Return the alert rules."""
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def panels() -> Iterator[dict[str, Any]]:
    """Yield the panels of the dashboard that show something."""
    yield from (panel for panel in DASHBOARD["panels"] if panel["type"] != "row")


def expressions() -> list[str]:
    """Return all that is asked of Prometheus."""
    shown = [target["expr"] for panel in panels() for target in panel["targets"]]
    variables = [
        it["query"]["query"] for it in DASHBOARD["templating"]["list"] if it["type"] == "query"
    ]
    return [*shown, *variables, *(rule["expr"] for rule in rules())]


def promtool(*arguments: str | Path, stdin: str = "") -> str:
    """Run promtool, which has to be content, and return what it prints."""
    done = subprocess.run(
        ["promtool", *arguments], input=stdin, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def told(server: Server) -> dict[str, set[str]]:
    """Return the names that a server's samples have or would have, with the labels seen so far."""
    httpx2.get(f"{server.url}{ROUTES[0].path}")
    answer = httpx2.get(f"{server.url}/metrics", headers=METRICS)
    found: dict[str, set[str]] = {}
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    for family in text_string_to_metric_families(answer.text):
        for ending in endings.get(family.type, ("",)):
            found[family.name + ending] = set()
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_what_is_asked_for_is_told(server: Server) -> None:
    """Every metric of the dashboard and of the rules is one that a server tells."""
    names = {name for expression in expressions() for name in NAME.findall(expression)}
    assert len(names) > 30
    assert names <= told(server).keys()


def test_what_is_told_is_shown(server: Server) -> None:
    """No metric is without a panel."""
    asked = " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    shown = {PARTS.sub("", name) for name in NAME.findall(asked)}
    assert {PARTS.sub("", name) for name in told(server)} - shown == set()


def test_what_is_told_is_documented(server: Server) -> None:
    """Operating has a line for each metric, and names none that there is not."""
    text = (DEPLOY.parent / "docs" / "operating.md").read_text()
    documented = set(re.findall(r"`(knownas_\w+)`", text))
    assert {PARTS.sub("", name) for name in told(server)} == documented


def test_samples_are_grouped_by_labels_that_they_have(server: Server) -> None:
    """A label that no sample has would make one line of all."""
    there = told(server)
    for expression in expressions():
        labels = {it for names in NAME.findall(expression) for it in there[names]}
        if not labels:  # of what the server has not met yet
            continue
        asked = {it.strip() for by in GROUPED_BY.findall(expression) for it in by.split(",")}
        assert asked <= labels | ADDED, expression


def test_routes_are_those_of_the_server() -> None:
    """A route that is asked for by its name is in the table of routes."""
    asked = {route for expression in expressions() for route in ROUTE.findall(expression)}
    assert asked
    assert asked <= {resource.path for resource in ROUTES}


def test_dashboard_is_whole() -> None:
    """Panels have an id and a title of their own, stand beside each other, and say what of."""
    every = DASHBOARD["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    assert len({panel["title"] for panel in every}) == len(every)
    squares = [
        (x, y)
        for panel in every
        for x, y in itertools.product(
            range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"]),
            range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"]),
        )
    ]
    assert len(set(squares)) == len(squares)
    assert max(x for x, _ in squares) < 24
    variables = {it["name"] for it in DASHBOARD["templating"]["list"]}
    for panel in panels():
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert all('job=~"$job"' in target["expr"] for target in panel["targets"])
    text = json.dumps(DASHBOARD)
    used = set(re.findall(r"\$\{?([a-z]\w*)", text))
    assert used == variables
    assert "http" not in text


def test_rules_are_whole() -> None:
    """Each says how bad it is, what is the matter, and where to look."""
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names) > 10
    for rule in rules():
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert DURATION.fullmatch(rule.get("for", "1m"))
        assert rule["labels"].keys() == {"severity"}
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"].keys() == {"summary", "description"}
        assert rule["expr"].count("(") == rule["expr"].count(")")


def test_configuration_names_what_is_beside_it() -> None:
    """The rules and the job are found, and the token stands in a file."""
    configuration = yaml.safe_load(CONFIGURATION.read_text())
    assert all((CONFIGURATION.parent / name).exists() for name in configuration["rule_files"])
    [job] = configuration["scrape_configs"]
    assert job["authorization"].keys() == {"credentials_file"}


@needs_promtool
def test_promtool_takes_them(server: Server) -> None:
    """Prometheus's own tool reads the rules and the configuration, and finds the metrics sound."""
    promtool("check", "config", "--syntax-only", CONFIGURATION)
    promtool("check", "rules", "--lint-fatal", RULES)
    text = httpx2.get(f"{server.url}/metrics", headers=METRICS).text
    assert promtool("check", "metrics", stdin=text) == ""


@needs_promtool
def test_alerts_come_and_stay_away() -> None:
    """For made-up samples each alert is raised when it should be, and not before."""
    promtool("test", "rules", TESTS_OF_RULES)
