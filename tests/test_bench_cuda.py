"""The record of the CUDA target, as far as it goes without a GPU: on tensors in the memory of the CPU."""

import importlib
import json
import subprocess
import sys
import time
import types
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from bench.cuda import jobs as cuda_jobs
from bench.cuda import record as cuda_record
from bench.cuda import report as cuda_report
from bench.cuda import sweep as cuda_sweep
from bench.cuda import timing as cuda_timing
from bench.cuda import worker as cuda_worker
from bench.cuda.jobs import JOBS, CudaJob, buffers_for, chosen
from bench.cuda.machine import UnavailableError
from bench.cuda.worker import Request, Worker

FOLDER = Path(cuda_record.__file__).parent
ROOT = FOLDER.parent.parent


# ------------------------------------------------------------------------------------------------------------- jobs
def test_jobs_have_names_of_their_own_and_the_judged_ones_come_first():
    ids = [job.id for job in JOBS]
    assert len(set(ids)) == len(ids)
    is_key = [job.is_key for job in JOBS]
    assert is_key == sorted(is_key, reverse=True)
    assert "16384x32768-bfloat16-cross_entropy_value_and_grad" in ids
    assert {job.targets for job in JOBS} == {"classes", "probabilities", "pairs"}


@pytest.mark.parametrize(
    ("job", "nbytes"),
    [
        (CudaJob("logsumexp", (10, 6)), 10 * 6 * 4 + 10 * 4),
        (CudaJob("softmax", (10, 6), "bfloat16", "out"), 2 * 10 * 6 * 2),
        (CudaJob("cross_entropy", (10, 6)), 10 * 6 * 4 + 10 * 8),
        (CudaJob("cross_entropy_value_and_grad", (10, 6), "float64", "in place"), 2 * 10 * 6 * 8 + 10 * 8),
        (CudaJob("cross_entropy_value_and_grad", (10, 6), place="out", targets="probabilities"), 3 * 10 * 6 * 4),
        (CudaJob("clip_loss_value_and_grad", (6, 6), place="out", targets="pairs"), 2 * 6 * 6 * 4),
    ],
)
def test_bytes_that_a_job_must_move(job, nbytes):
    assert job.nbytes == nbytes


def test_jobs_are_chosen_by_parts_of_their_ids():
    found = chosen(["4096x131072+logsumexp", "softcap"], JOBS)
    assert [job.id for job in found] == [
        "4096x131072-float32-logsumexp",
        "4096x131072-bfloat16-logsumexp",
        "16384x32768-float32-cross_entropy_value_and_grad-softcap-30",
    ]
    assert chosen([], JOBS) == JOBS


def test_buffers_fill_the_cache_between_two_uses_of_one():
    cache = 50 << 20
    for nbytes in (1 << 20, 100 << 20, 2 << 30):
        buffers = buffers_for(nbytes, cache)
        assert buffers >= 2
        assert buffers == cuda_jobs.MOST_BUFFERS or (buffers - 1) * nbytes >= 4 * cache


# ----------------------------------------------------------------------------------------------------------- timing
class FakeCuda:
    """A device that spins for as long as it is told, and needs ten seconds for each call; the host needs two."""

    def __init__(self):
        self.host, self.device, self.spins = 0.0, 0.0, []

    def _sleep(self, cycles):
        self.spins.append(cycles)
        self.device = max(self.device, self.host) + cycles / 1e6

    def synchronize(self):
        self.host = max(self.host, self.device)

    def call(self):
        self.host += 2.0
        self.device = max(self.device, self.host) + 10.0

    def read_verdict(self):
        self.synchronize()
        self.host += 5.0

    def Event(self, enable_timing):
        def record():
            event.at = max(fake.device, fake.host)
            fake.device = event.at + 1e-6

        event, fake = types.SimpleNamespace(record=record), self
        event.query = lambda: event.at <= fake.host
        event.elapsed_time = lambda end: 1e3 * (end.at - event.at)
        return event


def test_summary():
    assert cuda_timing.summary([4.0, 1.0, 2.0, 3.0, 5.0]) == {
        "median": 3.0,
        "least": 1.0,
        "lower": 2.0,
        "upper": 4.0,
        "count": 5,
    }
    assert cuda_timing.summary([2.0])["upper"] == 2.0


