"""The numbers for Prometheus count what was done and hold nothing of the texts."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families


def numbers(client) -> dict[tuple[str, tuple[str, ...]], float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(s.name, tuple(s.labels.values())): s.value for family in families for s in family.samples}


def test_requests_texts_and_tokens_are_counted_by_route_status_and_role(make_client, encoder):
    with make_client() as client:
        client.post("/v1/embeddings", json={"model": "tiny:query", "input": ["secret one", "two"]})
        client.post("/v1/embeddings", json={"model": "tiny", "input": []})
        client.get("/no/such/secret")
        seen = numbers(client)
    assert seen["echo_requests_total", ("/v1/embeddings", "200")] == 1
    assert seen["echo_requests_total", ("/v1/embeddings", "422")] == 1
    assert seen["echo_requests_total", ("other", "404")] == 1
    assert seen["echo_request_seconds_count", ("/v1/embeddings",)] == 2
    assert seen["echo_texts_total", ("query",)] == 2
    assert seen["echo_tokens_total", ("query",)] == sum(encoder.count_tokens(["secret one", "two"], "query"))
    assert seen["echo_requests_under_way", ()] == 1  # the one that asks
    assert seen["echo_tokens_under_way", ()] == 0
    assert seen["echo_model_rows_total", ()] == encoder.statistics().rows
    assert not any("secret" in str(key) for key in seen)
