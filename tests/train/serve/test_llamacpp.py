"""llama.cpp behind our interface, and the same list of cases asked of its own server, for comparison."""

from __future__ import annotations

import os
from pathlib import Path

import openai
import pytest
from conformance import CASES
from served import served
from soak import long, note

pytest.importorskip("xllamacpp")


def failures(client: openai.OpenAI, model: str) -> list[str]:
    failed = []
    for name, check in CASES.items():
        try:
            check(client, model)
        except (Exception, pytest.fail.Exception):
            failed.append(name.replace("_", " "))
    return failed


@long
def test_llamacpp_answers_behind_our_interface(checkpoint, tmp_path):
    source = Path(os.environ.get("HEADRACE_SERVED", checkpoint))
    with served(source, "backend=llamacpp", "slots=4", "context=512") as server:
        with server.client() as client:
            behind_ours = failures(client, server.name)
        assert server.health()["status"] == "ok"
    note("Conformance", server="llama.cpp behind ours", cases=len(CASES), failed=", ".join(behind_ours) or "none")
    assert {"a chat is answered", "an unknown model is refused", "negative max tokens are refused"}.isdisjoint(
        behind_ours
    )


@long
def test_the_cases_are_asked_of_llamacpps_own_server(checkpoint, tmp_path):
    from train.exchange.export import ExportConfig, export
    from train.serve.other_engines import llamacpp
    from train.serve.settings import ServeConfig

    source = os.environ.get("HEADRACE_SERVED", str(checkpoint))
    export(ExportConfig(source, str(tmp_path / "model.gguf"), format="gguf"))
    upstream = llamacpp(ServeConfig(slots=4, context=512, threads=1), tmp_path / "model.gguf", "model")
    client = openai.OpenAI(base_url=f"{upstream.address}/v1", api_key="none", max_retries=0, timeout=60)
    failed = failures(client, client.models.list().data[0].id)
    note("Conformance", server="llama.cpp's own", cases=len(CASES), failed=", ".join(failed) or "none")
    assert len(failed) < len(CASES) / 2
