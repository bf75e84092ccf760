"""Jobs in a process of their own, which may hang, or lose the GPU, without an end to the whole run."""

import multiprocessing
import time
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

from bench.cuda.engines import ENGINES
from bench.cuda.jobs import CudaJob
from bench.cuda.machine import UnavailableError, cache_bytes, described, torch_with_device
from bench.cuda.sweep import Config
from fastce.profile.work import one_line

DEVICE = "cuda"
START_LIMIT = 180.0  # seconds until a process has its GPU


@dataclass(frozen=True)
class Request:
    """What is measured of a job, and with which engines."""

    job: CudaJob
    engines: list[str]
    repeats: int
    kernels: bool = False  # whether to time the kernels of fastce one by one


def serve(connection: Any, config: Config | None) -> None:
    """The other process: says what it runs on, then answers one request after the other."""
    warnings.simplefilter("ignore")  # of the peers, and of Numba about few blocks
    try:
        torch = torch_with_device()
        if config is not None:
            _apply(config)
        connection.send(("machine", described(torch)))
    except UnavailableError as error:
        connection.send(("unavailable", str(error)))
        return
    from bench.cuda.measure import DeviceLostError, Measurement

    while (request := connection.recv()) is not None:
        measurement = Measurement(
            request.job, DEVICE, torch.cuda, cache_bytes(torch), lambda what: connection.send(("at", what))
        )
        try:
            case = measurement.run(request.engines, request.repeats)
            if request.kernels:
                case["kernels"] = measurement.kernels("fastce")
            connection.send(("case", case))
        except DeviceLostError as error:
            connection.send(("lost", str(error)))
            return
        except Exception as error:
            connection.send(("failed", one_line(error)))
            if not _works(torch):
                return
        del measurement
        _free(torch)


def _apply(config: Config) -> None:
    try:
        config.apply()
    except Exception as error:
        raise UnavailableError(f"{config.name}: {type(error).__name__}: {error}") from error


def _works(torch: Any) -> bool:
    try:
        torch.cuda.synchronize()
    except Exception:
        return False
    return True


def _free(torch: Any) -> None:
    import gc

    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()


@dataclass
class Worker:
    """The process, which is started when it is needed and ended when it does not answer.

    Attributes
    ----------
    limit : float
        Seconds that a job may take.
    config : Config or None
        What is changed of fastce before it is measured.
    """

    limit: float
    config: Config | None = None
    machine: dict[str, Any] = field(default_factory=dict)
    target: Any = serve
    _process: Any = None
    _connection: Any = None

    def start(self) -> None:
        """Have the process ready; raises UnavailableError if there is nothing to measure on."""
        if self._process is not None and self._process.is_alive():
            return
        self.stop()
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=self.target, args=(theirs, self.config))
        self._process.start()
        theirs.close()
        kind, content = self._receive(time.monotonic() + START_LIMIT)
        if kind != "machine":
            self.stop()
            raise UnavailableError(content)
        self.machine = content

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
        self._process = None

    def case_of(self, request: Request) -> dict[str, Any]:
        """The case of a job; an engine that hangs, or loses the device, is left out and the job begun again."""
        failures: dict[str, str] = {}
        left = list(request.engines)
        while True:
            kind, content, at = self._answer(replace(request, engines=left))
            if kind == "case":
                content["failures"] |= failures
                return content
            if at not in left:  # the data, or a floor
                failures[at or "start"] = content
                return _nothing_of(request.job, failures)
            failures[at] = content
            left = [name for name in left if name != at]

    def _answer(self, request):
        """(kind, content, what was being done)."""
        self.start()
        until, at = time.monotonic() + self.limit, ""
        try:
            self._connection.send(request)
            while True:
                kind, content = self._receive(until)
                if kind != "at":
                    break
                at = content
        except OSError as error:
            kind, content = "lost", f"the process ended: {error}"
        if kind in ("lost", "hangs"):
            self.stop()
        return kind, content, at

    def _receive(self, until):
        try:
            if not self._connection.poll(max(0.0, until - time.monotonic())):
                return "hangs", "no answer within the limit of time"
            return self._connection.recv()
        except EOFError:
            return "lost", "the process ended"


def _nothing_of(job: CudaJob, failures: dict[str, str]) -> dict[str, Any]:
    return {
        "id": job.id, "problem": job.problem, "job": job.name, "dtype": job.dtype, "is_key": job.is_key,
        "nbytes": job.nbytes, "logits_bytes": job.logits_bytes, "buffers": 0, "floors": {}, "engines": {},
        "failures": failures,
    }  # fmt: skip


def engines_of(names: list[str], is_quick: bool) -> list[str]:
    """Those that are asked for, or all; a quick run does without those that compile for seconds."""
    return names or [name for name, engine in ENGINES.items() if not (is_quick and engine.is_compiled)]
