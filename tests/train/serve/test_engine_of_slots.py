"""The engine gives what the model gives alone, whatever is beside it, in every shape that our model has."""

from __future__ import annotations

import queue
from dataclasses import replace

import pytest
import torch
from served import CONFIG, drawn_model

from train.exchange.architectures import config_of, settings_of, their_name
from train.model.transformer import Transformer
from train.sampling import SamplingConfig, sample_tokens
from train.serve.decoder import Decoder, forward_of
from train.serve.engine import Engine, QueueFull, Sequence, Token
from train.serve.slots import NextTokens, Passage, Slots

VOCABULARY = 320
SHAPES = {
    "grouped": CONFIG,
    "tied": replace(CONFIG, tied_embeddings=True, key_value_heads=4),
    "one key head": replace(CONFIG, key_value_heads=1, head_width=16, rotary_theta=500000.0, norm_epsilon=1e-6),
    "query-key norm": replace(CONFIG, query_key_norm=True, head_width=16),
    "biases": replace(CONFIG, attention_bias=True, attention_output_bias=True, feed_forward_bias=True),
}
CPU = torch.device("cpu")


def model_of(shape: str) -> Transformer:
    return drawn_model(SHAPES[shape].resolve(VOCABULARY))


def some_ids(length: int, seed: int = 1) -> list[int]:
    return torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def written(engine: Engine, *asks: tuple[list[int], dict]) -> list[list[Token | str]]:
    """Submit all at once; return what each was told."""
    told = [queue.Queue() for _ in asks]
    engine.submit([Sequence(prompt, tell=at.put, **more) for (prompt, more), at in zip(asks, told)])
    results = []
    for at in told:
        events = [at.get(timeout=60)]
        while not isinstance(events[-1], str):
            events.append(at.get(timeout=60))
        results.append(events)
    return results


def ids(events: list[Token | str]) -> list[int]:
    return [event.id for event in events if isinstance(event, Token)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_fused_model_computes_what_the_model_does_in_passages_and_steps(shape):
    model = model_of(shape)
    tokens = some_ids(40)
    with torch.inference_mode():
        expected = model(torch.tensor([tokens]))[0]
        for forward in (Decoder(model), plain(model)):
            slots = Slots(model.config, 3, 64, CPU, torch.float32)
            found = [
                forward(torch.tensor([tokens[a:b]]), Passage(slots, 2, a), torch.arange(b - a))
                for a, b in ((0, 7), (7, 30))
            ]
            slots.move(2, 0, 30)
            forward(torch.tensor([tokens[:5]]), Passage(slots, 1, 0), torch.arange(5))
            for step in range(10):
                both = torch.tensor([[tokens[30 + step]], [tokens[5 + step]]])
                found.append(forward(both, NextTokens(slots, [30 + step, 5 + step]), torch.arange(2))[:1])
            assert (torch.cat(found) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_model_with_experts_goes_the_way_of_the_model_and_writes_what_it_does():
    model = drawn_model(replace(CONFIG, experts=5, active_experts=2, shared_width=32).resolve(VOCABULARY))
    assert not isinstance(forward_of(model), Decoder)
    engine = Engine(model, frozenset(), slots=2, context=100, prefill=8)
    asks = [(some_ids(length, length), {"sampling": SamplingConfig(12, 0.0), "tokens": 12}) for length in (3, 20)]
    found = [ids(events) for events in written(engine, *asks)]
    engine.stop()
    assert found == [
        list(sample_tokens(model, model.config, prompt, SamplingConfig(12, 0.0), CPU, torch.float32))
        for prompt, _ in asks
    ]


def plain(model: Transformer):
    """The way for models whose layers are no plain matrices."""
    layer = model.blocks[0].feed_forward.up
    layer.adapter = torch.nn.Module()
    layer.adapter.forward = lambda x: torch.zeros(())
    forward = forward_of(model)
    assert not isinstance(forward, Decoder)
    return forward


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_written_is_what_generate_writes_whatever_is_beside_it(temperature):
    model = model_of("grouped")
    engine = Engine(model, frozenset(), slots=3, context=200, prefill=8, queue=100)
    asks, expected = [], []
    for number in range(12):
        sampling = SamplingConfig(5 + 3 * number, temperature, 0, (1.0, 0.9)[number % 2], seed=number)
        prompt = some_ids(1 + 7 * (number % 5), number)
        asks.append((prompt, {"sampling": sampling, "tokens": sampling.tokens}))
        expected.append(list(sample_tokens(model, model.config, prompt, sampling, CPU, torch.float32)))
    assert [ids(events) for events in written(engine, *asks)] == expected
    assert engine.running == engine.waiting == 0
    engine.stop()


def test_greedy_tokens_and_logprobs_are_those_of_transformers():
    from transformers import AutoConfig, AutoModelForCausalLM

    model = model_of("grouped")
    settings = settings_of(model.config)
    assert config_of(settings, "here").width == model.config.width
    twin = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings)).eval()
    twin.load_state_dict({their_name(name): value for name, value in model.state_dict().items()})
    engine = Engine(model, frozenset(), slots=2, context=200, prefill=8)
    prompt = some_ids(21)
    more = {"sampling": SamplingConfig(temperature=0.0), "tokens": 30, "logprobs": 3, "of_prompt": True}
    [events] = written(engine, (prompt, more))
    engine.stop()
    generated = twin.generate(
        torch.tensor([prompt]), max_new_tokens=30, do_sample=False, eos_token_id=None, pad_token_id=0
    )[0]
    assert ids(events) == generated.tolist()
    with torch.no_grad():
        logprobs = twin(generated[None]).logits[0].log_softmax(-1)
    for at, event in enumerate(events[1:-1]):
        assert event.logprob == pytest.approx(float(logprobs[at, generated[at + 1]]), abs=1e-3)
        values, likeliest = logprobs[at].topk(3)
        assert [token for token, _ in event.likeliest] == likeliest.tolist()
        assert [value for _, value in event.likeliest] == pytest.approx(values.tolist(), abs=1e-3)


def test_a_cancelled_sequence_leaves_and_the_others_go_on():
    engine = Engine(model_of("tied"), frozenset(), slots=2, context=1000, queue=1)
    told: list[queue.Queue] = [queue.Queue() for _ in range(4)]
    sequences = [Sequence(some_ids(5), SamplingConfig(seed=n), 900, told[n].put) for n in range(4)]
    engine.submit(sequences[:3])
    with pytest.raises(QueueFull):
        engine.submit(sequences[3:])
    engine.cancel(sequences[:2])
    for at in told[:2]:
        while not isinstance(event := at.get(timeout=30), str):
            pass
        assert event == "cancelled"
    assert isinstance(told[2].get(timeout=30), Token)
    engine.stop()
    assert engine.running == 0


def test_an_end_token_ends_a_sequence_and_is_not_told():
    model = model_of("grouped")
    free = list(sample_tokens(model, model.config, [3, 4], SamplingConfig(20, 0.0), CPU, torch.float32))
    engine = Engine(model, frozenset([free[7]]), slots=1, context=100)
    [events] = written(engine, ([3, 4], {"sampling": SamplingConfig(temperature=0.0), "tokens": 20}))
    assert ids(events) == free[: free.index(free[7])] and events[-1] == "stop"
    engine.stop()
