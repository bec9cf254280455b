"""The site: notebooks in their places, without bookkeeping; figures that are figures, and links that lead somewhere."""

import json
import re
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from browser import FLAGS, browser_path


@pytest.fixture(scope="module")
def docs(root):
    "The module tools/docs.py; a skip that says why where the extra `docs` is missing."
    pytest.importorskip("sphinx", reason="the extra docs is not installed")
    sys.path.insert(0, str(root / "tools"))
    try:
        import docs
    finally:
        sys.path.remove(str(root / "tools"))
    return docs


def leaves(tree) -> set[str]:
    "Pages of a sidebar of the Quarto project."
    if isinstance(tree, str):
        return {tree}
    return set().union(*(leaves(t) for t in (tree["contents"] if isinstance(tree, dict) else tree)))


def test_every_notebook_is_in_the_sidebar(root):
    "Quarto's sidebar lists all notebooks."
    tree = yaml.safe_load((root / "nbs" / "sidebar.yml").read_text())["website"]["sidebar"]
    notebooks = {p.relative_to(root / "nbs").as_posix() for p in (root / "nbs").rglob("*.ipynb")}
    assert leaves(tree) == {n for n in notebooks if ".ipynb_checkpoints" not in n}


def test_cells_of_the_site(docs, root):
    "Directives and hidden cells are gone, exported cells are marked, and no figure's data can end its script."
    nb = docs.prepared(root / "nbs" / "60_pl" / "40_psi.ipynb")
    code = [c for c in nb["cells"] if c["cell_type"] == "code"]
    assert not any(re.search(r"^#\s*\|", c["source"], re.M) or "nbdev_export" in c["source"] for c in code)
    assert sum(c["metadata"]["tags"] == ["export"] for c in code) > 10
    shown = [o["data"]["text/html"] for c in code for o in c["outputs"] if "figure" in str(o.get("data"))]
    assert shown and all("<script type" in h and "data:image/png" in h for h in shown)
    assert "</script>" not in docs.escaped({"title": "</script><script>alert(1)</script>"})


def test_formulas_are_paragraphs(docs):
    "MyST reads a formula between dollars only in a paragraph of its own."
    cell = {"cell_type": "markdown", "source": ["so that\n", "$$a = b$$\n", "holds"]}
    assert docs.text_cell(cell)["source"] == "so that\n\n$$a = b$$\n\nholds"


def test_llms_txt_names_what_there_is(root):
    "Calls that are told to assistants exist."
    text = (root / "llms.txt").read_text()
    assert "sv.data.make_mudata(" in text and "model.differential_splicing(" in text and "sv.io.read_starsolo(" in text


class Links(HTMLParser):
    "What a page refers to, and its anchors."

    def __init__(self, text: str):
        super().__init__()
        self.links, self.anchors, self.scripts = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.anchors |= {a[k] for k in ("id", "name") if a.get(k)}
        if tag == "script" and a.get("src"):
            self.scripts.append(a["src"])
        self.links += [a[k] for k in ("href", "src") if a.get(k)]


@pytest.fixture(scope="module")
def site(docs, tmp_path_factory):
    "The built site."
    out = tmp_path_factory.mktemp("docs")
    assert docs.build(out) == 0
    return out / "site"


@pytest.mark.slow
def test_no_broken_link(site):
    "Every link within the site leads to a page and an anchor that exist; no script comes from elsewhere."
    pages = {p: Links(p.read_text(encoding="utf-8")) for p in site.rglob("*.html")}
    broken = []
    for page, found in pages.items():
        assert not [s for s in found.scripts if "//" in s], page
        for link in found.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            anchors = pages[target].anchors | {""} if target in pages else {parts.fragment}
            if not target.exists() or unquote(parts.fragment) not in anchors:
                broken.append(f"{page.relative_to(site)}: {link}")
    assert len(pages) > 80 and not broken, "\n".join(sorted(set(broken))[:40])


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_in_a_browser(site, scheme):
    "No page is wider than a window of 700 px, nothing fails in a script, and figures can be pointed at."
    playwright = pytest.importorskip("playwright.sync_api")
    if not (path := browser_path()):
        pytest.skip("no chromium here; CHROMIUM says where it is")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=FLAGS)
        page, faults = browser.new_page(viewport={"width": 700, "height": 900}, color_scheme=scheme), []
        page.on("pageerror", lambda e: faults.append(str(e)))
        for path in sorted(site.rglob("*.html")):
            page.goto(path.as_uri())
            if page.evaluate("document.documentElement.scrollWidth") > 700:
                faults.append(f"{path.relative_to(site)} is wider than the window")
        page.goto((site / "60_pl" / "70_differential.html").as_uri())
        page.locator(".figure").first.scroll_into_view_if_needed()
        page.wait_for_selector(".figure .js-plotly-plot .plotly")
    assert not faults, "\n".join(faults)


@pytest.mark.slow
def test_search_finds_names(site):
    "The index of the search knows what users look for."
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    terms = json.loads(re.search(r"setIndex\((.*)\)", index, re.S).group(1))
    assert {"volcano", "starsolo", "concentr"} <= set(terms["terms"]) | set(terms["titleterms"])
