"""How far a model in f16 or bf16 is from the same weights in f32, by experts implementation.

Three comparisons, from the sharpest to the most literal:

- `HalfModel.layer_distances`: the experts layers alone, on what the model in half precision feeds
  them. Nothing but the experts' arithmetic differs, so each layer has to be no further than eager.
- `HalfModel.losses_of_experts_alone`: the output of the f32 model, its experts alone in half
  precision, with the routing of the f32 model.
- `HalfModel.losses_of_whole_model`: the output of the whole model in half precision. Most of its
  distance comes from the other layers, and from routers that choose another expert for a rounding.

In the output a rounding of one layer is amplified by the next, so that of two equally good
implementations either one is nearer, by chance. Hence outputs are compared sequence by sequence: an
implementation may lose against eager as often as a fair coin would, and over all classes together,
where chance averages out, no more than half of the time.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from families import experts_layers
from subjects import Inputs, Outputs, Subject, forward, reason_of

BATCH = 32

# Transformers' own implementations beside eager.
OTHERS = ["batched_mm", "grouped_mm"]

# Of an implementation as good as eager failing one of a few hundred comparisons of outputs.
CHANCE = 1e-6


@dataclass(frozen=True)
class ExpertsCall:
    """What a model gave one of its experts layers."""

    path: str
    hidden_states: torch.Tensor
    top_k_index: torch.Tensor
    top_k_weights: torch.Tensor

    def in_f32(self) -> "ExpertsCall":
        return ExpertsCall(
            self.path, self.hidden_states.float(), self.top_k_index, self.top_k_weights.float()
        )


# The output of an experts layer for some hidden states, routed as in a call.
Experts = Callable[[torch.Tensor, ExpertsCall], torch.Tensor]


@dataclass(frozen=True)
class Distances:
    """Root of the summed squares of differences from f32."""

    eager: float
    implementation: float
    # Between transformers' own implementations in f32, which differ in the order of their sums.
    order_of_sums: float

    @property
    def is_no_further(self) -> bool:
        """Whether the implementation is at most as far as eager.

        Two that sum in f32 and round once may still differ, as sums in f32 depend on their order.
        Where one rounds x and the other x + e, the latter ends at most 2 |e| further from x than
        the former: the number nearest to x + e is no further from it than the one nearest to x is.
        By the triangle inequality that holds of roots of summed squares too.
        """
        return self.implementation <= self.eager + 2 * self.order_of_sums


@dataclass(frozen=True)
class Losses:
    """Sequences for whose output eager is nearer to f32, of those for which either one is."""

    lost: int
    decided: int

    @property
    def may_be_chance(self) -> bool:
        """Whether an implementation as good as eager loses that many with a probability above CHANCE."""
        as_many = sum(math.comb(self.decided, n) for n in range(self.lost, self.decided + 1))
        return as_many > CHANCE * 2**self.decided


class HalfModel:
    """A model in half precision and the same weights in f32, both run once with eager."""

    def __init__(self, subject: Subject, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.inputs: Inputs = subject.inputs_of(BATCH)
        self.model = subject.of_type(dtype)
        self.exact_model = copy.deepcopy(self.model).float()
        with reason_of("eager in half precision"):
            self.outputs, self.calls = recorded_forward(self.model, self.inputs)
        self.exact_outputs, self.exact_calls = recorded_forward(self.exact_model, self.inputs)

    def layer_distances(self, implementation: str) -> dict[str, Distances]:
        return {call.path: self._layer_distances(call, implementation) for call in self.calls}

    def losses_of_experts_alone(self, implementation: str) -> Losses:
        eager = self._outputs_with_half_experts("eager")
        return self._losses(eager, self._outputs_with_half_experts(implementation))

    def losses_of_whole_model(self, implementation: str) -> Losses:
        with using(self.model, implementation):
            return self._losses(self.outputs, forward(self.model, self.inputs))

    def _losses(self, eager: Outputs, other: Outputs) -> Losses:
        require_finite(other)
        of_eager = distances_by_sequence(eager, self.exact_outputs)
        of_other = distances_by_sequence(other, self.exact_outputs)
        return Losses(int((of_other > of_eager).sum()), int((of_other != of_eager).sum()))

    def _layer_distances(self, call: ExpertsCall, implementation: str) -> Distances:
        exact_call = call.in_f32()
        exact = layer_output(self.exact_model, "eager", exact_call)

        def of(model: PreTrainedModel, implementation: str, call: ExpertsCall) -> float:
            return distance(layer_output(model, implementation, call), exact)

        eager, other = (of(self.model, name, call) for name in ("eager", implementation))
        if other <= eager:
            # Then it decides nothing, and takes long.
            return Distances(eager, other, order_of_sums=0.0)
        orders = (of(self.exact_model, name, exact_call) for name in OTHERS)
        return Distances(eager, other, max(orders))

    def _outputs_with_half_experts(self, implementation: str) -> Outputs:
        """Of the f32 model, its experts layers computed by those in half precision."""
        layers = experts_layers(self.model)
        # What a router returns need not be of its model's type.
        weight_types = {call.path: call.top_k_weights.dtype for call in self.calls}

        def experts(hidden_states: torch.Tensor, call: ExpertsCall) -> torch.Tensor:
            weights = call.top_k_weights.to(weight_types[call.path])
            halves = hidden_states.to(self.dtype)
            return layers[call.path](halves, call.top_k_index, weights).float()

        with using(self.model, implementation), self._replaced_experts(experts):
            return forward(self.exact_model, self.inputs)

    @contextlib.contextmanager
    def _replaced_experts(self, by: Experts) -> Iterator[None]:
        """The experts layers of the f32 model replaced, routed as in its own run."""
        routing = iter(self.exact_calls)

        def replaced(path: str, hidden_states: torch.Tensor) -> torch.Tensor:
            call = next(routing)
            assert call.path == path, f"expected a call of {call.path}, got one of {path}"
            return by(hidden_states, call)

        layers = experts_layers(self.exact_model)
        for path, layer in layers.items():
            layer.forward = lambda hidden, *_, path=path, **__: replaced(path, hidden)
        try:
            yield
        finally:
            for layer in layers.values():
                del layer.forward


def layer_output(model: PreTrainedModel, implementation: str, call: ExpertsCall) -> Outputs:
    with torch.no_grad(), using(model, implementation):
        layer = experts_layers(model)[call.path]
        return {call.path: layer(call.hidden_states, call.top_k_index, call.top_k_weights)}


@contextlib.contextmanager
def using(model: PreTrainedModel, implementation: str) -> Iterator[None]:
    model.set_experts_implementation(implementation)
    try:
        yield
    finally:
        model.set_experts_implementation("eager")


def recorded_forward(model: PreTrainedModel, inputs: Inputs) -> tuple[Outputs, list[ExpertsCall]]:
    calls = []

    def record(path: str, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]) -> None:
        # By position, as the names differ between families.
        calls.append(ExpertsCall(path, *(value.clone() for value in [*args, *kwargs.values()])))

    with contextlib.ExitStack() as hooks:
        for path, layer in experts_layers(model).items():
            hook = layer.register_forward_pre_hook(
                lambda _, args, kwargs, path=path: record(path, args, kwargs), with_kwargs=True
            )
            hooks.callback(hook.remove)
        return forward(model, inputs), calls


def distance(outputs: Outputs, exact: Outputs) -> float:
    return math.sqrt(sum(_squares(outputs, exact, name).sum().item() for name in exact))


def distances_by_sequence(outputs: Outputs, exact: Outputs) -> torch.Tensor:
    # The first dimension is the batch, or the patches of one image after those of another.
    squares = [_squares(outputs, exact, name).reshape(BATCH, -1).sum(1) for name in exact]
    return torch.stack(squares).sum(0).sqrt()


def _squares(outputs: Outputs, exact: Outputs, name: str) -> torch.Tensor:
    return (outputs[name].double() - exact[name].double()) ** 2


def require_finite(outputs: Outputs) -> None:
    for name, value in outputs.items():
        bad = int((~torch.isfinite(value)).sum())
        assert bad == 0, f"{name}: expected finite numbers, got {bad} others of {value.numel()}"
