"""The command line: what it prints and writes, and what it says when it cannot."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from importlib.resources import files
from zipfile import ZipFile

import numpy as np
import pytest
from scripts import ROOT, run_script

import fastce
from fastce.__main__ import main
from fastce.profile import command, pairs, peers
from fastce.profile.features_problem import FEATURE_FUNCTIONS
from fastce.profile.jobs import DEFAULT_FUNCTIONS, FUNCTIONS
from fastce.profile.text import number

JOBS = [
    ("logsumexp", ""),
    ("cross_entropy", ""),
    ("cross_entropy_value_and_grad", "out"),
    ("cross_entropy_value_and_grad", "in place"),
    ("clip_loss_value_and_grad", "out"),
]
SMALL = ("--batch", "64", "--repeat", "1", "--compare", "none")


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    """The same width wherever the tests are run."""
    monkeypatch.setenv("COLUMNS", "80")


def run_command(*arguments):
    """Run the command line as a program of its own."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-m", "fastce", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )


def profiled(tmp_path, capsys, *arguments):
    """What a run of `fastce profile` prints, and the figures that it writes."""
    path = tmp_path / "profile.json"
    assert main(["profile", "--repeat", "1", "--json", str(path), *map(str, arguments)]) == 0
    return capsys.readouterr().out, json.loads(path.read_text())