def test_the_time_on_the_device_is_without_the_hosts():
    fake = FakeCuda()
    watch = cuda_timing.Stopwatch(fake)

    def call():
        fake.call()
        fake.call()

    found = [watch.device_seconds("two", call) for _ in range(3)]
    assert [is_clean for _, is_clean in found] == [False, False, True]
    assert found[-1][0] == pytest.approx(20.0)
    assert fake.spins == [2_000_000, 4_000_000, 8_000_000]  # the host needs four seconds: it must be ahead
    wall, queue = watch.call_seconds(lambda k: fake.call(), 3, 4)
    assert queue == pytest.approx((2.0 + 4 * 10.0) / 4)
    assert wall >= 0


def test_the_wait_for_the_verdict_does_not_count(monkeypatch):
    fake = FakeCuda()
    module = types.ModuleType("fastce.cuda.some_targets")
    module.numbers_of = fake.read_verdict
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def call():
        fake.call()
        module.numbers_of()

    watch = cuda_timing.Stopwatch(fake)
    found = [watch.device_seconds("loss", call) for _ in range(2)]
    assert found[-1] == (pytest.approx(10.0), True)
    assert module.numbers_of == fake.read_verdict


def test_buffers_and_engines_take_turns():
    fake, seen, restored = FakeCuda(), [], []

    def engine(name):
        def call(k):
            seen.append((name, k))
            fake.call()

        return call

    turns = cuda_timing.Turns(cuda_timing.Stopwatch(fake), 3, restored.append, lambda name: None)
    times = turns.measure({"a": engine("a"), "b": engine("b")}, 4, 2)
    assert all(of["device"]["median"] == pytest.approx(10.0) and of["host_was_ahead"] for of in times.values())
    used = [k for _, k in seen[:10]]
    assert all(k != after for k, after in pairwise(used))
    assert set(restored) == {0, 1, 2}


# ------------------------------------------------------------------------------------------------ engines and checks
@pytest.fixture
def on_cpu(monkeypatch):
    """The engines of PyTorch as they are, and fastce on the memory of tensors as arrays of NumPy."""
    torch = pytest.importorskip("torch")
    cuda_engines = pytest.importorskip("bench.cuda.engines")
    from bench.cuda import measure as cuda_measure

    def arrays(job, problem):
        return cuda_engines._fastce(job, problem, lambda x: x.numpy(), torch.from_numpy)

    fastce = replace(cuda_engines.ENGINES["fastce"], prepare=arrays)
    monkeypatch.setitem(cuda_engines.ENGINES, "fastce", fastce)
    monkeypatch.setattr(cuda_measure, "CALLS_OF_SMALL", 5)  # the times are none: no need for good ones
    monkeypatch.setattr(cuda_measure.Measurement, "_free", lambda self: None)  # nor is there anything large
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for problems so small
    yield cuda_engines.ENGINES
    torch.set_num_threads(n_threads)


def measured(job, engines=("fastce", "torch")):
    from bench.cuda.measure import Measurement

    steps = []
    case = Measurement(job, "cpu", FakeCuda(), 1 << 10, steps.append).run(list(engines), 3)
    return case, steps


TINY_JOBS = list(dict.fromkeys(job.tiny() for job in JOBS if job.dtype in ("float32", "float64", "float16")))


@pytest.mark.parametrize("job", TINY_JOBS, ids=lambda job: job.id)
def test_every_job_is_right(job, on_cpu):
    case, steps = measured(job)
    assert case["failures"] == {}
    assert "fastce" in case["engines"]
    assert ("torch" in case["engines"]) == (job.place != "in place")
    assert steps[:2] == ["data", "fastce"]
    assert json.loads(json.dumps(case)) == case
    assert cuda_report.markdown([case])


def test_bfloat16_of_pytorch(on_cpu):
    case, _ = measured(CudaJob("cross_entropy_value_and_grad", (33, 35), "bfloat16", "out"), ["torch"])
    assert case["failures"] == {}


@pytest.mark.parametrize("function", ["cross_entropy_value_and_grad", "logsumexp", "softmax", "cross_entropy"])
def test_a_wrong_result_and_a_failure_are_noted(function, on_cpu, monkeypatch):
    right = on_cpu["fastce"].prepare

    def wrong(job, problem):
        work = right(job, problem)

        def read(result, k):
            found = work.read(result, k)
            return {name: value + 1e-3 for name, value in found.items()}

        return replace(work, read=read)

    def failing(job, problem):
        raise RuntimeError("CUDA out of memory.\nmore")

    monkeypatch.setitem(on_cpu, "fastce", replace(on_cpu["fastce"], prepare=wrong))
    monkeypatch.setitem(on_cpu, "torch", replace(on_cpu["torch"], prepare=failing))
    place = "out" if function in ("softmax", "cross_entropy_value_and_grad") else ""
    case, _ = measured(CudaJob(function, (33, 35), place=place))
    assert case["failures"]["fastce"].startswith("wrong: ")
    assert case["failures"]["torch"] == "RuntimeError: CUDA out of memory."
    assert "out of memory | " not in cuda_report.markdown([case])
    assert "| wrong | out of memory |" in cuda_report.markdown([case])


