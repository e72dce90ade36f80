"""Mistakes in ``experts.yaml``: each is told once, with its line, what is allowed and the mend."""

from __future__ import annotations

import pytest

from tests.gateway.test_config import VALID, faults_of

# replaced text, its replacement, and the whole message
FAULTS = [
    (
        "    model: math-model",
        "    temprature: 1\n    model: math-model",
        "experts.yaml:14: experts[1].temprature is not a key. Allowed: name, description, ",
    ),
    (
        "    weights: w",
        "    weight: w",
        "experts.yaml:9: experts[0].weight is not a key. Did you mean 'weights'? Allowed: name, ",
    ),
    (
        "{connect: 2}",
        "{conect: 2}",
        "experts.yaml:15: experts[1].timeout_s.conect is not a key. Did you mean 'connect'? "
        "Allowed: connect, first_token, idle, total",
    ),
    (
        "version: 1",
        "version: 1\nrooter: x",
        "experts.yaml:2: rooter is not a key. Did you mean 'router'? Allowed: version, router, ",
    ),
    ("version: 1", "version: 2", "experts.yaml:1: version must be 1; got 2"),
    (
        "name: algebra",
        "name: math",
        "experts.yaml:17: experts[2].name must be unique; 'math' is also experts[1]. Rename one",
    ),
    (
        "backend: openai",
        "backend: opnai",
        "experts.yaml:5: experts[0].backend must be 'openai', 'local' or 'litellm'; got 'opnai'",
    ),
    (
        "    base_url: http://127.0.0.1:8001/v1\n",
        "",
        "experts.yaml:4: experts[0].base_url is missing; backend openai needs it. Write the "
        "server's address, e.g. http://localhost:8000/v1",
    ),
    (
        "http://127.0.0.1:8001/v1",
        "localhost:8001",
        "experts.yaml:6: experts[0].base_url must be an http(s) URL; got "
        "'localhost:8001'. Write http://localhost:8001/v1",
    ),
    (
        "http://127.0.0.1:8001/v1",
        "ftp://host/v1",
        "experts.yaml:6: experts[0].base_url must be an http(s) URL; got 'ftp://host/v1'. "
        "Write http://host/v1",
    ),
    (
        "http://127.0.0.1:8001/v1",
        "http://host:99999/v1",
        "experts.yaml:6: experts[0].base_url must be an http(s) URL; got ",
    ),
    (
        "http://127.0.0.1:8001/v1",
        "'http://[::1'",
        "experts.yaml:6: experts[0].base_url must be an http(s) URL; got ",
    ),
    (
        "http://127.0.0.1:8001/v1",
        "http://me:secret@host/v1",
        "experts.yaml:6: experts[0].base_url must hold no spaces and no user:password; got one "
        "that is not shown as it may hold a key. Use api_key_env for a key",
    ),
    (
        "http://127.0.0.1:8001/v1",
        "http://host/v1?key=x",
        "experts.yaml:6: experts[0].base_url must end with its path, such as /v1; got one that "
        "is not shown as it may hold a key. Remove what follows it",
    ),
    (
        "http://127.0.0.1:8001/v1",
        "http://host/v1/chat/completions",
        "experts.yaml:6: experts[0].base_url must end before /chat/completions; got "
        "'http://host/v1/chat/completions'. Remove that",
    ),
    (
        "http://127.0.0.1:8001/v1",
        "8001",
        "experts.yaml:6: experts[0].base_url must be text; got 8001",
    ),
    (
        "total_params_b: 7",
        "total_params_b: -7",
        "experts.yaml:8: experts[0].total_params_b must be greater than 0; got -7",
    ),
    (
        "total_params_b: 7",
        "total_params_b: .nan",
        "experts.yaml:8: experts[0].total_params_b must be less than or equal to 100000; got nan",
    ),
    (
        "total_params_b: 7",
        "total_params_b: '7'",
        "experts.yaml:8: experts[0].total_params_b must be a number; got '7'. Write the number "
        "alone, without a unit and without quotes",
    ),
    (
        "total_params_b: 7",
        "active_params_b: 8\n    total_params_b: 7",
        "experts.yaml:8: experts[0].active_params_b must be at most total_params_b (7.0); got 8.0",
    ),
    (
        "{connect: 2}",
        "{connect: 0}",
        "experts.yaml:15: experts[1].timeout_s.connect must be greater than 0; got 0",
    ),
    (
        "[math, general]",
        "[maths, general]",
        "experts.yaml:21: mapping.math[0] must name an expert; got 'maths'. Did you mean 'math'? "
        "Allowed: general, math, algebra, geometry",
    ),
    (
        "[math, general]",
        "[]",
        "experts.yaml:21: mapping.math must have at least 1 item; got []. Name an expert, or leave "
        "the category out: it then goes to `general`",
    ),
    (
        "[math, general]",
        "",
        "experts.yaml:21: mapping.math must be a list; got nothing. Name an expert, or leave ",
    ),
    (
        "[math, general]",
        "math",
        "experts.yaml:21: mapping.math must be a list; got 'math'. Write [math]",
    ),
    (
        "general: general\nexperts",
        "general: genral\nexperts",
        "experts.yaml:2: general must name an expert; got 'genral'. Did you mean 'general'? ",
    ),
    (
        "name: math",
        "name: 'a b'",
        "experts.yaml:11: experts[1].name must be 1 to 64 letters, digits, '.', '_' and '-', and "
        "begin with a letter or a digit; got 'a b'. Write a-b",
    ),
    (
        "    weights: w",
        "    timeout_s: 5",
        "experts.yaml:9: experts[0].timeout_s must hold keys with values; got 5. Write e.g. "
        "timeout_s: {idle: 60}",
    ),
    (
        "    weights: w",
        "    cache: yes",
        "experts.yaml:9: experts[0].cache must be true or false; got 'yes'",
    ),
    (
        "    weights: w",
        "    api_key_env: 'sk-1 2'",
        "experts.yaml:9: experts[0].api_key_env must be the name of an environment variable, e.g. "
        "VLLM_API_KEY; got something else, which is not shown as it may be the key. Put the key "
        "itself into that variable",
    ),
    (
        "    weights: w",
        "    api_key_env: COE_ADMIN_KEY",
        "experts.yaml:9: experts[0].api_key_env must not be a variable of the gateway itself",
    ),
    (
        "    weights: w",
        "    capabilities: [tool]",
        "experts.yaml:9: experts[0].capabilities[0] must be 'tools', 'json_schema', 'vision', "
        "'audio', 'embeddings', 'messages' or 'responses'; got 'tool'",
    ),
    (
        "version: 1",
        "min_confidence: 2\nversion: 1",
        "experts.yaml:1: min_confidence must be auto or a number from 0 to 1; got 2",
    ),
    (
        "    weights: w",
        "    runtime: {parallel: 2}",
        "experts.yaml:9: experts[0].runtime is for backend local only. Remove it",
    ),
    (
        "backend: openai",
        "backend: local",
        "experts.yaml:6: experts[0].base_url must be left out with backend local: the gateway runs "
        "that process itself. Remove it, or use backend: openai",
    ),
    (
        "version: 1",
        "llm_router: {expert: judge}\nversion: 1",
        "experts.yaml:1: llm_router.expert must name an expert; got 'judge'. Allowed: general, ",
    ),
    ("    model: some-model\n", "", "experts.yaml:4: experts[0].model is missing. Add it, e.g. "),
    ("version: 1\n", "", "experts.yaml:1: version is missing. Add it, e.g. version: 1"),
    (
        "name: algebra",
        "name: algebra\n    weights: w\n    total_params_b: 8",
        "experts.yaml:19: experts[2].total_params_b must equal experts[0].total_params_b (7.0): "
        "both name the weights 'w'; got 8.0",
    ),
    ("[math, general]", "[math, general", "experts.yaml:22: not valid YAML: expected ',' or ']'"),
    ("version: 1", "version: 1\nversion: 1", "experts.yaml:2: not valid YAML: found duplicate key"),
    ("*math", "*maths", "experts.yaml:16: not valid YAML: found undefined alias 'maths'"),
    (
        "    model: some-model",
        "\tmodel: some-model",
        "experts.yaml:7: not valid YAML: found character '\\t' that cannot start any token. Indent "
        "with spaces instead of the tab",
    ),
    ("version: 1", "version: 1\0", "experts.yaml: not valid YAML: "),
    ("version: 1", "1: 2\nversion: 1", "experts.yaml:1: [1] must be strings; got 1"),
]


@pytest.mark.parametrize(("old", "new", "message"), FAULTS)
def test_a_fault_is_reported_once_with_its_line_and_mend(old: str, new: str, message: str) -> None:
    assert old in VALID
    faults = faults_of(VALID.replace(old, new, 1))
    assert len([fault for fault in faults if fault.startswith(message)]) == 1, faults
    assert len(faults) == 1 or "\0" in new, faults
