"""What `deploy/` gives an operator, held to what it promises: run where it can be, else read."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import yaml

from conftest import Server, free_port, start, stop
from knownas import settings
from knownas_client import Client

ROOT: Final = Path(__file__).parent.parent
DEPLOY: Final = ROOT / "deploy"
CONTAINERFILE: Final = (DEPLOY / "Containerfile").read_text()
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
UNIT: Final = DEPLOY / "systemd" / "knownas.service"
PLAIN_IMAGE: Final = re.compile(r"[a-z]+:[a-z0-9.-]+")

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def instructions(name: str) -> list[str]:
    """Return the arguments of every instruction of this name in the Containerfile, in order."""
    joined = CONTAINERFILE.replace("\\\n", " ")
    return re.findall(rf"^{name} +(.*)$", joined, re.MULTILINE)


# --- The container --------------------------------------------------------------------------------


def test_images_are_plain_names_of_one_version() -> None:
    """No registry is named: which one a plain name means is the operator's choice."""
    images = [line.partition(" ")[0] for line in instructions("FROM")]
    images += [one["image"] for one in COMPOSE["services"].values() if "image" in one]
    assert images
    assert [image for image in images if not PLAIN_IMAGE.fullmatch(image)] == []


def test_container_serves_as_nobody_special() -> None:
    """The last user is a number that is not root's, so that a cluster can insist on it."""
    (user,) = instructions("USER")
    assert int(user) > 0
    assert CONTAINERFILE.index("\nUSER") < CONTAINERFILE.index("\nENTRYPOINT")


def test_container_installs_what_the_lock_names() -> None:
    """Every install is by hash, or of the source alone."""
    installs = [line for line in instructions("RUN") if "pip install" in line]
    assert len(installs) == 2
    assert "--require-hashes -r requirements/run.txt" in installs[0]
    assert "--no-build-isolation --no-deps" in installs[1]