def refused(capsys, *arguments):
    """The one line with which `fastce profile` refuses its arguments."""
    assert main(["profile", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(("fastce profile: error: ", "fastce: error: "))
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err


# ------------------------------------------------------------------------------------ what it prints
@pytest.mark.slow
def test_profile_measures_every_job_and_writes_the_figures(tmp_path):
    path = tmp_path / "figures.json"
    done = run_command("profile", "--batch", 256, "--repeat", 1, "--json", path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "real pairs" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80

    figures = json.loads(path.read_text())
    assert figures["input"]["rows"] == figures["input"]["classes"] == 256
    ours = [job for job in figures["jobs"] if job["engine"] == "fastce"]
    assert [(job["function"], job["place"]) for job in ours] == JOBS
    assert {job["function"] for job in figures["jobs"] if job["engine"] == "numpy/scipy"} == set(DEFAULT_FUNCTIONS)
    for job in figures["jobs"]:
        assert job["function"] in done.stdout
        assert min(job["seconds"], job["gb_per_s"], job["floor_seconds"], job["times_floor"]) > 0
        assert job["errors"]
    for job in ours:
        assert all(error["units"] <= 8 for error in job["errors"].values()), job
        assert job["extra_bytes"] is None or job["extra_bytes"] < 16 << 20


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_profile_takes_every_dtype(dtype, tmp_path, capsys):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    _, figures = profiled(tmp_path, capsys, *SMALL, "--dtype", dtype)
    assert figures["input"]["dtype"] == dtype
    assert len(figures["jobs"]) == len(JOBS)
    for job in figures["jobs"]:
        assert all(error["units"] <= 32 for error in job["errors"].values()), job


def test_op_selects_functions(tmp_path, capsys):
    options = ("--op", "logsumexp,cross_entropy", "--op", "cross_entropy_value_and_grad")
    _, figures = profiled(tmp_path, capsys, *SMALL, *options)
    assert [(job["function"], job["place"]) for job in figures["jobs"]] == JOBS[:4]


def test_without_a_square_clip_loss_is_left_out_and_said_to_be(tmp_path, capsys):
    out, figures = profiled(tmp_path, capsys, *SMALL, "--classes", "10")
    assert [(job["function"], job["place"]) for job in figures["jobs"]] == JOBS[:4]
    assert "clip_loss is left out" in out


def test_similarity_and_targets_from_files(tmp_path, capsys, rng):
    similarity, targets = rng.standard_normal((40, 30)), rng.integers(0, 30, 40).astype(np.uint8)
    np.save(tmp_path / "similarity.npy", np.asfortranarray(similarity))
    np.save(tmp_path / "targets.npy", targets)
    files = ("--input", tmp_path / "similarity.npy", "--targets", tmp_path / "targets.npy")
    _, figures = profiled(tmp_path, capsys, *files, "--compare", "none", "--label-smoothing", "0")
    assert figures["input"] | {"nbytes": 0} == {
        "origin": "similarity.npy",
        "rows": 40,
        "classes": 30,
        "dtype": "float64",
        "nbytes": 0,
        "rows_with_nan": 0,
        "label_smoothing": 0.0,
    }
    assert all(error["absolute"] < 1e-12 for job in figures["jobs"] for error in job["errors"].values())


def test_features_from_a_file(tmp_path, capsys, rng):
    path = tmp_path / "features.npz"
    np.savez(path, images=rng.standard_normal((20, 8)), texts=rng.standard_normal((20, 8)))
    _, figures = profiled(tmp_path, capsys, "--input", path, "--compare", "none")
    assert figures["input"]["rows"] == figures["input"]["classes"] == 20
    assert "'images' and 'texts'" in figures["input"]["origin"]
    assert len(figures["jobs"]) == len(JOBS)


def test_nan_in_the_input_is_not_an_error_and_not_a_number_in_the_json(tmp_path, capsys, rng):
    similarity = rng.standard_normal((16, 16))
    similarity[3, 4] = np.nan
    np.save(tmp_path / "similarity.npy", similarity)
    _, figures = profiled(tmp_path, capsys, "--input", tmp_path / "similarity.npy", "--compare", "none")
    for job in figures["jobs"]:
        assert all((error["absolute"] or 0) < 1e-12 for error in job["errors"].values()), job


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["torch", "jax", "sklearn"])
def test_peers_are_measured_where_they_are_installed(peer, tmp_path, capsys, monkeypatch):
    pytest.importorskip(peer)
    if peer == "torch":  # compiling takes too long for a test
        compiled = replace(peers.ENGINES["torch.compile"], has=lambda job: False)
        monkeypatch.setitem(peers.ENGINES, "torch.compile", compiled)
    out, figures = profiled(tmp_path, capsys, "--batch", "64", "--op", ",".join(FUNCTIONS), "--compare", peer)
    found = {job["function"]: job for job in figures["jobs"] if job["engine"] == peer}
    package = peers.PACKAGES[peer]
    assert f"{package} {version(package)}" in " ".join(out.split())
    if peer == "sklearn":
        assert set(found) == {"cross_entropy", "cross_entropy_value_and_grad", "cross_entropy_grad_and_hess"}
        assert "sklearn has no logsumexp, softmax" in " ".join(out.split())
    else:
        assert set(FUNCTIONS) - set(found) == ({"cross_entropy_grad_and_hess"} if peer == "torch" else set())
    for job in found.values():
        assert all(error["absolute"] < 1e-4 for error in job["errors"].values()), job


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_op_takes_every_function_and_the_columns_say_the_same_of_every_library(dtype, tmp_path, capsys):
    _, figures = profiled(tmp_path, capsys, "--batch", "96", "--op", ",".join(FUNCTIONS), "--dtype", dtype)
    jobs = figures["jobs"]
    assert {job["function"] for job in jobs if job["engine"] == "fastce"} == set(FUNCTIONS)
    assert {job["function"] for job in jobs if job["engine"] == "numpy/scipy"} == set(FUNCTIONS)
    for name in {job["name"] for job in jobs}:
        ours, *theirs = [job for job in jobs if job["name"] == name]
        assert (ours["engine"], ours["times_faster"]) == ("fastce", None)
        for job in theirs:
            assert job["times_faster"] == pytest.approx(job["seconds"] / ours["seconds"])
            assert (job["floor"], job["floor_seconds"]) == (ours["floor"], ours["floor_seconds"])
            units = [{kind: error["unit"] for kind, error in row["errors"].items()} for row in (ours, job)]
            assert units[0] == units[1]
        for job in (ours, *theirs):
            if name != "nll_loss":
                assert job["times_floor"] == pytest.approx(job["seconds"] / job["floor_seconds"])
            assert set(job["errors"]) <= {"rows", "mean"}
            largest = 16 if job["engine"] == "fastce" else np.inf
            assert all(error["units"] <= largest for error in job["errors"].values()), job


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    functions = "cross_entropy,binary_cross_entropy_with_logits_value_and_grad"
    assert main(["profile", "--batch", "24", "--repeat", "1", "--op", functions]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= columns
    assert ("too narrow for" in out) == (columns < 80)
    for always in ("timesfaster", "numpy/scipy", functions.split(",")[1], "Floor:thetimein"):
        assert always in "".join(out.split())


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.00"), (0.123, "0.12"), (9.994, "9.99"), (9.996, "10.0"), (99.96, "100"), (2e5, "2.0e+05")],
)
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_without_other_libraries_nothing_is_said_of_them(capsys):
    assert main(["profile", *SMALL, "--op", "logsumexp"]) == 0
    assert main(["profile", *SMALL, "--op", "info_nce"]) == 0
    out = capsys.readouterr().out
    assert "fastce" in out
    for absent in ("imes faster", "mean loss ", "iffers by", "numpy/scipy"):
        assert absent not in out


def test_more_threads_than_cores_are_warned_of(capsys):
    assert main(["profile", *SMALL, "--op", "logsumexp", "--threads", "3000"]) == 0
    assert "warning: --threads 3000 on" in capsys.readouterr().err


@pytest.mark.parametrize(("rows", "words"), [(16, "Every row holds NaN"), (1, "NaN in 1 row of 16"), (0, "")])
def test_nan_in_the_input_is_said(rows, words, tmp_path, capsys, rng):
    similarity = rng.standard_normal((16, 16))
    similarity[:rows] = np.nan
    np.save(tmp_path / "similarity.npy", similarity)
    options = ("--input", tmp_path / "similarity.npy", "--compare", "none", "--op", "logsumexp")
    out, figures = profiled(tmp_path, capsys, *options)
    assert words in out
    assert ("NaN" in out) == bool(words)
    assert figures["input"]["rows_with_nan"] == rows


def test_info_as_json_tells_what_info_prints(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert main(["info", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    for known in (about["fastce"], about["cpu"], about["packages"]["numba"], f"vectors of {about['vector_bits']} bits"):
        assert known in printed
    assert f"threads: {about['threads']}\n" in printed
    assert f"kernels: {about['cache_folder'] or 'off'}" in printed


def test_plot_writes_a_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / "profile.png"
    assert main(["profile", *SMALL, "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_info_prints_the_configuration(capsys):
    fastce.show_config()
    expected = capsys.readouterr().out
    assert main(["info"]) == 0
    assert capsys.readouterr().out == expected != ""


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fastce {fastce.__version__}\n"


# ------------------------------------------------------------------------ what it says when it cannot
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--batch", "0"], "must be a positive integer, not '0'"),
        (["--batch", "many"], "must be a positive integer, not 'many'"),
        (["--classes", "-3"], "must be a positive integer"),
        (["--threads", "1.5"], "must be a positive integer"),
        (["--repeat", "0"], "must be a positive integer"),
        (["--dtype", "int8"], "invalid choice: 'int8'"),
        (["--op", "logsumexp,softplus"], "'softplus' is none of logsumexp, softmax"),
        (["--compare", "tensorflow"], "'tensorflow' is none of scipy, torch, jax, sklearn"),
        (["--label-smoothing", "1.5"], "must lie between 0 and 1"),
        (["--label-smoothing", "nan"], "must lie between 0 and 1"),
        (["--bach", "3"], "unrecognized arguments: --bach 3"),
        (["--batch"], "expected one argument"),
        (["--json", "no/such/folder/file.json"], "--json no/such/folder/file.json cannot be written: No such file"),
        (["--json", "."], "--json . cannot be written: Is a directory"),
        (["--plot", "x" * 300 + ".png"], "cannot be written: File name too long"),
        (["--plot", "figure.txt"], "must end in one of .png"),
        (["--input", "missing.npy"], "no such file"),
        (["--targets", "missing.npy", "--batch", "8"], "no such file"),
        (
            ["--batch", "8", "--classes", "4", "--op", "clip_loss"],
            "clip_loss needs a square matrix, not 8 x 4",
        ),
        (["--batch", "50000000", "--classes", "50000000"], "of memory"),
    ],
)
def test_wrong_options_are_refused_in_one_line(arguments, reason, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "of memory" in reason and not os.path.exists("/proc/meminfo"):
        pytest.skip("the system does not tell how much memory is free")
    assert reason in refused(capsys, *arguments)


BROKEN = {
    "text.npy": b"1 2 3\n4 5 6\n",
    "empty.npy": b"",
    "cut.npy": b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (3, 3), }",
    "broken.npz": b"PK\x03\x04 this is no archive",
}


@pytest.mark.parametrize(
    ("option", "accepted"),
    [
        ("--input", "give a .npy of a matrix of real numbers, or a .npz of two arrays of features"),
        ("--targets", "give a .npy of integers, one for each row"),
    ],
)
@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"", b"\x89HDF\r\n"])
def test_other_kinds_of_files_are_told_what_is_accepted(content, option, accepted, tmp_path, capsys):
    (tmp_path / "table.csv").write_bytes(content)
    said = (
        refused(capsys, "--batch", "8", option, tmp_path / "table.csv")
        if option == "--targets"
        else refused(capsys, option, tmp_path / "table.csv")
    )
    assert accepted in said
    assert "numpy.loadtxt" in said


def test_an_archive_of_something_else_is_told_what_is_accepted(tmp_path, capsys):
    with ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"no array")
    assert "give a .npy of a matrix" in refused(capsys, "--input", tmp_path / "model.pt")


@pytest.mark.parametrize("arguments", [("--compare", "torch"), ("--from-features", "--compare", "scipy,torch")])
def test_a_library_that_is_not_installed_stops_at_once(arguments, capsys, monkeypatch):
    monkeypatch.setattr("fastce.profile.command.is_installed", lambda peer: peer == "scipy")
    assert "--compare torch needs torch: pip install torch" in refused(capsys, *arguments)


def test_a_refused_run_leaves_no_output_behind_and_harms_none(tmp_path, capsys):
    (tmp_path / "old.json").write_text("kept")
    assert "no such file" in refused(capsys, "--json", tmp_path / "new.json", "--input", "missing.npy")
    assert "no such file" in refused(capsys, "--json", tmp_path / "old.json", "--input", "missing.npy")
    (tmp_path / "link.json").symlink_to(tmp_path / "new.json")
    assert "no such file" in refused(capsys, "--json", tmp_path / "link.json", "--input", "missing.npy")
    assert (tmp_path / "link.json").is_symlink()
    assert not (tmp_path / "new.json").exists()
    assert (tmp_path / "old.json").read_text() == "kept"


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("option", ["--input", "--targets"])
def test_broken_files_are_refused_in_one_line(name, option, tmp_path, capsys):
    (tmp_path / name).write_bytes(BROKEN[name])
    batch = ("--batch", "8") if option == "--targets" else ()
    assert f"{option} {tmp_path / name} cannot be read" in refused(capsys, option, tmp_path / name, *batch)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros(3), "must be two-dimensional and hold real numbers, not float64 of shape (3,)"),
        (np.zeros((2, 2, 2)), "must be two-dimensional"),
        (np.zeros((2, 2), complex), "hold real numbers, not complex128"),
        (np.array([["a", "b"]]), "hold real numbers, not <U1"),
        (np.array([[None]]), "cannot be read"),
        (np.zeros((0, 5)), "empty matrix of shape (0, 5)"),
    ],
)
def test_wrong_matrices_are_refused_in_one_line(array, reason, tmp_path, capsys):
    np.save(tmp_path / "similarity.npy", array)
    assert reason in refused(capsys, "--input", tmp_path / "similarity.npy")


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"a": np.zeros((3, 4))}, "must hold two arrays of features, not 1"),
        (
            {"a": np.zeros((3, 4)), "b": np.zeros((3, 5))},
            "must hold features of equal width, not (3, 4) and (3, 5)",
        ),
        ({"a": np.zeros((3, 4)), "b": np.zeros(4)}, "b must be two-dimensional"),
        ({"a": np.zeros((3, 4)), "b": np.zeros((0, 4))}, "empty array b"),
    ],
)
def test_wrong_features_are_refused_in_one_line(arrays, reason, tmp_path, capsys):
    np.savez(tmp_path / "features.npz", **arrays)
    assert reason in refused(capsys, "--input", tmp_path / "features.npz")


