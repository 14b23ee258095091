"""Models of the package transformers, with their default settings: elastic, proved, and able to generate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import anywidth as aw
from anywidth.groups.outputs import output_tensors

t = pytest.importorskip("transformers")

IDS = torch.arange(24).reshape(2, 12) * 7 % 61 + 3
SMALL: dict[str, Any] = {"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
LLM: dict[str, Any] = {**SMALL, "intermediate_size": 128, "num_key_value_heads": 2}
MOE: dict[str, Any] = {**LLM, "num_experts_per_tok": 2, "head_dim": 16}

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:transformers", "ignore::FutureWarning")


def gpt2() -> nn.Module:
    return t.GPT2LMHeadModel(
        t.GPT2Config(vocab_size=64, n_embd=64, n_layer=2, n_head=4, n_positions=32, bos_token_id=0, eos_token_id=1)
    )


def t5() -> nn.Module:
    return t.T5ForConditionalGeneration(
        t.T5Config(vocab_size=64, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, decoder_start_token_id=0)
    )


def deepseek() -> nn.Module:
    return t.DeepseekV3ForCausalLM(
        t.DeepseekV3Config(
            **{**SMALL, "num_key_value_heads": 4}, intermediate_size=128, moe_intermediate_size=32, n_routed_experts=8,
            num_experts_per_tok=2, n_group=2, topk_group=1, first_k_dense_replace=1, kv_lora_rank=16, q_lora_rank=32,
            qk_rope_head_dim=8, qk_nope_head_dim=16, v_head_dim=16,
        )
    )  # fmt: skip


def whisper() -> nn.Module:
    return t.WhisperForConditionalGeneration(
        t.WhisperConfig(
            vocab_size=64, d_model=64, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, num_mel_bins=16,
            max_source_positions=20, max_target_positions=20, pad_token_id=0, decoder_start_token_id=1, eos_token_id=2,
            bos_token_id=1,
        )
    )  # fmt: skip


def clip() -> nn.Module:
    text = {**SMALL, "intermediate_size": 128, "eos_token_id": 2}
    vision = {**SMALL, "intermediate_size": 128, "image_size": 32, "patch_size": 8}
    return t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=32))


def bart() -> nn.Module:
    return t.BartForConditionalGeneration(
        t.BartConfig(
            vocab_size=64, d_model=64, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, max_position_embeddings=32,
        )
    )  # fmt: skip


def text() -> dict[str, Tensor]:
    return {"input_ids": IDS}


def both() -> dict[str, Tensor]:
    return {"input_ids": IDS, "decoder_input_ids": IDS}


def image() -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(2, 3, 32, 32)}


slow = pytest.mark.slow
GENERATORS = [
    pytest.param(lambda: t.LlamaForCausalLM(t.LlamaConfig(**LLM)), text, id="llama", marks=slow),
    pytest.param(gpt2, text, id="gpt2"),
    pytest.param(t5, both, id="t5", marks=slow),
    pytest.param(
        lambda: t.Qwen3MoeForCausalLM(t.Qwen3MoeConfig(**MOE, moe_intermediate_size=64, num_experts=4)), text, id="moe", marks=slow,
    ),
    pytest.param(lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**LLM, head_dim=16)), text, id="qwen3", marks=slow),
    pytest.param(lambda: t.MistralForCausalLM(t.MistralConfig(**LLM)), text, id="mistral", marks=slow),
    pytest.param(lambda: t.GemmaForCausalLM(t.GemmaConfig(**LLM, head_dim=16)), text, id="gemma", marks=slow),
    pytest.param(lambda: t.PhiForCausalLM(t.PhiConfig(**LLM)), text, id="phi", marks=slow),
    pytest.param(
        lambda: t.MixtralForCausalLM(t.MixtralConfig(**MOE, num_local_experts=4)), text, id="mixtral", marks=slow
    ),
    pytest.param(deepseek, text, id="deepseek", marks=slow),
    pytest.param(bart, both, id="bart", marks=slow),
    pytest.param(
        lambda: t.MambaForCausalLM(t.MambaConfig(vocab_size=64, hidden_size=64, num_hidden_layers=1, state_size=8)),
        text, id="mamba", marks=slow,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("build", "inputs"), GENERATORS)
def test_language_models_are_elastic_and_generate_with_their_cache(
    build: Callable[[], nn.Module], inputs: Callable[[], dict[str, Tensor]]
) -> None:
    net = aw.Supernet(build(), inputs())
    assert net.elastic_share > 0.99
    assert net.samples == 2
    assert aw.params(net, 0.5) < 0.45 * aw.params(net)
    dense = net.extract(0.5).eval()
    for model in (dense, net.subnet(0.5).eval()):
        settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        with_cache = model.generate(IDS, **settings, use_cache=True)
        assert torch.equal(with_cache, model.generate(IDS, **settings, use_cache=False))
    with torch.no_grad():
        torch.testing.assert_close(net.subnet(0.5).eval()(**inputs()).logits, dense(**inputs()).logits)


@pytest.mark.parametrize(
    ("build", "inputs"),
    [
        pytest.param(
            lambda: t.BertForSequenceClassification(t.BertConfig(**SMALL, intermediate_size=128)), text, id="bert"
        ),
        pytest.param(
            lambda: t.ViTForImageClassification(
                t.ViTConfig(
                    hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, image_size=32,
                    patch_size=8,
                )
            ),
            image, id="vit",
        ),
        pytest.param(clip, lambda: {**text(), **image()}, id="clip", marks=slow),
        pytest.param(
            whisper,
            lambda: {"input_features": torch.randn(2, 16, 40), "decoder_input_ids": IDS}, id="whisper", marks=slow,
        ),
    ],
)  # fmt: skip
def test_other_models_are_elastic(build: Callable[[], nn.Module], inputs: Callable[[], dict[str, Tensor]]) -> None:
    net = aw.Supernet(build(), inputs())
    assert net.elastic_share > 0.99
    assert net.samples == 2
    dense = net.extract(0.5).eval()
    assert sum(p.numel() for p in dense.parameters()) == aw.params(net, 0.5) < 0.5 * aw.params(net)
    with torch.no_grad():
        given, full = dense(**inputs()), net.model.eval()(**inputs())
    assert [out.shape for out in output_tensors(given)] == [out.shape for out in output_tensors(full)]


def test_only_internal_state_is_left_out_of_the_outputs() -> None:
    with torch.no_grad():
        result = t5().eval()(**both())
        assert result.encoder_last_hidden_state.shape == (2, 12, 64)
        assert [tuple(out.shape) for out in output_tensors(result)] == [(2, 12, 64)]  # logits of 64 tokens
        base = t.BertModel(t.BertConfig(**SMALL, intermediate_size=128)).eval()(IDS)
        assert [tuple(out.shape) for out in output_tensors(base)] == [(2, 12, 64), (2, 64)]

        class Cache:  # a class of the user's with that name is an output
            pass

    assert output_tensors({"cache": Cache(), "x": [torch.ones(1)]})[0].item() == 1


def test_hidden_tensors_that_the_user_asks_for_stay_as_wide_as_they_are() -> None:
    model = t.LlamaForCausalLM(t.LlamaConfig(**LLM, output_hidden_states=True))
    with torch.no_grad():
        model(**text())
    net = aw.Supernet(model, text())
    hidden = next(group for group in net.groups if "model.embed_tokens.weight[1]" in group.members)
    assert hidden.frozen == "reaches the output of the network"
    assert net.extract(0.5).eval()(**text()).hidden_states[0].shape == (2, 12, 64)
