"""Launch parameters of fastce's rows kernel, to be tried one at a time.

They are constants of modules. Kernels are compiled with them, so each configuration has a process of its own, in which
they are set before whatever reads them is imported.
"""

from dataclasses import dataclass, fields
from importlib import import_module

from bench.cuda.jobs import JOBS, CudaJob


@dataclass(frozen=True)
class Config:
    """What differs from fastce as it is; None leaves it.

    Attributes
    ----------
    room_chunks : int
        Chunks of 16 bytes that a block holds in shared memory. Rows, and parts of rows, are as long.
    threads : int
        Of a block.
    blocks : int
        That are to fit a multiprocessor: a bound for registers.
    chunks_of_thread : int
        The most that a thread takes before a row gets more threads.
    fewest_lanes : int
        The fewest threads of a row.
    waits : bool
        Whether parts of a row wait for each other (True), or are launched twice (False).
    """

    room_chunks: int | None = None
    threads: int | None = None
    blocks: int | None = None
    chunks_of_thread: int | None = None
    fewest_lanes: int | None = None
    waits: bool | None = None

    @property
    def name(self) -> str:
        given = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return ", ".join(f"{name} {value}" for name, value in given if value is not None) or "as it is"

    def apply(self) -> None:
        """Change fastce; before fastce.cuda is imported for anything else."""
        if self.room_chunks is not None:
            _set("_kernels.shared_intrinsics", ROOM_CHUNKS=self.room_chunks)
        if self.threads is not None:
            _set("_kernels.rows", THREADS=self.threads)
        if self.blocks is not None:
            kernel, blocks = import_module("fastce.cuda._kernels.rows").kernel, self.blocks
            _set("_kernels.rows", kernel=lambda threads, _: kernel(threads, blocks))
        if self.chunks_of_thread is not None:
            most = import_module("fastce.cuda.run").CHUNKS_OF_THREAD
            if self.chunks_of_thread > most:
                raise ValueError(f"a thread has room for {most} chunks, not for {self.chunks_of_thread}")
            _set("run", CHUNKS_OF_THREAD=self.chunks_of_thread)
        if self.fewest_lanes is not None:
            _set("run", FEWEST_LANES=self.fewest_lanes)
        if self.waits is not None:
            jobs, waits = import_module("fastce.cuda._kernels.jobs"), self.waits

            def stages(job, parts, at_once):
                is_whole = parts == 1 or not job.writes or waits
                return [jobs.WHOLE] if is_whole else [jobs.STATES_ONLY, jobs.KNOWN_STATES]

            _set("run", stages=stages)


def _set(module_name: str, **values) -> None:
    module = import_module(f"fastce.cuda.{module_name}")
    for name, value in values.items():
        if not hasattr(module, name):
            raise AttributeError(f"fastce.cuda.{module_name} has no {name}: the sweep is for another version")
        setattr(module, name, value)


CONFIGS = [
    Config(),
    Config(blocks=4),
    Config(blocks=8),
    Config(threads=256, blocks=2),
    Config(threads=256, blocks=4),
    Config(threads=512, blocks=2),
    Config(room_chunks=1024),
    Config(room_chunks=1024, blocks=8),
    Config(room_chunks=1536, blocks=8),
    Config(room_chunks=2560),
    Config(chunks_of_thread=8),
    Config(chunks_of_thread=4),
    Config(fewest_lanes=32),
    Config(waits=False),
]
_SHAPES = [(16_384, 32_768), (4_096, 131_072), (8_192, 50_257), (65_536, 1_024), (1_000_000, 100), (64, 1_000_000)]


def _is_swept(job: CudaJob) -> bool:
    is_gradient = job.function == "cross_entropy_value_and_grad" and job.place == "out"
    is_plain = job.label_smoothing == 0 and not job.weighted and job.targets == "classes" and job.softcap is None
    return job.shape in _SHAPES and job.dtype in ("float32", "bfloat16") and is_plain and (
        is_gradient or (job.function == "logsumexp" and job.shape in _SHAPES[:2])
    )  # fmt: skip


SWEEP_JOBS = [job for job in JOBS if _is_swept(job)]


def table(found: dict[str, dict[str, float]]) -> str:
    """Fractions of the copy's bandwidth: configurations by jobs; and the best one of each job."""
    jobs = list(dict.fromkeys(job for of_config in found.values() for job in of_config))
    width = max((len(name) for name in found), default=0)
    lines = [f"{number:2d}: {job}" for number, job in enumerate(jobs)]
    lines.append(" " * width + "".join(f"{number:7d}" for number in range(len(jobs))))
    for name, of_config in found.items():
        cells = (f"{of_config[job]:7.3f}" if job in of_config else " " * 7 for job in jobs)
        lines.append(f"{name:{width}}" + "".join(cells))
    for job in jobs:
        best = max((name for name in found if job in found[name]), key=lambda name: found[name][job])
        lines.append(f"best for {job}: {best}, {found[best][job]:.3f} of the copy")
    return "\n".join(lines)
