"""What the site is made of: links lead somewhere, and the reference has all that is public."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fastmgr

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "fastmgr"
REFERENCE = ROOT / "docs" / "reference"
HERE = "https://github.com/fastmgr/fastmgr/"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub and the site give the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_what_is_there(page: Path) -> None:
    text = re.sub(r"^( *)```.*?^\1```$|`[^`]+`", "", page.read_text(), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        if path.startswith(HERE):
            path = re.sub(r"^(blob|tree)/main/", "", path.removeprefix(HERE))
            target = ROOT / path
            if path == "issues" or path.startswith(("security/", "releases")):
                continue
        elif "://" in path:
            continue
        else:
            target = (page.parent / path).resolve() if path else page
            assert page.name != "README.md" or page.parent != ROOT, f"{link}: PyPI cannot follow it"
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_reference_has_each_public_name() -> None:
    documented = [
        name
        for page in REFERENCE.glob("*.rst")
        for name in re.findall(r"^\.\. auto\w+:: (\w+)$", page.read_text(), re.MULTILINE)
    ]
    assert sorted(documented) == sorted({*fastmgr.__all__, *fastmgr._OF_VALKEY})


@pytest.mark.parametrize("extra", ["opentelemetry", "prometheus"])
def test_reference_has_what_an_extra_brings(extra: str) -> None:
    listed = re.search(r"^__all__ = \[(.*)\]$", (SOURCE / f"contrib/{extra}.py").read_text(), re.M)
    assert listed is not None
    documented = re.findall(
        rf"^\.\. auto\w+:: fastmgr\.contrib\.{extra}\.(\w+)$",
        (REFERENCE / "monitoring.rst").read_text(), re.M,
    )  # fmt: skip
    assert sorted(documented) == re.findall(r"\w+", listed[1])


def test_configuration_has_each_variable_of_the_environment() -> None:
    sources = (path for kind in ("*.py", "*.pyx") for path in SOURCE.rglob(kind))
    read = {name for path in sources for name in re.findall(r"FASTMGR_[A-Z_]+", path.read_text())}
    text = (REFERENCE / "configuration.md").read_text()
    assert read == set(re.findall(r"FASTMGR_[A-Z_]+", text))
