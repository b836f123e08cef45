"""The build half, for real: TensorRT RTX builds without a driver or GPU."""

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import onnx
import pytest
from onnx import helper

from engine import ModelError, tensorrt_build, tensorrt_module
from engine.half import halved
from engine.shipped import find_spec, list_models
from engine.spec import ModelSpec
from engine.tensorrt_build import ShapeRange, build
from engine.tensorrt_module import Edition, edition_of, find_tensorrt
from tests.conftest import TINY, tiny_network

ANY = ShapeRange((16, 16), (64, 64), (256, 256))


@pytest.fixture(scope="module")
def network():
    return tiny_network(TINY).SerializeToString()


def built(edition, network, sizes=ANY, channels=1, maps=6):
    return build(edition, network, sizes, channels=channels, maps=maps)


class TestBuild:
    @pytest.mark.parametrize("precision", ["f32", "f16"])
    @pytest.mark.parametrize("name", list_models())
    def test_a_shipped_network_in_every_precision(self, edition, name, precision):
        path = find_spec(name)
        spec = ModelSpec.read(path)
        content = path.with_suffix(".onnx").read_bytes()
        sizes = ShapeRange(*((k * spec.multiple, k * spec.multiple) for k in (1, 8, 64)))
        maps = 6 + (len(spec.classes) if len(spec.classes) > 1 else 0)
        engine = built(edition, halved(content) if precision == "f16" else content, sizes, spec.channels, maps).engine
        weights = path.with_suffix(".onnx").stat().st_size
        assert len(engine) > (0.2 if precision == "f16" else 0.4) * weights

    def test_half_is_smaller(self, edition, network):
        path = find_spec(list_models()[0])
        content = path.with_suffix(".onnx").read_bytes()
        single, half = (built(edition, n, maps=6).engine for n in (content, halved(content)))
        assert len(half) < 0.75 * len(single)

    def test_a_network_of_three_images_and_two_classes(self, edition):
        spec = replace(TINY, channels=3, classes=("A", "B"))
        assert built(edition, tiny_network(spec).SerializeToString(), channels=3, maps=8).engine

    def test_what_is_no_network_is_refused(self, edition):
        with pytest.raises(ModelError, match=r"Expected a network that tensorrt.* can read, got .*: export it again"):
            built(edition, b"not a network")

    def test_an_operation_it_lacks_is_named(self, edition, network):
        model = onnx.load_from_string(network)
        model.graph.node[0].op_type = "Banana"
        with pytest.raises(ModelError, match=r"operation 'Banana'") as caught:
            built(edition, model.SerializeToString())
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(("channels", "maps"), [(3, 6), (1, 8)])
    def test_other_channels_are_refused(self, edition, network, channels, maps):
        with pytest.raises(ModelError, match=rf"input frame \(N, {channels}, H, W\) and one output maps \(N, {maps}"):
            built(edition, network, channels=channels, maps=maps)

    def test_other_types_are_refused(self, edition):
        model = tiny_network(TINY)
        model.graph.node.append(helper.make_node("Cast", ["maps"], ["wide"], to=onnx.TensorProto.FLOAT16))
        model.graph.output[0].name = "wide"
        model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
        with pytest.raises(ModelError, match=r"of float32, got .* HALF"):
            built(edition, model.SerializeToString())

    def test_sizes_that_shrink_are_refused(self, edition, network):
        with pytest.raises(ModelError, match="Expected sizes that grow"):
            built(edition, network, ShapeRange((64, 64), (32, 32), (16, 16)))

    def test_float32_is_not_rounded_to_tf32(self, edition):
        from engine.tensorrt_build import _round_nothing

        parts = edition.module
        config = parts.Builder(edition.logger()).create_builder_config()
        assert config.get_flag(parts.BuilderFlag.TF32)  # which is why it has to be said
        _round_nothing(edition, config)
        assert not config.get_flag(parts.BuilderFlag.TF32)

    def test_what_a_run_works_in_follows_its_shape(self, edition):
        from engine.tensorrt_build import _take_less_for_less

        parts = edition.module
        config = parts.Builder(edition.logger()).create_builder_config()
        feature = parts.PreviewFeature.RUNTIME_ACTIVATION_RESIZE_10_10
        config.set_preview_feature(feature, False)  # as it is in TensorRT unless told; RTX begins with it
        _take_less_for_less(edition, config)
        assert config.get_preview_feature(feature)

    def test_one_that_is_not_wanted_any_more_ends_at_its_next_step(self, edition, network):
        asked = []

        def wanted():
            asked.append(len(asked))
            return len(asked) < 5

        with pytest.raises(ModelError, match=r"to build an engine, got .*[Cc]ancel"):
            build(edition, network, ANY, channels=1, maps=6, wanted=wanted)
        assert len(asked) == 5

    def test_a_build_that_fails_says_why(self, edition, network, monkeypatch):
        monkeypatch.setattr(tensorrt_build, "_add_profile", lambda *arguments: None)
        with pytest.raises(ModelError, match=r"to build an engine, got .*no optimization profile"):
            built(edition, network)


class TestShapeRange:
    @pytest.mark.parametrize(
        ("size", "held"), [((16, 16), True), ((256, 16), True), ((15, 64), False), ((64, 272), False)]
    )
    def test_holds(self, size, held):
        assert ANY.holds(size) == held


def module(name="tensorrt", version="11.4.0", **parts):
    made = ModuleType(name)
    made.__version__ = version
    for key, value in ({"Builder": object, "Runtime": object} | parts).items():
        setattr(made, key, value)
    return made


