"""Every model class of transformers with switchable experts, run with this package's backends."""

import contextlib
import functools
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

import pytest
import torch
import transformers

import account
import moexperts  # noqa: F401 - registers the implementations
from account import HALF_TYPES, WRITE_VARIABLE, Row
from families import experts_layers, families, model_classes
from precision import HalfModel, Losses
from subjects import CannotRun, Outputs, Run, Subject, counted_calls, run, subject

MAIN = "moexperts"
IMPLEMENTATIONS = [MAIN, "moexperts_eager", "moexperts_batched_mm", "moexperts_grouped_mm"]

# Of transformers' own test of its implementations.
TOLERANCE = 1e-4
# An error of the experts that this test must notice.
NOTICED_ERROR = 0.01

MIN_FAMILIES = 46
NEW_TOKENS = 6

PARTS_IN_HALF_PRECISION: Mapping[str, Callable[[HalfModel, str], Losses]] = {
    "experts": HalfModel.losses_of_experts_alone,
    "model": HalfModel.losses_of_whole_model,
}

# Classes with a `generate` of another kind.
NOT_GREEDY = {
    "DiffusionGemmaForBlockDiffusion": "draws the tokens of a block at random",
    "Qwen3OmniMoeTalkerForConditionalGeneration": "generates from the states of another model",
}

# Classes that tests were run of, or skipped.
TRIED: set[str] = set()
# What the table should say, by class.
ROWS: dict[str, Row] = {}
# What each class and type lost against eager.
LOSSES: dict[str, list[Losses]] = defaultdict(list)


