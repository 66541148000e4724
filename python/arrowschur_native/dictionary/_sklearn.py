"""What scikit-learn expects of an estimator. It is imported only when one of its own classes is needed."""

from __future__ import annotations

import importlib
import sys
from typing import Any

__all__ = [
    "ConvergenceWarning",
    "NotFittedError",
    "convergence_warning",
    "has_scipy",
    "is_sparse",
    "not_fitted_error",
    "tags",
]


class NotFittedError(ValueError, AttributeError):
    """A method that needs a fit was called before it; stands in for scikit-learn's class where that is missing."""


class ConvergenceWarning(UserWarning):
    """A fit ended before its stopping rule was met; stands in for scikit-learn's class where that is missing."""


def not_fitted_error() -> type[Exception]:
    """Return `sklearn.exceptions.NotFittedError`, or the library's own class without scikit-learn."""
    found: type[Exception] = _exception("NotFittedError", NotFittedError)
    return found


def convergence_warning() -> type[Warning]:
    """Return `sklearn.exceptions.ConvergenceWarning`, or the library's own class without scikit-learn."""
    found: type[Warning] = _exception("ConvergenceWarning", ConvergenceWarning)
    return found


def _exception(name: str, own: Any) -> Any:
    try:
        return getattr(importlib.import_module("sklearn.exceptions"), name)
    except ImportError:
        return own


def has_scipy() -> bool:
    """Say whether CSR matrices can be made."""
    try:
        importlib.import_module("scipy.sparse")
    except ImportError:
        return False
    return True


def is_sparse(value: Any) -> bool:
    """Say whether a value is one of SciPy's sparse containers; who has one has imported SciPy."""
    module = sys.modules.get("scipy.sparse")
    return module is not None and bool(module.issparse(value))


def tags() -> Any:
    """Return the tags of a transformer of dense float32 input that needs a fit and no target."""
    utils = importlib.import_module("sklearn.utils")
    return utils.Tags(
        estimator_type=None,
        target_tags=utils.TargetTags(required=False),
        transformer_tags=utils.TransformerTags(preserves_dtype=["float32"]),
        input_tags=utils.InputTags(sparse=False, allow_nan=False),
    )
