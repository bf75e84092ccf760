"""Compiled kernels are kept on disk; whatever happens to them there, results are right, and it is quiet."""

import os
import pickle
import py_compile
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
from scripts import finish, run_script, start_script

import fastce

# copy_lines is the kernel that compiles soonest, and every kernel has the same cache.
CALL = """
import numpy as np
import fastce
from fastce.cpu._kernels.transposition import copy_lines

x = np.arange(24, dtype=np.float32).reshape(2, 1, 3, 4)
out = np.empty((2, 1, 3, 2), np.float32)
copy_lines.compiled(x.dtype)(x[..., ::2], out)
assert (out == x[..., ::2]).all()
"""


def call(folder, cache=None, **options):
    """One process that makes one small call; its stderr, which must be no more than one line."""
    out, err = run_script(CALL, folder, FASTCE_CACHE_DIR=cache, **{"FASTCE_CACHE": None, **options})
    assert out == ""
    assert len(err.splitlines()) <= 1, err
    return err


def entries(folder):
    """The compiled code below a folder: path -> (time of writing, content)."""
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in Path(folder).rglob("*.nb[ic]")}


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A folder that one process has compiled into; tests copy it."""
    folder = tmp_path_factory.mktemp("compiled")
    assert call(folder, folder / "cache") == ""
    return folder / "cache"


@pytest.mark.slow
def test_the_first_process_writes_an_index_and_code_and_says_nothing(compiled):
    assert {path.suffix for path in entries(compiled)} == {".nbi", ".nbc"}


@pytest.mark.slow
def test_the_next_process_loads_what_the_first_compiled(compiled, tmp_path):
    # A kernel that is compiled is written, so that files which stay as they were mean that nothing was.
    before = entries(compiled)
    assert call(tmp_path, compiled) == ""
    assert entries(compiled) == before


EVERY_CALL = """
import sys
import fastce
from public_calls import CALLS

for name, given in CALLS.items():
    getattr(fastce, name)(**given)
print("numba.np.arrayobj" in sys.modules)
"""


@pytest.mark.slow
def test_what_is_loaded_runs_without_what_compiles(tmp_path):
    folder = os.environ.get("FASTCE_CACHE_DIR", tmp_path)  # of the other tests, where there is one, with their kernels
    run_script(EVERY_CALL, tmp_path, FASTCE_CACHE=None, FASTCE_CACHE_DIR=folder, timeout=500)
    out, _ = run_script(EVERY_CALL, tmp_path, FASTCE_CACHE=None, FASTCE_CACHE_DIR=folder)
    assert out == "False\n"


@pytest.mark.slow
def test_a_folder_that_is_missing_is_made_whatever_letters_it_has(tmp_path):
    assert call(tmp_path, tmp_path / "some" / "new" / "le cache à moi") == ""
    assert entries(tmp_path / "some" / "new" / "le cache à moi")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the user's cache folder has another name elsewhere")
def test_the_default_is_the_cache_folder_of_the_user(tmp_path):
    assert call(tmp_path, HOME=tmp_path, XDG_CACHE_HOME=None) == ""
    assert entries(tmp_path / ".cache" / "fastce")
    assert entries(tmp_path) == entries(tmp_path / ".cache" / "fastce")


@pytest.mark.slow
def test_fastce_cache_0_writes_nothing(tmp_path, cache):
    package = Path(fastce.__file__).parent
    before = entries(package)
    home = tmp_path / "home"
    assert call(tmp_path, cache, FASTCE_CACHE="0", HOME=home, XDG_CACHE_HOME=home) == ""
    assert not cache.exists()
    assert not home.exists()
    assert entries(package) == before


@pytest.mark.slow
def test_no_compiled_code_is_written_into_the_package(compiled):
    assert entries(Path(fastce.__file__).parent) == {}


# --------------------------------------------------------------------------------- folders that are no use
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs /dev/null")
def test_a_folder_that_cannot_exist(tmp_path):
    call(tmp_path, "/dev/null/cache")


@pytest.mark.slow
def test_a_file_in_place_of_the_folder(tmp_path, cache):
    cache.write_text("I was here first.")
    call(tmp_path, cache)
    assert cache.read_text() == "I was here first."


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs /dev/null")
def test_a_user_without_a_home(tmp_path):
    call(tmp_path, HOME="/dev/null/home", XDG_CACHE_HOME=None)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on file size")
def test_a_full_disk(tmp_path, cache):
    # No byte can be written into any file, pipes aside.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
    _, err = run_script(limit + CALL, tmp_path, FASTCE_CACHE_DIR=cache, PYTHONDONTWRITEBYTECODE=1)
    assert len(err.splitlines()) <= 1, err
    call(tmp_path, cache)  # and what it left behind does no harm


# ------------------------------------------------------------------------------------- files that are no use
def other_version(content):
    """An index whose first pickle, the version of Numba, is another."""
    return pickle.dumps("0.1") + content


DAMAGES = {
    "empty": lambda content: b"",
    "first half": lambda content: content[: len(content) // 2],
    "all but the last byte": lambda content: content[:-1],
    "garbage": lambda content: bytes(i * i % 251 for i in range(len(content))),
    "of another version": other_version,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        *((".nbi", damage) for damage in DAMAGES),
        *((".nbc", damage) for damage in ("empty", "all but the last byte", "garbage")),
    ],
)
def test_damaged_files_are_compiled_anew(damage, suffix, compiled, tmp_path, cache):
    shutil.copytree(compiled, cache)
    damaged = list(cache.rglob("*" + suffix))
    assert damaged
    for path in damaged:
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    call(tmp_path, cache)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_files_that_are_gone_are_compiled_anew(suffix, compiled, tmp_path, cache):
    shutil.copytree(compiled, cache)
    for path in list(cache.rglob("*" + suffix)):
        path.unlink()
    call(tmp_path, cache)
    assert {path.suffix for path in entries(cache)} == {".nbi", ".nbc"}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_folders_in_place_of_files(suffix, compiled, tmp_path, cache):
    shutil.copytree(compiled, cache)
    for path in list(cache.rglob("*" + suffix)):
        path.unlink()
        path.mkdir()
    call(tmp_path, cache)


# -------------------------------------------------------------------------------------- many, and changing
@pytest.mark.slow
def test_processes_that_compile_at_once_into_one_folder(tmp_path, cache):
    names = ["one.py", "two.py", "three.py"]
    processes = [start_script(CALL, tmp_path, name=name, FASTCE_CACHE_DIR=cache) for name in names]
    for process in processes:
        assert finish(process) == ("", "")
    before = entries(cache)
    assert call(tmp_path, cache) == ""
    assert entries(cache) == before, "what they left could not be loaded"


@pytest.fixture
def copied_package(tmp_path):
    """A copy of the package that a test may edit: the folder to import it from."""
    root = tmp_path / "site"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(fastce.__file__).parent, root / "fastce", ignore=ignore)
    return root


@pytest.mark.slow
def test_an_edit_of_a_file_that_kernels_only_call_compiles_anew(copied_package, tmp_path, cache):
    # Numba itself looks only at the file of the function that is compiled, not at those it calls.
    call(tmp_path, cache, root=copied_package)
    before = entries(cache)
    with (copied_package / "fastce" / "cpu" / "_vectors" / "simd.py").open("a") as file:
        file.write("\n# edited\n")
    call(tmp_path, cache, root=copied_package)
    new = {path: entry for path, entry in entries(cache).items() if before.get(path) != entry}
    assert any(path.suffix == ".nbc" for path in new), "old code was used"


def test_an_edit_of_any_kernel_file_is_another_stamp(copied_package, tmp_path):
    out, _ = run_script(
        """
