"""The site has every page, where it is in the repository, and nothing on it comes from another machine."""

import re
import subprocess
import sys

import yaml
from pages import PAGES, ROOT


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml without calling the functions that it names."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)
SETTINGS = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)


def pages_of(entries):
    """The pages of a navigation, in its order."""
    values = [each for entry in entries for each in entry.values()]
    return [page for each in values for page in ([each] if isinstance(each, str) else pages_of(each))]


def test_the_navigation_has_every_page_once():
    pages = pages_of(SETTINGS["nav"])
    assert sorted(pages) == sorted([*(str(page.relative_to(ROOT)) for page in PAGES), "CHANGELOG.md"])


def test_source_files_and_folders_become_pages(tmp_path):
    subprocess.run([sys.executable, "docs/site_files.py", tmp_path], cwd=ROOT, check=True)
    assert "class Attention" in (tmp_path / "modeling/attention.py.md").read_text(encoding="utf-8")
    assert "clinc150.json" in (tmp_path / "docs/results/files.md").read_text(encoding="utf-8")
    assert "(../modeling/attention.py.md)" in (tmp_path / "docs/lecture.md").read_text(encoding="utf-8")
    for page in tmp_path.rglob("*.md"):
        if "```" not in page.read_text(encoding="utf-8").partition("\n\n")[2][:10]:  # not the page of a source file
            for link in re.findall(r"\]\(([^):#]+)[#)]", page.read_text(encoding="utf-8")):
                assert (page.parent / link).exists() or link == "LICENSE", (page, link)


def test_it_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    subprocess.run([sys.executable, "docs/site_files.py", tmp_path / "pages"], cwd=ROOT, check=True)
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").replace("build/pages", "pages")
    (tmp_path / "mkdocs.yml").write_text(settings.replace("build/site", "site"), encoding="utf-8")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?([^\"\s>]+)", html)
        loaded += re.findall(r"<link[^>]*rel=\"?stylesheet[^>]*href=\"?([^\"\s>]+)", html)
        assert not [address for address in loaded if address.startswith(("http", "//"))], page
    assert "Tiny Shakespeare" in (tmp_path / "site/docs/results/index.html").read_text(encoding="utf-8")
    assert 'id="1-체크포인트를-미세-조정한다"' in (tmp_path / "site/README.ko/index.html").read_text(encoding="utf-8")
