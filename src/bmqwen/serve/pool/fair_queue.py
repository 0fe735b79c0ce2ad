"""Who is next: clients take turns, and each client's requests keep their order."""

from collections import OrderedDict, deque
from collections.abc import Iterator

from bmqwen.serve.pool.job import Job


class FairQueue:
    """Jobs that wait. A client with a hundred of them delays another one by one job, not by a hundred."""

    def __init__(self) -> None:
        self._clients: OrderedDict[tuple[str, str], deque[Job]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._clients.values()))

    def __iter__(self) -> Iterator[Job]:
        """Jobs in the order in which they would be taken."""
        waiting = [list(jobs) for jobs in self._clients.values()]
        for place in range(max(map(len, waiting), default=0)):
            for jobs in waiting:
                if place < len(jobs):
                    yield jobs[place]

    def put(self, job: Job) -> None:
        """Line up."""
        self._clients.setdefault(job.client, deque()).append(job)

    def take(self, job: Job) -> None:
        """Take a job out to be run: its client's next one waits until all others had their turn."""
        self.remove(job)
        if job.client in self._clients:
            self._clients.move_to_end(job.client)

    def remove(self, job: Job) -> bool:
        """Take a job out that is not to be run; whether it was there."""
        jobs = self._clients.get(job.client)
        if jobs is None or job not in jobs:
            return False
        jobs.remove(job)
        if not jobs:
            del self._clients[job.client]
        return True
