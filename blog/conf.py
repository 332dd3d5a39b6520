"""Sphinx configuration of the site; `nas-nb site` lays out the pages and calls it."""

import shutil
from configparser import ConfigParser
from datetime import date
from pathlib import Path

from nas_nb.publish.page import mathjax
from nas_nb.publish.site import documentation_host

root = Path(__file__).resolve().parent.parent
settings = ConfigParser(delimiters=["="], interpolation=None)
settings.read(root / "settings.ini", encoding="utf-8")
facts = settings["DEFAULT"]

project = facts["lib_name"]
author = facts["author"]
release = version = facts["version"]
project_copyright = f"{date.today().year}, {author}"

extensions = ["myst_nb", "sphinx.ext.mathjax", "ablog"]
exclude_patterns = ["**/results.json"]
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]

# Notebooks are shown as they were stored, never run.
nb_execution_mode = "off"
nb_render_markdown_format = "myst"
nb_output_stderr = "remove"
nb_code_prompt_show = "Show code"
nb_code_prompt_hide = "Hide code"
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "attrs_inline", "deflist"]
myst_heading_anchors = 4
myst_dmath_allow_digits = False

# ABlog takes date, tags and author of a post from the notebook's metadata.
blog_title = f"{project}: posts"
blog_path = "blog"
blog_baseurl = (facts.get("url") or documentation_host(root)).rstrip("/")  # a feed states it; none without
blog_authors = {"authors": (author, None)}
blog_default_author = "authors"
blog_feed_fulltext = False
post_date_format = "%Y-%m-%d"
post_date_format_short = "%Y-%m-%d"
post_auto_excerpt = 2  # badges and summary
blog_feed_templates = {"atom": {"summary": (
    "{% for part in post.excerpt %}{% for word in part.children %}"
    "{{ word.astext() if word.astext() != ' ' else '; ' }}{% endfor %}\n{% endfor %}")}}
fontawesome_included = True

html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_show_search_summary = False  # a summary would fetch pages, which a browser forbids for files
html_copy_source = False
html_theme_options = {
    "navbar_end": ["theme-switcher", "navbar-icon-links"],
    "icon_links": [{"name": "Feed", "url": f"{blog_baseurl}/blog/atom.xml", "icon": "fa-solid fa-rss"}] if blog_baseurl else [],
    "navbar_persistent": ["search-button"],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": False,
    "show_toc_level": 2,
    "header_links_before_dropdown": 6,
    "pygments_light_style": "friendly",
    "pygments_dark_style": "github-dark",
}
html_sidebars = {
    "index": [],
    "start": [],
    "posts": ["ablog/tagcloud.html", "ablog/archives.html"],
    "posts/**": ["ablog/postcard.html", "ablog/tagcloud.html", "ablog/archives.html"],
    "blog": ["ablog/tagcloud.html", "ablog/archives.html"],
    "blog/**": ["ablog/tagcloud.html", "ablog/archives.html"],
}
html_context = {"default_mode": "auto"}
mathjax_path = "mathjax.js"


def copy_mathjax(app, exception):
    """Put the one-file MathJax beside the pages, so formulas need no server."""
    if exception is None:
        shutil.copy(mathjax(), Path(app.outdir) / "_static" / "mathjax.js")


def setup(app):
    app.connect("build-finished", copy_mathjax)
