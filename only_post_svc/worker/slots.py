"""How many more runs the children of a worker can take on."""

from collections.abc import Collection

from only_post_svc.worker.children import Child


class Slots:
    """What the children can take on: exclusive runs (`def`) need an idle child, shared ones (`async
    def`) a place beside others. `keep` is a child that is being drained for an exclusive run."""

    def __init__(self, children: Collection[Child], concurrency: int, keep: Child | None) -> None:
        self._concurrency = concurrency
        usable = [child for child in children if _is_usable(child, keep)]
        self._idle = [child for child in usable if child.is_idle]
        self._shared = {child: len(child.run_ids) for child in usable if not child.is_idle and not child.is_exclusive}
        self.lacks_exclusive = False

    @property
    def exclusive(self) -> int:
        return len(self._idle)

    @property
    def shared(self) -> int:
        return sum(self._concurrency - count for count in self._shared.values()) + self._concurrency * len(self._idle)

    def take(self, *, is_exclusive: bool) -> Child | None:
        """A child with a free slot, which is then taken."""
        if is_exclusive:
            self.lacks_exclusive |= not self._idle
            return self._idle.pop() if self._idle else None
        for child, count in self._shared.items():  # one child filled before the next, so that others stay idle
            if count < self._concurrency:
                self._shared[child] += 1
                return child
        if not self._idle:
            return None
        child = self._idle.pop()
        self._shared[child] = 1
        return child


def _is_usable(child: Child, keep: Child | None) -> bool:
    return child.is_ready and not child.is_retired and (child is not keep or child.is_idle)
