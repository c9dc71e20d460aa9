"""Many prompts at once: each is continued and scored as if it were alone, and as Hugging Face does."""

from __future__ import annotations

import pytest
import torch
from test_transformer import SHAPES, VOCABULARY, build, hugging_face_twin

from data_pipeline.foundation.errors import UserError
from train.generation.batch import generate_batch
from train.generation.likelihood import log_likelihoods
from train.model.transformer import Transformer
from train.sampling import SamplingConfig, sample_tokens

CPU = torch.device("cpu")
LENGTHS = (1, 17, 5, 30, 9, 2, 30, 12)


def some_prompts(seed: int = 5) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCABULARY, (length,), generator=generator).tolist() for length in LENGTHS]


@pytest.fixture(scope="module")
def model() -> Transformer:
    return build(SHAPES["llama"]).eval()


def continued(model: Transformer, prompts: list[list[int]], more: dict | None = None, **settings) -> list[list[int]]:
    return generate_batch(model, model.config, prompts, SamplingConfig(**settings), CPU, torch.float32, **(more or {}))


@pytest.mark.parametrize("shape", ["llama", "tied", "qwen3", "all biases"])
@pytest.mark.parametrize("at_once", [1, 3, 64])
def test_greedy_tokens_are_those_of_hugging_face_for_each_prompt_alone(shape, at_once):
    model, prompts = build(SHAPES[shape]).eval(), some_prompts()
    twin = hugging_face_twin(model)[0].eval()
    written = continued(model, prompts, {"at_once": at_once}, tokens=12, temperature=0.0)
    for prompt, ours in zip(prompts, written, strict=True):
        with torch.no_grad():
            expected = twin.generate(
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=12, do_sample=False,
                eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
        assert ours == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("settings", [{"top_p": 1.0}, {"top_p": 0.9}, {"top_k": 5, "top_p": 0.8}])
def test_what_is_drawn_depends_on_prompt_and_seed_and_not_on_the_batch(model, settings):
    prompts, seeds = some_prompts(), [7, 3, 9, 9, 1, 2, 4, 8]
    sampling = {"tokens": 15, "temperature": 1.0, **settings}
    together = continued(model, prompts, {"seeds": seeds}, **sampling)
    for prompt, seed, ours in zip(prompts, seeds, together, strict=True):
        alone = sample_tokens(model, model.config, prompt, SamplingConfig(**sampling, seed=seed), CPU, torch.float32)
        assert ours == list(alone)
    backwards = continued(model, prompts[::-1], {"seeds": seeds[::-1], "at_once": 3}, **sampling)
    assert backwards[::-1] == together
    assert continued(model, prompts, {"seeds": [seed + 100 for seed in seeds]}, **sampling) != together


def test_a_sequence_ends_at_its_stop_token_and_the_others_go_on(model):
    prompts = some_prompts()
    free = continued(model, prompts, tokens=20, temperature=0.0)
    stops = {free[0][3], free[4][6], free[5][0]}

    def cut(text: list[int]) -> list[int]:
        return text[: next((at for at, token in enumerate(text) if token in stops), len(text))]

    counts = [0]
    more = {"stop_tokens": stops, "progress": lambda n: counts.append(n)}
    stopped = continued(model, prompts, more, tokens=20, temperature=0.0)
    assert stopped == [cut(text) for text in free]
    assert len({len(text) for text in stopped}) > 2
    assert sum(counts) == len(prompts)


def test_a_sequence_ends_when_it_is_asked_for(model):
    free = continued(model, some_prompts(), tokens=9, temperature=0.0)
    ended = continued(model, some_prompts(), {"ended": lambda ids: len(ids) == 4}, tokens=9, temperature=0.0)
    assert ended == [text[:4] for text in free]


def test_each_prompt_is_written_up_to_the_models_length(model):
    room = model.config.maximum_length
    prompts = [[1] * (room - 3), [2] * 5, [3] * (room - 1)]
    written = continued(model, prompts, tokens=500, temperature=0.0)
    assert [len(text) for text in written] == [3, room - 5, 1]
    assert written[1] == continued(model, [prompts[1]], tokens=500, temperature=0.0)[0]
    with pytest.raises(UserError, match=f"a prompt has {room} tokens and the model takes 1 to {room - 1}"):
        continued(model, [[1] * room], tokens=1)


@pytest.mark.parametrize("tokens_at_once", [1, 60, 4096])
def test_likelihoods_are_those_of_hugging_face_for_each_pair_alone(model, tokens_at_once):
    twin = hugging_face_twin(model)[0].eval()
    prompts, others = some_prompts(), some_prompts(seed=6)
    pairs = list(zip(prompts, [*others[1:], []]))
    greedy = continued(model, prompts[:2], tokens=4, temperature=0.0)
    pairs += list(zip(prompts, greedy))
    scored = log_likelihoods(model, pairs, model.config.maximum_length, CPU, tokens_at_once)
    for (context, continuation), ours in zip(pairs, scored, strict=True):
        ids = torch.tensor([context + continuation])
        with torch.no_grad():
            logits = twin(ids).logits[0, len(context) - 1 : -1].double()
        chosen = logits.log_softmax(-1).gather(1, torch.tensor(continuation, dtype=torch.int64)[:, None])
        assert ours.nats == pytest.approx(float(chosen.sum()), abs=2e-4)
        assert ours.tokens == len(continuation)
        assert ours.greedy == (logits.argmax(-1).tolist() == continuation)
    assert [ours.greedy for ours in scored[-2:]] == [True, True]
    assert not all(ours.greedy for ours in scored)


def test_of_what_is_too_long_the_beginning_is_left_out(model):
    room = model.config.maximum_length
    ids = torch.arange(room + 40) % VOCABULARY
    long = log_likelihoods(model, [(ids[:-3].tolist(), ids[-3:].tolist())], room, CPU)
    short = log_likelihoods(model, [(ids[-room - 1 : -3].tolist(), ids[-3:].tolist())], room, CPU)
    assert long == short
    wholly = log_likelihoods(model, [([1], ids.tolist())], room, CPU)
    assert wholly[0].tokens == room
