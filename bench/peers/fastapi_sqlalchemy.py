"""FastAPI + SQLAlchemy + aiosqlite: what most people would write, written with care.

A session for each request, the key and the profile as dependencies, a model for the body that
comes and for the one that goes, mapped classes over the same tables. With care: one query finds a
customer's profile, nothing is loaded twice or lazily, statements are cached, writers queue for one
connection instead of colliding on the database's lock, and a commit is durable (synchronous=FULL).
"""

import hashlib
import re
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final, cast

import msgspec
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from pydantic import BaseModel, StringConstraints, create_model
from sqlalchemy import JSON, bindparam, delete, event, select
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from bench.peers.serving import serve
from knownas.model import KINDS

PATH: Final = "/api/v2/server-side-api/integration/profile/set/integration-identifiers/"
UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
MAX_LENGTH: Final = 255
PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA mmap_size = 0x1000000000000",
    "PRAGMA busy_timeout = 5000",
)


# --- The tables ---------------------------------------------------------------------------------


class Base(DeclarativeBase):
    """What is mapped."""


class ApiKey(Base):
    """A key, by its digest."""

    __tablename__ = "api_keys"

    digest: Mapped[bytes] = mapped_column(primary_key=True)
    app_id: Mapped[int]
    type: Mapped[str]
    expires_at: Mapped[int | None]
    ended_at: Mapped[int | None]


class Profile(Base):
    """A profile with its identifiers, by position of the kind."""

    __tablename__ = "profiles"

    number: Mapped[int] = mapped_column(primary_key=True)
    app_id: Mapped[int]
    profile_id: Mapped[bytes]
    identifiers: Mapped[list[str | None]] = mapped_column(JSON)
    updated_at: Mapped[int]


class Customer(Base):
    """Which profile a customer has."""

    __tablename__ = "customers"

    app_id: Mapped[int] = mapped_column(primary_key=True)
    customer_user_id: Mapped[str] = mapped_column(primary_key=True)
    profile: Mapped[int]


class Identifier(Base):
    """The reverse index."""

    __tablename__ = "identifiers"

    app_id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[str] = mapped_column(primary_key=True)
    profile: Mapped[int] = mapped_column(primary_key=True)


DELETE_IDENTIFIER: Final = delete(Identifier).where(
    Identifier.app_id == bindparam("app_"),
    Identifier.kind == bindparam("kind_"),
    Identifier.value == bindparam("value_"),
    Identifier.profile == bindparam("profile_"),
)


def make_engine(database: str, begin: str, **options: Any) -> AsyncEngine:  # noqa: ANN401 - SQLAlchemy's own
    """Return an engine over the file, whose transactions start by the statement `begin`."""
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{database}",
        json_serializer=lambda value: msgspec.json.encode(value).decode(),
        json_deserializer=msgspec.json.decode,
        **options,
    )

    @event.listens_for(engine.sync_engine, "connect")
    def set_up(connection: Any, _record: object) -> None:  # noqa: ANN401 - as above
        connection.isolation_level = None  # the driver's own transactions would begin too late
        for pragma in PRAGMAS:
            connection.execute(pragma)

    @event.listens_for(engine.sync_engine, "begin")
    def begin_transaction(connection: Any) -> None:  # noqa: ANN401 - as above
        connection.exec_driver_sql(begin)

    return engine


# --- The bodies ---------------------------------------------------------------------------------

Value = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_LENGTH)
]
IdentifiersIn: type[BaseModel] = create_model(
    "IdentifiersIn", **cast("Any", {kind.name: (Value | None, None) for kind in KINDS})
)
IdentifiersOut: type[BaseModel] = create_model(
    "IdentifiersOut", **cast("Any", {kind.name: (str | None, None) for kind in KINDS})
)


# --- Who is asking, and for whom ----------------------------------------------------------------


async def reader(request: Request) -> AsyncIterator[AsyncSession]:
    """Give a session to read with."""
    async with request.app.state.readers() as session:
        yield session


async def app_of_key(
    session: Annotated[AsyncSession, Depends(reader)],
    authorization: Annotated[str | None, Header()] = None,
) -> int:
    """Return the app that the key opens."""
    scheme, _, text = (authorization or "").partition(" ")
    key = None
    if scheme.lower() == "api-key" and text:
        key = await session.get(ApiKey, hashlib.sha256(text.strip().encode()).digest())
    if key is None or key.type != "secret" or key.ended_at is not None:
        raise HTTPException(401, "Invalid API key")
    if key.expires_at is not None and key.expires_at <= time.time_ns() // 1_000_000:
        raise HTTPException(401, "Invalid API key")
    return key.app_id


