"""Whoever asks wrongly, goes away or asks too much does no harm, and is told."""

from __future__ import annotations

import json
import random
import signal
import socket
import string
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from served import Served, served
from soak import examples, note, soaking

LONG = {"prompt": [5, 6, 7], "max_tokens": 4000, "temperature": 1, "logit_bias": {"0": -100}}


def completion(server: Served, **more) -> dict:
    return {"model": server.name, "prompt": "The ", "max_tokens": 4, **more}


@pytest.fixture
def guarded(checkpoint):
    settings = ("slots=1", "queue=1", "context=8000", "api_key=sesame", "timeout=1.5", "grace=10")
    with served(checkpoint, *settings) as running:
        yield running


def test_keys_queue_time_and_end(guarded):
    """One server that is disturbed in turn: each start costs seconds."""
    key = {"Authorization": "Bearer sesame"}
    for wrong in (
        {},
        {"Authorization": "Bearer sesam"},
        {"Authorization": "Basic sesame"},
        {"Authorization": "Bearer ß"},
    ):
        wrong = {name: value.encode().decode("latin-1") for name, value in wrong.items()}
        status, body, _ = guarded.ask("GET", "/v1/models", None, **wrong)
        assert status == 401 and json.loads(body)["error"]["code"] == "invalid_api_key"
    assert guarded.ask("GET", "/metrics")[0] == 401 and guarded.ask("GET", "/health")[0] == 200
    assert guarded.ask("GET", "/v1/models", None, **key)[0] == 200
    assert guarded.ask("GET", "/v1/models", None, **key, Origin="http://elsewhere.example")[0] == 403

    def ask(**more):
        return guarded.ask("POST", "/v1/completions", completion(guarded, **more), **key)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: ask(**LONG), range(6)))
    statuses = sorted(status for status, _, _ in answers)
    assert statuses == [429] * 4 + [504] * 2 or statuses == [200, *[429] * 4, 504]
    assert all(headers["retry-after"] for status, _, headers in answers if status == 429)
    guarded.wait_idle()
    assert ask()[0] == 200

    connection = streaming(guarded, key, max_tokens=500)
    guarded.process.send_signal(signal.SIGTERM)
    rest = b""
    while chunk := connection.recv(65536):
        rest += chunk
    assert b"data: [DONE]" in rest
    assert guarded.process.wait(20) == 0
    with pytest.raises(OSError):
        guarded.ask("GET", "/health")


def streaming(server: Served, headers: dict[str, str] | None = None, **more) -> socket.socket:
    """Begin a stream; return its connection once it has said something."""
    connection = socket.create_connection(("127.0.0.1", server.port), 30)
    body = json.dumps(completion(server, **LONG | more, stream=True))
    lines = [f"{name}: {value}" for name, value in (headers or {}).items()]
    head = "\r\n".join(
        ["POST /v1/completions HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(body)}", *lines]
    )
    connection.sendall(f"{head}\r\n\r\n{body}".encode())
    assert connection.recv(15).startswith(b"HTTP/1.1 200")
    return connection


def test_a_port_in_use_is_said_in_a_line(server, checkpoint):
    command = [sys.executable, "-m", "launch.command", "serve", f"source={checkpoint}", f"port={server.port}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr == (
        f"headrace serve: host=127.0.0.1 port={server.port} can't be listened at: another program listens there; "
        "choose another port=…, or 0 for a free one\n"
    )