def test_health_check_tells_a_living_server_from_none(server: Server) -> None:
    """The container's own command ends with 0 where a server answers, else not."""
    (line,) = instructions("HEALTHCHECK")
    name, *arguments = msgspec.json.decode(line.partition("CMD")[2])
    assert name == "python"
    for url, ended in ((server.url, 0), (f"http://127.0.0.1:{free_port()}", 1)):
        command = [one.replace("http://127.0.0.1:8080", url) for one in arguments]
        done = subprocess.run([sys.executable, *command], capture_output=True, check=False)
        assert done.returncode == ended


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Install what the Containerfile copies, as it does, into a folder of its own."""
    work = tmp_path_factory.mktemp("installed")
    for line in instructions("COPY"):
        *sources, target = line.split()
        if sources[0].startswith("--from"):
            continue
        for source in sources:
            place = work / "build" / target
            if (ROOT / source).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, place, ignore=ignored)
            else:
                place = place / Path(source).name if target.endswith("/") else place
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, place)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-build-isolation", "--no-deps", "--target", str(work / "site"), "."]
    subprocess.run(command, cwd=work / "build", check=True, capture_output=True)
    yield work / "site"
    shutil.rmtree(work)


@pytest.mark.slow
def test_what_is_installed_serves(installed: Path, tmp_path: Path) -> None:
    """The package has all its files without the checkout: migrations, templates, the contract."""
    database, port = f"sqlite:///{tmp_path}/knownas.db", free_port()
    process = start(database, port, PYTHONPATH=str(installed))
    try:
        for path in ("openapi.yaml", "docs"):
            with_curl = ["curl", "-sf", f"http://127.0.0.1:{port}/{path}"]
            assert "integration-identifiers" in subprocess.check_output(with_curl, text=True)
        for path in ("sign-in", "static/console.css", "static/console.js"):
            subprocess.run(["curl", "-sf", f"http://127.0.0.1:{port}/console/{path}"], check=True)
        code = "import knownas; print(knownas.__file__)"
        environment = {**os.environ, "PYTHONPATH": str(installed)}
        found = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
        assert found.startswith(str(installed))
    finally:
        assert stop(process) == 0


@pytest.mark.slow
def test_client_and_plugin_are_installed(installed: Path) -> None:
    """The package has the typed client, and tells pytest of the plugin."""
    assert (installed / "knownas_client" / "py.typed").exists()
    [metadata] = installed.glob("knownas-*.dist-info")
    assert (
        "[pytest11]\nknownas = knownas_client.testing"
        in (metadata / "entry_points.txt").read_text()
    )
    assert 'extra == "client"' in (metadata / "METADATA").read_text().replace("'", '"')


def test_what_the_build_needs_is_not_ignored() -> None:
    """`.containerignore` leaves out everything but what the Containerfile copies."""
    lines = (ROOT / ".containerignore").read_text().splitlines()
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {
        source.partition("/")[0]
        for line in instructions("COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
    }
    assert lines[0] == "*"
    assert kept == copied


# --- Compose --------------------------------------------------------------------------------------


def test_compose_waits_for_its_database_and_gives_the_server_little() -> None:
    """The server starts when PostgreSQL answers, with no capability and nothing to write to."""
    server = COMPOSE["services"]["knownas"]
    assert server["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert COMPOSE["services"]["postgres"]["healthcheck"]["test"][1] == "pg_isready"
    assert (server["read_only"], server["cap_drop"]) == (True, ["ALL"])
    assert server["security_opt"] == ["no-new-privileges:true"]
    assert (ROOT / "deploy" / server["build"]["context"]).resolve() == ROOT
    assert (ROOT / server["build"]["dockerfile"]).exists()


def test_compose_makes_a_master_key_that_stays(tmp_path: Path) -> None:
    """Its own command makes the key once, where the server reads it, in a volume with a name."""
    server, maker = (COMPOSE["services"][name] for name in ("knownas", "master-key"))
    assert server["depends_on"]["master-key"]["condition"] == "service_completed_successfully"
    assert maker["build"] == server["build"]
    assert maker["volumes"] == server["volumes"] == ["knownas:/var/lib/knownas"]
    assert "knownas" in COMPOSE["volumes"]
    key_file = server["environment"]["KNOWNAS_MASTER_KEY_FILE"]
    assert maker["command"][-1] == key_file
    assert key_file.startswith("/var/lib/knownas/")
    command = [sys.executable, "-m", "knownas", *maker["command"][:-1], str(tmp_path / "key")]
    for _ in range(2):
        subprocess.run(command, check=True, capture_output=True)
    assert len((tmp_path / "key").read_text().splitlines()) == 1


def test_compose_has_no_password() -> None:
    """The password comes from outside, and without one nothing starts."""
    text = (DEPLOY / "compose.yaml").read_text()
    assert text.count("${KNOWNAS_DB_PASSWORD:?") == 2
    assert re.findall(r"PASSWORD: (?!\$)", text) == []


def test_emulator_is_the_same_image_and_runs() -> None:
    """The emulator's file builds what the other one does, and its command serves with its key."""
    emulator = yaml.safe_load((DEPLOY / "emulator.yaml").read_text())["services"]["emulator"]
    assert emulator["build"] == COMPOSE["services"]["knownas"]["build"]
    assert (emulator["read_only"], emulator["cap_drop"]) == (True, ["ALL"])
    key = re.sub(r"\$\{KNOWNAS_KEY:-(.+)\}", r"\1", emulator["environment"]["KNOWNAS_KEY"])
    command = [sys.executable, "-m", "knownas", *emulator["command"], "--port", "0", "--json"]
    environment = {**os.environ, "KNOWNAS_KEY": key, "KNOWNAS_ACCESS_LOG": "off"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        told = msgspec.json.decode(process.stdout.readline())
        with Client(told["url"].replace("0.0.0.0", "127.0.0.1"), key) as client:  # noqa: S104 - as it is
            assert set(client.policies().values()) == {"allow"}
        process.terminate()
        assert process.wait(10) == 0


def test_every_setting_of_deploy_exists() -> None:
    """What is set for the server in any of these files is a setting that it has."""
    given = dict(re.findall(r"(KNOWNAS_[A-Z_]+)=(\S+)", UNIT.read_text()))
    given |= dict(re.findall(r"(KNOWNAS_[A-Z_]+)=(\S+)", "\n".join(instructions("ENV"))))
    given |= COMPOSE["services"]["knownas"]["environment"]
    assert "KNOWNAS_DATABASE" in given
    given.pop("KNOWNAS_...", None)
    settings.load(given)


# --- systemd --------------------------------------------------------------------------------------


def test_unit_makes_a_master_key_once(tmp_path: Path) -> None:
    """Before each start its own command makes the key where there is none."""
    text = UNIT.read_text()
    [line] = re.findall(r"^ExecStartPre=\S+/knownas (.+)$", text, re.MULTILINE)
    [key_file] = re.findall(r"KNOWNAS_MASTER_KEY_FILE=(\S+)", text)
    assert key_file.startswith("/var/lib/knownas/")
    environment = {**os.environ, "KNOWNAS_MASTER_KEY_FILE": str(tmp_path / "key")}
    command = [sys.executable, "-m", "knownas", *line.split()]
    for _ in range(2):
        subprocess.run(command, env=environment, check=True, capture_output=True)
    assert len((tmp_path / "key").read_text().splitlines()) == 1


@needs_systemd
def test_units_are_well_formed(tmp_path: Path) -> None:
    """Systemd finds nothing to say about them, where the program that they start is there."""
    for unit in UNIT.parent.iterdir():
        text = unit.read_text().replace("/opt/knownas/bin/knownas", sys.executable)
        (tmp_path / unit.name).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "knownas.service")]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert [line for line in said.stderr.splitlines() if "knownas" in line] == []
    assert said.returncode == 0


@needs_systemd
def test_unit_exposes_little() -> None:
    """Systemd's own measure of exposure, 0 to 10, says OK; an unhardened service has over 9."""
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--json=short"]
    command += ["--threshold=15", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
