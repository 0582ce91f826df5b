"""The backends by name in transformers: loading, switching, compiling, and what is refused."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from layers import Layout, assert_near, formula, random_call, run
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    AutoModelForCausalLM,
    DeepseekV4Config,
    GptOssConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2MoeConfig,
)
from transformers.integrations.finegrained_fp8 import ALL_FP8_EXPERTS_FUNCTIONS
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

import moexperts
from moexperts import _ops, _transformers

VOCABULARY = 99


def qwen2_moe() -> PretrainedConfig:
    return Qwen2MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_experts=6,
        num_experts_per_tok=2,
    )


def gpt_oss() -> PretrainedConfig:
    """Interleaved, transposed, with biases and a gate that the kernels have."""
    return GptOssConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=6,
        num_experts_per_tok=2,
    )


CONFIGS = {"qwen2_moe": qwen2_moe, "gpt_oss": gpt_oss}


def build(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]()).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.1)
    return model


def prompt() -> torch.Tensor:
    return torch.randint(VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(5))


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(prompt()).logits


def test_the_names_are_those_of_both_interfaces() -> None:
    names = ["moexperts", "moexperts_eager", "moexperts_batched_mm", "moexperts_grouped_mm"]
    assert list(moexperts.BACKENDS) == names
    moexperts.register()
    for interface in (ALL_EXPERTS_FUNCTIONS, ALL_FP8_EXPERTS_FUNCTIONS):
        assert set(names) <= set(interface)


def test_a_model_is_loaded_switched_and_read_back(tmp_path: Path) -> None:
    build("qwen2_moe").save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, experts_implementation="moexperts")
    assert model.get_experts_implementation() == {"": "moexperts"}
    before = model.get_experts_implementation()
    with_ours = logits(model)
    model.set_experts_implementation("eager")
    torch.testing.assert_close(with_ours, logits(model), rtol=1e-4, atol=1e-4)
    model.set_experts_implementation(before)
    assert torch.equal(logits(model), with_ours)
    with pytest.raises(ValueError, match="moexperts_eager"):
        model.set_experts_implementation("moexpert")
    assert model.get_experts_implementation() == before


def test_generating_keeps_the_implementation() -> None:
    model = build("qwen2_moe")
    tokens = {}
    for implementation in ("eager", *moexperts.BACKENDS):
        model.set_experts_implementation(implementation)
        made = model.generate(prompt(), max_new_tokens=8, do_sample=False, pad_token_id=0)
        tokens[implementation] = made
        assert model.config._experts_implementation == implementation
    assert all(torch.equal(made, tokens["eager"]) for made in tokens.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("implementation", moexperts.BACKENDS)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_compiles_into_one_graph(
    name: str, implementation: str, dtype: torch.dtype
) -> None:
    model = build(name, dtype)
    model.set_experts_implementation(implementation)
    expected = logits(model)
    torch.compiler.reset()
    # Without the compiler behind it: what the graph computes is the same, many times sooner.
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(prompt()).logits, expected)


def test_a_model_compiled_by_inductor_gives_the_same() -> None:
    model = build("qwen2_moe")
    model.set_experts_implementation("moexperts")
    expected = logits(model)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(prompt()).logits, expected)
        # Another length is another graph, or one for all of them.
        longer = torch.cat([prompt(), prompt()], dim=1)
        torch.testing.assert_close(compiled(longer).logits, model(longer).logits)


@pytest.mark.parametrize(
    "layout", [Layout(activation="tanh"), Layout(has_post_expert_norm=True, has_bias=True)], ids=str
)
def test_what_is_called_back_compiles_too(layout: Layout) -> None:
    module, call = layout.build(torch.float32), random_call(9, torch.float32)
    module.config._experts_implementation = "moexperts"
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    got = compiled(call.hidden_states, call.top_k_index, call.top_k_weights)
    assert_near(got, formula(module, call), torch.float32)


@pytest.mark.parametrize("layout", [Layout(), Layout(has_bias=True, is_transposed=True)], ids=str)
def test_the_operators_are_what_torch_expects_of_one(layout: Layout) -> None:
    module, call = layout.build(torch.float32), random_call(5, torch.float32)
    bias = [getattr(module, f"{name}_bias", None) for name in ("gate_up_proj", "down_proj")]
    kind = ("grouped_mm", "silu", 0.0, 0.0, True, False, layout.is_transposed, False)
    routing = (call.top_k_index, call.top_k_weights)
    weights = (module.gate_up_proj, bias[0], module.down_proj, bias[1])
    args = (call.hidden_states, *routing, *weights, *kind)
    torch.library.opcheck(torch.ops.moexperts.experts.default, args)
    args = (call.hidden_states, call.top_k_index, module.gate_up_proj, bias[0], layout.is_transposed)
    torch.library.opcheck(torch.ops.moexperts.expert_linear.default, args)


def test_a_layer_is_traced_with_tensors_that_have_no_values() -> None:
    module = Layout().build(torch.bfloat16)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert run(module, "moexperts", random_call(5, torch.bfloat16)).shape == (5, 48)
    call = random_call(5, torch.bfloat16)
    module.config._experts_implementation = "moexperts"
    exported = torch.export.export(module, tuple(vars(call).values()))
    assert "moexperts.experts" in str(exported.graph)
    got = exported.module()(*vars(call).values())
    assert torch.equal(got, run(module, "moexperts", call))


def test_a_model_on_the_meta_device_has_shapes() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(qwen2_moe())
    model.set_experts_implementation("moexperts")
    assert model(torch.zeros(2, 7, dtype=torch.int64, device="meta")).logits.shape == (2, 7, 99)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_forward_with_gradients_works_and_a_backward_says_what_to_do(name: str) -> None:
    model = build(name)
    model.set_experts_implementation("moexperts")
    with torch.enable_grad():
        out = model(prompt()).logits
        torch.testing.assert_close(out.detach(), logits(model))
        with pytest.raises(NotImplementedError, match=r'set_experts_implementation\("grouped_mm"\)'):
            out.sum().backward()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with pytest.raises(NotImplementedError, match="no gradients yet"):
        compiled(prompt()).logits.sum().backward()


class Packed(torch.Tensor):
    """Stands for the tensors of quantisation libraries, which hold others."""


def test_quantised_experts_are_refused_with_the_way_out() -> None:
    module, call = Layout().build(torch.float32), random_call(3, torch.float32)
    module.gate_up_proj = torch.nn.Parameter(module.gate_up_proj.to(torch.int8), False)
    with pytest.raises(NotImplementedError, match="got dtype torch.int8.*dequantised"):
        run(module, "moexperts", call)
    module = Layout().build(torch.float32)
    packed = module.gate_up_proj.as_subclass(Packed)
    del module.gate_up_proj
    module.gate_up_proj = packed
    with pytest.raises(NotImplementedError, match="got a Packed.*dequantised"):
        run(module, "moexperts", call)
    module = Layout().build(torch.float32)
    module.gate_up_proj = None
    with pytest.raises(NotImplementedError, match="Experts.gate_up_proj.*got no such tensor"):
        run(module, "moexperts", call)
    forward = ALL_FP8_EXPERTS_FUNCTIONS["moexperts"]
    with pytest.raises(NotImplementedError, match="FP8 or FP4 experts.*dequantised"):
        forward(module, call.hidden_states, call.top_k_index, call.top_k_weights)


def test_tensors_elsewhere_are_refused_with_the_way_out() -> None:
    elsewhere = SimpleNamespace(device=torch.device("cuda:1"))
    with pytest.raises(NotImplementedError, match=r'hidden_states is on cuda:1.*model.to\("cpu"\)'):
        _transformers._check_device("hidden_states", elsewhere)
    # In part of them.
    module, call = Layout().build(torch.float32), random_call(3, torch.float32)
    meta = torch.nn.Parameter(module.down_proj.to("meta"), False)
    module.down_proj = meta
    with pytest.raises(ValueError, match="on cpu, cpu, cpu, cpu, meta, expected all on the CPU"):
        run(module, "moexperts", call)


def refused(**changes: torch.Tensor) -> str:
    """The message about a call with one argument changed."""
    module, call = Layout().build(torch.float32), random_call(3, torch.float32)
    arguments = vars(call) | changes
    module.config._experts_implementation = "moexperts"
    with pytest.raises((ValueError, TypeError)) as error:
        module(*arguments.values())
    return str(error.value)


def test_arguments_that_do_not_agree_say_which() -> None:
    index, weights = torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, 2)
    assert "[3, 2] and [3, 3]" in refused(top_k_index=index)
    assert "has shape [4, 2], expected [3, K]" in refused(
        top_k_index=torch.zeros(4, 2, dtype=torch.int64), top_k_weights=torch.zeros(4, 2)
    )
    assert "hidden_states has shape [3, 47], expected [3, 48]" in refused(
        hidden_states=torch.zeros(3, 47)
    )
    assert "expected one of float32, float16, bfloat16" in refused(
        hidden_states=torch.zeros(3, 48, dtype=torch.float64)
    )
    assert "expected one of float32, float16, bfloat16" in refused(top_k_weights=torch.zeros(3, 3).int())
    negative = torch.tensor([[0, 1, 2], [0, -1, 2], [0, 1, 2]])
    said = refused(top_k_index=negative)
    assert "top_k_index[1, 1]: expected the id of an expert, 0 or more, got -1" in said
    assert "hidden_states has shape [2, 3, 48]" in refused(hidden_states=torch.zeros(2, 3, 48))


def test_weights_that_do_not_agree_say_which() -> None:
    call = random_call(3, torch.float32)
    module = Layout().build(torch.float32)
    module.down_proj = torch.nn.Parameter(module.down_proj.half(), False)
    with pytest.raises(TypeError, match="down_proj has dtype torch.float16, expected torch.float32"):
        run(module, "moexperts", call)
    module = Layout().build(torch.float32)
    module.down_proj = torch.nn.Parameter(module.down_proj[:4].clone(), False)
    with pytest.raises(ValueError, match="gate_up_proj has 6 experts, down_proj has 4"):
        run(module, "moexperts", call)
    module = Layout(has_bias=True).build(torch.float32)
    module.down_proj_bias = None
    with pytest.raises(ValueError, match="down_bias is missing, expected both biases or none"):
        run(module, "moexperts", call)
    module = Layout(has_bias=True).build(torch.float32)
    module.down_proj_bias = torch.nn.Parameter(torch.zeros(6, 3), False)
    with pytest.raises(ValueError, match=r"bias has shape \[6, 3\], expected \[6, 48\]"):
        run(module, "moexperts", call)


def test_descriptions_of_weights_do_not_pile_up() -> None:
    call = random_call(3, torch.float32)
    for _ in range(3):
        for _ in range(_ops.MOST_DESCRIPTIONS // 2):
            module = Layout().build(torch.float32)
            run(module, "moexperts", call)
    assert len(_ops._descriptions) <= _ops.MOST_DESCRIPTIONS
