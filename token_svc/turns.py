"""A few threads for expensive work; addresses take turns in the queue for them."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from shared.errors import Unavailable

T = TypeVar("T")

ACCOUNT_PLACES = 4
AHEAD = 1  # handed over to the threads before one of them is free, so that it need not wait for the event loop
PAUSE_SECONDS = 0.5  # before an address or account is refused, so that it cannot ask again at once


class Asker(NamedTuple):
    """The address that asks for the work, and the account that it names."""

    address: str = ""
    account: str = ""


class Place(NamedTuple):
    asker: Asker
    called: asyncio.Future[None]


class Turns:
    """`threads` do the work, with AHEAD of it handed over, and at most `places` wait: of one address half of them, of
    one account ACCOUNT_PLACES."""

    def __init__(self, threads: int, places: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(threads, name)
        self._handed_over = threads + AHEAD  # at most
        self._places = places
        self._under_way = 0
        self._waiting: OrderedDict[str, deque[Place]] = OrderedDict()  # by address, the next one first
        self.limit = self._handed_over + places

    @property
    def pending(self) -> int:
        return self._under_way + len(self._all())

    async def admit(self, asker: Asker) -> None:
        """Raises Unavailable when there is no place. To be called before the request is counted."""
        refusal = self._refusal(asker)
        if refusal and len(self._all()) < self._places:
            await asyncio.sleep(PAUSE_SECONDS)
        if refusal:
            raise Unavailable("busy", refusal, 2)

    def _refusal(self, asker: Asker) -> str:
        waiting = self._all()
        if len(waiting) >= self._places:
            return "too many passwords are being checked"
        if len(self._waiting.get(asker.address, ())) >= max(1, self._places // 2):
            return "too many passwords of this address are being checked"
        if asker.account and sum(place.asker.account == asker.account for place in waiting) >= ACCOUNT_PLACES:
            return "too many passwords of this account are being checked"
        return ""

    def _all(self) -> list[Place]:
        return [place for places in self._waiting.values() for place in places]

    async def run(self, asker: Asker, work: Callable[..., T], *arguments: str) -> T:
        """The work's value, once it is its turn. Raises Unavailable."""
        if self._under_way >= self._handed_over:
            if refusal := self._refusal(asker):
                raise Unavailable("busy", refusal, 2)
            await self._until_called(asker)
        else:
            self._under_way += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)
        finally:
            self._call_next()

    async def _until_called(self, asker: Asker) -> None:
        place = Place(asker, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(asker.address, deque()).append(place)
        try:
            await place.called
        except asyncio.CancelledError:
            if place.called.done() and not place.called.cancelled():
                self._call_next()  # cancelled just as its turn came: the next one has it
            raise

    def _call_next(self) -> None:
        """Gives the thread to the address whose last turn is longest ago."""
        while self._waiting:
            address, places = self._waiting.popitem(last=False)
            place = places.popleft()
            if places:
                self._waiting[address] = places
            if not place.called.done():
                place.called.set_result(None)
                return
        self._under_way -= 1

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
