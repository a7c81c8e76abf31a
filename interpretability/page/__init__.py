"""One self-contained HTML page that explains a prediction."""

from interpretability.choice import choose_layers
from interpretability.page.builder import PageOptions, build_page
from interpretability.page.cache import PictureCache
from interpretability.page.rendering import render_page
from interpretability.page.showing import Page
from interpretability.page.writing import write_page

__all__ = ["Page", "PageOptions", "PictureCache", "build_page", "choose_layers", "render_page", "write_page"]
