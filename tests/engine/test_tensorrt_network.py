"""Engines as a stand-in runs them: cached, built for other sizes beside the stream; one is built for real."""

import time
import weakref
from dataclasses import replace
from threading import Timer

import pytest

from engine import FrameError, ModelError, tensorrt_engine
from engine.device import KINDS
from engine.engine_cache import KERNELS
from engine.engine_loading import cancel_builds
from engine.errors import DeviceError
from engine.tensorrt_build import ShapeRange
from engine.tensorrt_engine import EngineSource
from engine.tensorrt_network import TensorRtNetwork
from tests.conftest import TINY, tiny_network
from tests.engine.fake_tensorrt import ANY, EXACT, arrays


def made(calls):
    """Which engines were built and loaded, without what was run of them."""
    return [call[0] for call in calls if call[0] in ("build", "load")]


def build(network, size):
    with pytest.raises(FrameError, match="none yet"):
        network.ready(size)
    network.finish()
    network.ready(size)


class TestCache:
    def test_built_once_then_loaded(self, fake):
        for _ in range(2):
            TensorRtNetwork(fake.device, fake.source, ANY)
        assert made(fake.calls) == ["build", "load", "load"]
        assert fake.source.cache.load_timing("H200 sm_90", "tensorrt 11") == b"timings"

    @pytest.mark.parametrize(
        "change",
        [{"gpu": "L4 sm_89"}, {"onnx": b"halved in another way"}, {"workspace_MB": 1024}, {"precision": "f32"}],
    )
    def test_built_again_for_anything_else(self, fake, change):
        for source in (fake.source, replace(fake.source, **change)):
            TensorRtNetwork(fake.device, source, ANY)
        assert [call[0] for call in fake.calls].count("build") == 2

    @pytest.mark.parametrize("damage", [lambda content: content[:-3], lambda content: b"", lambda content: b"\0" * 99])
    def test_a_damaged_file_never_reaches_the_runtime(self, fake, damage, caplog):
        TensorRtNetwork(fake.device, fake.source, ANY)
        path = fake.source.cache.folder / fake.source.key(ANY).file_name
        path.write_bytes(damage(path.read_bytes()))
        TensorRtNetwork(fake.device, fake.source, ANY)
        assert made(fake.calls) == ["build", "load", "build", "load"]
        assert len({call for call in fake.calls if call[0] == "load"}) == 1
        assert "built again" in caplog.text

    def test_an_engine_of_another_gpu_in_its_place_is_built_again(self, fake):
        other = replace(fake.source, gpu="L4 sm_89")
        TensorRtNetwork(fake.device, other, ANY)
        folder = fake.source.cache.folder
        (folder / other.key(ANY).file_name).rename(folder / fake.source.key(ANY).file_name)
        TensorRtNetwork(fake.device, fake.source, ANY)
        assert made(fake.calls) == ["build", "load", "build", "load"]

    def test_a_cached_engine_that_does_not_load_is_built_again(self, fake, caplog):
        fake.source.cache.store(fake.source.key(ANY), b"of another driver")
        TensorRtNetwork(fake.device, fake.source, ANY)
        assert made(fake.calls) == ["load", "build", "load"]
        assert "got magic tag does not match" in caplog.text
        assert fake.source.cache.load(fake.source.key(ANY)).startswith(b"engine")

    def test_one_that_was_built_and_does_not_load_is_an_error(self, fake):
        fake.refuses["load"] = "magic tag"
        with pytest.raises(ModelError, match="Expected tensorrt 11 to load its engine, got magic tag"):
            TensorRtNetwork(fake.device, fake.source, ANY)


