from __future__ import annotations

from proxy.metrics import Metrics


def _lines(metrics: Metrics) -> list[str]:
    return [line for line in metrics.render().decode().splitlines() if not line.startswith("#")]


def test_request_is_counted_by_route_status_class_and_origin() -> None:
    metrics = Metrics()
    metrics.request_started()
    assert "cnai_proxy_requests_in_flight 1.0" in _lines(metrics)
    metrics.request_ended(
        route="/v2/", status=404, origin="upstream", sent_bytes=5, received_bytes=7
    )
    lines = _lines(metrics)
    assert "cnai_proxy_requests_in_flight 0.0" in lines
    assert 'cnai_proxy_requests_total{origin="upstream",route="/v2/",status="4xx"} 1.0' in lines
    assert 'cnai_proxy_sent_bytes_total{origin="upstream",route="/v2/"} 5.0' in lines
    assert 'cnai_proxy_received_bytes_total{route="/v2/"} 7.0' in lines


def test_upstream_answer_and_failure_are_counted_apart() -> None:
    metrics = Metrics()
    metrics.upstream_answered("default", 206, 0.02)
    metrics.upstream_failed("default", 504)
    lines = _lines(metrics)
    assert (
        'cnai_proxy_upstream_seconds_bucket{le="0.025",status="2xx",upstream="default"} 1.0'
        in lines
    )
    assert 'cnai_proxy_upstream_failures_total{status="504",upstream="default"} 1.0' in lines


def test_L7_many_requests_make_no_new_series() -> None:
    metrics = Metrics()

    def answer(status: int) -> None:
        metrics.request_started()
        metrics.request_ended(
            route="/v2/", status=status, origin="upstream", sent_bytes=0, received_bytes=0
        )
        metrics.upstream_answered("default", status, 0.1)

    answer(200)
    before = len(_lines(metrics))
    for status in (200, 201, 204, 206):
        answer(status)
    assert len(_lines(metrics)) == before


def test_two_proxies_in_one_process_count_for_themselves() -> None:
    first, second = Metrics(), Metrics()
    first.request_started()
    assert "cnai_proxy_requests_in_flight 0.0" in _lines(second)


def test_L6_circuit_is_shown_while_it_is_watched() -> None:
    metrics = Metrics()
    is_open = False
    line = 'cnai_proxy_upstream_circuit_open{upstream="default"}'
    with metrics.watching_circuit("default", lambda: is_open):
        assert f"{line} 0.0" in _lines(metrics)
        assert not metrics.is_degraded
        is_open = True
        assert f"{line} 1.0" in _lines(metrics)
        assert metrics.is_degraded
    assert not any(found.startswith(line) for found in _lines(metrics))
    assert not metrics.is_degraded


def test_L6_of_two_circuits_of_a_name_the_later_counts() -> None:
    metrics = Metrics()
    line = 'cnai_proxy_upstream_circuit_open{upstream="default"}'
    old = metrics.watching_circuit("default", lambda: True)
    new = metrics.watching_circuit("default", lambda: False)
    with old:
        new.__enter__()
        assert f"{line} 0.0" in _lines(metrics)
    assert f"{line} 0.0" in _lines(metrics)
    assert not metrics.is_degraded
    new.__exit__(None, None, None)
    assert not any(found.startswith(line) for found in _lines(metrics))


def test_R11_spared_requests_are_counted() -> None:
    metrics = Metrics()
    metrics.upstream_spared("default")
    assert 'cnai_proxy_upstream_spared_requests_total{upstream="default"} 1.0' in _lines(metrics)