def customer_of(adapty_customer_user_id: Annotated[str | None, Header()] = None) -> str | None:
    """Return the customer that the headers name."""
    if not adapty_customer_user_id:
        return None
    try:
        text = adapty_customer_user_id.encode("latin-1").decode()
    except UnicodeDecodeError:
        raise HTTPException(400, "Must be UTF-8.") from None
    if len(text) > MAX_LENGTH or CONTROL.search(text):
        raise HTTPException(400, "Must be at most 255 characters, without control characters.")
    return text


def profile_of(adapty_profile_id: Annotated[str | None, Header()] = None) -> bytes | None:
    """Return the profile id that the headers name."""
    if not adapty_profile_id:
        return None
    if not UUID.fullmatch(adapty_profile_id):
        raise HTTPException(400, "Must be a UUID.")
    return bytes.fromhex(adapty_profile_id.replace("-", ""))


AppId = Annotated[int, Depends(app_of_key)]
CustomerId = Annotated[str | None, Depends(customer_of)]
ProfileId = Annotated[bytes | None, Depends(profile_of)]


async def find(
    session: AsyncSession, app_id: int, customer: str | None, profile_id: bytes | None
) -> Profile:
    """Return the profile that a request is about."""
    if customer is None and profile_id is None:
        raise HTTPException(400, "Send adapty-customer-user-id or adapty-profile-id.")
    query = select(Profile).where(Profile.app_id == app_id)
    if customer is not None:
        query = query.join(Customer, Customer.profile == Profile.number).where(
            Customer.app_id == app_id, Customer.customer_user_id == customer
        )
    if profile_id is not None:
        query = query.where(Profile.profile_id == profile_id)
    found = (await session.scalars(query)).one_or_none()
    if found is None:
        raise HTTPException(404, "Profile not found")
    return found


# --- The application ----------------------------------------------------------------------------


async def get_identifiers(
    app_id: AppId,
    customer: CustomerId,
    profile_id: ProfileId,
    session: Annotated[AsyncSession, Depends(reader)],
) -> BaseModel:
    """Answer all identifiers of a profile."""
    profile = await find(session, app_id, customer, profile_id)
    values = zip(KINDS, profile.identifiers, strict=False)  # unset ones at the end are not stored
    return IdentifiersOut(**{kind.name: value for kind, value in values})


async def set_identifiers(
    request: Request,
    app_id: AppId,
    customer: CustomerId,
    profile_id: ProfileId,
    body: IdentifiersIn,  # type: ignore[valid-type] # the model is made of data
) -> None:
    """Merge the identifiers of the body into a profile's."""
    given: dict[str, str] = cast("BaseModel", body).model_dump(exclude_none=True)
    if not given:
        raise HTTPException(400, "At least one integration identifier must be provided.")
    async with request.app.state.writers.begin() as session:
        profile = await find(session, app_id, customer, profile_id)
        before = [*profile.identifiers, *[None] * (len(KINDS) - len(profile.identifiers))]
        after = [given.get(kind.name, old) for kind, old in zip(KINDS, before, strict=True)]
        if after == before:
            return
        changed = [
            (kind, old, new)
            for kind, (old, new) in enumerate(zip(before, after, strict=True))
            if old != new
        ]
        gone = [
            {"app_": app_id, "kind_": kind, "value_": old, "profile_": profile.number}
            for kind, old, _ in changed
            if old is not None
        ]
        if gone:
            connection = await session.connection()
            await connection.execute(DELETE_IDENTIFIER, gone)
        session.add_all(
            Identifier(app_id=app_id, kind=kind, value=new, profile=profile.number)
            for kind, _, new in changed
        )
        profile.identifiers = after
        profile.updated_at = time.time_ns() // 1_000_000


def create_app(database: str) -> FastAPI:
    """Return the application over a database file of ours."""
    app = FastAPI()
    reading = make_engine(database, "BEGIN")
    writing = make_engine(database, "BEGIN IMMEDIATE", pool_size=1, max_overflow=0)
    app.state.readers = async_sessionmaker(reading, expire_on_commit=False)
    app.state.writers = async_sessionmaker(writing, expire_on_commit=False)
    app.get(PATH, response_model=IdentifiersOut)(get_identifiers)
    app.post(PATH)(set_identifiers)
    return app


if __name__ == "__main__":
    serve(create_app)
