"""Shell on pages is shell, its commands of fastgen have the flags that there are, YAML is YAML."""

import re
import shlex
import shutil
import subprocess

import pytest

from fastgen.cli import _parser
from tests.support.code_of_pages import name_of, pages

_FENCE = re.compile(r"^( *)```(?P<kind>\w+)\n(?P<code>.*?)^\1```", re.MULTILINE | re.DOTALL)
PARTS = {"|", "&&", "&", ">", ";", "2>&1"}


def fences(*kinds):
    """The code of all fences of these languages; named by page and line."""
    found = []
    for page in pages():
        text = page.read_text()
        for match in _FENCE.finditer(text):
            if match["kind"] in kinds:
                line = text.count("\n", 0, match.start()) + 1
                found.append(pytest.param(match["code"], id=f"{name_of(page)}-{line}"))
    return found


def commands(code):
    """The arguments of each command of fastgen, whoever starts it."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        starts = [i for i, word in enumerate(words) if word in ("fastgen", "entrypoint:")]
        for i in starts:
            if words[i] == "fastgen" and not (i and words[i - 1] == "install"):
                rest = words[i + 1 :]
                ends = [k for k, word in enumerate(rest) if word in PARTS]
                yield rest[: ends[0]] if ends else rest


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("code", fences("sh", "bash"))
def test_shell(code):
    done = subprocess.run(["bash", "-n"], input=code, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("code", fences("sh", "bash", "yaml"))
def test_flags(code):
    for words in commands(code):
        if words and words != ["--version"]:
            arguments = _parser().parse_args(words)
            assert arguments.run is not None


def test_flags_that_are_not_there_are_found():
    (words,) = commands("CUDA=0 srun \\\n fastgen generate m --count 5 --out a --colour > log # x")
    assert words == ["generate", "m", "--count", "5", "--out", "a", "--colour"]
    with pytest.raises(ValueError, match="--colour"):
        _parser().parse_args(words)
    assert sum(len(list(commands(p.values[0]))) for p in fences("sh", "bash", "yaml")) > 10


@pytest.mark.parametrize("code", fences("yaml"))
def test_a_job_of_ray(code):
    """The fields that KubeRay's schema asks for; each container with the volume that it mounts."""
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load(code)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        assert {"rayStartParams", "template"} <= group.keys()
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {"name", "image"} <= container.keys()
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    (words,) = commands(job["spec"]["entrypoint"])
    arguments = _parser().parse_args(words)
    workers = sum(group["replicas"] for group in groups[1:])
    assert (arguments.ray, arguments.gpus) == (workers, 1.0)
