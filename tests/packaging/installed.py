"""Tries an installed fastgen, from a folder that has none: python installed.py --extension yes|no.

For wheels: it needs torch and nothing of the repository.
"""

import argparse
import importlib.metadata
import io
import subprocess
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import torch


def main() -> None:
    """Raise an AssertionError for what is missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--extension", choices=("yes", "no"), required=True)
    wanted = parser.parse_args().extension == "yes"

    import fastgen

    folder = Path(fastgen.__file__).parent
    assert Path(__file__).parents[2] not in folder.parents, f"not installed: {folder}"
    assert importlib.metadata.version("fastgen-torch") == fastgen.__version__
    assert (folder / "py.typed").exists()
    named = importlib.metadata.distribution("fastgen-torch").read_text("top_level.txt")
    assert named.split() == ["fastgen"]

    from fastgen.kernels.assignment.cuda import sources

    assert "__global__" in sources()[0]
    assert (folder / "kernels/assignment/cuda_source/assignment.cu").exists()

    from fastgen.kernels.dispatch import BACKENDS, missing

    assert set(BACKENDS) >= {"reference", "cpp"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the extension is not built
        assert (missing("cpp") is None) == wanted, f"the extension: {missing('cpp')}"
        x = {
            name: fastgen.sample(model(fastgen), (3, 2, 5), "dpmpp_2m_sde", 6, backend=name)
            for name in ("reference", *["cpp"] * wanted)
        }
    # Known from the reference on another machine; the noise's bits are the same everywhere.
    assert abs(float(fastgen.randn((2, 3), seed=7)[1, 2]) - KNOWN_NORMAL) < 1e-6
    for name, samples in x.items():
        assert samples.isfinite().all(), name
        assert torch.allclose(samples, x["reference"], atol=1e-5), name

    from fastgen.cli import main as command

    with redirect_stdout(io.StringIO()) as shown:
        assert command(["plan", "heun", "--steps", "2"]) == 0
    assert "heun" in shown.getvalue()
    script = Path(sys.executable).with_name("fastgen")
    text = subprocess.run([script, "--version"], capture_output=True, text=True, check=True).stdout
    assert text == f"fastgen {fastgen.__version__}\n"
    print(f"fastgen {fastgen.__version__} in {folder}, torch {torch.__version__}: works")


KNOWN_NORMAL = -0.27488091588020325


def model(fastgen):
    """A network whose samples are known to be finite."""
    return fastgen.Model(lambda x, t: 0.3 * x, fastgen.schedules.CosineVP(), predicts="noise")


if __name__ == "__main__":
    main()