class TestOtherSizes:
    def test_a_larger_frame_is_refused_while_its_engine_is_built(self, fake):
        network = TensorRtNetwork(fake.device, fake.source, ANY)
        network.ready((256, 256))
        with pytest.raises(FrameError, match="an engine for 512 x 256 network pixels, got none yet") as caught:
            network.ready((512, 256))
        assert caught.value.reason == "no_engine"
        network.finish()
        network.ready((512, 256))
        network.bind(3, *arrays(512, 256))(3)
        network.ready((64, 64))  # the first engine stays
        exact = ShapeRange((512, 256), (512, 256), (512, 256))
        assert fake.source.cache.load(fake.source.key(exact)) is not None  # for the next start too
        assert [call[1] for call in fake.calls if call[0] == "build"] == [ANY, exact]

    @pytest.mark.parametrize("kinds", [KINDS, 4])
    def test_as_many_large_sizes_are_kept_as_plans(self, fake, kinds):
        """Cameras with frames beyond the first engine would else drive each other's engine out for ever."""
        rtx = replace(fake.source, edition=replace(fake.source.edition, rtx=True))
        network = TensorRtNetwork(fake.device, rtx, ANY, kinds=kinds)
        sizes = [(512 * k, 512) for k in range(1, kinds + 2)]
        for size in sizes[:kinds]:
            build(network, size)
        for size in sizes[:kinds]:
            network.ready(size)
        network.bind(3, *arrays(*sizes[0]))(3)
        build(network, sizes[kinds])  # and they do not pile up
        with pytest.raises(FrameError, match="none yet"):
            network.ready(sizes[0])
        first = ShapeRange(sizes[0], sizes[0], sizes[0])
        assert b"(1, 1, 512, 512)" in rtx.cache.load(rtx.key(first), KERNELS)  # for when it is needed again

    def test_one_that_was_built_last_is_freed_with_the_others(self, fake):
        network = TensorRtNetwork(fake.device, fake.source, EXACT)
        with pytest.raises(FrameError, match="none yet"):
            network.ready((128, 128))
        network.finish()
        built = weakref.ref(network._building[1].engine)
        network.close()
        assert built() is None

    def test_a_build_that_fails_is_told_with_the_frame_and_tried_again_minutes_later(self, fake):
        now_s = [1000.0]
        network = TensorRtNetwork(fake.device, fake.source, ANY, clock=lambda: now_s[0])
        fake.refuses["build"] = "no room"
        with pytest.raises(FrameError, match="it is being built"):
            network.ready((512, 512))
        network.finish()
        for now_s[0] in (1000.0, 1150.0, 1299.0):  # and not tried again with every frame
            with pytest.raises(FrameError, match=r"got no room: .* tried again 5 minutes after it failed") as caught:
                network.ready((512, 512))
            assert caught.value.reason == "no_engine"
        assert made(fake.calls).count("build") == 2
        network.ready((64, 64))
        now_s[0] = 1300.0
        fake.refuses.clear()
        with pytest.raises(FrameError, match="it is being built"):
            network.ready((512, 512))
        network.finish()
        network.ready((512, 512))

    def test_one_that_fails_again_is_waited_for_again(self, fake):
        now_s = [0.0]
        network = TensorRtNetwork(fake.device, fake.source, ANY, clock=lambda: now_s[0])
        fake.refuses["build"] = "no room"
        for now_s[0] in (0.0, 300.0):
            with pytest.raises(FrameError, match="it is being built"):
                network.ready((512, 512))
            network.finish()
            with pytest.raises(FrameError, match="tried again"):
                network.ready((512, 512))

    def test_a_size_that_was_not_made_ready_is_no_crash(self, fake):
        network = TensorRtNetwork(fake.device, fake.source, EXACT)
        with pytest.raises(ModelError, match="call ready first"):
            network.bind(3, *arrays(128, 128))

    def test_closing_ends_the_build(self, fake, held):
        network = TensorRtNetwork(fake.device, fake.source, EXACT)
        held()
        with pytest.raises(FrameError):
            network.ready((128, 128))
        _, building = network._building
        network.close()
        building.join(10)
        assert "BuildCanceled" in str(building.error)

    def test_cancelling_the_first_build_interrupts_who_waits_for_it(self, fake, held):
        """An error would be taken for a missing TensorRT, and torch loaded in its place."""
        held()
        timer = Timer(0.05, cancel_builds)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            TensorRtNetwork(fake.device, fake.source, EXACT)
        timer.join()

    def test_no_graph_is_captured_while_an_engine_is_built(self, fake, held):
        """For whichever network: a build synchronises the GPU, and captures of all threads end with error 900."""
        network, other = (TensorRtNetwork(fake.device, fake.source, EXACT) for _ in range(2))
        assert network.capturable
        event = held()
        with pytest.raises(FrameError):
            network.ready((128, 128))
        assert not network.capturable
        while not tensorrt_engine.any_loading():
            time.sleep(0.001)
        assert not other.capturable
        event.set()
        network.finish()
        assert network.capturable
        assert other.capturable

    @pytest.mark.parametrize("error", [DeviceError, OSError, MemoryError, RuntimeError])
    def test_no_build_is_begun_again_with_every_frame_whatever_ended_it(self, fake, monkeypatch, error):
        network = TensorRtNetwork(fake.device, fake.source, EXACT)

        def fail(*_, **__):
            raise error("no such thing")

        monkeypatch.setattr(tensorrt_engine, "build", fail)
        with pytest.raises(FrameError, match="none yet"):
            network.ready((128, 128))
        network.finish()
        with pytest.raises(FrameError, match="no such thing; it is tried again") as caught:
            network.ready((128, 128))
        assert caught.value.reason == "no_engine"


def test_a_real_build_is_kept_and_found_again(edition, cache):
    """Through the source, with the installed TensorRT: only loading the engine needs a GPU."""
    source = EngineSource(edition, "none", tiny_network(TINY).SerializeToString(), "f32", 1, 6, cache)
    engine = source.build(ANY)
    assert cache.load(source.key(ANY)) == engine
    assert cache.load(replace(source, precision="f16").key(ANY)) is None
