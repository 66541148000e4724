"""The folder format of sparse autoencoders: weights in `sae_weights.safetensors`, sizes in `cfg.json`."""

from __future__ import annotations

import json
import os
import pathlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._errors import InvalidArgument, UnsupportedConfiguration
from .._results import _Printed
from . import _safetensors

__all__ = ["TopkAutoencoder"]

Array = NDArray[Any]

_WEIGHTS, _SIZES = "sae_weights.safetensors", "cfg.json"
_AMPLITUDES = "projections on the atoms; the dictionary's own codes are least squares on the same support"


@dataclass(frozen=True, repr=False, eq=False)
class TopkAutoencoder(_Printed):
    """Weights of a rectified TopK autoencoder.

        a = relu((x - b_dec) W_enc + b_enc);   the k largest entries of a are kept;   x ~ a W_dec + b_dec

    Attributes
    ----------
    W_enc : ndarray, (P, M) float32
    W_dec : ndarray, (M, P) float32
        M = 2 K for a dictionary of K atoms: `[D; -D]`, since an activation is never negative and a code may be.
    b_enc : ndarray, (M,) float32
    b_dec : ndarray, (P,) float32
    k : int
        Activations that are kept.
    """

    W_enc: Array
    W_dec: Array
    b_enc: Array
    b_dec: Array
    k: int

    @staticmethod
    def of(decoder: Array, mean: Array, k: int, split_sign: bool) -> TopkAutoencoder:
        """Return the autoencoder of a decoder (K, P) and mean (P,)."""
        if not split_sign:
            raise UnsupportedConfiguration(
                "sparse_dictionary: split_sign=False needs positive=True training, which is not available",
                feature="split_sign=False",
                route="this version",
                hint="leave it True",
            )
        both = np.concatenate([decoder, -decoder])
        return TopkAutoencoder(np.ascontiguousarray(both.T), both, np.zeros(len(both), np.float32), mean.copy(), k)

    def config(self) -> dict[str, Any]:
        """Return the entries of `cfg.json`."""
        d_sae, d_in = self.W_dec.shape
        return {
            "architecture": "topk",
            "d_in": d_in,
            "d_sae": d_sae,
            "k": self.k,
            "dtype": "float32",
            "apply_b_dec_to_input": True,
            "normalize_activations": "none",
            "metadata": {"trainer": "arrowschur_native.SparseDictionary", "amplitudes": _AMPLITUDES},
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the folder.

        Parameters
        ----------
        path : path
            Made if need be; files of the two names in it are replaced.
        """
        folder = pathlib.Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: getattr(self, name) for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
        _safetensors.write(folder / _WEIGHTS, weights, {"format": "arrowschur.sae/1", "amplitudes": _AMPLITUDES})
        (folder / _SIZES).write_text(json.dumps(self.config(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TopkAutoencoder:
        """Read a folder that `save`, or another tool, wrote.

        Raises
        ------
        InvalidArgument
            The architecture is not topk, or weights and sizes do not belong together.
        """
        folder = pathlib.Path(path)
        try:
            config = json.loads((folder / _SIZES).read_text(encoding="utf-8"))
            if config["architecture"] != "topk":
                raise ValueError(f"its architecture is {config['architecture']!r}")
            weights, _ = _safetensors.read(folder / _WEIGHTS)
            m, p, k = int(config["d_sae"]), int(config["d_in"]), int(config["k"])
            shapes = {"W_enc": (p, m), "W_dec": (m, p), "b_enc": (m,), "b_dec": (p,)}
            for name, shape in shapes.items():
                if weights[name].shape != shape:
                    raise ValueError(f"{name} has shape {weights[name].shape}, {_SIZES} says {shape}")
            return cls(**{name: weights[name].astype(np.float32, copy=False) for name in shapes}, k=k)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidArgument(
                f"sparse_dictionary: {os.fspath(path)!r} holds no topk autoencoder: {error}",
                argument="path",
                got=repr(os.fspath(path)),
                expected=f"a folder with {_WEIGHTS} and {_SIZES}",
            ) from error