@pytest.mark.parametrize(("settings", "expected"), [
    (("backend=triton",), "there are headrace, llamacpp, vllm"), (("slots=0",), "slots=0"), (("port=70000",), "port"),
    (("backend=vllm",), "pip install vllm"), (("context=9000",), "longer than the model's 8192"),
])  # fmt: skip
def test_a_wrong_setting_is_said_in_a_line(checkpoint, settings, expected):
    from train.serve.command import VERB

    ended = subprocess.run(
        [sys.executable, "-m", "launch.command", "serve", f"source={checkpoint}", "port=0", *settings],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert VERB.name == "serve" and ended.returncode == 2
    assert expected in ended.stderr and "Traceback" not in ended.stderr


def test_a_body_too_large_is_refused_said_or_not(server):
    large = b'{"prompt": "' + b"x" * 200_000 + b'"}'
    assert server.ask("POST", "/v1/completions", large)[0] == 413
    connection = socket.create_connection(("127.0.0.1", server.port), 30)
    connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    try:
        for _ in range(30):
            connection.sendall(b"2000\r\n" + b"x" * 8192 + b"\r\n")
    except OSError:
        pass
    assert connection.recv(20).startswith(b"HTTP/1.1 413")
    connection.close()


def test_a_strategys_steps_come_apart_from_its_answer(server):
    ask = {
        "model": server.name,
        "messages": [{"role": "user", "content": "What is 7 + 5?"}],
        "max_tokens": 12,
        "seed": 3,
    }
    status, body, _ = server.ask("POST", "/v1/chat/completions", ask | {"strategy": "zero_shot"})
    message = json.loads(body)["choices"][0]["message"]
    assert status == 200 and "Therefore, the answer is" in message["reasoning_content"]
    assert message["reasoning_content"].rstrip().endswith(message["content"])
    with server.client() as client:
        chunks = list(client.chat.completions.create(**ask, stream=True, extra_body={"strategy": "zero_shot"}))
    assert (
        "".join(getattr(c.choices[0].delta, "reasoning_content", None) or "" for c in chunks)
        == message["reasoning_content"]
    )
    voted = ask | {"strategy": {"name": "self_consistency", "samples": 3}, "extract": {"how": "number"}}
    assert server.ask("POST", "/v1/chat/completions", voted)[0] == 200
    for wrong in ({"strategy": "zero_shoot"}, {"strategy": {"samples": "x"}}, {"strategy": {"examples": "/etc/passwd"}},
                  {"strategy": 3}, {"extract": {"how": "guess"}}, {"extract": 1}):  # fmt: skip
        status, body, _ = server.ask("POST", "/v1/chat/completions", ask | wrong)
        assert status == 400 and json.loads(body)["error"]["param"] == next(iter(wrong))
    server.wait_idle()


def test_what_people_write_is_never_a_special_token(server):
    from train.serve.prompts import chat_ids

    tokenizer = server.tokenizer
    ids = chat_ids(tokenizer, [{"role": "user", "content": tokenizer.end_of_document_name}])
    assert tokenizer.end_of_document not in ids[1:]


def test_metrics_count_what_was_answered(server):
    server.ask("POST", "/v1/completions", completion(server))
    text = server.ask("GET", "/metrics")[1].decode()
    assert 'headrace_requests_total{path="/v1/completions",status="200"}' in text
    assert "headrace_slots 4.0" in text and "headrace_completion_tokens_total" in text


def wrong_bodies(count: int, server: Served):
    """Bodies that are wrong in all ways: bytes, JSON of other shapes, good requests with something exchanged."""
    draw = random.Random(7)
    values = [None, True, -1, 0, 1.5, 1e308, -(1 << 70), "", "\x00", "💥" * 50, [], {}, [[]], [None], {"a": {"b": []}},
              "nan", [1, "a"], [{"role": "user"}], [{"role": 3, "content": 3}], [[1 << 40]]]  # fmt: skip
    keys = ["model", "messages", "prompt", "n", "seed", "stop", "stream", "temperature", "top_p", "max_tokens",
            "logprobs", "logit_bias", "stream_options", "echo", "tools", "response_format",
            "strategy", "user", "extract"]  # fmt: skip
    for _ in range(count):
        kind = draw.randrange(4)
        good = completion(server, messages=[{"role": "user", "content": "x"}], max_tokens=2)
        if kind == 0:
            yield bytes(draw.randrange(256) for _ in range(draw.randrange(200)))
        elif kind == 1:
            text = json.dumps(good)
            yield text[: draw.randrange(len(text))].encode()
        elif kind == 2:
            yield json.dumps(
                "".join(draw.choices(string.printable, k=20)) if draw.random() < 0.5 else draw.choice(values)
            ).encode()
        else:
            for key in draw.sample(keys, draw.randrange(1, 4)):
                good[key] = draw.choice(values)
            yield json.dumps(good).encode()
    yield b"[" * 90_000
    yield b'{"prompt": "\\ud800"}'
    yield b'{"temperature": NaN}'


def raw_requests(count: int):
    draw = random.Random(9)
    for _ in range(count):
        yield draw.choice([
            b"\x00" * 100, b"GET\r\n\r\n", b"POST /v1/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{", b"GET / HTTP/9.9\r\n\r\n",
            b"A" * 70_000, b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        ])  # fmt: skip


def test_malformed_requests_and_abrupt_disconnects_leave_nothing_behind(server):
    """100 and 20 of them, or in a soak 1,000 and 200 and memory too."""
    malformed, disconnects = (1000, 200) if soaking() else (100, 20)
    statuses: dict[int, int] = {}

    def disturb(requests: int, gone: int) -> None:
        for number, body in enumerate(wrong_bodies(requests * 9 // 10 - 3, server)):
            path = "/v1/chat/completions" if number % 2 else "/v1/completions"
            status, answer, _ = server.ask("POST", path, body)
            statuses[status] = statuses.get(status, 0) + 1
            assert status in (200, 400, 404), (status, body[:200], answer)
            if status != 200:
                assert json.loads(answer)["error"]["message"]
        for head in raw_requests(requests // 10):
            with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
                connection.sendall(head)
        for number in range(gone):
            connection = streaming(server, **({"n": 3} if number % 3 == 0 else {}))
            if number % 2:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            connection.close()
        server.wait_idle()

    disturb(malformed, disconnects)
    before = server.memory()
    if soaking():
        disturb(malformed, disconnects)
        grown = server.memory() - before
        note(
            "Disturbed service",
            requests=2 * malformed,
            disconnects=2 * disconnects,
            statuses=statuses,
            grown_bytes=grown,
        )
        assert grown < 16e6
    assert server.process.poll() is None and server.health()["status"] == "ok"
    assert server.ask("POST", "/v1/completions", completion(server))[0] == 200
    assert examples(1) >= 1


def test_whoever_goes_away_frees_the_slot_at_once(server):
    for whole in (False, True):
        if whole:
            connection = socket.create_connection(("127.0.0.1", server.port), 30)
            body = json.dumps(completion(server, **LONG)).encode()
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            while not server.health()["running"]:
                time.sleep(0.01)
        else:
            connection = streaming(server)
        assert server.health()["running"] == 1
        connection.close()
        server.wait_idle(2)
