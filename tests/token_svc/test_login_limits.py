"""Guessing passwords: how often, from where, and what it does to the owner."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from shared.addresses import wider_networks
from shared.errors import TooManyRequests
from tests.databases import ON_A_FILE, rows, shared_by_tests
from tests.processes import TokenService
from tests.token_svc.answers import oauth_error, problem
from tests.token_svc.tables import Tables
from tests.token_svc.users import User, form_of, fresh_name, refresh
from token_svc import attempts
from token_svc.attempts import ACCOUNT_FAILURES, KNOWN_SECONDS, MAX_DELAY_SECONDS, LoginLimits

WRONG = "not the right one"
RATE = (3, 60)
HOME, ELSEWHERE = "192.0.2.1", "198.51.100.1"


def limits(tables: Tables, address: str = HOME, name: str = "ada") -> LoginLimits:
    return attempts.login_limits(tables, RATE, name, address)


def waits(tables: Tables, counted: LoginLimits) -> int:
    """The seconds that a wrong login has to wait, 0 for one that goes through (and is counted)."""
    try:
        attempts.begin(tables, counted)
    except TooManyRequests as refused:
        return int(refused.headers["Retry-After"])
    attempts.fail(tables, counted)
    return 0


def test_as_many_failures_as_allowed_are_free(tables: Tables) -> None:
    assert [waits(tables, limits(tables)) for _ in range(4)] == [0, 0, 0, 20]


def test_every_further_failure_doubles_the_wait_up_to_a_bound(tables: Tables) -> None:
    for _ in range(3):
        waits(tables, limits(tables))
    found = []
    for _ in range(8):
        found.append(waits(tables, limits(tables)))
        tables.clock += found[-1] * 1000
        assert waits(tables, limits(tables)) == 0
    assert found == [20, 40, 80, 160, 320, 640, 900, 900]
    assert MAX_DELAY_SECONDS == 900


def test_a_wait_ends_to_the_millisecond(tables: Tables) -> None:
    for _ in range(3):
        waits(tables, limits(tables))
    tables.clock += 20_000 - 1
    assert waits(tables, limits(tables)) == 1
    tables.clock += 1
    assert waits(tables, limits(tables)) == 0


def test_an_attempt_that_has_to_wait_counts_nowhere(tables: Tables) -> None:
    for _ in range(3):
        waits(tables, limits(tables))
    before = tables.all("SELECT key, failures, last_at FROM attempt ORDER BY key")
    assert [waits(tables, limits(tables)) for _ in range(50)] == [20] * 50
    assert tables.all("SELECT key, failures, last_at FROM attempt ORDER BY key") == before


def test_no_count_is_for_ever(tables: Tables) -> None:
    for _ in range(20):
        tables.clock += waits(tables, limits(tables)) * 1000
    tables.clock += 2 * MAX_DELAY_SECONDS * 1000
    assert [waits(tables, limits(tables)) for _ in range(4)] == [0, 0, 0, 20]


def test_a_good_login_takes_its_failures_back(tables: Tables) -> None:
    for _ in range(10):
        counted = limits(tables)
        attempts.begin(tables, counted)
        attempts.forgive(tables, counted)
    assert [waits(tables, limits(tables)) for _ in range(4)] == [0, 0, 0, 20]


def test_a_good_login_takes_back_nothing_that_its_address_did_to_others(tables: Tables) -> None:
    for n in range(3):
        counted = limits(tables)
        attempts.begin(tables, counted)
        attempts.forgive(tables, counted)
        assert waits(tables, limits(tables, name=f"user{n}")) == 0
    assert waits(tables, limits(tables)) == 20


def test_a_login_counts_from_its_start_for_the_account_and_once_it_failed_for_the_address(tables: Tables) -> None:
    for n in range(20):  # under way, all at once
        attempts.begin(tables, limits(tables, name=f"user{n}"))
    for _ in range(3):
        attempts.begin(tables, limits(tables))
    with pytest.raises(TooManyRequests):
        attempts.begin(tables, limits(tables))


def registers(tables: Tables, address: str = HOME) -> int:
    """The seconds that a registration has to wait, 0 for one that goes through."""
    try:
        attempts.take_registration(tables, (5, 60), address)
    except TooManyRequests as refused:
        return int(refused.headers["Retry-After"])
    return 0


def test_five_registrations_a_minute_and_a_minute_later_five_again(tables: Tables) -> None:
    for _ in range(3):
        assert [registers(tables) for _ in range(5)] == [0] * 5
        assert registers(tables) == 60
        tables.clock += 60_000 - 1
        assert registers(tables) == 1
        tables.clock += 1


def test_the_minute_of_registrations_starts_with_the_first(tables: Tables) -> None:
    found = []
    for _ in range(6):
        found.append(registers(tables))
        tables.clock += 10_000
    assert found == [0, 0, 0, 0, 0, 10]
    assert registers(tables) == 0


def test_registrations_of_another_address_are_not_counted_with_these(tables: Tables) -> None:
    assert [registers(tables) for _ in range(6)][-1] == 60
    assert registers(tables, ELSEWHERE) == 0


def test_pruning_deletes_the_counts_that_are_over_and_no_others(tables: Tables) -> None:
    registers(tables)
    tables.clock += 60_000 - 1
    waits(tables, limits(tables))
    assert attempts.prune(tables) == 0
    tables.clock += 1
    assert attempts.prune(tables) == 1
    assert [waits(tables, limits(tables)) for _ in range(3)] == [0, 0, 20]


def test_one_address_guesses_no_more_at_many_names_than_at_one(tables: Tables) -> None:
    assert [waits(tables, limits(tables, name=f"user{n}")) for n in range(4)] == [0, 0, 0, 20]


def test_many_addresses_guess_no_more_than_an_accounts_own_limit(tables: Tables) -> None:
    found = [waits(tables, limits(tables, f"198.{n}.100.1")) for n in range(ACCOUNT_FAILURES + 1)]
    assert found[:-1] == [0] * ACCOUNT_FAILURES
    assert found[-1] > 0
    assert ACCOUNT_FAILURES < 100  # NIST SP 800-63B-4 §3.2.2


def test_strangers_do_not_lock_the_owner_out_where_they_have_logged_in_before(tables: Tables) -> None:
    attempts.remember(tables, "ada", HOME)
    for n in range(ACCOUNT_FAILURES):
        waits(tables, limits(tables, f"198.{n}.100.1"))
    assert waits(tables, limits(tables, "203.0.113.1")) > 0
    assert waits(tables, limits(tables, HOME)) == 0
    tables.clock += KNOWN_SECONDS * 1000
    assert not attempts.is_known(tables, "ada", HOME)


def test_a_known_address_still_guesses_no_more_than_allowed(tables: Tables) -> None:
    attempts.remember(tables, "ada", HOME)
    assert [waits(tables, limits(tables)) for _ in range(4)] == [0, 0, 0, 20]


def test_what_is_known_of_a_name_is_forgotten_with_it_and_of_no_other(tables: Tables) -> None:
    for name in ("a_a", "aba", "x.a_a"):
        attempts.remember(tables, name, HOME)
        waits(tables, limits(tables, name=name))
    attempts.forget(tables, "a_a")
    left = {key.rpartition(" ")[2] for (key,) in tables.all("SELECT key FROM attempt")}
    assert left == {HOME, "aba", "x.a_a"}


def test_forgetting_a_name_that_looks_like_an_address_forgives_the_address_nothing(tables: Tables) -> None:
    for _ in range(3):
        waits(tables, limits(tables, name=HOME))
    attempts.forget(tables, HOME)
    assert waits(tables, limits(tables, name="bob")) == 20


def guess(service: TokenService, username: str, **headers: str) -> requests.Response:
    return service.post("/token", {"username": username, "password": WRONG}, headers=headers)


def statuses(service: TokenService, username: str, times: int, **headers: str) -> list[int]:
    return [guess(service, username, **headers).status_code for _ in range(times)]


@pytest.fixture(scope="module")
def limited(storage: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenService]:
    limits = "login=3/minute,register=1000/minute"
    with shared_by_tests(TokenService, storage, tmp_path_factory.mktemp("limited"), RATE_LIMITS=limits) as service:
        yield service


@pytest.fixture(scope="module")
def beside(limited: TokenService) -> Iterator[TokenService]:
    """Another process on its database."""
    service = TokenService(limited.log.parent, limited.env)
    yield service
    service.kill()


@pytest.fixture
def strict(limited: TokenService) -> TokenService:
    """One where nothing was tried yet."""
    rows(limited, "DELETE FROM attempt")
    return limited


def test_too_many_failures_are_a_429_with_retry_after(strict: TokenService) -> None:
    user = User(strict)
    assert statuses(strict, user.username, 3) == [401] * 3
    refused = guess(strict, user.username)
    oauth_error(refused, 429, "temporarily_unavailable", "rate_limited")
    assert 15 <= int(refused.headers["Retry-After"]) <= 20
    assert user.login().status_code == 429


def test_a_name_that_nobody_has_is_limited_just_the_same(strict: TokenService) -> None:
    assert statuses(strict, fresh_name(), 4) == [401, 401, 401, 429]


def test_sessions_go_on_while_a_login_has_to_wait(strict: TokenService) -> None:
    user = User(strict)
    assert statuses(strict, user.username, 4)[-1] == 429
    assert user.get("/me").status_code == 200
    assert refresh(strict, user.refresh_token).status_code == 200


def test_current_password_can_not_be_guessed_more_often_either(strict: TokenService) -> None:
    user = User(strict)
    found = [user.patch("/me", json={"current_password": WRONG}) for _ in range(4)]
    assert [answer.status_code for answer in found] == [403, 403, 403, 429]
    assert int(found[-1].headers["Retry-After"]) > 0
    problem(user.delete("/me", json={"current_password": WRONG}), 429, "rate_limited")


def test_good_logins_are_not_limited(strict: TokenService) -> None:
    user = User(strict)
    assert [user.login().status_code for _ in range(6)] == [200] * 6


def test_many_good_logins_at_once_from_one_address_are_no_failures(strict: TokenService) -> None:
    users = [User(strict) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert Counter(pool.map(lambda user: user.login().status_code, users)) == {200: 8}


def test_a_right_password_with_a_scope_that_is_not_allowed_is_no_failure(strict: TokenService) -> None:
    user = User(strict)
    assert [user.login(scope="introspect").status_code for _ in range(8)] == [400] * 8
    assert statuses(strict, user.username, 4) == [401, 401, 401, 429]


def test_registrations_of_one_address_are_limited(start_tokens: Callable[..., TokenService]) -> None:
    service = start_tokens(RATE_LIMITS="register=2/minute")
    found = [service.post("/register", form_of()) for _ in range(3)]
    assert [answer.status_code for answer in found] == [201, 201, 429]
    assert int(found[-1].headers["Retry-After"]) > 0


def test_a_new_email_counts_as_a_registration_since_it_tells_who_is_registered(
    start_tokens: Callable[..., TokenService],
) -> None:
    user = User(start_tokens(RATE_LIMITS="register=3/minute"))
    changes = [{"current_password": user.password, "email": form_of()["email"]} for _ in range(3)]
    found = [user.patch("/me", json=change) for change in changes]
    assert [answer.status_code for answer in found] == [200, 200, 429]
    assert user.get("/me").json()["email"] == changes[1]["email"]
    assert user.service.post("/register", form_of()).status_code == 429


def test_bad_tokens_count_against_the_limit_of_their_address(start_tokens: Callable[..., TokenService]) -> None:
    user = User(start_tokens(RATE_LIMITS="other=6/hour"))  # of which the start's /health and registering took one each
    bad = {"Authorization": "Bearer x"}
    found = [user.service.get("/data", headers=bad).status_code for _ in range(4)]
    found.append(user.service.get("/me").status_code)
    assert found == [401, 401, 401, 401, 429]
    assert user.get("/me").status_code == 200  # a good one counts for its user


def test_counts_hold_across_the_processes_of_one_database(strict: TokenService, beside: TokenService) -> None:
    both = (strict, beside)
    name = fresh_name()
    assert [guess(both[n % 2], name).status_code for n in range(5)] == [401, 401, 401, 429, 429]


def test_of_simultaneous_attempts_exactly_the_allowed_number_gets_through(
    strict: TokenService, beside: TokenService
) -> None:
    both = (strict, beside)
    name = fresh_name()
    with ThreadPoolExecutor(12) as pool:
        found = Counter(pool.map(lambda n: guess(both[n % 2], name).status_code, range(12)))
    assert found == {401: 3, 429: 9}


def addresses(user: User) -> list[Any]:
    return [event["address"] for event in user.get("/me/export").json()["events"]]


def seen_as(user: User, forwarded: str) -> str:
    """The address that a login with this header is put down to."""
    body = {"username": user.username, "password": user.password}
    answer = user.service.post("/token", body, headers={"X-Forwarded-For": forwarded})
    assert answer.status_code == 200
    return str(addresses(user)[-1])


@ON_A_FILE
def test_a_forwarded_address_is_not_believed_from_who_is_no_proxy(start_tokens: Callable[..., TokenService]) -> None:
    service = start_tokens(FORWARDED_ALLOW_IPS="10.0.0.0/8", RATE_LIMITS="login=3/minute")
    user = User(service)
    assert seen_as(user, "203.0.113.9") == "127.0.0.1"
    found = [statuses(service, user.username, 1, **{"X-Forwarded-For": f"203.0.113.{n}"})[0] for n in range(4)]
    assert found == [401, 401, 401, 429]


FORWARDED = {
    "one": ("203.0.113.9", "203.0.113.9"),
    "a spoofed one in front": ("6.6.6.6, 203.0.113.9", "203.0.113.9"),
    "through two proxies": ("6.6.6.6, 203.0.113.9, 10.1.2.3", "203.0.113.9"),
    "IPv6 by its /64": ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
    "another of the same /64": ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
    "another /64": ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
    "IPv4 in IPv6": ("::ffff:203.0.113.9", "203.0.113.9"),
}


@ON_A_FILE
def test_a_proxys_word_is_taken_for_the_rightmost_address_that_is_no_proxy(
    start_tokens: Callable[..., TokenService],
) -> None:
    user = User(start_tokens(FORWARDED_ALLOW_IPS="127.0.0.1,10.0.0.0/8"))
    found = {name: seen_as(user, header) for name, (header, _) in FORWARDED.items()}
    assert found == {name: address for name, (_, address) in FORWARDED.items()}


@ON_A_FILE
def test_a_spoofed_address_in_front_gives_no_more_guesses(start_tokens: Callable[..., TokenService]) -> None:
    service = start_tokens(FORWARDED_ALLOW_IPS="127.0.0.1", RATE_LIMITS="login=3/minute")
    forwarded = [{"X-Forwarded-For": f"203.0.113.{n}, 192.0.2.7"} for n in range(4)]
    found = [guess(service, fresh_name(), **headers).status_code for headers in forwarded]
    assert found == [401, 401, 401, 429]
    assert statuses(service, fresh_name(), 1, **{"X-Forwarded-For": "192.0.2.8"}) == [401]


@pytest.mark.parametrize("forwarded", ["", ",", "garbage", "[::1", "1.2.3.4:99999", "x" * 5000, "é".encode("latin-1")])
def test_garbage_in_the_header_does_no_harm(tokens: TokenService, user: User, forwarded: str | bytes) -> None:
    answer = tokens.get("/me", headers={**user.headers, "X-Forwarded-For": forwarded})
    assert answer.status_code == 200


WIDE = {
    "/56 of IPv6": lambda n: f"2001:db8:0:{n % 256:x}::/64",
    "/48 of IPv6": lambda n: f"2001:db8:0:{n % 65536:x}::/64",
    "/24 of IPv4": lambda n: f"203.0.113.{n % 256}",
    "/16 of IPv4": lambda n: f"203.0.{n // 256 % 256}.{n % 256}",
}


@pytest.mark.parametrize("addresses", WIDE.values(), ids=WIDE)
def test_one_network_that_guesses_from_all_its_addresses_keeps_no_owner_out(
    tables: Tables, addresses: Callable[[int], str]
) -> None:
    guesses, refused, longest = 0, 0, 0
    for second in range(2 * 3600):
        tables.clock += 1000
        guesses += waits(tables, limits(tables, addresses(second * 7))) == 0
        if second % 10 == 0:
            refused = refused + 10 if _is_refused(tables, f"198.51.{second // 2560}.{second // 10 % 256}") else 0
            longest = max(longest, refused)
    assert guesses < 60  # NIST SP 800-63B-4 §3.2.2 allows 100
    assert longest <= 60


def _is_refused(tables: Tables, address: str) -> bool:
    """Whether the owner is, at a new address, with the right password."""
    counted = limits(tables, address)
    try:
        attempts.begin(tables, counted)
    except TooManyRequests:
        return True
    attempts.forgive(tables, counted)
    return False


def test_a_network_around_an_address_is_known_by_its_bits() -> None:
    assert wider_networks("2001:db8:1:2ff::/64") == ["2001:db8:1:200::/56", "2001:db8:1::/48"]
    assert wider_networks("203.0.113.7") == ["203.0.113.0/24", "203.0.0.0/16"]
    assert wider_networks("") == wider_networks("unknown") == []
