"""How Sphinx makes the site of these pages: ``make site``, without a network, into build/site."""

import contextlib
import io
import os
import re
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive

import fastmgr
from fastmgr import BaseProxy
from fastmgr.__main__ import COMMANDS, _parser

REPOSITORY = "https://github.com/fastmgr/fastmgr/"
os.environ["COLUMNS"] = "90"  # the width of the texts that argparse makes
DOCS = Path(__file__).parent

project = "fastmgr"
author = "The fastmgr developers"
copyright = "the fastmgr developers; MIT licence"
version = release = fastmgr.__version__
extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
]
exclude_patterns = ["deploy"]

html_theme = "furo"
html_title = "fastmgr"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "source_repository": REPOSITORY,
    "source_branch": "main",
    "source_directory": "docs/",
}

# Headings can be linked to, by the anchors that GitHub gives them.
myst_heading_anchors = 4

# `name` in a doc string is a link, where there is something of that name.
default_role = "py:obj"
add_module_names = False
autodoc_default_options = {
    "members": True,
    "inherited-members": "BaseException,Exception,OSError,RuntimeError,int,object",
    "exclude-members": "__init__,__new__,from_bytes",
}
autodoc_member_order = "groupwise"
autodoc_typehints = "none"  # the doc strings have them, in words
numpydoc_show_class_members = False


def link_to_repository(app, docname, source):
    """Have links to files that are no pages lead to the repository."""
    page = Path(app.env.doc2path(docname)).resolve()

    def linked(match):
        path, _, anchor = match[1].partition("#")
        target = (page.parent / path).resolve()
        is_page = target.suffix in (".md", ".rst", ".svg", ".png") and DOCS in target.parents
        if not path or is_page or not target.exists():  # Sphinx warns of what is not there
            return match[0]
        kind = "tree" if target.is_dir() else "blob"
        place = target.relative_to(DOCS.parent).as_posix()
        return f"]({REPOSITORY}{kind}/main/{place}{'#' if anchor else ''}{anchor})"

    source[0] = re.sub(r"\]\(([^)\s]+)\)", linked, source[0])


class CommandHelp(Directive):
    """What ``--help`` says of the program and of each of its commands."""

    def shown(self, text):
        return nodes.literal_block(text=text, language="text", classes=["help"])

    def run(self):
        found = [self.shown(_parser(None).format_help())]
        for name in COMMANDS:
            section = nodes.section(ids=[name])
            section += nodes.title(text=f"fastmgr {name}")
            text = io.StringIO()
            with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
                _parser(name).parse_args([name, "--help"])
            section += self.shown(text.getvalue())
            found.append(section)
        return found


def as_called(app, what, name, obj, options, signature, returns):
    """Show what a user writes: managers make the proxies, and nobody passes `self`."""
    if what == "class" and issubclass(obj, BaseProxy):
        return "", None
    if what == "method" and signature:  # as Cython has it
        return re.sub(r"^\(self(, )?", "(", signature), returns
    return None


def setup(app):
    app.connect("autodoc-process-signature", as_called, priority=400)  # before numpydoc
    app.add_directive("command-help", CommandHelp)
    app.connect("source-read", link_to_repository)