@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        (np.zeros(7, int), "must hold integers of shape (8,), one for each row, not int64 of shape (7,)"),
        (np.zeros(8), "must hold integers of shape (8,), one for each row, not float64"),
        (np.zeros(8, bool), "must hold integers"),
        (np.full(8, 8), "must lie in 0..7, but row 0 holds 8"),
        (np.array([0, 1, -1, 0, 0, 0, 0, 0]), "must lie in 0..7, but row 2 holds -1"),
    ],
)
def test_wrong_targets_are_refused_in_one_line(targets, reason, tmp_path, capsys):
    np.save(tmp_path / "targets.npy", targets)
    assert reason in refused(capsys, "--batch", "8", "--targets", tmp_path / "targets.npy")


def test_the_shape_of_a_file_cannot_be_changed(tmp_path, capsys):
    np.save(tmp_path / "similarity.npy", np.zeros((3, 3)))
    assert "do not go with --input" in refused(capsys, "--input", tmp_path / "similarity.npy", "--batch", "2")


def test_plot_without_matplotlib_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fastce.profile.figure.find_spec", lambda name: None)
    assert "pip install matplotlib" in refused(capsys, "--plot", tmp_path / "figure.png")


def test_a_wrong_option_ends_the_program_with_status_2():
    done = run_command("profile", "--batch", "none")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


