"""A row of the matrix: one network, all methods."""

import warnings
from collections.abc import Iterable
from typing import Any

import torch

from interpretability.choice import choose_layers
from interpretability.layers import forward_to
from interpretability.maps import as_maps
from modelling.architectures import Architecture
from modelling.checks import examine
from modelling.replicas import Case, grad_cam

Row = dict[str, Any]


def examined(architecture: Architecture, columns: Iterable[str]) -> Row:
    """``{"layer": …, "size": …, "cells": {column: verdict}}``."""
    model = architecture.build()
    torch.manual_seed(1)
    x = torch.rand(1, *((3, *architecture.size)), dtype=torch.float64)
    narrow, *_, layer = choose_layers(model, x, 4)
    with torch.no_grad():
        output = forward_to(model, layer, x)
        likeliest = model(x)[0].argsort(descending=True).tolist()
    grid = as_maps(model, layer, x, output).shape[2:]
    cases = (Case(model, x, k, layer, narrow, architecture.arrange((grid[0], grid[1]))) for k in likeliest)
    case = next(one for one in cases if grad_cam(one).any())  # a class that the layer speaks for
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells = {column: examine(case, column) for column in columns}
    return {"layer": layer, "size": list(architecture.size), "cells": cells}


def wrong(rows: dict[str, Row]) -> list[str]:
    """The wrong cells of the matrix, each in a line."""
    return [
        f"{name}, {column}: {verdict}"
        for name, row in rows.items()
        for column, verdict in row["cells"].items()
        if verdict.startswith("wrong")
    ]
