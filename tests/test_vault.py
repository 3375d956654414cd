"""The vault: what it seals opens here, under a key of its file, and nowhere else."""

import os
import stat
import threading
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from knownas import vault
from knownas.errors import FeatureNotConfigured
from knownas.vault import Vault, VaultError
from shell import Shell

LINE: Final = "ka-master-1:0a1b2c3d:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"
SECRET: Final = b"a secret canary"
PLACE: Final = "webhook/1/secret"


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Give the path of a file with one new key."""
    file = str(tmp_path / "master.key")
    vault.create(file)
    return file


def write(path: Path, text: str, mode: int = 0o600) -> str:
    """Make a file of keys by hand, and return its path."""
    path.write_text(text)
    path.chmod(mode)
    return str(path)


# --- Sealing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("plain", [b"", b"x", SECRET, bytes(range(256)) * 1_000])
def test_what_is_sealed_opens_again(path: str, plain: bytes) -> None:
    """It comes back as it was, also from another process's vault on the same file."""
    sealed = Vault.open(path).seal(plain, context=PLACE)
    assert Vault.open(path).unseal(sealed, context=PLACE) == plain
    assert len(sealed) == len(plain) + 33


def test_row_29_what_is_sealed_shows_nothing(path: str) -> None:
    """Neither the secret nor a key is in it, and the same secret looks different each time."""
    opened = Vault.open(path)
    sealed = {opened.seal(SECRET, context=PLACE) for _ in range(100)}
    assert len(sealed) == 100
    assert len({one[5:17] for one in sealed}) == 100
    assert not any(SECRET in one for one in sealed)


def test_form_of_what_is_sealed_stays(tmp_path: Path) -> None:
    """A secret that was put together as the module says opens: stored ones always will."""
    opened = Vault.open(write(tmp_path / "key", LINE))
    head, nonce = bytes.fromhex("01 0a1b2c3d"), b"twelve bytes"
    body = AESGCM(bytes(range(32))).encrypt(nonce, SECRET, head + PLACE.encode())
    assert opened.unseal(head + nonce + body, context=PLACE) == SECRET


def test_secret_opens_at_its_place_only(path: str) -> None:
    """One that is moved to another row is refused in one line that shows nothing of it."""
    opened = Vault.open(path)
    sealed = opened.seal(SECRET, context=PLACE)
    for place in ("", "webhook/2/secret", PLACE + " ", PLACE[:-1]):
        with pytest.raises(VaultError, match="was changed, or belongs elsewhere") as refused:
            opened.unseal(sealed, context=place)
        assert "\n" not in str(refused.value)


def test_secret_with_any_bit_turned_is_refused(path: str) -> None:
    """Version, key id, nonce, body and tag: each bit counts, and so does the length."""
    opened = Vault.open(path)
    sealed = opened.seal(SECRET, context=PLACE)
    for bit in range(8 * len(sealed)):
        turned = (int.from_bytes(sealed) ^ (1 << bit)).to_bytes(len(sealed))
        with pytest.raises(VaultError):
            opened.unseal(turned, context=PLACE)
    for wrong in (b"", sealed[:32], sealed[:-1], sealed + b"\0", SECRET):
        with pytest.raises(VaultError):
            opened.unseal(wrong, context=PLACE)


def test_secret_of_another_file_is_refused(path: str, tmp_path: Path) -> None:
    """Who has the database but not this file cannot open it; the error names the key it needs."""
    sealed = Vault.open(path).seal(SECRET, context=PLACE)
    other = str(tmp_path / "other.key")
    vault.create(other)
    with pytest.raises(VaultError, match=f"needs the master key {Vault.open(path).key_ids[0]}"):
        Vault.open(other).unseal(sealed, context=PLACE)


