"""The names a user imports from `engine`."""

import engine


def test_exported_names():
    assert engine.__all__ == [
        "CONTAMINATED",
        "EDGE",
        "Atoms",
        "AtomstreamError",
        "ConfigError",
        "Detector",
        "FileError",
        "Frame",
        "FrameError",
        "ModelError",
        "ModelSpec",
        "list_models",
        "load_detector",
        "model_card",
    ]
    assert all(hasattr(engine, name) for name in engine.__all__)


def test_every_error_is_of_one_tree_and_frame_errors_carry_their_reason():
    for error in (engine.ConfigError, engine.ModelError, engine.FileError, engine.FrameError):
        assert issubclass(error, engine.AtomstreamError)
    error = engine.FrameError("no_sampling", "Engine expects a sampling, got none: state it")
    assert error.reason == "no_sampling"
    assert str(error) == "Engine expects a sampling, got none: state it"
