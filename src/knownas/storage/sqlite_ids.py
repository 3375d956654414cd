"""A profile's id as it stands in rows of SQLite: the UUID's 16 bytes."""

from knownas.model import ProfileId


def to_blob(profile_id: ProfileId) -> bytes:
    """Return the bytes of an id."""
    return bytes.fromhex(profile_id.replace("-", ""))


def to_profile_id(blob: bytes) -> ProfileId:
    """Return the id of these bytes."""
    digits = blob.hex()
    return ProfileId(f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}")
