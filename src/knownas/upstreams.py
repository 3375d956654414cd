"""An app's upstream: another server that speaks the same API and knows the app's profiles, too.

It stands in the row of the app, and so it is known wherever a key of the app is. What is asked of
it and told to it stands in `knownas.upstream`.
"""

from typing import Final, Literal, get_args

import msgspec

OnFailure = Literal["not_found", "unavailable"]
"""What a request gets for a profile that is not here, while the upstream cannot be asked."""

Asked = Literal["found", "unknown", "failed", "spared"]
"""What came of asking an upstream for a profile.

It is `unknown` there, or may not be here; `spared` where the upstream was left alone.
"""

ASKED: Final[tuple[Asked, ...]] = get_args(Asked)

MAX_KEY_CHARACTERS: Final = 255


class Upstream(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where an app's profiles are known, too, and what the two servers have to do with each other.

    It has a `key` or a `key_from`, never both.
    """

    url: str
    """The base of the API: what stands before `/api/v2/…`, without a slash at its end."""
    changed_at: int
    """Milliseconds since 1970, UTC: when any of this was last changed, the key included."""
    key: bytes | None = None
    """The upstream's API key, sealed by the vault."""
    key_from: str | None = None
    """Where each server finds the key: `env:NAME`, or `file:/path`."""
    read_through: bool = True
    """Whether a profile that is not here is asked for there."""
    on_failure: OnFailure = "unavailable"
    write_through: bool = False
    """Whether what clients write here is written there, too."""
    shadow_percent: int = 0
    """Of how many in a hundred reads the answer is compared with the upstream's."""
    paused: bool = False
    """Whether nothing is asked or told for the time being."""

    @property
    def is_shadowed(self) -> bool:
        """Whether answers are compared with the upstream's now."""
        return self.shadow_percent > 0 and not self.paused

    @property
    def is_read(self) -> bool:
        """Whether a profile that is not here is asked for there now."""
        return self.read_through and not self.paused
