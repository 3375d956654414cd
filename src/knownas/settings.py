"""Settings: one table, read from `KNOWNAS_…` environment variables.

`docs/configuration.md` documents each; a test holds the two together.
"""

import difflib
import ipaddress
from collections.abc import Callable, Mapping
from typing import Annotated, Final, Literal, get_args

import msgspec
from msgspec import Meta

from knownas.errors import ValidationError
from knownas.model import clean_rate

PREFIX: Final = "KNOWNAS_"

# Read by clients, by the documentation's examples and by the tests, not by the server.
_NOT_OURS: Final = frozenset({"KNOWNAS_URL", "KNOWNAS_KEY", "KNOWNAS_TEST_DSN"})

_SWITCHES: Final = {"on": True, "off": False}


class SettingsError(Exception):
    """A setting has a value that it cannot have; the text is one line that says which."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator can choose. The names are those of the variables, in lower case."""

    database: Annotated[str, Meta(description="Where the data is.")] = "sqlite:///knownas.db"
    database_seconds: Annotated[
        int, Meta(ge=1, description="How long PostgreSQL may take for a request; then it gets 503.")
    ] = 5
    read_database: Annotated[
        str, Meta(description="A PostgreSQL standby that answers reads of identifiers.")
    ] = ""
    stale_reads: Annotated[
        Literal["never", "allow"],
        Meta(description="Whether a standby may answer who does not say what it has to know."),
    ] = "never"
    prepared: Annotated[
        bool, Meta(description="Whether statements are prepared in PostgreSQL and held open.")
    ] = True
    error_dialect: Annotated[
        Literal["schema", "example", "live"],
        Meta(description="The shape of error bodies: the wire contract, section 4."),
    ] = "schema"
    unknown_keys: Annotated[
        Literal["name", "reject"],
        Meta(description="What becomes of a key in a body that is no kind of identifier."),
    ] = "name"
    auto_create_profiles: Annotated[
        bool, Meta(description="Whether setting identifiers creates an unknown profile.")
    ] = False
    history_days: Annotated[
        int, Meta(ge=1, description="How long what changed is kept: history, feed, undo.")
    ] = 365
    import_megabytes: Annotated[
        int, Meta(ge=1, description="The largest file that may be uploaded to be imported, in MiB.")
    ] = 10_240
    trusted_proxies: Annotated[
        str, Meta(description="Addresses or networks whose X-Forwarded-For is believed.")
    ] = ""
    bad_keys_per_minute: Annotated[
        int, Meta(ge=1, description="Distinct unknown keys one address may try a minute.")
    ] = 20
    master_key_file: Annotated[
        str, Meta(description="The file with the key that stored secrets are encrypted under.")
    ] = ""
    erasure_ledger: Annotated[
        str, Meta(description="The file outside the database that has each erasure, too.")
    ] = ""
    erasure_hours: Annotated[
        int, Meta(ge=1, description="How long until nothing of an erased person is left, at most.")
    ] = 24
    oidc_issuer: Annotated[
        str, Meta(description="The OpenID Connect issuer at which operators may sign in.")
    ] = ""
    oidc_client_id: Annotated[str, Meta(description="What the issuer knows this server as.")] = ""
    oidc_client_secret_file: Annotated[
        str, Meta(description="The file with the secret that the issuer knows it by.")
    ] = ""
    key_rate: Annotated[
        str, Meta(description="How many requests a key may make, as 600/minute; without it any.")
    ] = ""
    metrics_token: Annotated[
        str, Meta(description="The bearer token that opens /metrics; without it: 404.")
    ] = ""
    webhook_networks: Annotated[
        str, Meta(description="Networks beyond the public internet for webhooks and upstreams.")
    ] = ""
    max_connections: Annotated[
        int, Meta(ge=1, description="Open connections a process answers; more get 503.")
    ] = 10_000
    keep_alive_seconds: Annotated[
        int, Meta(ge=1, description="How long a connection may stay open without a request.")
    ] = 75
    request_seconds: Annotated[
        int, Meta(ge=1, description="How long headers, and then a body, may take to arrive.")
    ] = 9
    stall_seconds: Annotated[
        int, Meta(ge=1, description="How long answers may stay unread before the connection ends.")
    ] = 10
    log_format: Annotated[Literal["console", "json"], Meta(description="How log lines look.")] = (
        "console"
    )
    access_log: Annotated[bool, Meta(description="Whether each request is logged.")] = True
    traces: Annotated[
        bool, Meta(description="Whether each request has a span of OpenTelemetry's.")
    ] = False


def load(environment: Mapping[str, str]) -> Settings:
    """Return the settings that `environment` gives; what it does not give has its default.

    Raises SettingsError for a value that is not allowed, or a `KNOWNAS_…` name that is unknown.
    """
    types = {field.name: field.type for field in msgspec.structs.fields(Settings)}
    given: dict[str, object] = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or variable in _NOT_OURS:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in types:
            near = difflib.get_close_matches(name, types, n=1)
            hint = f"; did you mean {PREFIX}{near[0].upper()}?" if near else "."
            raise SettingsError(f"{variable}: there is no such setting{hint}")
        try:
            value = _SWITCHES.get(text.lower(), text) if _is_switch(types[name]) else text
            given[name] = msgspec.convert(value, types[name], strict=False)
            if name in _CHECKS:
                _CHECKS[name](text)
        except (msgspec.ValidationError, ValueError) as error:
            allowed = _allowed(types[name])
            reason = f"must be one of {allowed}" if allowed else str(error)
            raise SettingsError(f"{variable}={text!r}: {reason}") from None
    return Settings(**given)  # type: ignore[arg-type]  # converted to each field's own type above


def networks(text: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Return the addresses and networks that stand in `text` with commas between.

    Raises ValueError for anything else.
    """
    parts = (part.strip() for part in text.split(","))
    return [ipaddress.ip_network(part) for part in parts if part]


def _check_rate(text: str) -> None:
    """Raise ValueError when `text` is neither blank nor a rate."""
    try:
        if text:
            clean_rate(text, source="key_rate")
    except ValidationError as error:
        raise ValueError(error.fields[0].message) from None


_CHECKS: Final[Mapping[str, Callable[[str], object]]] = {
    "trusted_proxies": networks,
    "webhook_networks": networks,
    "key_rate": _check_rate,
}


def _allowed(field_type: object) -> str:
    """Return the values of a field that has few, for people; "" for any other."""
    if _is_switch(field_type):
        return "on, off"
    inner = getattr(field_type, "__origin__", field_type)
    return ", ".join(get_args(inner))


def _is_switch(field_type: object) -> bool:
    return getattr(field_type, "__origin__", field_type) is bool