def test_without_a_file_nothing_is_sealed() -> None:
    """Where no file is set, all that needs a key says which feature is missing and what to do."""
    empty = Vault.open("")
    assert empty.key_ids == []
    for action in (
        lambda: empty.seal(SECRET, context=PLACE),
        lambda: empty.unseal(b"", context=PLACE),
        lambda: empty.needs_resealing(b""),
    ):
        with pytest.raises(FeatureNotConfigured) as refused:
            action()
        assert refused.value.code == "feature_not_configured"
        [field] = refused.value.fields
        assert "knownas master-key create" in field.message
        assert "KNOWNAS_MASTER_KEY_FILE" in field.message


# --- Rotation -----------------------------------------------------------------------------------


def test_rotation_keeps_what_was_sealed(path: str) -> None:
    """The new key seals from then on; what older ones sealed opens, and is to be sealed anew."""
    first = Vault.open(path)
    old = first.seal(SECRET, context=PLACE)
    assert not first.needs_resealing(old)
    new_id = vault.rotate(path)
    rotated = Vault.open(path)
    assert rotated.key_ids == [new_id, *first.key_ids]
    assert rotated.unseal(old, context=PLACE) == SECRET
    assert rotated.needs_resealing(old)
    assert not rotated.needs_resealing(rotated.seal(SECRET, context=PLACE))
    assert rotated.needs_resealing(b"")


def test_running_server_learns_of_a_rotation(path: str) -> None:
    """A vault that was opened before opens what the new key sealed, and then seals under it."""
    running = Vault.open(path)
    new_id = vault.rotate(path)
    sealed = Vault.open(path).seal(SECRET, context=PLACE)
    assert running.unseal(sealed, context=PLACE) == SECRET
    assert running.key_ids[0] == new_id


def test_key_that_was_taken_out_opens_nothing(path: str) -> None:
    """Without its line, what a key sealed is lost."""
    sealed = Vault.open(path).seal(SECRET, context=PLACE)
    vault.rotate(path)
    newest, _, _ = Path(path).read_text().partition("\n")
    Path(path).write_text(newest)
    with pytest.raises(VaultError, match="needs the master key"):
        Vault.open(path).unseal(sealed, context=PLACE)