def test_no_command_is_refused(capsys):
    assert main([]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# -------------------------------------------------------------------------------- what it stands on
def test_the_shipped_pairs_are_512_unit_vectors_on_each_side():
    signature, docstring = pairs.load_pairs()
    assert signature.shape == docstring.shape == (512, 384)
    for side in (signature, docstring):
        assert side.dtype == np.float16
        np.testing.assert_allclose(np.linalg.norm(side.astype(np.float64), axis=1), 1, atol=1e-3)
    similarity = signature.astype(np.float32) @ docstring.T.astype(np.float32)
    assert np.mean(similarity.argmax(axis=1) == np.arange(512)) > 0.3  # row i belongs to row i


def test_the_shipped_data_is_small_and_says_where_it_comes_from():
    folder = files("fastce") / "data"
    assert len((folder / "docstring_pairs.npz").read_bytes()) < 1 << 20
    note = (folder / "README.md").read_text()
    assert "all-MiniLM-L6-v2" in note
    assert "Apache-2.0" in note


def test_tiled_pairs_are_the_same_every_time_and_neither_easy_nor_hopeless():
    similarity, targets = pairs.similarity_matrix(2048, 2048, np.dtype(np.float32))
    again, _ = pairs.similarity_matrix(2048, 2048, np.dtype(np.float32))
    np.testing.assert_array_equal(similarity, again)
    np.testing.assert_array_equal(targets, np.arange(2048))
    for logits in (similarity, similarity.T):
        assert 0.5 < fastce.cross_entropy(logits, targets) < 6


def test_nothing_heavy_is_imported_before_it_is_needed(tmp_path):
    heavy = ("matplotlib", "torch", "jax", "sklearn")
    source = f"""
import sys
from fastce.__main__ import main
from fastce.profile import figure, peers, report, run
print([name for name in {heavy} if name in sys.modules])
"""
    assert run_script(source, tmp_path)[0].strip() == "[]"


# ------------------------------------------------------------------------------------ --from-features
@pytest.mark.slow
def test_from_features_measures_batches_by_powers_of_two(tmp_path, capsys):
    out, found = profiled(tmp_path, capsys, "--from-features", "--batch", 1200)
    rows = {(row["engine"], row["batch"]): row for row in found["rows"]}
    assert list(rows) == [(engine, batch) for batch in (256, 512, 1024, 1200) for engine in ("fastce", "numpy")]
    for (engine, batch), row in rows.items():
        assert row["seconds"] > 0
        assert row["gflop_per_s"] == pytest.approx(8 * batch**2 * 384 / row["seconds"] / 1e9)
        assert (row["difference"] is None) if engine == "fastce" else 0 < row["difference"] < 1e-4
        assert f"{batch:,}" in out


@pytest.mark.slow
def test_from_features_leaves_the_dense_way_out_beyond_the_memory_limit(tmp_path, capsys):
    limit = 5 * 512**2 * 4 / 2**30  # four matrices of 512 x 512, not of 1024 x 1024
    out, found = profiled(tmp_path, capsys, "--from-features", "--batch", 1024, "--memory-limit", limit)
    assert [(row["engine"], row["batch"]) for row in found["rows"]] == [
        ("fastce", 256),
        ("numpy", 256),
        ("fastce", 512),
        ("numpy", 512),
        ("fastce", 1024),
    ]
    said = "numpy: clip_loss_from_features from batch 1024 on takes more than the memory limit"
    assert said in " ".join(out.split())


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["scipy", "torch"])
def test_op_takes_every_loss_from_features_and_the_dense_ways_agree(peer, tmp_path, capsys):
    pytest.importorskip(peer)
    options = ("--batch", 60, "--compare", peer, "--dtype", "float64", "--op", ",".join(FEATURE_FUNCTIONS))
    out, found = profiled(tmp_path, capsys, *options)
    rows = found["rows"]
    assert max(map(len, out.splitlines())) <= 80
    assert [row["function"] for row in rows[::2]] == [row["function"] for row in rows[1::2]] == list(FEATURE_FUNCTIONS)
    for ours, theirs in zip(rows[::2], rows[1::2], strict=True):
        assert (ours["engine"], theirs["engine"]) == ("fastce", command.DENSE[peer])
        assert theirs["difference"] < (1e-9 if "siglip" in ours["function"] else 1e-12)  # PyTorch's softplus
        assert theirs["times_faster"] == pytest.approx(theirs["seconds"] / ours["seconds"])
        for row in (ours, theirs):
            assert row["floor_seconds"] == ours["floor_seconds"]
            assert row["times_floor"] == pytest.approx(row["seconds"] / row["floor_seconds"])