@pytest.fixture(scope="module")
def tested(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """One model at a time: pytest runs all tests of a class before those of the next."""
    name = request.param
    TRIED.add(name)
    try:
        with subject(model_classes()[name]) as found:
            ROWS[name] = account.row_of_subject(found)
            yield found
    except CannotRun as reason:
        if account.says_it_runs(name):
            pytest.fail(f"{account.PATH.name} says that {name} runs, got `{reason}`")
        pytest.skip(f"{name}: {reason}")


@pytest.fixture(scope="module")
def half_model(tested: Subject, half_type: str) -> HalfModel:
    try:
        return HalfModel(tested, HALF_TYPES[half_type])
    except CannotRun as reason:
        pytest.skip(f"{tested.model_class.__name__}: {reason}")


RUNNABLE = account.runnable()
GENERATING = [name for name in RUNNABLE if model_classes()[name].can_generate()]

for_every_class = pytest.mark.parametrize("tested", RUNNABLE, indirect=True)
for_half_types = pytest.mark.parametrize("half_type", HALF_TYPES, scope="module")


@for_every_class
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_agrees_with_eager(tested: Subject, implementation: str) -> None:
    expected = eager_run(tested)
    tested.model.set_experts_implementation(implementation)
    assert tested.model.config._experts_implementation == implementation
    found = run(tested.model, implementation, tested.inputs)
    assert_only_called(implementation, found, expected)
    assert_agree(found.outputs, expected.outputs)


@for_every_class
def test_an_error_of_the_experts_is_noticed(tested: Subject) -> None:
    """Else the agreement says nothing about them."""

    def spoiled(_layer: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        # Up and down in turns, as a norm that may follow takes away what all have in common.
        signs = 1 - 2 * (torch.arange(output.size(-1)) % 2)
        return output * (1 + NOTICED_ERROR * signs)

    with contextlib.ExitStack() as hooks:
        for layer in experts_layers(tested.model).values():
            hooks.callback(layer.register_forward_hook(spoiled).remove)
        wrong = run(tested.model, "eager", tested.inputs)
    with pytest.raises(AssertionError):
        assert_agree(wrong.outputs, eager_run(tested).outputs)


@pytest.mark.parametrize("tested", GENERATING, indirect=True)
def test_generates_as_eager(tested: Subject) -> None:
    name = tested.model_class.__name__
    if name in NOT_GREEDY:
        pytest.skip(f"{name} {NOT_GREEDY[name]}")
    expected_tokens, expected_logits = generated(tested, "eager")
    tokens, logits = generated(tested, MAIN)
    assert tokens.tolist() == expected_tokens.tolist()
    assert_close("logits", logits, expected_logits)


@for_every_class
@for_half_types
def test_experts_are_no_further_from_f32(half_model: HalfModel) -> None:
    further = {
        path: distances
        for path, distances in half_model.layer_distances(MAIN).items()
        if not distances.is_no_further
    }
    assert not further, f"expected no layer further from f32 than with eager, got {further}"


@for_every_class
@for_half_types
@pytest.mark.parametrize("part", PARTS_IN_HALF_PRECISION)
def test_output_is_no_further_from_f32(half_model: HalfModel, part: str) -> None:
    losses = PARTS_IN_HALF_PRECISION[part](half_model, MAIN)
    LOSSES[part].append(losses)
    assert losses.may_be_chance, f"expected no more losses than by chance, got {losses}"


@pytest.mark.parametrize("part", PARTS_IN_HALF_PRECISION)
def test_outputs_together_are_no_further_from_f32(part: str) -> None:
    if not TRIED.issuperset(RUNNABLE):
        pytest.skip("needs the tests of every class before it")
    lost = sum(losses.lost for losses in LOSSES[part])
    decided = sum(losses.decided for losses in LOSSES[part])
    assert lost <= decided / 2, f"eager is nearer to f32 for {lost} of {decided} sequences"


@pytest.mark.parametrize("name", model_classes())
def test_runs_or_says_why_not(name: str) -> None:
    row = row_of(name)
    if not row.runs:
        pytest.skip(f"{name}: {row.state}")


def test_every_class_is_accounted_for() -> None:
    rows = [row_of(name) for name in model_classes()]
    running = {row.family for row in rows if row.runs} & set(families())
    assert len(running) >= MIN_FAMILIES, (
        f"expected at least {MIN_FAMILIES} families to run, got {len(running)}; "
        f"not {sorted(set(families()) - running)}"
    )
    if os.environ.get(WRITE_VARIABLE):
        account.PATH.write_text(account.text_of(rows))
    if not account.is_of_installed_version():
        pytest.skip(
            f"{account.PATH.name} is not of transformers {transformers.__version__}; "
            f"write it with {WRITE_VARIABLE}=1"
        )
    differences = account.differences(account.committed(), rows)
    assert not differences, (
        f"{account.PATH.name} is not as it should be; if it should, write it with "
        f"{WRITE_VARIABLE}=1:\n" + "\n".join(differences)
    )


def row_of(name: str) -> Row:
    if name not in ROWS:
        ROWS[name] = account.row_of(name)
    return ROWS[name]


@functools.lru_cache(maxsize=1)
def eager_run(tested: Subject) -> Run:
    return run(tested.model, "eager", tested.inputs)


def assert_only_called(implementation: str, found: Run, expected: Run) -> None:
    """Every experts layer called as often as with eager, each time this implementation alone."""
    assert expected.layer_calls, "expected calls of experts layers, got none"
    assert found.layer_calls == expected.layer_calls
    assert found.implementation_calls == {implementation: expected.layer_calls}
    assert not expected.implementation_calls


def assert_agree(found: Outputs, expected: Outputs) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(name, found[name], value)


def assert_close(name: str, found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(
        found, expected, rtol=TOLERANCE, atol=TOLERANCE, msg=lambda text: f"{name}: {text}"
    )


def generated(tested: Subject, implementation: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedy tokens and their logits: the prompt in one go, then one token after another."""
    model, inputs = tested.model, tested.inputs
    model.set_experts_implementation(implementation)
    before = model.get_experts_implementation()
    with counted_calls(model) as (layer_calls, implementation_calls):
        found = model.generate(
            inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    assert set(layer_calls.values()) == {NEW_TOKENS}
    assert model.get_experts_implementation() == before
    expected = {} if implementation == "eager" else {implementation: layer_calls}
    assert implementation_calls == expected
    model.set_experts_implementation("eager")
    return found.sequences, torch.stack(found.logits)
