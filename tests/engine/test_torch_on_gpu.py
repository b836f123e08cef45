"""The fallback network as on a GPU, as far as a stand-in for torch.cuda tells: streams, graph, share of the memory."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from engine import FrameError, torch_network
from tests.engine.test_torch_network import bound, opened

STREAM = (1001, "cuda:0")


class FakeCuda:
    """What is asked of torch.cuda, written down; what is run between its marks runs on the CPU, also when captured."""

    def __init__(self, monkeypatch):
        self.calls, self.refuses, self.reserved, self.fractions = [], None, 0, []
        for name in ("graph", "stream"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: self.note("replay")))
        monkeypatch.setattr(torch.cuda, "ExternalStream", lambda handle, device: (handle, device))
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: self.note("pool") or "pool")
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda where: self.reserved)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: self.note("empty"))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda where: SimpleNamespace(total_memory=10**10))
        monkeypatch.setattr(
            torch.cuda, "set_per_process_memory_fraction", lambda part, where: self.fractions.append((part, where))
        )
        weight = torch_network._weight
        monkeypatch.setattr(torch_network, "_weight", lambda values, where: weight(values, "cpu"))

    def note(self, what):
        self.calls.append(what)

    @contextmanager
    def stream(self, stream):
        self.note(stream)
        yield

    @contextmanager
    def graph(self, graph, pool, stream, capture_error_mode):
        self.note(("capture", pool, stream, capture_error_mode))
        yield
        if self.refuses:
            raise self.refuses


@pytest.fixture
def cuda(monkeypatch):
    return FakeCuda(monkeypatch)


def test_the_first_run_is_eager_and_the_others_are_one_graph(cuda, monkeypatch):
    network, ran = opened(), []
    run = network.run
    monkeypatch.setattr(network, "run", lambda there: ran.append(there) or run(there))
    enqueue = bound(network)
    for _ in range(4):
        enqueue(1)
    captured = ("capture", "pool", STREAM, "relaxed")
    assert cuda.calls == [STREAM, STREAM, "pool", captured, "replay", *[STREAM, "replay"] * 2]
    assert len(ran) == 2  # the second while it was captured
    other = bound(network)
    other(1)
    other(1)
    assert cuda.calls.count("pool") == 1  # the graphs of a network work in the same memory


def test_the_buffers_are_made_torchs_once(cuda, monkeypatch):
    made = []
    take = torch_network.from_dlpack
    monkeypatch.setattr(torch_network, "from_dlpack", lambda array: made.append(array) or take(array))
    enqueue = bound(opened())
    for _ in range(4):
        enqueue(1)
    assert len(made) == 2


@pytest.mark.parametrize("error", [RuntimeError("operation not\npermitted"), torch.OutOfMemoryError("full")])
def test_what_cannot_be_captured_runs_one_by_one_for_good(cuda, caplog, error):
    network = opened()
    cuda.refuses = error
    for enqueue in (bound(network), bound(network)):
        for _ in range(3):
            enqueue(1)
    assert [call[0] for call in cuda.calls].count("capture") == 1
    assert "replay" not in cuda.calls
    assert cuda.calls.count(STREAM) == 6
    assert caplog.text.count("No CUDA graph of torch, operations go one by one") == 1
    assert "\n" not in caplog.messages[0]


def test_float32_is_not_rounded_to_tf32_and_others_keep_their_setting(cuda, monkeypatch):
    convolutions, seen = torch.backends.cudnn.conv, []
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "tf32"
    try:
        network = opened()
        run = network.run
        monkeypatch.setattr(network, "run", lambda there: seen.append(convolutions.fp32_precision) or run(there))
        enqueue = bound(network)
        for _ in range(3):
            enqueue(1)
        assert seen == ["ieee", "ieee"]
        assert convolutions.fp32_precision == "tf32"
    finally:
        convolutions.fp32_precision = before


def test_torch_takes_no_more_than_the_networks_may(cuda):
    first, second, elsewhere = opened(memory_MB=1000), opened(memory_MB=2000), opened("cuda:1", memory_MB=50_000)
    assert cuda.fractions == [(0.1, "cuda:0"), (0.3, "cuda:0"), (1.0, "cuda:1")]
    for network in (first, second, elsewhere, elsewhere):
        network.close()
    assert cuda.fractions[3:] == [(0.2, "cuda:0"), (1.0, "cuda:0"), (1.0, "cuda:1")]
    assert cuda.calls == ["empty"] * 3


def test_where_somebody_else_uses_torch_theirs_is_not_limited(cuda):
    cuda.reserved = 1000
    opened(memory_MB=1000).close()
    assert cuda.fractions == []


def test_the_share_is_given_back_whatever_torch_keeps(cuda, monkeypatch):
    """Before 2.12 its allocator takes a capture that CUDA ended for one that still goes on."""
    network = opened(memory_MB=1000)

    def capturing():
        raise RuntimeError("INTERNAL ASSERT FAILED: captures_underway.empty()")

    monkeypatch.setattr(torch.cuda, "empty_cache", capturing)
    network.close()
    assert cuda.fractions == [(0.1, "cuda:0"), (1.0, "cuda:0")]
    assert not torch_network._granted


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, torch.AcceleratorError])
def test_a_network_that_does_not_load_gives_its_share_back(cuda, monkeypatch, error):
    def full(values, where):
        raise error("CUDA error: out of memory\nCUDA kernel errors might be reported later")

    monkeypatch.setattr(torch_network, "_weight", full)
    with pytest.raises(FrameError, match="GPU expects free memory") as caught:
        opened(memory_MB=1000)
    assert caught.value.reason == "no_memory"
    assert cuda.fractions == [(0.1, "cuda:0"), (1.0, "cuda:0")]