def test_every_public_function_can_be_profiled():
    others = {"LogSumExp", "deferred", "get_num_threads", "set_num_threads", "show_config", "threads", "warmup"}
    of_no_peer = {"calibrate_temperature", "recall_at_k"}
    of_no_peer.add("linear_cross_entropy_value_and_grad_logit_scale")
    assert {*FUNCTIONS, *FEATURE_FUNCTIONS} == set(fastce.__all__) - others - of_no_peer


def test_functions_of_a_matrix_and_of_features_are_profiled_apart(capsys):
    functions = "siglip_loss,softmax"
    assert "--op softmax starts from a matrix and does not go with siglip_loss" in refused(capsys, "--op", functions)


@pytest.mark.slow
def test_from_features_of_a_file(tmp_path, capsys, rng):
    path = tmp_path / "features.npz"
    np.savez(path, image=rng.normal(size=(40, 8)), text=rng.normal(size=(40, 8)))
    out, found = profiled(tmp_path, capsys, "--from-features", "--input", path, "--batch", 30, "--compare", "none")
    assert [row["batch"] for row in found["rows"]] == [30]
    assert "features.npz: 'image' and 'text', normalised" in " ".join(out.split())


@pytest.mark.slow
def test_from_features_draws_memory_and_time(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / "batch.png"
    limit = 5 * 512**2 * 4 / 2**30  # the dense way ends before the largest batch, which is marked
    profiled(tmp_path, capsys, "--from-features", "--batch", 600, "--memory-limit", limit, "--plot", path)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--classes", 5), "--classes does not go with losses from features"),
        (("--op", "logsumexp"), "--op logsumexp starts from a matrix and does not go with --from-features"),
        (("--compare", "jax"), "--compare jax does not go with losses from features; scipy, torch and none do"),
        (("--memory-limit", "0"), "must be a positive number"),
        (("--dtype", "float16"), "--dtype float16 does not go with losses from features"),
    ],
)
def test_from_features_refuses_what_does_not_go_with_it(arguments, reason, capsys):
    assert reason in refused(capsys, "--from-features", *map(str, arguments))


def test_from_features_refuses_files_that_are_no_pairs(tmp_path, capsys, rng):
    path = tmp_path / "features.npz"
    np.savez(path, image=rng.normal(size=(4, 8)), text=rng.normal(size=(5, 8)))
    assert "must hold pairs of features" in refused(capsys, "--from-features", "--input", path)
    np.save(tmp_path / "matrix.npy", rng.normal(size=(4, 8)))
    assert "must be a .npz" in refused(capsys, "--from-features", "--input", tmp_path / "matrix.npy")


def test_a_memory_limit_goes_with_features_only(capsys):
    assert "--memory-limit goes with losses from features" in refused(capsys, "--memory-limit", "1")