class TestEditions:
    """Where the editions differ, on stand-ins: only one of them can be installed here."""

    @pytest.mark.parametrize(
        ("made", "name", "rtx"),
        [
            (module(version="10.13.3.9"), "tensorrt 10.13.3.9", False),
            (module(), "tensorrt 11.4.0", False),
            (module("tensorrt_rtx", "1.7.1.116"), "tensorrt_rtx 1.7.1.116", True),
        ],
    )
    def test_name_timing_and_graphs(self, made, name, rtx):
        edition = edition_of(made)
        assert (edition.name, edition.times_kernels, edition.capturable) == (name, not rtx, not rtx)

    def test_contexts_work_in_our_memory_and_rtx_makes_graphs_of_its_own(self):
        parts = {
            "ExecutionContextAllocationStrategy": SimpleNamespace(USER_MANAGED="ours"),
            "CudaGraphStrategy": SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole"),
        }
        told = {}
        config = SimpleNamespace(
            set_execution_context_allocation_strategy=lambda strategy: told.update(strategy=strategy),
            create_runtime_cache=lambda: "kernels",
            set_runtime_cache=lambda cache: told.update(cache=cache),
        )
        engine = SimpleNamespace(create_runtime_config=lambda: config, create_execution_context=lambda how: how)
        rtx = Edition(module("tensorrt_rtx", "1.7", **parts), "rtx", True)
        assert rtx.context(engine, rtx.kernels(engine)) is config
        assert told == {"strategy": "ours", "cache": "kernels"}
        assert config.cuda_graph_strategy == "whole"
        other = Edition(module(**parts), "tensorrt 11", False)
        assert other.context(engine, other.kernels(engine)) == "ours"
        assert other.kernels(engine) is None

    def test_strong_typing_is_asked_for_where_it_can_be(self):
        old = Edition(module(NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1)), "tensorrt 10", False)
        new = Edition(module(NetworkDefinitionCreationFlag=SimpleNamespace()), "tensorrt 12", False)
        assert (old.network_flags, new.network_flags) == (2, 0)

    def test_one_that_is_too_old_is_refused(self):
        for version in ("8.6.1", "10.9.0.34"):
            with pytest.raises(ModelError, match=rf"Expected TensorRT 10\.10 or newer, got {version}: pip install"):
                edition_of(module(version=version))

    def test_none_is_told_with_the_command_that_installs_one(self, monkeypatch):
        for name in ("tensorrt", "tensorrt_rtx"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ModelError, match=r"Expected TensorRT, got tensorrt: .*; tensorrt_rtx: .*: pip install"):
            find_tensorrt()

    def test_the_stub_without_libraries_is_passed_over(self, monkeypatch):
        stub = ModuleType("tensorrt")
        stub.__version__ = "11.4.0"
        monkeypatch.setitem(sys.modules, "tensorrt", stub)
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", module("tensorrt_rtx", "1.7"))
        assert find_tensorrt().name == "tensorrt_rtx 1.7"

    def test_the_first_is_preferred(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorrt", module())
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", module("tensorrt_rtx", "1.7"))
        assert find_tensorrt().name == "tensorrt 11.4.0"

    def test_a_timing_cache_of_another_gpu_is_begun_anew(self):
        class Config:
            used = None

            def create_timing_cache(self, content):
                return SimpleNamespace(content=content)

            def set_timing_cache(self, cache, ignore_mismatch):
                assert ignore_mismatch is False
                if cache.content == b"foreign":
                    return False
                self.used = cache.content
                return True

        from engine.tensorrt_build import _use_timing

        edition = edition_of(module())
        for content, used in [(b"own", b"own"), (b"foreign", b"")]:
            config = Config()
            assert _use_timing(edition, config, content).content == used
            assert config.used == used
        assert _use_timing(edition_of(module("tensorrt_rtx", "1.7")), config, b"own") is None


def test_the_installed_edition_has_what_is_asked_of_it(edition):
    """By name: only a GPU could call it."""
    parts = edition.module
    for name in ("set_input_shape", "get_tensor_shape", "set_tensor_address", "execute_async_v3", "set_device_memory"):
        assert callable(getattr(parts.IExecutionContext, name))
    assert callable(parts.IExecutionContext.set_optimization_profile_async)
    assert callable(parts.IExecutionContext.update_device_memory_size_for_shapes)
    assert hasattr(parts.ExecutionContextAllocationStrategy, "USER_MANAGED")
    assert callable(parts.Runtime.deserialize_cuda_engine)
    assert callable(parts.ICudaEngine.create_execution_context)
    if edition.rtx:
        assert callable(parts.ICudaEngine.create_runtime_config)
        assert hasattr(parts.IRuntimeConfig, "cuda_graph_strategy")
        assert hasattr(parts.CudaGraphStrategy, "WHOLE_GRAPH_CAPTURE")
        for name in ("set_execution_context_allocation_strategy", "create_runtime_cache", "set_runtime_cache"):
            assert callable(getattr(parts.IRuntimeConfig, name))
        assert callable(parts.IRuntimeCache.serialize)
        assert callable(parts.IRuntimeCache.deserialize)


def test_the_logger_keeps_errors_in_one_line(edition):
    logger = edition.logger()
    assert logger.last() == "no reason"
    logger.log(edition.module.ILogger.ERROR, "no\n  good")
    logger.log(edition.module.ILogger.INFO, "all is well")
    assert logger.last() == "no good"
    assert tensorrt_module.INSTALL.startswith("pip install")
