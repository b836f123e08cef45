"""Every kernel compiles for every GPU that is sold: with nvcc, and with NVRTC as CuPy does. Neither needs a GPU."""

import shutil
import subprocess
from pathlib import Path

import pytest

from engine.device import KERNELS, OPTIONS, kernel_files

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_120")
FILES = sorted(kernel_files())
ADDED_BY_CUPY = ("-ftz=true", "--device-as-default-execution-space")


def test_the_files_and_their_kernels_are_found():
    files = kernel_files()
    assert set(files) == {"peaks.cu", "prepare.cu"}
    assert files["peaks.cu"] == ("peaks", "begin")
    assert {"convert_uint16", "convert_float32", "fill", "resample", "normalise"} <= set(files["prepare.cu"])


def test_no_kernel_needs_more_than_a_thread_alone():
    for path in KERNELS.glob("*.cu"):
        for word in ("__shared__", "__syncthreads", "__shfl", "__ballot", "__syncwarp", "cooperative_groups"):
            assert word not in path.read_text()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("file", FILES)
def test_with_nvcc(tmp_path: Path, file, architecture):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("expected nvcc on the PATH, found none: install the CUDA toolkit to compile the kernels with it")
    out = tmp_path / "kernels.cubin"
    command = [nvcc, f"-arch={architecture}", "-cubin", "-Werror=all-warnings", *OPTIONS, "-o", out, KERNELS / file]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    missing = [name for name in kernel_files()[file] if name.encode() not in out.read_bytes()]
    assert missing == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("file", FILES)
def test_with_nvrtc(file, architecture):
    try:
        from cuda.bindings import nvrtc

        _, program = nvrtc.nvrtcCreateProgram((KERNELS / file).read_bytes(), file.encode(), 0, [], [])
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"expected NVRTC, got {error}: pip install cuda-bindings nvidia-cuda-nvrtc")
    options = [option.encode() for option in (*OPTIONS, *ADDED_BY_CUPY, f"-arch={architecture}")]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    log = bytes(nvrtc.nvrtcGetProgramLogSize(program)[1])
    nvrtc.nvrtcGetProgramLog(program, log)
    assert status == nvrtc.nvrtcResult.NVRTC_SUCCESS, log.decode()
    cubin = bytes(nvrtc.nvrtcGetCUBINSize(program)[1])
    nvrtc.nvrtcGetCUBIN(program, cubin)
    assert all(name.encode() in cubin for name in kernel_files()[file])


def test_what_is_wrong_does_not_compile(tmp_path: Path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("expected nvcc on the PATH, found none: install the CUDA toolkit to compile the kernels with it")
    source = tmp_path / "wrong.cu"
    source.write_text((KERNELS / "peaks.cu").read_text().replace("atomicAdd(", "addAtomically("))
    done = subprocess.run([nvcc, "-arch=sm_90", "-cubin", "-o", str(tmp_path / "x"), str(source)], capture_output=True)
    assert done.returncode != 0
