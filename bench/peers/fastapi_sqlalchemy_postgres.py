"""FastAPI + SQLAlchemy + asyncpg over the tables that ours has on PostgreSQL.

What `fastapi_sqlalchemy.py` says of care holds here, too; the engine's pool is of the usual size,
and two writes of one profile wait for its row.
"""

import time
import uuid
from typing import Annotated, Any, Final, cast

import msgspec
from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import BigInteger, Integer, SmallInteger, bindparam, delete, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from bench.peers.fastapi_sqlalchemy import (
    PATH,
    AppId,
    CustomerId,
    IdentifiersIn,
    IdentifiersOut,
    ProfileId,
    reader,
)
from bench.peers.serving import serve
from knownas.model import KINDS

POOL: Final = 10


class Base(DeclarativeBase):
    """What is mapped."""


class Profile(Base):
    """A profile with its identifiers, by position of the kind, as JSON text."""

    __tablename__ = "profiles"

    app_id: Mapped[int] = mapped_column(Integer, primary_key=True)
    profile_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    identifiers: Mapped[str]
    updated_at: Mapped[int] = mapped_column(BigInteger)


class Customer(Base):
    """Which profile a customer has."""

    __tablename__ = "customers"

    app_id: Mapped[int] = mapped_column(Integer, primary_key=True)
    customer_user_id: Mapped[str] = mapped_column(primary_key=True)
    profile_id: Mapped[uuid.UUID]


class Identifier(Base):
    """The reverse index."""

    __tablename__ = "identifiers"

    app_id: Mapped[int] = mapped_column(Integer, primary_key=True)
    kind: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    value: Mapped[str] = mapped_column(primary_key=True)
    profile_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)


DELETE_IDENTIFIER: Final = delete(Identifier).where(
    Identifier.app_id == bindparam("app_"),
    Identifier.kind == bindparam("kind_"),
    Identifier.value == bindparam("value_"),
    Identifier.profile_id == bindparam("profile_"),
)


async def find(
    session: AsyncSession,
    app_id: int,
    customer: str | None,
    profile_id: bytes | None,
    *,
    lock: bool = False,
) -> Profile:
    """Return the profile that a request is about."""
    if customer is None and profile_id is None:
        raise HTTPException(400, "Send adapty-customer-user-id or adapty-profile-id.")
    query = select(Profile).where(Profile.app_id == app_id)
    if customer is not None:
        query = query.join(Customer, Customer.profile_id == Profile.profile_id).where(
            Customer.app_id == app_id, Customer.customer_user_id == customer
        )
    if profile_id is not None:
        query = query.where(Profile.profile_id == uuid.UUID(bytes=profile_id))
    if lock:
        query = query.with_for_update(of=Profile)
    found = (await session.scalars(query)).one_or_none()
    if found is None:
        raise HTTPException(404, "Profile not found")
    return found


async def get_identifiers(
    app_id: AppId,
    customer: CustomerId,
    profile_id: ProfileId,
    session: Annotated[AsyncSession, Depends(reader)],
) -> BaseModel:
    """Answer all identifiers of a profile."""
    profile = await find(session, app_id, customer, profile_id)
    values = zip(KINDS, msgspec.json.decode(profile.identifiers), strict=False)
    return IdentifiersOut(**{kind.name: value for kind, value in values})


async def set_identifiers(
    app_id: AppId,
    customer: CustomerId,
    profile_id: ProfileId,
    body: IdentifiersIn,  # type: ignore[valid-type] # the model is made of data
    session: Annotated[AsyncSession, Depends(reader)],
) -> None:
    """Merge the identifiers of the body into a profile's.

    In the session that has read the key: a second one would take a second connection of the pool,
    and when all requests have one and wait for another, none goes on.
    """
    given: dict[str, str] = cast("BaseModel", body).model_dump(exclude_none=True)
    if not given:
        raise HTTPException(400, "At least one integration identifier must be provided.")
    profile = await find(session, app_id, customer, profile_id, lock=True)
    before: list[str | None] = msgspec.json.decode(profile.identifiers)
    before += [None] * (len(KINDS) - len(before))
    after = [given.get(kind.name, old) for kind, old in zip(KINDS, before, strict=True)]
    changed = [
        (kind, old, new)
        for kind, (old, new) in enumerate(zip(before, after, strict=True))
        if old != new
    ]
    if not changed:
        return
    gone: list[dict[str, Any]] = [
        {"app_": app_id, "kind_": kind, "value_": old, "profile_": profile.profile_id}
        for kind, old, _ in changed
        if old is not None
    ]
    if gone:
        connection = await session.connection()
        await connection.execute(DELETE_IDENTIFIER, gone)
    session.add_all(
        Identifier(app_id=app_id, kind=kind, value=new, profile_id=profile.profile_id)
        for kind, _, new in changed
    )
    profile.identifiers = msgspec.json.encode(after).decode()
    profile.updated_at = time.time_ns() // 1_000_000
    await session.commit()


def create_app(url: str) -> FastAPI:
    """Return the application over a PostgreSQL database of ours."""
    app = FastAPI()
    engine = create_async_engine(
        url.replace("postgresql://", "postgresql+asyncpg://"), pool_size=POOL, max_overflow=0
    )
    app.state.readers = async_sessionmaker(engine, expire_on_commit=False)
    app.get(PATH, response_model=IdentifiersOut)(get_identifiers)
    app.post(PATH)(set_identifiers)
    return app


if __name__ == "__main__":
    serve(create_app)