def test_rotations_at_once_all_count(path: str) -> None:
    """None of several rotations takes away the key of another, and a reader never sees a part."""
    threads = [threading.Thread(target=vault.rotate, args=(path,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert Vault.open(path).key_ids
    assert len(Vault.open(path).key_ids) == 21


def test_rotation_replaces_the_file_and_leaves_no_other(path: str) -> None:
    """The old file stays as it is under the name that somebody has open; nothing lies beside."""
    with Path(path).open() as old:
        vault.rotate(path)
        assert old.read().count("\n") == 1
    assert [file.name for file in Path(path).parent.iterdir()] == ["master.key"]
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600


def test_rotation_follows_a_link(path: str, tmp_path: Path) -> None:
    """Where the setting names a link, the file behind it gets the key, and the link stays."""
    link = tmp_path / "link"
    link.symlink_to(path)
    vault.rotate(str(link))
    assert link.is_symlink()
    assert len(Vault.open(path).key_ids) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_rotation_leaves_the_file_to_its_owner(path: str) -> None:
    """Root may rotate the key of a server that runs as another user."""
    os.chown(path, 12_345, -1)
    vault.rotate(path)
    assert Path(path).stat().st_uid == 12_345


# --- The file -----------------------------------------------------------------------------------


def test_new_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Whatever the umask, nobody else can read it, and it has the form that is documented."""
    file = tmp_path / "key"
    before = os.umask(0)
    try:
        key_id = vault.create(str(file))
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    name, its_id, key = file.read_text().split(":")
    assert (name, its_id, len(key)) == ("ka-master-1", key_id, 45)


def test_no_file_is_overwritten(path: str) -> None:
    """A second `create` is refused, and the key stays."""
    before = Path(path).read_text()
    with pytest.raises(VaultError, match="is there already"):
        vault.create(path)
    assert Path(path).read_text() == before
    assert [file.name for file in Path(path).parent.iterdir()] == ["master.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o777])
def test_file_that_others_have_rights_on_is_refused(tmp_path: Path, mode: int) -> None:
    """One clear line names the file and what to do."""
    path = write(tmp_path / "key", LINE, mode)
    for action in (Vault.open, vault.rotate):
        with pytest.raises(VaultError, match="run chmod 600 on it") as refused:
            action(path)
        assert str(refused.value).startswith(path)
        assert "\n" not in str(refused.value)
    assert Path(path).read_text() == LINE


def test_file_that_nobody_can_change_is_read(tmp_path: Path) -> None:
    """0400 is as good as 0600."""
    assert Vault.open(write(tmp_path / "key", LINE, 0o400)).key_ids == ["0a1b2c3d"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no master key in it"),
        ("\n", "line 1 is no master key"),
        (LINE + "canary\n", "line 2 is no master key"),
        (LINE.replace("-1:", "-2:"), "line 1 is no master key"),
        (LINE.replace("0a1b", "0A1B"), "line 1 is no master key"),
        (LINE.replace("=", ""), "line 1 is no master key"),
        (LINE.replace("AAEC", "AAE\u00e9"), "line 1 is no master key"),
        (LINE + LINE, "line 2 has the id of a line before it"),
        (LINE * 1_000, "no file of master keys is this long"),
    ],
)
def test_file_with_anything_else_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """The line is named by its number and never shown: it may be a key with a typing error."""
    path = write(tmp_path / "key", text)
    with pytest.raises(VaultError, match=said) as refused:
        Vault.open(path)
    assert "canary" not in str(refused.value)
    assert "AAEC" not in str(refused.value)


def test_only_a_regular_file_is_read(tmp_path: Path) -> None:
    """A folder, a pipe, a device and what is not there are refused at once."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for path in (str(tmp_path), str(pipe), os.devnull):
        with pytest.raises(VaultError, match="kept in a regular file"):
            Vault.open(path)
    with pytest.raises(VaultError, match="there is no such file"):
        Vault.open(str(tmp_path / "absent"))
    with pytest.raises(VaultError, match="there is no such file or folder"):
        vault.create(str(tmp_path / "absent" / "key"))


# --- The commands -------------------------------------------------------------------------------


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Give a shell; these commands need no database."""
    return Shell(tmp_path / "knownas.db")


def test_commands_make_rotate_and_name_keys(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They work on the file that is given or set, and never print a key."""
    path = tmp_path / "master.key"
    made = shell("master-key", "create", str(path))
    assert f"Set KNOWNAS_MASTER_KEY_FILE={path}\n" in made
    monkeypatch.setenv("KNOWNAS_MASTER_KEY_FILE", str(path))
    rotated = shell.json("master-key", "rotate")
    ids = Vault.open(str(path)).key_ids
    assert rotated == {"file": str(path), "key_id": ids[0]}
    assert ids[1] in made
    assert shell("master-key", "show-ids") == f"{ids[0]}\n{ids[1]}\n"
    assert shell.json("master-key", "show-ids") == {"file": str(path), "key_ids": ids}
    keys = [line.split(":")[2] for line in path.read_text().splitlines()]
    assert not any(key in made + str(rotated) for key in keys)
    assert not shell.database.exists()


def test_key_is_made_only_where_there_is_none(shell: Shell, tmp_path: Path) -> None:
    """Whoever starts a server again and again keeps the key that was made the first time."""
    path = str(tmp_path / "key")
    made = shell.json("master-key", "create", path, "--if-missing")
    assert "is there already" in shell("master-key", "create", path, "--if-missing")
    assert shell.json("master-key", "create", path, "--if-missing") == made
    Path(path).write_text("broken")
    assert "line 1" in shell.fails("master-key", "create", path, "--if-missing")


def test_commands_say_what_is_wrong_in_one_line(shell: Shell, tmp_path: Path) -> None:
    """No file named, one that is there, one that is not."""
    path = str(tmp_path / "key")
    assert "KNOWNAS_MASTER_KEY_FILE" in shell.fails("master-key", "create")
    assert "no such file" in shell.fails("master-key", "rotate", path)
    assert "no such file" in shell.fails("master-key", "show-ids", path)
    shell("master-key", "create", path)
    assert "is there already" in shell.fails("master-key", "create", path)
