"""The Python client against a real service."""

from collections.abc import Iterator

import pytest

from tests.processes import TokenService
from tests.token_svc.users import PASSWORD, fresh_name
from token_svc.client import ServiceError, Tokens, User


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenService]:
    service = TokenService(tmp_path_factory.mktemp("tokens"), {"ACCESS_TOKEN_SECONDS": "2"})
    yield service
    service.kill()


@pytest.fixture(scope="module")
def ann(service: TokenService) -> User:
    name = fresh_name("ann")
    return Tokens(service.url).register(name, PASSWORD, f"{name}@example.org")


def test_a_user_logs_in_and_goes_on_with_the_refresh_token(service: TokenService, ann: User) -> None:
    user = Tokens(service.url).login(ann.me()["username"], PASSWORD)
    resumed = User.resume(service.url, user.refresh_token)
    assert resumed.me() == ann.me()
    assert resumed.refresh_token != user.refresh_token
    resumed.logout()
    with pytest.raises(ServiceError) as raised:
        resumed.me()
    assert raised.value.status in (400, 401)


def test_items_are_made_changed_listed_and_deleted(ann: User) -> None:
    item = ann.data.create({"colour": "red"})
    assert ann.data.get(item.id) == item
    merged = ann.data.merge(item, {"size": 2})
    assert (merged.data, merged.version) == ({"colour": "red", "size": 2}, 2)
    replaced = ann.data.replace(item.id, [1, 2])
    assert replaced in list(ann.data.list())
    ann.data.delete(replaced)
    assert item.id not in [one.id for one in ann.data.list()]


def test_an_item_that_has_moved_on_is_not_written_over(ann: User) -> None:
    item = ann.data.create(1)
    ann.data.replace(item, 2)
    with pytest.raises(ServiceError) as raised:
        ann.data.replace(item, 3)
    assert (raised.value.status, raised.value.code) == (412, "version_conflict")


def test_all_that_is_stored_is_exported(ann: User) -> None:
    item = ann.data.create("to be exported")
    assert item.id in [one["id"] for one in ann.export()["items"]]


@pytest.mark.parametrize("seconds", [-1, 20, 26])
def test_a_change_can_be_waited_for_however_long_that_may_be(ann: User, seconds: int) -> None:
    mark = ann.data.changes().since
    item = ann.data.create("new")
    assert item in ann.data.changes(mark, wait=seconds).items
