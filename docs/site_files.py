"""Copy what the site is made of: `python docs/site_files.py DIR`.

The pages link to each other, and to files outside docs/, as they do on GitHub. So the copy has the folders of the
repository, and a page for each file of code or settings, and for each folder, that a page links to.
"""

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ("*.md", "docs/*.md", "docs/lecture/*.md", "examples/*.md")
OTHERS = (
    "docs/site.css",
    "docs/lecture/*.png",
    "docs/lecture/*.jsonl",
    "docs/results/*.json",
    "examples/notebooks/*.ipynb",
)
# The target of a link in the repository, without its anchor.
LINK = re.compile(r"(?<=\]\()[^():#]+(?=[#)])")
FOLDER_PAGE = "files.md"
LANGUAGES = {".py": "python", ".yaml": "yaml", ".cfg": "ini", ".toml": "toml"}


def page_of(target: Path) -> str | None:
    """The page that shows a file of code or a folder; None for what is copied as it is."""
    if target.is_dir():
        names = sorted(path.name for path in target.iterdir())
        return "\n".join([f"# {target.name}\n", *(f"- [{name}]({name})" for name in names), ""])
    if target.suffix in LANGUAGES:
        text = target.read_text(encoding="utf-8")
        return f"# {target.relative_to(ROOT)}\n\n````{LANGUAGES[target.suffix]}\n{text}````\n"
    return None


def place_of(target: Path) -> Path:
    """Where the page of a file or a folder is, from the root.

    A folder's is not its index: docs/results.md has the address docs/results/.
    """
    target = target.relative_to(ROOT)
    return target / FOLDER_PAGE if (ROOT / target).is_dir() else target.with_name(target.name + ".md")


def write_pages(directory: Path) -> None:
    """Write everything into a directory, which is made anew."""
    shutil.rmtree(directory, ignore_errors=True)
    for path in (path for pattern in (*PAGES, *OTHERS) for path in sorted(ROOT.glob(pattern))):
        written = directory / path.relative_to(ROOT)
        written.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".md":
            shutil.copy(path, written)
            continue

        def lead(found: re.Match[str], page: Path = path) -> str:
            """The link to the page of a source file, which is written, or the link as it is."""
            target = (page.parent / found[0]).resolve()
            content = page_of(target) if target.exists() else None
            if content is None:
                return found[0]
            place = place_of(target)
            (directory / place).parent.mkdir(parents=True, exist_ok=True)
            (directory / place).write_text(content, encoding="utf-8")
            return found[0].rstrip("/") + (f"/{FOLDER_PAGE}" if target.is_dir() else ".md")

        written.write_text(LINK.sub(lead, path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
