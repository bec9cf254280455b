"""Names that somebody could give to genes, events, groups, columns and files, and pages that have to bear them."""

import warnings
from html.parser import HTMLParser

import mudata
import numpy as np
import pandas as pd

from splicevi.datasets import simulate

LONG = "a very long name " * 30
NAMES = [
    "<script>window.pwned=1</script>",
    '"><img src=x onerror=window.pwned=1>',
    "</script><script>window.pwned=1</script>",
    "'};window.pwned=1;//",
    "{{7*7}} %{x} ${window.pwned=1}",
    '<a href="javascript:window.pwned=1">link</a>',
    "<b>bold</b><br><i>italic</i>",
    "<!--<script>",
    "two\nlines\tand\u2028a third",
    "turned \u202eback to front",
    "&lt;b&gt; &amp; &#60;",
    "$\\alpha$ <sup>up</sup>",
    "</style><style>*{display:none}</style>",
    "<svg onload=window.pwned=1>",
    LONG,
]
TAGS = {"script", "img", "a", "b", "i", "sup", "style", "svg"}


def renamed(values, nul: bool = False) -> dict:
    "Each value to a name of the list, made unique by a number at the end."
    names = {v: f"{NAMES[i % len(NAMES)]} {i}" for i, v in enumerate(dict.fromkeys(values))}
    return {k: v + ("\0" if nul else "") for k, v in names.items()}


def hostile_mdata() -> mudata.MuData:
    "120 cells of six groups whose genes, events, junctions, groups, batches and columns have such names."
    warnings.simplefilter("ignore")
    m = simulate(n_cells=120, n_genes=40, n_junctions=60, n_cell_types=6, n_batches=2, observed=0.5, seed=0)
    rna, s = m["rna"], m["splicing"]
    genes = renamed([*rna.var["gene_name"].astype(str), *s.var["gene_name"].astype(str)])
    for part in (rna, s):
        part.var["gene_name"] = part.var["gene_name"].astype(str).map(genes).astype(object)
    s.var["event_id"] = s.var["event_id"].astype(str).map(renamed(s.var["event_id"].astype(str))).astype(object)
    s.var_names = [*renamed(s.var_names).values()]
    s.var["chrom"] = NAMES[1]
    s.obs_names = rna.obs_names = [*renamed(rna.obs_names).values()]
    m = mudata.MuData({"rna": rna, "splicing": s})
    types = rna.obs["cell_type"].astype(str)
    groups = dict(zip(dict.fromkeys(types), [NAMES[i] for i in (0, 1, 2, 5, 9, 14)]))
    m.obs["cell_type"] = pd.Categorical(types.map(groups))
    m.obs[COLUMN] = pd.Categorical(types.map(dict(zip(groups, [NAMES[i] for i in (3, 4, 6, 8, 10, 12)]))))
    m.obs["batch"] = pd.Categorical(rna.obs["batch"].astype(str).map(renamed(rna.obs["batch"].astype(str), nul=True)))
    rng = np.random.default_rng(0)
    for key in ("X_splicevi", "X_splicevi_umap", "X_splicevi_splicing", "X_splicevi_splicing_umap"):
        m.obsm[key] = rng.normal(size=(120, 2))
    return m


COLUMN = '<b>column</b>"><img src=x onerror=window.pwned=1>'


class Elements(HTMLParser):
    "Tags and attributes of a page, as a browser finds them."

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.tags, self.handlers, self.links, self.text = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.handlers += [k for k, _ in attrs if k.startswith("on")]
        self.links += [v for k, v in attrs if k in ("href", "src") and not str(v).startswith("data:image/svg+xml")]

    def handle_data(self, data):
        self.text.append(data)


def elements_of(page: str) -> Elements:
    "The page's elements, after a check that nothing in it came from a name."
    found = Elements(page)
    assert not found.handlers and not found.links, (found.handlers, found.links)
    return found
