"""The life of a session against a model of it, on every engine, through histories that nobody thought of."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from shared import departures
from shared.auth import Claims
from shared.database import Transaction
from tests.histories import live_through
from tests.shared.engines import ENGINES
from tests.tokens import KEYS, claims_of
from tests.transactions import START, Timeline, opened
from token_svc import accounts, sessions
from token_svc.accounts import AccountRow
from token_svc.main import SCHEMA
from token_svc.sessions import GRACE_MS, REFRESH_MS, Session

MOST = 3  # sessions of one account
PAUSES_MS = st.sampled_from([0] * 10 + [1, GRACE_MS, GRACE_MS + 1, -1, REFRESH_MS - 1, REFRESH_MS])
NAMES = ("ada", "bob")
ACCOUNTS = f"SELECT {accounts.COLUMNS} FROM account"
SESSIONS = "SELECT id, account_id, scope, created_at, expires_at FROM session"
TOKENS = "SELECT digest, session_id, expires_at, used_at FROM refresh_token"


@dataclass
class Known:
    """What is known of a session."""

    session: Session
    created_at: int
    expires_at: int

    @property
    def times(self) -> tuple[int, int]:
        return self.created_at, self.expires_at


@dataclass
class Token:
    """What is known of a refresh token."""

    session_id: str
    expires_at: int
    used_at: int | None = None
    successor: str = ""

    def is_spent(self, now: int) -> bool:
        return self.used_at is not None and now - self.used_at > GRACE_MS


@dataclass(frozen=True)
class Grant:
    """What a client holds after a login or a refresh."""

    session_id: str
    refresh_token: str
    account_id: str
    version: int

    @property
    def claims(self) -> Claims:
        return claims_of(self.account_id, self.version, self.session_id)


@dataclass
class Model:
    accounts: dict[str, AccountRow] = field(default_factory=dict)
    sessions: dict[str, Known] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)

    def change(self, account_id: str, **values: Any) -> None:
        if account := self.accounts.get(account_id):
            self.accounts[account_id] = account._replace(version=account.version + 1, **values)

    def of(self, account_id: str) -> list[str]:
        return sorted(id for id, known in self.sessions.items() if known.session.account_id == account_id)

    def end(self, session_id: str) -> None:
        self.sessions.pop(session_id, None)
        for name in [name for name, token in self.tokens.items() if token.session_id == session_id]:
            del self.tokens[name]

    def find(self, name: str, now: int) -> Token | None:
        token = self.tokens.get(name)
        return token if token and token.expires_at > now and token.session_id in self.sessions else None


class LifeOfASession(RuleBasedStateMachine):
    grants = Bundle("grants")  # also those that are used, or whose session is over
    timeline: Timeline

    def __init__(self) -> None:
        super().__init__()
        self.timeline.now = START
        self.timeline.do(empty)
        self.model = Model()
        self.account_ids: dict[str, str] = {}

    @property
    def now(self) -> int:
        return self.timeline.now

    @initialize(target=grants)
    def two_register(self) -> Any:
        for name in NAMES:
            self._register(name)
        return multiple(*(self._log_in(name) for name in NAMES))

    def _register(self, name: str) -> None:
        account = self.timeline.do(partial(accounts.create, username=name, email=name, password_hash="hash"))
        self.account_ids[name] = account.id
        self.model.accounts[account.id] = account

    @rule(target=grants, name=st.sampled_from(NAMES))
    def log_in(self, name: str) -> Any:
        return self._log_in(name)

    def _log_in(self, name: str) -> Grant:
        account = self.model.accounts[self.account_ids[name]]
        _, session, token, _ = self.timeline.do(lambda tx: sessions.start(tx, account, account.scope))
        assert session == Session(session.id, account.id, account.scope)
        self.model.sessions[session.id] = Known(session, self.now, self.now + REFRESH_MS)
        self.model.tokens[token] = Token(session.id, self.now + REFRESH_MS)
        for oldest in self.model.of(account.id)[:-MOST]:
            self.model.end(oldest)
        return Grant(session.id, token, account.id, account.version)

    @rule(target=grants, name=st.sampled_from(NAMES), pauses=st.lists(PAUSES_MS, min_size=1, max_size=3))
    def log_in_and_refresh_again_and_again(self, name: str, pauses: list[int]) -> Any:
        grant = self._log_in(name)
        return multiple(grant, *filter(None, (self._refresh(grant, pause) for pause in pauses)))

    @rule(target=grants, grant=grants, pause=PAUSES_MS)
    def refresh(self, grant: Grant, pause: int) -> Any:
        return self._refresh(grant, pause) or multiple()

    def _refresh(self, grant: Grant, pause: int) -> Grant | None:
        self.timeline.now += pause
        token, account = self.model.find(grant.refresh_token, self.now), self.model.accounts.get(grant.account_id)
        rotation = self.timeline.do(lambda tx: sessions.rotate(tx, grant.refresh_token, KEYS))
        if token is None or account is None or account.is_disabled:
            assert rotation is None
            return None
        known = self.model.sessions[token.session_id]
        scope = " ".join(name for name in known.session.scope.split() if name in account.scope.split())
        assert rotation is not None
        assert rotation[:2] == (account, known.session._replace(scope=scope))
        if token.used_at is not None and not token.is_spent(self.now):
            assert rotation[2:] == (token.successor, token.used_at)
            return Grant(known.session.id, rotation.refresh_token, account.id, account.version)
        if token.is_spent(self.now):
            assert rotation.refresh_token == ""
            self.model.end(known.session.id)
            return None
        token.used_at, token.successor = self.now, rotation.refresh_token
        known.expires_at = self.now + REFRESH_MS
        self.model.tokens[rotation.refresh_token] = Token(known.session.id, self.now + REFRESH_MS)
        return Grant(known.session.id, rotation.refresh_token, account.id, account.version)

    @rule(grant=grants, pause=PAUSES_MS)
    def look_at_a_refresh_token(self, grant: Grant, pause: int) -> None:
        self.timeline.now += pause
        token = self.model.find(grant.refresh_token, self.now)
        session = token and self.model.sessions[token.session_id].session
        assert self.timeline.do(lambda tx: sessions.by_refresh_token(tx, grant.refresh_token)) == session
        usable = None if token is None or token.is_spent(self.now) else session
        found = self.timeline.do(lambda tx: sessions.by_refresh_token(tx, grant.refresh_token, is_usable=True))
        assert found == usable

    @rule(grant=grants, pause=PAUSES_MS)
    def use_an_access_token(self, grant: Grant, pause: int) -> None:
        self.timeline.now += pause
        account, known = self.model.accounts.get(grant.account_id), self.model.sessions.get(grant.session_id)
        works = account is not None and known is not None and known.expires_at > self.now
        works = works and account.version == grant.version and not account.is_disabled  # type: ignore[union-attr]
        assert self.timeline.do(lambda tx: sessions.holder(tx, grant.claims)) == (account if works else None)
        session = known.session if known and works else None
        assert self.timeline.do(lambda tx: sessions.by_claims(tx, grant.claims)) == session

    @rule(grant=grants)
    def log_out(self, grant: Grant) -> None:
        self.timeline.do(lambda tx: sessions.end(tx, grant.session_id))
        self.model.end(grant.session_id)

    @rule(grant=grants, keeps_this=st.booleans())
    def change_the_password(self, grant: Grant, keeps_this: bool) -> None:
        keep = grant.session_id if keeps_this else ""

        def unit(tx: Transaction) -> None:
            accounts.set_password(tx, grant.account_id, "new")
            sessions.end_others(tx, grant.account_id, keep)

        self.timeline.do(unit)
        self.model.change(grant.account_id, password_hash="new")
        for session_id in self.model.of(grant.account_id):
            if session_id != keep:
                self.model.end(session_id)

    @rule(name=st.sampled_from(NAMES), is_disabled=st.sampled_from([False, False, True]))
    def disable_or_enable(self, name: str, is_disabled: bool) -> None:
        self.timeline.do(partial(accounts.set_disabled, account_id=self.account_ids[name], is_disabled=is_disabled))
        self.model.change(self.account_ids[name], is_disabled=int(is_disabled))

    @rule(name=st.sampled_from(NAMES), scopes=st.lists(st.sampled_from(["data", "tasks"]), unique=True))
    def grant_scopes(self, name: str, scopes: list[str]) -> None:
        self.timeline.do(partial(accounts.set_scopes, account_id=self.account_ids[name], scopes=scopes))
        self.model.change(self.account_ids[name], scope=" ".join(scopes))

    @rule(name=st.sampled_from(NAMES))
    def delete_the_account_and_register_again(self, name: str) -> None:
        account_id = self.account_ids[name]
        self.timeline.do(lambda tx: accounts.delete(tx, account_id))
        while self.timeline.do(lambda tx: departures.sweep(tx, accounts.SERVICE, accounts.forget)):
            pass
        del self.model.accounts[account_id]
        for session_id in self.model.of(account_id):
            self.model.end(session_id)
        self._register(name)

    @rule()
    def prune(self) -> None:
        self.timeline.do(sessions.prune)
        sessions_left = {id: known for id, known in self.model.sessions.items() if known.expires_at > self.now}
        tokens_left = {name: token for name, token in self.model.tokens.items() if token.expires_at > self.now}
        self.model.sessions, self.model.tokens = sessions_left, tokens_left

    @invariant()
    def everything_is_as_it_should_be(self) -> None:
        found = self.timeline.do(lambda tx: [tx.all(sql) for sql in (ACCOUNTS, SESSIONS, TOKENS)])
        assert sorted(found[0]) == sorted(map(tuple, self.model.accounts.values()))
        assert sorted(found[1]) == sorted((*known.session, *known.times) for known in self.model.sessions.values())
        assert sorted(found[2]) == sorted(map(token_row, self.model.tokens.items()))

    @invariant()
    def nobody_has_more_sessions_than_they_may(self) -> None:
        assert all(len(self.model.of(account_id)) <= MOST for account_id in self.account_ids.values())


def token_row(named: tuple[str, Token]) -> tuple[Any, ...]:
    name, token = named
    return hashlib.sha256(name.encode()).hexdigest(), token.session_id, token.expires_at, token.used_at


def empty(tx: Transaction) -> None:
    for table in ("account", "session", "refresh_token"):
        tx.run(f"DELETE FROM {table}")


@pytest.fixture(params=ENGINES)
def timeline(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Timeline]:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", MOST)
    monkeypatch.setattr(sessions, "SURPLUS_EVERY", 1)
    with opened(Timeline, request.param, tmp_path, {"token": SCHEMA}) as timeline:
        yield timeline


def test_whatever_happens_to_a_session_is_what_the_model_says(timeline: Timeline) -> None:
    LifeOfASession.timeline = timeline
    live_through(LifeOfASession)
