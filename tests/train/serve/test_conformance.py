"""The real `openai` client finds our server as OpenAI's API promises."""

from __future__ import annotations

import pytest
from conformance import CASES


@pytest.mark.parametrize("name", CASES)
def test_the_openai_client_finds_that(server, name):
    with server.client() as client:
        CASES[name](client, server.name)
