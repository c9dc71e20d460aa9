"""What an OpenAI-compatible server owes the `openai` client: cases that any such server can be asked.

Each takes a client and the model's name, and asserts. Nothing here knows our server.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

CASES: dict[str, Callable[[openai.OpenAI, str], None]] = {}
ASK = [{"role": "user", "content": "Say something about rivers."}]


def case(check: Callable[[openai.OpenAI, str], None]) -> Callable[[openai.OpenAI, str], None]:
    CASES[check.__name__] = check
    return check


def chat(client: Any, model: str, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": model, "messages": ASK, "max_tokens": 8, "seed": 1, **more})


def complete(client: Any, model: str, **more: Any) -> Any:
    return client.completions.create(**{"model": model, "prompt": "The river ", "max_tokens": 8, "seed": 1, **more})


def refused(kind: type[openai.APIStatusError], ask: Callable[[], Any], parameter: str | None = None) -> None:
    with pytest.raises(kind) as caught:
        ask()
    body = caught.value.body
    assert isinstance(body, dict) and isinstance(body["message"], str) and body["message"]
    if parameter:
        assert parameter in json.dumps(body)


def streamed(chunks: Any) -> tuple[str, list[Any]]:
    chunks = list(chunks)
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices), chunks


@case
def the_model_is_listed(client, model):
    assert model in [each.id for each in client.models.list()]


@case
def the_model_can_be_retrieved(client, model):
    assert client.models.retrieve(model).id == model


@case
def an_unknown_model_can_not_be_retrieved(client, model):
    refused(openai.NotFoundError, lambda: client.models.retrieve("unknown"))


@case
def a_chat_is_answered(client, model):
    answer = chat(client, model)
    assert answer.object == "chat.completion" and answer.id and answer.created > 0 and answer.model == model
    [choice] = answer.choices
    assert choice.message.role == "assistant" and isinstance(choice.message.content, str)
    assert choice.finish_reason in ("stop", "length")


@case
def usage_adds_up(client, model):
    usage = chat(client, model).usage
    assert usage.prompt_tokens > 0 and 0 <= usage.completion_tokens <= 8
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@case
def max_tokens_ends_an_answer(client, model):
    answer = chat(client, model, max_tokens=3, temperature=0)
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 3


@case
def max_completion_tokens_does_too(client, model):
    answer = client.chat.completions.create(model=model, messages=ASK, max_completion_tokens=3, temperature=0)
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 3


@case
def a_stream_says_what_a_whole_answer_says(client, model):
    text, chunks = streamed(chat(client, model, temperature=0, max_tokens=20, stream=True))
    assert text == chat(client, model, temperature=0, max_tokens=20).choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant" and len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.object == "chat.completion.chunk" for chunk in chunks)


@case
def a_stream_ends_with_one_reason(client, model):
    _, chunks = streamed(chat(client, model, stream=True))
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons[-1] in ("stop", "length") and not any(reasons[:-1])


@case
def a_stream_has_usage_if_asked(client, model):
    _, chunks = streamed(chat(client, model, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0
    assert all(chunk.usage is None for chunk in chunks[:-1])


@case
def a_stream_has_no_usage_otherwise(client, model):
    _, chunks = streamed(chat(client, model, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


@case
def a_seed_repeats_an_answer(client, model):
    texts = {chat(client, model, temperature=1.0, seed=7).choices[0].message.content for _ in range(3)}
    assert len(texts) == 1


@case
def another_seed_gives_another_answer(client, model):
    texts = {chat(client, model, temperature=1.5, max_tokens=20, seed=s).choices[0].message.content for s in range(4)}
    assert len(texts) > 1


@case
def temperature_0_is_greedy(client, model):
    texts = {chat(client, model, temperature=0, seed=s).choices[0].message.content for s in range(3)}
    assert len(texts) == 1


@case
def a_tiny_top_p_is_greedy(client, model):
    narrow = chat(client, model, temperature=1, top_p=1e-6).choices[0].message.content
    assert narrow == chat(client, model, temperature=0).choices[0].message.content


@case
def n_gives_so_many_choices(client, model):
    choices = chat(client, model, n=3, temperature=1.5, max_tokens=16).choices
    assert [choice.index for choice in choices] == [0, 1, 2]
    assert len({choice.message.content for choice in choices}) > 1


@case
def n_streams_all_choices(client, model):
    chunks = list(chat(client, model, n=2, stream=True))
    ended = [choice.index for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert sorted(ended) == [0, 1]


@case
def stop_is_left_out_and_ends_the_answer(client, model):
    whole = chat(client, model, temperature=0, max_tokens=30).choices[0].message.content
    stop = whole[8:11]
    choice = chat(client, model, temperature=0, max_tokens=30, stop=stop).choices[0]
    assert choice.message.content == whole[: whole.index(stop)] and choice.finish_reason == "stop"


@case
def stop_takes_a_list(client, model):
    whole = chat(client, model, temperature=0, max_tokens=30).choices[0].message.content
    stops = [whole[12:15], whole[6:9]]
    choice = chat(client, model, temperature=0, max_tokens=30, stop=stops).choices[0]
    assert choice.message.content == whole[: min(whole.index(each) for each in stops)]


@case
def stop_is_never_shown_in_a_stream(client, model):
    whole = chat(client, model, temperature=0, max_tokens=30).choices[0].message.content
    stop = whole[7:13]
    text, _ = streamed(chat(client, model, temperature=0, max_tokens=30, stop=stop, stream=True))
    assert text == whole[: whole.index(stop)]


@case
def logprobs_of_a_chat_are_those_of_its_tokens(client, model):
    answer = chat(client, model, logprobs=True, top_logprobs=3, temperature=0)
    content = answer.choices[0].logprobs.content
    joined = "".join(entry.token for entry in content)
    assert joined == answer.choices[0].message.content or "�" in joined
    for entry in content:
        assert len(entry.top_logprobs) == 3 and entry.logprob <= 0
        assert entry.top_logprobs[0].token == entry.token
        assert entry.top_logprobs[0].logprob == pytest.approx(entry.logprob, abs=1e-4)


@case
def logprobs_have_bytes(client, model):
    content = chat(client, model, logprobs=True, temperature=0).choices[0].logprobs.content
    whole = b"".join(bytes(entry.bytes) for entry in content)
    assert whole.decode(errors="replace") == chat(client, model, temperature=0).choices[0].message.content


@case
def logprobs_come_with_a_stream(client, model):
    chunks = list(chat(client, model, logprobs=True, top_logprobs=1, temperature=0, stream=True))
    entries = [e for c in chunks if c.choices and c.choices[0].logprobs for e in c.choices[0].logprobs.content]
    joined = "".join(entry.token for entry in entries)
    assert "�" in joined or joined == chat(client, model, temperature=0).choices[0].message.content


@case
def no_logprobs_without_being_asked(client, model):
    assert chat(client, model).choices[0].logprobs is None


@case
def system_and_assistant_messages_are_heard(client, model):
    long = [{"role": "system", "content": "Be brief."}, *ASK, {"role": "assistant", "content": "Rivers flow."}, *ASK]
    assert chat(client, model, messages=long).usage.prompt_tokens > chat(client, model).usage.prompt_tokens


@case
def content_may_be_parts(client, model):
    parts = [{"role": "user", "content": [{"type": "text", "text": ASK[0]["content"]}]}]
    one, other = (chat(client, model, messages=m, temperature=0) for m in (parts, ASK))
    assert one.choices[0].message.content == other.choices[0].message.content


@case
def a_completion_continues_a_prompt(client, model):
    answer = complete(client, model)
    assert answer.object == "text_completion" and answer.choices[0].finish_reason in ("stop", "length")
    assert isinstance(answer.choices[0].text, str) and answer.usage.prompt_tokens > 0


@case
def a_completion_streams(client, model):
    text = "".join(c.choices[0].text for c in complete(client, model, stream=True, temperature=0) if c.choices)
    assert text == complete(client, model, temperature=0).choices[0].text


@case
def prompts_may_be_a_list(client, model):
    prompts = ["The river ", "A hill "]
    choices = complete(client, model, prompt=prompts, temperature=0).choices
    assert [choice.index for choice in choices] == [0, 1]
    for prompt, choice in zip(prompts, choices):
        assert choice.text == complete(client, model, prompt=prompt, temperature=0).choices[0].text


@case
def a_prompt_may_be_ids(client, model):
    answer = complete(client, model, prompt=[5, 6, 7], temperature=0)
    assert answer.usage.prompt_tokens == 3 and answer.choices[0].text


@case
def prompts_may_be_lists_of_ids(client, model):
    assert len(complete(client, model, prompt=[[5, 6, 7], [8, 9]]).choices) == 2


@case
def echo_repeats_the_prompt(client, model):
    plain = complete(client, model, temperature=0).choices[0].text
    assert complete(client, model, temperature=0, echo=True).choices[0].text == "The river " + plain


@case
def echo_with_logprobs_scores_the_prompt(client, model):
    choice = complete(client, model, temperature=0, echo=True, logprobs=1, max_tokens=1).choices[0]
    joined = "".join(choice.logprobs.tokens)
    assert joined == choice.text or "�" in joined
    assert len(choice.logprobs.token_logprobs) == len(choice.logprobs.tokens) > 1
    assert all(value is None or value <= 0 for value in choice.logprobs.token_logprobs)


@case
def logprobs_of_a_completion_are_those_of_its_tokens(client, model):
    choice = complete(client, model, temperature=0, logprobs=2).choices[0]
    logprobs = choice.logprobs
    joined = "".join(logprobs.tokens)
    assert joined == choice.text or "�" in joined  # a token that is half a character has no text of its own
    assert len(logprobs.text_offset) == len(logprobs.tokens)
    for token, value, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs):
        assert top[token] == pytest.approx(value, abs=1e-4) and value == max(top.values())


@case
def a_bias_forbids_a_token(client, model):
    first = complete(client, model, temperature=0, max_tokens=1, prompt=[5, 6, 7])
    biases = {str(token): 100 if token == 9 else 0 for token in (9, 10)}
    forced = complete(client, model, temperature=0, max_tokens=4, prompt=[5, 6, 7], logit_bias=biases, logprobs=1)
    assert len(set(forced.choices[0].logprobs.tokens)) == 1 and first.choices[0].text != forced.choices[0].text


@case
def penalties_keep_from_repeating(client, model):
    biases = {"9": 20, "10": 19.9, "11": 19.8}
    free, held = (
        complete(client, model, temperature=0, max_tokens=3, logit_bias=biases, logprobs=1, presence_penalty=p)
        for p in (0, 2)
    )
    assert len(set(free.choices[0].logprobs.tokens)) < len(set(held.choices[0].logprobs.tokens))


@case
def many_ask_at_once(client, model):
    alone = [complete(client, model, prompt=[5 + i, 6, 7], temperature=0).choices[0].text for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        asks = [pool.submit(complete, client, model, prompt=[5 + i, 6, 7], temperature=0) for i in range(8)]
        assert [ask.result().choices[0].text for ask in asks] == alone


@case
def no_character_is_broken_in_a_stream(client, model):
    text, _ = streamed(
        chat(client, model, messages=[{"role": "user", "content": "一二三 🌊"}], max_tokens=40, stream=True)
    )
    whole = chat(client, model, messages=[{"role": "user", "content": "一二三 🌊"}], max_tokens=40)
    assert text == whole.choices[0].message.content


@case
def an_unknown_model_is_refused(client, model):
    refused(openai.NotFoundError, lambda: chat(client, "unknown"), "unknown")


@case
def negative_max_tokens_are_refused(client, model):
    refused(openai.BadRequestError, lambda: chat(client, model, max_tokens=-1), "max_tokens")


@case
def a_hot_temperature_is_refused(client, model):
    refused(openai.BadRequestError, lambda: chat(client, model, temperature=3), "temperature")


@case
def a_top_p_above_1_is_refused(client, model):
    refused(openai.BadRequestError, lambda: chat(client, model, top_p=1.5), "top_p")


@case
def no_messages_are_refused(client, model):
    refused(openai.BadRequestError, lambda: chat(client, model, messages=[]), "messages")


@case
def an_unknown_role_is_refused(client, model):
    refused(openai.BadRequestError, lambda: chat(client, model, messages=[{"role": "king", "content": "x"}]), "role")


@case
def n_of_0_is_refused(client, model):
    refused(openai.BadRequestError, lambda: chat(client, model, n=0), "n")


@case
def top_logprobs_without_logprobs_are_refused(client, model):
    refused(openai.BadRequestError, lambda: chat(client, model, top_logprobs=2), "top_logprobs")


@case
def too_long_a_prompt_is_refused(client, model):
    refused(openai.BadRequestError, lambda: complete(client, model, prompt=[5] * 10_000), "context")


@case
def an_unknown_parameter_is_refused(client, model):
    refused(openai.BadRequestError, lambda: chat(client, model, extra_body={"temprature": 1}), "temprature")


@case
def a_wrong_type_is_refused(client, model):
    refused(openai.BadRequestError, lambda: chat(client, model, max_tokens="many"), "max_tokens")


@case
def what_is_no_json_is_refused(client, model):
    answer = client._client.post(
        str(client.base_url) + "chat/completions", content=b"{", headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400 and answer.json()["error"]["message"]


@case
def an_unknown_path_is_not_found(client, model):
    refused(openai.NotFoundError, lambda: client.get("/nothing", cast_to=object))


@case
def another_method_is_refused(client, model):
    with pytest.raises(openai.APIStatusError) as caught:
        client.get("/chat/completions", cast_to=object)
    assert caught.value.status_code == 405
