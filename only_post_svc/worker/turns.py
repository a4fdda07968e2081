"""What one worker claims next: where it looks, whose turn it is, and how much each caller may have of it."""

from collections import Counter
from collections.abc import Iterable, Mapping

from only_post_svc import shares
from only_post_svc.queue import Claim
from only_post_svc.registry import TaskType
from only_post_svc.settings import Settings
from only_post_svc.shares import Candidate, Dealt, Kind, Lane, OwnLane
from only_post_svc.worker.slots import Slots
from shared.database import Transaction


class Turns:
    def __init__(self, settings: Settings, types: Mapping[str, TaskType], processes: int) -> None:
        self._settings = settings
        self._processes = processes
        self._kinds = {
            type.type: Kind(not type.is_async, type.max_running, type.max_running_per_key)
            for type in types.values()
            if not type.elsewhere
        }
        self._claimable = self._kinds
        self._own: list[OwnLane] = []
        self.served = ""  # the caller whose turn was last

    def learn(self, own: list[OwnLane]) -> bool:
        """Takes over which types have lanes of their own. Whether that has changed."""
        is_news = own != self._own
        self._own = own
        elsewhere = {lane.type for lane in own if lane.is_paused or lane.is_kept}
        self._claimable = {type: kind for type, kind in self._kinds.items() if type not in elsewhere}
        return is_news

    def claim(self, tx: Transaction, token: str, slots: Slots, runs: Iterable[Claim]) -> Dealt:
        """`runs` are those of this worker; claimed tasks take their slots out of `slots`."""
        portions = Portions(self._settings, self._processes, runs)

        def fits(one: Candidate) -> bool:
            is_alone = bool(one.is_alone)
            if not portions.has_room(one.caller, is_person=bool(one.is_person)):
                return False
            if slots.take(is_exclusive=is_alone) is None:
                return False
            portions.add(one.caller, is_alone=is_alone, is_person=bool(one.is_person))
            return True

        return shares.claim(
            tx,
            token,
            self._lanes(slots),
            self._claimable,
            fits,
            self._settings.lease_seconds,
            after=self.served,
            passed_over=portions.full(),
        )

    def _lanes(self, slots: Slots) -> list[Lane]:
        names = [shares.ALL, *(lane.type for lane in self._own if lane.type in self._claimable)]
        # max: a `def` task is looked for also while no child is idle, since a child is drained only where one waits.
        most = {False: slots.shared, True: max(1, slots.exclusive)}
        return [Lane(is_alone, name, most[is_alone]) for name in names for is_alone in most if most[is_alone]]


class Portions:
    """How many slots of one worker each caller has. A run with a child to itself has all slots of that child."""

    def __init__(self, settings: Settings, processes: int, runs: Iterable[Claim]) -> None:
        self._most = settings.max_running_per_caller
        self._slots_of_alone = settings.task_concurrency if self._most is None else 1
        self._half = -(-processes * settings.task_concurrency // 2)
        self._taken: Counter[str] = Counter()
        self._people: set[str] = set()
        for run in runs:
            self.add(run.caller, is_alone=bool(run.is_alone), is_person=bool(run.is_person))

    def add(self, caller: str, *, is_alone: bool, is_person: bool) -> None:
        self._taken[caller] += self._slots_of_alone if is_alone else 1
        if is_person:
            self._people.add(caller)

    def has_room(self, caller: str, *, is_person: bool) -> bool:
        if self._most is not None:
            return not caller or self._taken[caller] < self._most
        return not is_person or self._taken[caller] < self._half

    def full(self) -> list[str]:
        return [caller for caller in self._taken if not self.has_room(caller, is_person=caller in self._people)]
