"""Which secrets sign what has to be known again, whatever becomes of the signing key."""

from only_post_svc.settings import Settings
from shared.lasting_secrets import lasting_secrets
from tests.shared.engines import Engine
from tests.tokens import private_key

GIVEN = "a secret of thirty-two characters"


def secrets(engine: Engine, **environ: str) -> list[bytes]:
    """As a process that starts with these settings has them."""
    return engine.run(lambda database: lasting_secrets(database, Settings.from_env(environ)))


def test_secrets_that_are_given_are_all_there_are(engine: Engine) -> None:
    given = secrets(engine, SECRET_KEY=f"{GIVEN},{GIVEN[::-1]}", SIGNING_KEY=private_key())
    assert given == [GIVEN.encode(), GIVEN[::-1].encode()]


def test_without_any_all_processes_find_one_in_the_database(engine: Engine) -> None:
    public = '{"keys": []}'
    first, second = (secrets(engine, JWKS=public) for _ in range(2))
    assert first == second
    assert len(first) == 1 and len(first[0]) >= 32


def test_a_signing_key_that_is_replaced_takes_none_with_it(engine: Engine) -> None:
    old, new = (secrets(engine, SIGNING_KEY=private_key()) for _ in range(2))
    assert old[0] == new[0]
    assert old[1] != new[1]  # the keys' hashes, by which what was given out before is known again
