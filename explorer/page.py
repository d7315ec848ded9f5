"""The page of the explorer: one HTML file that carries its data, and asks nobody for anything."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ..version import __version__

HERE = Path(__file__).parent


def page(data: dict[str, Any]) -> str:
    """The HTML page of what `Explorer.explore` returns."""
    # Inside a script element only `<` can end it.
    content = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return load_template().render(
        data=data, json=Markup(content), style=Markup(style()), script=Markup(script()), version=__version__
    )


@cache
def load_template() -> jinja2.Template:
    """The template of the page; what it shows is escaped, an undefined name in it is an error."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=True)
    return environment.from_string((HERE / "page.html").read_text(encoding="utf-8"))


def style() -> str:
    """The style sheet, for this page and the server's."""
    return (HERE / "explorer.css").read_text(encoding="utf-8")


def script() -> str:
    """The script that defines `explore(data, element)`, for this page and the server's."""
    return (HERE / "explorer.js").read_text(encoding="utf-8")
