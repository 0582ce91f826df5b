"""The kernels, on addresses that Python's side reads off torch's tensors.

The caller holds the tensors during a call.
"""

from collections.abc import Sequence

# Address, shape [E, _, _] and strides, in elements.
_Parameter = tuple[int, Sequence[int], Sequence[int]]
# Address, dtype, shape [E, out] and strides, in elements.
_Biases = tuple[int, str, Sequence[int], Sequence[int]]
# Address, dtype, [rows, cols] and elements from a row to the next.
_Activations = tuple[int, str, Sequence[int], int]
# Addresses of top_k_index (int64) and top_k_weights, contiguous; dtype of the weights; K.
_Routes = tuple[int, int, str, int]

class Layer:
    """The experts of one layer, where torch keeps their weights."""

    def __init__(
        self,
        gate_up: _Parameter,
        down: _Parameter,
        dtype: str,
        *,
        gated: bool,
        interleaved: bool,
        transposed: bool,
        activation: str,
        alpha: float,
        limit: float,
        unrounded: bool,
    ) -> None: ...
    def forward(
        self,
        backend: str,
        threads: int,
        x: _Activations,
        routes: _Routes,
        biases: Sequence[_Biases] | None,
        out: int,
    ) -> None:
        """Computes the layer into `out`, [T, H] of the dtype of `x`, contiguous."""

class Projection:
    """One projection of the experts of a layer, where torch keeps its weights."""

    def __init__(self, weight: _Parameter, dtype: str, *, transposed: bool) -> None: ...
    def forward(
        self,
        threads: int,
        x: _Activations,
        tokens: int,
        routes: _Routes,
        bias: _Biases | None,
        out: int,
    ) -> None:
        """Computes the projection for every pair into `out`, [T · K, out] in float32, contiguous."""

def inspect(threads: int) -> dict[str, object]:
    """What `moexperts.inspect` returns, with the backends by their names in Rust."""

def use_openmp_of(library: str) -> bool:
    """Computes on the threads of the OpenMP runtime that a loaded library is linked with.

    Returns whether there is one.
    """
