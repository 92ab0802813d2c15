"""docker/Dockerfile.cpu: built by podman, run as its user, stopped as `docker stop` stops it.

No registry of images is asked. The base image is a stand-in of the same name and the same release of Debian, made by
debootstrap: its Python is Debian's 3.11, in a virtual environment at /usr/local, where the real image has its own.
Packages are installed from wherever this machine's pip and apt are set up to find them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker/Dockerfile.cpu"
NEEDED = ("podman", "runc", "debootstrap")
PIP_CONF = "/etc/pip.conf"


class Podman(NamedTuple):
    """podman with images and containers in a folder of their own."""

    folder: Path

    def __call__(self, *words: str | Path, **options) -> str:
        command = ["podman", "--root", self.folder / "images", "--runroot", self.folder / "run", "--runtime", "runc"]
        done = subprocess.run(
            [*command, "--cgroup-manager", "cgroupfs", *words], capture_output=True, text=True, timeout=1800, **options
        )
        assert done.returncode == 0, f"podman {words[0]}: {done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def run(self, *words: str | Path) -> str:
        """`podman run` within what a machine allows that is a container itself."""
        limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]
        return self("run", "--network", "host", *limits, *words)

    def clean(self) -> None:
        self("rm", "--all", "--force")
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for mount in sorted((m for m in mounts if Path(m).is_relative_to(self.folder)), reverse=True):
            subprocess.run(["umount", "--lazy", mount])
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def podman(tmp_path_factory) -> Iterator[Podman]:
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing or os.geteuid():
        pytest.skip(f"needs root and Debian's packages {', '.join(NEEDED)}; here: {', '.join(missing) or 'no root'}")
    made = Podman(tmp_path_factory.mktemp("podman"))
    try:
        yield made
    finally:
        made.clean()


def debian_mirror() -> str:
    """The first address that apt has for Debian's packages."""
    files = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    text = "\n".join(path.read_text() for path in files if path.is_file())
    found = re.search(r"^(?:URIs:|deb(?: \[.*\])?)\s+(\S+/debian/?)(?:\s|$)", text, re.M)
    if found is None:
        pytest.skip("apt has no address of Debian's packages")
    return found[1]


def pip_options(folder: Path) -> list[str]:
    """Volumes that hand this machine's pip configuration to a build: its settings, and the files that they name."""
    said = subprocess.run(["pip", "config", "list"], capture_output=True, text=True, check=True).stdout
    settings = dict(re.findall(r"^(?:global|install|:env:)\.([\w-]+)='(.*)'$", said, re.M))
    conf = folder / "pip.conf"
    conf.write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
    words = " ".join(settings.values()).split()
    # an index in files is linked with packages beside it
    local = [Path(word.removeprefix("file://")).parent for word in words if word.startswith("file:///")]
    local += [Path(word) for word in words if word.startswith("/")]
    return [f"--volume={path}:{path}:ro" for path in sorted({path for path in local if path.exists()})] + [
        f"--volume={conf}:{PIP_CONF}:ro"
    ]


def make_base(podman: Podman, name: str) -> None:
    """A minimal Debian with a Python where the base image has one."""
    system = podman.folder / "system"
    release = name.rpartition("-")[2]
    packages = "--include=python3,python3-venv,ca-certificates"
    command = ["debootstrap", "--variant=minbase", packages, release, system, debian_mirror()]
    made = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert made.returncode == 0, made.stdout[-3000:]
    subprocess.run(["chroot", system, "python3", "-m", "venv", "/usr/local"], check=True)
    with subprocess.Popen(["tar", "--directory", system, "--create", "."], stdout=subprocess.PIPE) as tar:
        podman("import", "--quiet", "-", f"docker.io/library/{name}", stdin=tar.stdout)
    shutil.rmtree(system)


@pytest.fixture(scope="module")
def image(podman) -> str:
    """The image, built from the checkout."""
    (base,) = re.findall(r"^FROM (\S+)$", FILE.read_text(), re.M)
    make_base(podman, base)
    chrooted = ["--isolation", "chroot", "--network", "host", "--pull-never"]
    podman("build", *chrooted, *pip_options(podman.folder), "--file", FILE, "--tag", "rlcredit:cpu", ROOT)
    return "rlcredit:cpu"


QUICK = ["--held_out=0", "--num_generations=4", "--per_device_train_batch_size=8", "--save_steps=1", "--max_steps=2"]


def outputs_of(folder: Path, user: int) -> list[str]:
    """A volume for the run's results that only this user may write to."""
    folder.mkdir()
    os.chown(folder, user, user)
    folder.parent.chmod(0o755)
    return [f"--volume={folder}:/workspace/outputs"]


# the image's own user; and somebody of the host, who has no name in the image, with the README's options
@pytest.mark.parametrize(("user", "options"), [(1000, []), (4321, ["--user=4321:4321", "--env=HOME=/tmp"])])
def test_two_steps_are_written_by_the_user(podman, image, tmp_path, user, options):
    options = [*options, *outputs_of(tmp_path / "outputs", user)]
    words = ["train", "--config", "countdown_tiny/coupled_rhythm", "--output_dir", "outputs/run", *QUICK]
    said = podman.run("--rm", *options, image, *words)
    assert "coupled_rhythm: 2 steps" in said
    written = [path for path in (tmp_path / "outputs/run").rglob("*") if path.is_file()]
    names = {path.name for path in written}
    assert {"model.safetensors", "trainer_state.json", "log.jsonl", "run.json"} <= names
    assert {path.stat().st_uid for path in written} == {user}


def test_the_image_holds_the_source_and_no_more(podman, image):
    command = podman("image", "inspect", "--format", "{{json .Config.Entrypoint}} {{json .Config.Cmd}}", image)
    assert command.strip() == '["rlcredit"] ["train","--config","countdown_tiny/coupled_rhythm"]'
    words = ["--rm", "--entrypoint", "python", image, "-c"]
    listed = podman.run(*words, "import os; print(os.getuid(), *sorted(os.listdir('.')))").split()
    assert listed[0] == "1000" and {"recipes", "scripts", "rlcredit", "outputs"} <= set(listed)
    assert not {".git", ".venv", "docs", "wandb"} & set(listed)
    assert podman("image", "inspect", "--format", "{{.Config.StopSignal}}", image).strip() in ("15", "SIGTERM")
