"""The pytest plugin, as a test suite that installs the package meets it."""

import os
import tomllib
from pathlib import Path
from typing import Final

import pytest

pytest_plugins = ["pytester"]

ROOT: Final = Path(__file__).parent.parent
DOCUMENT: Final = ROOT / "docs" / "testing-with-knownas.md"


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Give a suite in an environment where the package, with its entry point, is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    plugins = project["entry-points"]["pytest11"]
    site = pytester.mkdir("site")
    installed = site / "knownas_of_this_checkout-0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Name: knownas-of-this-checkout\nVersion: 0\n")
    lines = [f"{name} = {module}" for name, module in plugins.items()]
    (installed / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines, ""]))
    path = [str(site), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    # Of the plugins that are installed with those of this repository, two take long to import.
    others = "-p no:schemathesis -p no:hypothesispytest"
    pytester.makeini(f"[pytest]\nfilterwarnings = error\naddopts = {others}\n")
    return pytester


def test_each_test_has_a_server_of_its_own(suite: pytest.Pytester) -> None:
    """Tests share one process, and nothing of what is in it."""
    suite.makepyfile(
        """
        import pytest

        urls = set()

        @pytest.mark.parametrize("time", [1, 2])
        def test_it(knownas_server, time):
            urls.add(knownas_server.url)
            client = knownas_server.client()
            assert list(client.changes(follow=False)) == []
            [profile] = knownas_server.seed(
                {"customer_user_id": "user-1", "identifiers": {"branch_id": "1"}}
            )
            assert client.get_identifiers(customer_user_id="user-1")["branch_id"] == "1"
            knownas_server.fail_next(429, retry_after=60, times=9)
            assert len(urls) == 1
        """
    )
    suite.runpytest_subprocess().assert_outcomes(passed=2)


def test_settings_are_a_fixture(suite: pytest.Pytester) -> None:
    """A suite says by a fixture under which settings the server runs."""
    suite.makeconftest(
        """
        import pytest

        @pytest.fixture(scope="session")
        def knownas_settings():
            return {"KNOWNAS_AUTO_CREATE_PROFILES": "on"}
        """
    )
    suite.makepyfile(
        """
        def test_it(knownas_server):
            client = knownas_server.client()
            client.set_identifiers({"branch_id": "1"}, customer_user_id="new")
        """
    )
    suite.runpytest_subprocess().assert_outcomes(passed=1)


def test_plugin_costs_nothing_until_it_is_used(suite: pytest.Pytester) -> None:
    """Where no test asks for a server, neither it nor the client is imported."""
    suite.makepyfile(
        """
        import sys

        def test_it():
            assert "knownas_client.testing" in sys.modules
            assert not {"httpx2", "msgspec", "knownas", "starlette"} & sys.modules.keys()
        """
    )
    suite.runpytest_subprocess().assert_outcomes(passed=1)


def test_example_of_the_documentation_passes(suite: pytest.Pytester) -> None:
    """The Python of docs/testing-with-knownas.md is a test suite that passes as it stands."""
    blocks = DOCUMENT.read_text().split("```python\n")[1:]
    code = [block.partition("```")[0] for block in blocks]
    assert len(code) == 3
    suite.makepyfile(test_docs_example="\n\n".join(code))
    result = suite.runpytest_subprocess()
    passed = "\n".join(code).count("def test_")
    assert passed >= 3
    result.assert_outcomes(passed=passed)
