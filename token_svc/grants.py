"""What makes a session: registration, login by password, refresh; and changes of email and password."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from shared.auth import Claims
from shared.bodies import text_faults
from shared.database import Database, Transaction
from shared.errors import BadRequest, Conflict, Forbidden, Problem, Unavailable
from shared.schemas import Fault
from token_svc import accounts, attempts, emails, events, names, scopes, sessions
from token_svc.accounts import AccountRow
from token_svc.attempts import NO_LIMITS, LoginLimits
from token_svc.mail import outbox
from token_svc.models.accounts import REGISTER_REQUEST
from token_svc.passwords import Passwords, needs_renewal
from token_svc.sessions import Pair
from token_svc.settings import Settings
from token_svc.turns import Asker


class InvalidGrant(Problem):
    """Says nothing of the reason (RFC 6749 §5.2). Answered with 401 where the request was no OAuth form."""

    status = 400
    code = "invalid_grant"

    def __init__(self) -> None:
        super().__init__(detail="the username, the password or the token is not right")


@dataclass(frozen=True)
class Grants:
    database: Database
    passwords: Passwords
    settings: Settings
    secrets: Sequence[bytes] = field(repr=False)  # of which refresh tokens are derived, by the first

    def faults(self, sent: Mapping[str, Any], *own: str) -> list[Fault]:
        """What is wrong with the username, the email and the password that a request sends. The password must not be
        made of them, nor of `own`, those that the account has."""
        known = [name for name in (sent.get("username"), sent.get("email"), *own) if isinstance(name, str)]
        checks = {
            "username": names.username_fault,
            "email": emails.fault,
            "password": lambda password: self.passwords.fault(password, *known),
        }
        return text_faults(sent, checks)

    async def register(self, body: Mapping[str, Any], address: str, language: str = "") -> Pair:
        """A new account and its first session. Raises 403, 409, 422, 429."""
        if self.settings.registration == "closed":
            raise Forbidden("registration_closed", "this service takes no new users")
        wanted = REGISTER_REQUEST.parse(body, self.faults)
        asker = Asker(address, names.fold(wanted.username))
        await self.passwords.turns.admit(asker)
        await self._count_registration(address)
        await self.database.read(lambda tx: _check_free(tx, wanted.username, wanted.email))
        password_hash = await self.passwords.hash(wanted.password, asker)

        def unit(tx: Transaction) -> Pair:
            _check_free(tx, wanted.username, wanted.email)
            account = accounts.create(tx, wanted.username, wanted.email, password_hash, self.settings.default_scope)
            attempts.remember(tx, names.fold(account.username), address)
            events.record(tx, account.id, "registered", address)
            self._ask_for_proof(tx, account, language)
            return sessions.start(tx, account, account.scope)

        pair = await self.database.write(unit)
        self.database.publish(outbox.HINT)
        events.announce("registered", pair.account.id, address)
        return pair

    def _ask_for_proof(self, tx: Transaction, account: AccountRow, language: str) -> None:
        """A mail with a token that verifies the account's address."""
        if self.settings.mail_url:
            outbox.put(tx, outbox.VERIFY, account, account.email, language)

    async def _count_registration(self, address: str) -> None:
        if rate := self.settings.rate_limits.register:
            await self.database.write(lambda tx: attempts.take_registration(tx, rate, address))

    async def by_password(
        self, username: str, password: str, scope: str | None, address: str, language: str = ""
    ) -> Pair:
        """A new session. Raises InvalidGrant, after the same work for every reason, 403, 429 and 503."""
        asker = Asker(address, await self._named_by(username))
        await self.passwords.turns.admit(asker)
        account, limits = await self.database.write(lambda tx: self._begin(tx, username, address))
        async with self._uncounted(limits):
            is_right = await self.passwords.verify(password, account.password_hash if account else None, asker)
        if account is None or not is_right or account.is_disabled:
            await self._failed(account, limits, address)
            raise InvalidGrant
        if self.settings.require_verified_email and not account.email_verified:
            await self._refuse_unverified(account, limits, language)
        granted = await self._granted(account, scope, limits)
        async with self._uncounted(limits):
            renewed = await self.passwords.hash(password, asker) if needs_renewal(account.password_hash) else None

        def unit(tx: Transaction) -> Pair:
            current = _unchanged(tx, account)
            if renewed:
                accounts.renew_hash(tx, account, renewed)
            attempts.forgive(tx, limits)
            attempts.remember(tx, names.fold(account.username), address)
            events.record(tx, account.id, "login", address)
            return sessions.start(tx, current, granted)

        pair = await self.database.write(unit)
        events.announce("login", account.id, address)
        return pair

    async def _named_by(self, login: str) -> str:
        """The key of the account's name. A username is its own, which saves the read."""
        account = await self.database.read(lambda tx: accounts.by_login(tx, login)) if "@" in login else None
        return _key(account, login)

    async def _granted(self, account: AccountRow, scope: str | None, limits: LoginLimits) -> str:
        """The scope of the new session. Raises 400 `invalid_scope`, which is no failed login: the password was
        right."""
        try:
            return scopes.granted(account.scope, scope)
        except BadRequest:
            await self.database.write(lambda tx: attempts.forgive(tx, limits))
            raise

    async def _refuse_unverified(self, account: AccountRow, limits: LoginLimits, language: str) -> NoReturn:
        """Sends the mail again. The password was right, so it reveals nothing."""

        def unit(tx: Transaction) -> None:
            attempts.forgive(tx, limits)
            self._ask_for_proof(tx, account, language)

        await self.database.write(unit)
        self.database.publish(outbox.HINT)
        raise Forbidden("email_not_verified", "the address has to be verified first; see the mail that was sent to it")

    def _begin(self, tx: Transaction, username: str, address: str) -> tuple[AccountRow | None, LoginLimits]:
        """Counts the attempt. The account, if there is one, and what it was counted against."""
        rate = self.settings.rate_limits.login
        account = accounts.by_login(tx, username)
        limits = attempts.login_limits(tx, rate, _key(account, username), address) if rate else NO_LIMITS
        attempts.begin(tx, limits)
        return account, limits

    @contextlib.asynccontextmanager
    async def _uncounted(self, limits: LoginLimits) -> AsyncIterator[None]:
        """Takes the count back when the check is refused with a 503."""
        try:
            yield
        except Unavailable:
            await self.database.write(lambda tx: attempts.uncount(tx, limits))
            raise

    async def _failed(self, account: AccountRow | None, limits: LoginLimits, address: str) -> None:
        """Counts and records the failure, with the same work for a name that does not exist."""
        account_id = account.id if account else events.NO_ACCOUNT

        def unit(tx: Transaction) -> None:
            attempts.fail(tx, limits)
            is_there = accounts.by_id(tx, account_id) is not None  # it may have been deleted meanwhile
            events.record(tx, account_id if is_there else events.NO_ACCOUNT, "login_failed", address)

        await self.database.write(unit)
        events.announce("login_failed", account_id, address)

    async def confirm(self, account: AccountRow, password: str, address: str) -> None:
        """Asks for the password again before a change of the account. Raises 403, 429 and 503."""
        asker = Asker(address, names.fold(account.username))
        await self.passwords.turns.admit(asker)
        _, limits = await self.database.write(lambda tx: self._begin(tx, account.username, address))
        async with self._uncounted(limits):
            is_right = await self.passwords.verify(password, account.password_hash, asker)
        if not is_right:
            await self._failed(account, limits, address)
            raise Forbidden("wrong_password", "current_password is not right")
        await self.database.write(lambda tx: attempts.forgive(tx, limits))

    async def by_refresh_token(self, token: str, scope: str | None, address: str) -> Pair:
        """A new pair for the session. Raises InvalidGrant."""

        def unit(tx: Transaction) -> Pair | None:
            pair = sessions.rotate(tx, token, self.secrets)
            if pair is None:
                return None
            if not pair.refresh_token:
                events.record(tx, pair.account.id, "refresh_replayed", address)
                return pair
            # A narrower scope is the access token's alone: the session keeps its own (RFC 6749 §6).
            granted = scopes.granted(pair.session.scope, scope)
            return pair._replace(session=pair.session._replace(scope=granted))

        pair = await self.database.write(unit)
        if pair is None:
            raise InvalidGrant
        if not pair.refresh_token:
            events.announce("refresh_replayed", pair.account.id, address)
            raise InvalidGrant
        return pair

    async def change(
        self,
        account: AccountRow,
        claims: Claims,
        email: str | None,
        password: str | None,
        address: str,
        language: str = "",
    ) -> tuple[AccountRow, Pair | None]:
        """The account with a new email, a new password, or both. A new password ends all other sessions and all
        tokens issued before; this session gets a new pair. Raises 401, 409, 429."""
        if email is not None and account.email_verified and emails.cleaned(email) == account.email:
            email = None  # to set it anew would make it unverified
        if email is not None:
            await self._count_registration(address)  # the answer tells whether the address is taken
        asker = Asker(address, names.fold(account.username))
        password_hash = await self.passwords.hash(password, asker) if password is not None else None

        def unit(tx: Transaction) -> tuple[AccountRow, Pair | None]:
            current = sessions.hold(tx, claims)
            if email is not None:
                self._set_email(tx, current, email, address, language)
            if password_hash is not None:
                replace_password(tx, current, password_hash, keep=claims.sid)
                attempts.remember(tx, names.fold(current.username), address)
                events.record(tx, current.id, "password_changed", address)
            changed = accounts.by_id(tx, current.id) or current
            return changed, sessions.renew(tx, changed, claims.sid) if password_hash else None

        changed = await self.database.write(unit)
        self.database.publish(outbox.HINT)
        for kind, new in (("email_changed", email), ("password_changed", password)):
            if new is not None:
                events.announce(kind, account.id, address)
        return changed

    def _set_email(self, tx: Transaction, account: AccountRow, email: str, address: str, language: str) -> None:
        if emails.key(email) != emails.key(account.email):
            _check_free(tx, None, email)
        accounts.set_email(tx, account.id, email)
        self._ask_for_proof(tx, accounts.by_id(tx, account.id) or account, language)
        events.record(tx, account.id, "email_changed", address)


def replace_password(tx: Transaction, account: AccountRow, password_hash: str, keep: str = "") -> None:
    """Sets a password. Ends every session but `keep`; addresses known by the old password are strangers again."""
    accounts.set_password(tx, account.id, password_hash)
    sessions.end_others(tx, account.id, keep=keep)
    attempts.forget(tx, names.fold(account.username))


def _key(account: AccountRow | None, login: str) -> str:
    """What a login counts by: the email, in any spelling, as the username does."""
    if account:
        return names.fold(account.username)
    return emails.key(login) if "@" in login else names.fold(login)


def _unchanged(tx: Transaction, account: AccountRow) -> AccountRow:
    """The account, locked. Raises InvalidGrant where it was changed while its password was being checked."""
    accounts.lock(tx, account.id)
    current = accounts.by_id(tx, account.id)
    if current is None or current.is_disabled or current.version != account.version:
        raise InvalidGrant
    return current


def _check_free(tx: Transaction, username: str | None, email: str | None) -> None:
    if what := accounts.taken(tx, username, email):
        raise Conflict(f"{what}_taken", f"this {what} is taken")
