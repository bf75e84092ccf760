"""Clusters, and what distributed knows of them: tasks that have run, and bytes that have moved."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from distributed import Client, LocalCluster

from fastce.profile.problem import InputError

SECONDS = 10  # to find a scheduler and a worker


@contextmanager
def local(workers: int, has_dashboard: bool) -> Iterator[Any]:
    """The client of so many processes of one thread on this machine."""
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=f"127.0.0.1:{8787 if has_dashboard else 0}",  # without, the port is for its state
            scheduler_kwargs={"dashboard": has_dashboard},
            silence_logs=logging.CRITICAL,  # a worker that is told to end may miss its scheduler
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def running(address: str) -> Iterator[Any]:
    """The client of a cluster that others have started."""
    try:
        client = Client(address, timeout=SECONDS)
    except (OSError, ValueError) as error:
        raise InputError(f"--scheduler {address} cannot be reached: {str(error) or type(error).__name__}") from None
    with client:
        if not client.nthreads():
            raise InputError(f"--scheduler {address} has no workers")
        yield client


class Traffic(NamedTuple):
    """Bytes of results that have left workers, since these began."""

    between_workers: int
    to_client: int

    def since(self, before: "Traffic") -> "Traffic":
        return Traffic(*(now - then for now, then in zip(self, before, strict=True)))


def traffic(client: Any) -> Traffic:
    """What all workers have sent so far: what none of them received went to the client."""
    sent, received = map(sum, zip(*client.run(_sent_and_received).values(), strict=True))
    return Traffic(received, sent - received)


def _sent_and_received(dask_worker: Any) -> tuple[int, int]:
    received = sum(transfer["total"] for transfer in dask_worker.transfer_incoming_log)
    return dask_worker.transfer_outgoing_bytes_total, received
