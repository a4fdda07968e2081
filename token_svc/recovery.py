"""What the tokens of mails are for: a new password, or the verification of an address."""

from dataclasses import dataclass

from shared.database import Database, Transaction
from shared.errors import BadRequest, Forbidden, Invalid
from shared.schemas import Fault
from token_svc import accounts, attempts, events, names, sessions
from token_svc.accounts import AccountRow
from token_svc.grants import replace_password
from token_svc.mail import outbox, tokens
from token_svc.passwords import Passwords
from token_svc.sessions import Pair
from token_svc.settings import Settings
from token_svc.turns import Asker


class BadMailToken(BadRequest):
    """Says nothing of the reason."""

    code = "invalid_token"

    def __init__(self) -> None:
        super().__init__(detail="the token was used, is too old, or is none")


@dataclass(frozen=True)
class Recovery:
    database: Database
    passwords: Passwords
    settings: Settings

    async def forgot(self, email: str, language: str, address: str) -> None:
        """A mail to the address if a user has it, and the same work if not. Raises 403 and 429."""
        self._need_mail()

        def unit(tx: Transaction) -> None:
            if rate := self.settings.rate_limits.register:
                attempts.take_recovery(tx, rate, address)
            outbox.put(tx, outbox.RESET, accounts.by_email(tx, email), email, language)

        await self.database.write(unit)
        self.database.publish(outbox.HINT)

    async def reset(self, token: str, password: str, address: str) -> Pair:
        """Sets a password, ends all sessions and begins a new one. Raises 400, 403 and 422."""
        self._need_mail()
        found = await self.database.read(lambda tx: tokens.holder(tx, outbox.RESET, token))
        if found is None:
            raise BadMailToken
        if said := self.passwords.fault(password, found.username, found.email):
            raise Invalid([Fault("/password", said)])
        password_hash = await self.passwords.hash(password, Asker(address, names.fold(found.username)))

        def unit(tx: Transaction) -> Pair:
            account = tokens.use(tx, outbox.RESET, token)
            if account is None:
                raise BadMailToken
            replace_password(tx, account, password_hash)
            accounts.set_email_verified(tx, account.id)  # the token was sent to that address
            attempts.remember(tx, names.fold(account.username), address)
            events.record(tx, account.id, "password_reset", address)
            current = accounts.by_id(tx, account.id) or account
            return sessions.start(tx, current, current.scope)

        pair = await self.database.write(unit)
        events.announce("password_reset", pair.account.id, address)
        return pair

    async def verify(self, token: str, address: str) -> AccountRow:
        """The account, whose address is verified now. Raises 400 and 403."""
        self._need_mail()

        def unit(tx: Transaction) -> AccountRow:
            account = tokens.use(tx, outbox.VERIFY, token)
            if account is None:
                raise BadMailToken
            accounts.set_email_verified(tx, account.id)
            events.record(tx, account.id, "email_verified", address)
            return account._replace(email_verified=1)

        account = await self.database.write(unit)
        events.announce("email_verified", account.id, address)
        return account

    def _need_mail(self) -> None:
        if self.settings.mail_url is None:
            raise Forbidden("mail_not_configured", "this service sends no mail")