from pathlib import Path
from fastce.cpu._vectors import sources

stamps = [sources.digest()]
for path in Path(sources.__file__).parents[1].glob("_*/[!_]*.py"):
    with path.open("a") as file:
        file.write("\\n# edited\\n")
    stamps.append(sources.digest())
print(None in stamps, len(stamps) - len(set(stamps)), len(stamps) > 35)
""",
        tmp_path,
        root=copied_package,
    )
    assert out == "False 0 True\n"


@pytest.mark.slow
def test_an_edit_outside_the_kernels_compiles_nothing(copied_package, tmp_path, cache):
    call(tmp_path, cache, root=copied_package)
    before = entries(cache)
    with (copied_package / "fastce" / "losses" / "softmax.py").open("a") as file:
        file.write("\n# edited\n")
    call(tmp_path, cache, root=copied_package)
    assert entries(cache) == before


# ------------------------------------------------------------------------------------------ whose folder it is
POSIX = pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs owners and permissions of files")


@POSIX
@pytest.mark.slow
def test_folders_are_made_for_their_owner_alone_whatever_the_umask_is(tmp_path):
    out, err = run_script("import os; os.umask(0)\n" + CALL, tmp_path, FASTCE_CACHE_DIR=tmp_path / "some" / "cache")
    assert (out, err) == ("", "")
    made = [path for path in (tmp_path / "some", *(tmp_path / "some").rglob("*")) if path.is_dir()]
    assert len(made) == 4
    assert {path.stat().st_mode & 0o777 for path in made} == {0o700}


@POSIX
@pytest.mark.parametrize("place", ["the folder", "one above it", "where the code lies", "behind a link"])
@pytest.mark.slow
def test_a_folder_that_others_may_write_to_is_not_used(place, compiled, tmp_path):
    above = tmp_path / "above"
    cache = above / "cache"
    shutil.copytree(compiled, cache)
    opened = {"the folder": cache, "where the code lies": next(cache.rglob("*.nbi")).parent}.get(place, above)
    opened.chmod(0o777)
    if place == "behind a link":
        (tmp_path / "link").symlink_to(cache)
        cache = tmp_path / "link"
    before = entries(cache)
    for path in cache.rglob("*.nbc"):
        path.write_bytes(pickle.dumps("never unpickled"))
    err = call(tmp_path, cache)
    assert "can be written to by other users" in err
    assert entries(cache).keys() == before.keys()
    assert all(
        content == pickle.dumps("never unpickled") for p, (_, content) in entries(cache).items() if p.suffix == ".nbc"
    )


@POSIX
@pytest.mark.slow
def test_a_folder_in_a_sticky_one_is_used(tmp_path):
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    assert call(tmp_path, shared / "cache") == ""
    assert entries(shared / "cache")


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away")
@pytest.mark.slow
def test_a_folder_of_another_user_is_not_used(compiled, tmp_path, cache):
    shutil.copytree(compiled, cache)
    os.chown(cache, 12345, 12345)
    assert "belongs to another user" in call(tmp_path, cache)


@pytest.mark.skipif(sys.platform != "linux", reason="XDG is of Linux")
@pytest.mark.parametrize("xdg", ["", "relative/cache"])
@pytest.mark.slow
def test_an_xdg_cache_home_that_is_empty_or_relative_is_as_if_unset(tmp_path, xdg):
    home = tmp_path / "home"
    home.mkdir()
    assert call(tmp_path, HOME=home, XDG_CACHE_HOME=xdg) == ""
    assert entries(tmp_path) == entries(home / ".cache" / "fastce") != {}


@pytest.mark.slow
def test_a_relative_folder_is_where_the_process_began(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    before = "import os, fastce.cpu._vectors.cache; os.chdir('elsewhere')\n"
    out, err = run_script(before + CALL, tmp_path, FASTCE_CACHE_DIR="cache")
    assert (out, err) == ("", "")
    assert entries(tmp_path) == entries(tmp_path / "cache") != {}


# ------------------------------------------------------------------------------------------ what was imported
@pytest.mark.slow
def test_a_package_that_is_replaced_under_a_process_stores_nothing(copied_package, tmp_path, cache):
    kernels = copied_package / "fastce" / "cpu" / "_kernels"
    upgrade = f"import fastce.cpu._vectors.cache\nwith open({str(kernels / 'clip.py')!r}, 'a') as f: f.write('# new')\n"
    out, err = run_script(upgrade + CALL, tmp_path, root=copied_package, FASTCE_CACHE_DIR=cache)
    assert out == ""
    assert "has changed since it was imported" in err
    assert len(err.splitlines()) == 1
    assert not entries(cache)


def zipped(folder, kernel_end=""):
    """The package in a zip."""
    path = folder / "fastce.zip"
    source = Path(fastce.__file__).parent
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(source.rglob("*.py")):
            end = kernel_end if file.name == "simd.py" else ""
            archive.writestr(str(Path("fastce") / file.relative_to(source)), file.read_text() + end)
    return path


@pytest.mark.slow
def test_an_upgrade_of_a_zip_compiles_anew(tmp_path, cache):
    assert call(tmp_path, cache, root=zipped(tmp_path)) == ""
    before = entries(cache)
    assert before
    assert call(tmp_path, cache, root=zipped(tmp_path)) == ""
    assert entries(cache) == before
    assert call(tmp_path, cache, root=zipped(tmp_path, "\n# upgraded\nNEW = 1\n")) == ""
    assert set(entries(cache)) - set(before)


@pytest.mark.slow
def test_an_upgrade_of_compiled_files_only_compiles_anew(copied_package, tmp_path, cache):
    def compile_all(folder):
        for file in folder.rglob("*.py"):
            py_compile.compile(str(file), str(file.with_suffix(".pyc")), doraise=True)
            file.unlink()

    source = copied_package / "fastce" / "cpu" / "_vectors" / "simd.py"
    text = source.read_text()
    compile_all(copied_package)
    assert call(tmp_path, cache, root=copied_package) == ""
    before = entries(cache)
    assert before
    source.write_text(text + "\nNEW = 1\n")
    compile_all(copied_package)
    assert call(tmp_path, cache, root=copied_package) == ""
    assert set(entries(cache)) - set(before)


# --------------------------------------------------------------------------------------- another build of Numba
WITHOUT_OUR_LIBRARY = """
from fastce.cpu._vectors import compiler

assert compiler._PART.pop("pipeline_class") is compiler.PartCompiler  # as if Numba had not what it replaces
"""
SUM = """
import numpy as np

import fastce

x = np.random.default_rng(0).normal(size=(40, 300)).astype(np.float32)
print(fastce.logsumexp(x, axis=1).tobytes().hex())
"""


@pytest.mark.slow
def test_a_kernel_compiled_in_numbas_own_way_gives_the_same_bits(tmp_path):
    """Half a minute for the one: what our way of compiling is for."""
    options = {"timeout": 300, "FASTCE_CACHE_DIR": tmp_path / "cache"}
    theirs, _ = run_script(WITHOUT_OUR_LIBRARY + SUM, tmp_path, **options)
    ours, _ = run_script(SUM, tmp_path)
    assert theirs == ours
