"""The script runs the network of the shipped file, on input like ours."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from bench.torch_script import rebuilt_network, scripted_pixels, scripts
from engine.prepare import prepare
from engine.spec import file_sha256
from training.export import Exported
from training.unet import HEAT, UNet


@pytest.fixture
def stored(tmp_path, tiny_spec):
    """An untrained network as its ONNX file names the weights, and the path of its spec."""
    torch.manual_seed(3)
    exported = Exported(UNet(1, (4, 6, 8), (1, 2, 1)), tiny_spec).eval()
    weights = [numpy_helper.from_array(values.numpy(), name) for name, values in exported.state_dict().items()]
    graph = helper.make_graph([], "tiny", [], [], [*weights, numpy_helper.from_array(np.ones(2), "val_1")])
    onnx.save(helper.make_model(graph), tmp_path / "tiny.onnx")
    path = tmp_path / "tiny.json"
    replace(tiny_spec, sha256={"tiny.onnx": file_sha256(tmp_path / "tiny.onnx")}).write(path)
    return exported, str(path)


def test_the_network_is_rebuilt_from_its_file(stored):
    exported, path = stored
    frame = torch.randn(1, 1, 32, 48)
    with torch.inference_mode():
        want = exported.network(frame)
        got = rebuilt_network(path)(frame)
    assert torch.equal(got, want)


def test_input_is_like_that_of_the_engine(tiny_spec, draw_frame):
    # Coarser pixels than the network's, so that both have to resample.
    lattice = [(y, x) for y in range(8, 90, 9) for x in range(8, 120, 9)]
    frame = draw_frame((96, 128), lattice, sampling_A=0.15)
    ours, theirs = prepare(frame, tiny_spec).pixels, scripted_pixels(frame, tiny_spec)
    assert theirs.shape == ours.shape
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.95


def test_both_scripts_find_what_scores(tiny_spec, draw_frame):
    class Bright(torch.nn.Module):
        """Scores a bright cell."""

        def forward(self, frames):
            maps = torch.zeros(1, 5, frames.shape[2] // 2, frames.shape[3] // 2)
            maps[:, HEAT] = 2 * torch.nn.functional.avg_pool2d(frames, 2)[:, 0] - 4
            return maps

    blobs = [(20.0, 24.0), (40.0, 60.0)]
    for script in scripts(Bright(), tiny_spec):
        cells = script(draw_frame((64, 80), blobs))
        np.testing.assert_allclose(sorted(cells.tolist()), [(10, 12), (20, 30)], atol=1)