def test_what_is_not_written_is_noticed(on_cpu, monkeypatch):
    right = on_cpu["fastce"].prepare

    def idle(job, problem):
        work = right(job, problem)
        value = problem.right["value"]
        return replace(work, call=lambda k: (value,))

    monkeypatch.setitem(on_cpu, "fastce", replace(on_cpu["fastce"], prepare=idle))
    case, _ = measured(CudaJob("cross_entropy_value_and_grad", (33, 35), place="out"), ["fastce"])
    assert "nan" in case["failures"]["fastce"]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("is_in_place", [False, True])
def test_the_triton_kernel(smoothing, is_in_place, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    pytest.importorskip("triton")
    sys.modules.pop("bench.cuda.triton", None)
    cuda_triton = importlib.import_module("bench.cuda.triton")

    monkeypatch.setattr(cuda_triton, "LARGEST_BLOCK", 16)
    x = 4 * torch.randn(5, 37)
    y = torch.randint(37, (5,))
    like = x.clone().requires_grad_()
    expected = torch.nn.functional.cross_entropy(like, y, label_smoothing=smoothing)
    expected.backward()
    out = x if is_in_place else torch.empty_like(x)
    value = cuda_triton.cross_entropy(x, y, smoothing, out)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(out, like.grad, atol=1e-6, rtol=1e-4)
    sys.modules.pop("bench.cuda.triton", None)


# ------------------------------------------------------------------------------------------------------------ worker
JOB = CudaJob("logsumexp", (33, 35))


def scripted(connection, config):
    """A process that hangs at one engine, dies at another, and fails at a third."""
    connection.send(("machine", {"device": "A GPU"}))
    while (request := connection.recv()) is not None:
        for engine in request.engines:
            connection.send(("at", engine))
            if engine == "hangs":
                time.sleep(60)
            if engine == "dies":
                sys.exit(1)
            if engine == "fails":
                connection.send(("failed", "ValueError: no"))
                break
        else:
            connection.send(("case", {"engines": request.engines, "failures": {}, "asked": request.kernels}))


def without_device(connection, config):
    connection.send(("unavailable", "no GPU."))


def dead(connection, config):
    sys.exit(1)


@pytest.mark.slow
def test_an_engine_that_hangs_or_dies_is_left_out():
    worker = Worker(3.0, target=scripted)
    try:
        case = worker.case_of(Request(JOB, ["fine", "hangs", "dies", "fails", "good"], 1, kernels=True))
    finally:
        worker.stop()
    assert case["engines"] == ["fine", "good"]
    assert case["asked"]  # for the times of kernels, the second time too
    assert case["failures"] == {
        "hangs": "no answer within the limit of time",
        "dies": "the process ended",
        "fails": "ValueError: no",
    }
    assert worker.machine == {"device": "A GPU"}


@pytest.mark.parametrize(("target", "words"), [(without_device, "no GPU."), (dead, "ended")])
def test_a_machine_without_a_device(target, words):
    worker = Worker(3.0, target=target)
    with pytest.raises(UnavailableError, match=words):
        worker.start()
    worker.stop()


@pytest.fixture
def answers(on_cpu, monkeypatch):
    """What the other process answers to requests, on the memory of the CPU."""
    import torch

    def answers(requests, config=None):
        sent, left = [], [*requests, None]
        connection = types.SimpleNamespace(send=sent.append, recv=lambda: left.pop(0))
        cuda_worker.serve(connection, config)
        return [answer for answer in sent if answer[0] != "at"], left

    properties = types.SimpleNamespace(
        name="A GPU", major=9, minor=0, multi_processor_count=132, total_memory=1 << 37, L2_cache_size=50 << 20
    )
    cuda = FakeCuda()
    cuda.get_device_properties, cuda.empty_cache = lambda device: properties, lambda: None
    device = types.SimpleNamespace(cuda=cuda, version=types.SimpleNamespace(cuda="13.0"), compiler=torch.compiler)
    monkeypatch.setattr(cuda_worker, "torch_with_device", lambda: device)
    monkeypatch.setattr(cuda_worker, "DEVICE", "cpu")
    answers.cuda = cuda
    return answers


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_other_process_measures(answers):
    gradient = CudaJob("cross_entropy_value_and_grad", (33, 35), place="out")
    (machine, first, second), _ = answers([Request(job, ["fastce", "torch"], 3) for job in (JOB, gradient)])
    assert machine[0] == "machine"
    assert machine[1]["device"] == "A GPU"
    assert machine[1]["cache_bytes"] == 50 << 20
    assert [kind for kind, _ in (first, second)] == ["case", "case"]
    record = {"machine": machine[1], "cases": [first[1], second[1]]}
    assert "A GPU, 132 multiprocessors" in cuda_report.footnote(record["machine"], record["cases"])
    assert json.loads(json.dumps(record)) == record
    (_, (kind, case)), _ = answers([Request(JOB, ["fastce"], 3, kernels=True)])
    assert kind == "case"
    assert case["kernels"] == {}  # no device has run any


@pytest.mark.filterwarnings("ignore")
def test_the_other_process_ends_when_the_device_is_lost(answers, on_cpu, monkeypatch):
    def illegal(job, problem):
        def lost():
            raise RuntimeError("an illegal memory access was encountered")

        answers.cuda.synchronize = lost
        raise RuntimeError("launch failed")

    monkeypatch.setitem(on_cpu, "torch", replace(on_cpu["torch"], prepare=illegal))
    (_, answer), left = answers([Request(JOB, ["fastce", "torch"], 3)] * 2)
    assert answer[0] == "lost"
    assert "RuntimeError: launch failed; afterwards RuntimeError: an illegal" in answer[1]
    assert len(left) == 2  # neither the next job nor the end was asked for


@pytest.mark.filterwarnings("ignore")
def test_a_configuration_of_another_version_is_said(answers, monkeypatch):
    def no_such(self):
        raise AttributeError("fastce.cuda.run has no FEWEST_LANES")

    monkeypatch.setattr(cuda_sweep.Config, "apply", no_such)
    answer, _ = answers([], cuda_sweep.Config(fewest_lanes=32))
    assert answer == [("unavailable", "fewest_lanes 32: AttributeError: fastce.cuda.run has no FEWEST_LANES")]


# ------------------------------------------------------------------------------------------------ record and report
def times(seconds, **more):
    return {
        "device": cuda_timing.summary([seconds] * 3),
        "host_was_ahead": True,
        "wall_seconds": 2 * seconds,
        "queue_seconds": 2 * seconds,
        "errors": {},
        "note": "",
    } | more


def case_of(job, **engines):
    return {
        "id": job.id,
        "problem": job.problem,
        "job": job.name,
        "nbytes": job.nbytes,
        "logits_bytes": job.logits_bytes,
        "floors": {"copy": times(1e-3, nbytes=2 * job.logits_bytes)},
        "engines": engines,
        "failures": {"liger": "OutOfMemoryError: CUDA out of memory"},
    }


MACHINE = {
    "device": "A GPU",
    "multiprocessors": 132,
    "cache_bytes": 50 << 20,
    "cuda": "13.0",
    "versions": {"torch": "2", "cupy": "unknown"},
    "nvidia_smi": {"driver_version": "580"},
}


@pytest.fixture
def record():
    job = CudaJob("cross_entropy_value_and_grad", (1000, 1000), place="out")
    slow = times(4e-3, host_was_ahead=False, note="gradient in a new tensor")
    return {"machine": MACHINE, "cases": [case_of(job, fastce=times(1.25e-3), torch=slow)]}


def test_the_table_of_the_readme(record, tmp_path, capsys):
    readme, path = tmp_path / "README.md", tmp_path / "cuda.json"
    readme.write_text("before\n<!-- cuda:start -->\nold\n<!-- cuda:end -->\nafter\n")
    path.write_text(json.dumps(record))
    cuda_report.main([str(path), "--readme", str(readme)])
    text = capsys.readouterr().out
    assert text.splitlines()[:3] == [
        "| logits | job | copy, GB/s | fastce, of it | read, GB/s | fastce, a call, ms | fastce | torch | liger |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
        "| 1,000 x 1,000 float32 | cross_entropy_value_and_grad | 8 | 80% |  | 2.5 | 1.25 | 4* | out of memory |",
    ]
    assert "A GPU, 132 multiprocessors, 50 MiB of L2 cache, CUDA 13.0, driver 580; torch 2." in text
    assert "torch: gradient in a new tensor." in text
    assert readme.read_text() == f"before\n<!-- cuda:start -->\n{text}<!-- cuda:end -->\nafter\n"


def test_the_report_says_what_it_lacks(tmp_path):
    with pytest.raises(SystemExit, match="does not exist"):
        cuda_report.main([str(tmp_path / "none.json")])
    (tmp_path / "empty.json").write_text('{"machine": {}, "cases": []}')
    with pytest.raises(SystemExit, match="no cases"):
        cuda_report.main([str(tmp_path / "empty.json")])


class FakeWorker:
    """Answers at once."""

    requests: list = []  # noqa: RUF012

    def __init__(self, limit, config=None):
        self.machine, self.config = MACHINE, config

    def start(self):
        pass

    def stop(self):
        pass

    def case_of(self, request):
        self.requests.append((self.config, request))
        return case_of(request.job, fastce=times(1.25e-3))


@pytest.fixture
def requests(monkeypatch):
    monkeypatch.setattr(cuda_record, "Worker", FakeWorker)
    monkeypatch.setattr(FakeWorker, "requests", [])
    return FakeWorker.requests


def test_the_record_is_written_and_added_to(requests, tmp_path, capsys):
    path = tmp_path / "new" / "cuda.json"
    assert cuda_record.main(["--quick", "--output", str(path)]) == 0
    known = [case["id"] for case in json.loads(path.read_text())["cases"]]
    assert known == [job.id for job in cuda_jobs.QUICK_JOBS]
    assert all("torch.compile" not in request.engines for _, request in requests)
    assert cuda_record.main(["--jobs", "softcap", *known, "--add", "--output", str(path)]) == 0
    assert len(json.loads(path.read_text())["cases"]) == len(known) + len(chosen(["softcap", *known], JOBS)) - 4
    assert "torch.compile" in requests[-1][1].engines
    assert cuda_record.main(["--minutes", "-1", "--output", str(path)]) == 0
    out = capsys.readouterr().out
    assert f"left for --add: {JOBS[0].id}" in out
    assert "failed: " in out


def test_the_sweep_tries_each_configuration(requests, tmp_path, capsys):
    assert cuda_record.main(["--sweep", "--output", str(tmp_path / "cuda.json")]) == 0
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert set(found) == {config.name for config in cuda_sweep.CONFIGS}
    assert all(set(of_config) == {job.id for job in cuda_sweep.SWEEP_JOBS} for of_config in found.values())
    assert "best for 16384x32768-float32-cross_entropy_value_and_grad: as it is, " in capsys.readouterr().out


def test_configurations_have_names_of_their_own():
    names = [config.name for config in cuda_sweep.CONFIGS]
    assert len(set(names)) == len(names)
    assert cuda_sweep.Config(threads=128, waits=False).name == "threads 128, waits False"


@pytest.mark.parametrize("arguments", [["--help"], ["--list"]])
def test_nothing_for_a_gpu_is_needed_to_ask_for_help(arguments, tmp_path):
    for name in ("torch", "numba", "triton", "cupy"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not now')")
    command = [sys.executable, "-m", "bench.cuda.record", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stderr) == (0, "")
    assert "--sweep" in done.stdout or JOBS[0].id in done.stdout


def test_without_a_gpu_it_says_so(tmp_path):
    try:
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
    except ImportError:
        pass
    command = [sys.executable, "-m", "bench.cuda.record", "--output", str(tmp_path / "cuda.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("the CUDA record needs ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------ the first runs
STAND_IN = """#!/usr/bin/env bash
case "$*" in
*--list*) printf 'one\\ntwo\\n' ;;
*cuda.record*) exit 3 ;;
*) echo "asked: $*" ;;
esac
"""


@pytest.mark.parametrize(
    ("script", "steps"),
    [
        ("gpu_run_a.sh", ["versions", "driver", "smoke-first", "smoke-one", "smoke-two", "record", "profile", "tests"]),
        ("gpu_run_b.sh", ["again", "memcheck", "racecheck", "tests", "streams", "record"]),
    ],
)
def test_a_step_that_fails_does_not_stop_the_others(tmp_path, script, steps):
    python = tmp_path / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    out = tmp_path / "out"
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(python), "OUT": str(out)}
    arguments = ["linear"] if "again" in steps else []
    subprocess.run(["bash", str(FOLDER / script), *arguments], env=environment, check=True, timeout=60)
    ended = dict(line.split(": status ") for line in (out / "steps.txt").read_text().splitlines())
    assert set(ended) == set(steps)
    assert ended["record"].startswith("3,")
    assert ended["tests"].startswith("0,")
    assert "asked: -m pytest -m gpu" in (out / "tests.txt").read_text()
