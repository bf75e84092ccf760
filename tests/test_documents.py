"""What the documents print: commands that CI runs, links that lead somewhere, every public function."""

import re

import pytest
from scripts import ROOT

import fastce

DOCUMENTS = ("README.md", "CONTRIBUTING.md", "bench/README.md")
BLOCK = re.compile(r"^```(\S*)(?: (\S+))?\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)]+)\)")
NOT_IN_CI = ("gpu", "peers", "long")  # marks of blocks that need a GPU, gigabytes, or half an hour
LANGUAGES = ("sh", "python", "text")

pytestmark = pytest.mark.skipif(
    not (ROOT / ".ci" / "run").is_file(), reason="CI and documents are not installed with the package"
)


def commands(text):
    """Each command of some lines, whether the virtual environment is active or named."""
    return [part.strip().replace(".venv/bin/", "") for line in text.splitlines() for part in line.split("&&")]


def blocks(document):
    """(language, mark, text) of what is fenced."""
    return BLOCK.findall((ROOT / document).read_text())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_ci_runs_every_command_as_printed(document):
    run = commands((ROOT / ".ci" / "run").read_text())
    for language, mark, text in blocks(document):
        assert language in LANGUAGES, text
        assert mark in ("", *NOT_IN_CI)
        if language == "sh" and mark not in NOT_IN_CI:
            assert not [command for command in commands(text) if command not in run]


def test_a_failure_of_joined_commands_ends_ci():
    assert not re.findall(r"^[^#\s].* && .*$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)  # but in parentheses


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_pictures_of_the_documents_exist(document):
    path = ROOT / document
    links = LINK.findall(path.read_text())
    assert links
    assert not [link for link in links if not (path.parent / link.partition("#")[0]).exists()]


def test_the_readme_is_short_and_names_every_function():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 2000
    table = text.partition("\n## Functions\n")[2].partition("\n## ")[0]
    missing = [name for name in fastce.__all__ if name.removesuffix("_value_and_grad") not in table]
    assert not missing
