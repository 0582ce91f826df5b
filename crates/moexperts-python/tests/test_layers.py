"""Layers of every layout against the formula, in place, on every backend."""

import threading
import time
from collections.abc import Iterator

import layers
import pytest
import torch
from layers import Call, Layout, assert_near, formula, random_call, run

import moexperts

DTYPES = [torch.float32, torch.float16, torch.bfloat16]

LAYOUTS = [
    Layout(),
    Layout(activation="gelu"),
    Layout(activation="gelu_pytorch_tanh"),
    Layout(activation="relu2"),
    # No kernel has it: it is called back.
    Layout(activation="tanh"),
    Layout(has_gate=False),
    Layout(has_gate=False, activation="relu2", has_bias=True),
    Layout(has_gate=False, activation="mish", is_transposed=True),
    Layout(has_bias=True),
    Layout(is_transposed=True),
    Layout(is_transposed=True, has_bias=True),
    Layout(is_concatenated=False),
    Layout(is_concatenated=False, has_bias=True),
    Layout(is_concatenated=False, is_transposed=True, has_bias=True),
    Layout(has_post_expert_norm=True),
    Layout(has_post_expert_norm=True, has_bias=True, is_transposed=True),
]


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("implementation", moexperts.BACKENDS)
def test_every_layout_is_the_formula(
    implementation: str, layout: Layout, dtype: torch.dtype
) -> None:
    module = layout.build(dtype)
    for tokens in (1, 5, 70):
        call = random_call(tokens, dtype)
        got = run(module, implementation, call)
        assert (got.dtype, got.shape) == (dtype, call.hidden_states.shape)
        assert_near(got, formula(module, call), dtype)


@pytest.mark.parametrize("implementation", moexperts.BACKENDS)
def test_no_tokens_give_no_rows(implementation: str) -> None:
    module = Layout().build(torch.float32)
    assert run(module, implementation, random_call(0, torch.float32)).shape == (0, layers.HIDDEN)


@pytest.mark.parametrize("layout", [Layout(), Layout(has_post_expert_norm=True)], ids=str)
@pytest.mark.parametrize("implementation", moexperts.BACKENDS)
def test_ids_beyond_the_last_expert_contribute_nothing(
    implementation: str, layout: Layout
) -> None:
    module = layout.build(torch.float32)
    call = random_call(9, torch.float32)
    call.top_k_index[::2, 1] = layers.EXPERTS
    call.top_k_index[3] = layers.EXPERTS + 5
    call.top_k_index[4, 0] = 2**40
    got = run(module, implementation, call)
    assert_near(got, formula(module, call), torch.float32)
    assert not got[3].any()


def test_routing_weights_may_be_of_another_dtype() -> None:
    module = Layout().build(torch.bfloat16)
    for weights_dtype in DTYPES:
        call = random_call(7, torch.bfloat16, weights_dtype)
        assert_near(run(module, "moexperts", call), formula(module, call), torch.bfloat16)


def test_hidden_states_may_be_of_another_dtype_than_the_weights() -> None:
    for dtype in DTYPES:
        for weights_dtype in DTYPES:
            module = Layout().build(weights_dtype)
            call = random_call(20, dtype)
            got = run(module, "moexperts", call)
            assert got.dtype == dtype
            coarser = max(dtype, weights_dtype, key=lambda of: torch.finfo(of).eps)
            assert_near(got, formula(module, call), coarser)


def test_tensors_may_lie_in_any_order() -> None:
    module = Layout(is_transposed=True).build(torch.float32)
    call = random_call(11, torch.float32)
    expected = run(module, "moexperts", call)
    wide = torch.full((11, 3 * layers.HIDDEN), torch.nan)
    wide[:, layers.HIDDEN : 2 * layers.HIDDEN] = call.hidden_states
    apart = torch.full((11, 2 * layers.HIDDEN), torch.nan)
    apart[:, ::2] = call.hidden_states
    for hidden_states in (
        wide[:, layers.HIDDEN : 2 * layers.HIDDEN],
        apart[:, ::2],
        call.hidden_states.T.contiguous().T,
    ):
        ids = call.top_k_index.int().T.contiguous().T
        same = Call(hidden_states, ids, call.top_k_weights.T.contiguous().T)
        assert torch.equal(run(module, "moexperts", same), expected)
    for name in ("gate_up_proj", "down_proj"):
        weight = getattr(module, name)
        gaps = torch.full((*weight.shape[:2], weight.shape[2] + 7), torch.nan)
        gaps[..., : weight.shape[2]] = weight
        setattr(module, name, torch.nn.Parameter(gaps[..., : weight.shape[2]], False))
    assert torch.equal(run(module, "moexperts", call), expected)


@pytest.mark.parametrize(
    "layout", [Layout(), Layout(is_transposed=True, has_bias=True)], ids=str
)
def test_weights_that_change_in_place_are_seen(layout: Layout) -> None:
    module, call = layout.build(torch.bfloat16), random_call(5, torch.bfloat16)
    before = run(module, "moexperts", call)
    for parameter in module.parameters():
        parameter.data.mul_(-0.5)
        after = run(module, "moexperts", call)
        assert not torch.equal(before, after)
        assert_near(after, formula(module, call), torch.bfloat16)
        before = after


def test_the_number_of_threads_changes_no_bit() -> None:
    module, call = Layout().build(torch.bfloat16), random_call(70, torch.bfloat16)
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(run(module, "moexperts", call))
    assert all(torch.equal(result, results[0]) for result in results)


def test_calls_at_the_same_time_do_not_disturb_each_other() -> None:
    module, calls = Layout().build(torch.float32), [random_call(33, torch.float32, seed=s) for s in range(4)]
    expected = [run(module, "moexperts", call) for call in calls]
    wrong: list[int] = []

    def repeat(index: int) -> None:
        for _ in range(50):
            if not torch.equal(run(module, "moexperts", calls[index]), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=repeat, args=[index]) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_other_python_threads_run_meanwhile() -> None:
    shape = (16, 512, 1024)
    module = Layout().build(torch.float32)
    module.num_experts = shape[0]
    module.gate_up_proj = torch.nn.Parameter(torch.zeros(16, 2 * 512, 1024), False)
    module.down_proj = torch.nn.Parameter(torch.zeros(16, 1024, 512), False)
    call = Call(torch.zeros(512, 1024), torch.zeros(512, 4, dtype=torch.int64), torch.zeros(512, 4))
    run(module, "moexperts", call)
    ticks: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(1e-4)

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.perf_counter()
    run(module, "moexperts", call)
    end = time.perf_counter()
    stop.set()
    thread.join()
    during = [at for at in ticks if start < at < end]
    # Holding the interpreter, the call would have let none in.
    assert len(during) > 2, f"{len(during)} ticks in {end - start:.3f} s"
