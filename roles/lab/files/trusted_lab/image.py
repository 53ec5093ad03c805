# SPDX-License-Identifier: GPL-3.0-or-later
"""The image of a lab host: built once for its inputs, kept as a tar file, tagged for each lab."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from .command import run
from .errors import LabError
from .podman import Podman
from .report import Report
from .settings import Settings

INPUTS_LABEL = "trusted-infrastructure.lab.inputs"

# The group that may use the TPM on a trusted host: the same number inside, and on the machine's socket.
TPM_GROUP = 964

# Labs with different images may take turns; a tar file has a quarter of a gigabyte.
_KEPT = 3

_RECIPE = Path(__file__).parent.parent / "image"
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")


def image_inputs(settings: Settings) -> str:
    """Hex digest of all that decides the image, but for the versions that the package archive has today."""
    recipe = {
        path.name: path.read_text(encoding="utf-8") for path in sorted(_RECIPE.iterdir()) if path.is_file()
    }
    decisive = [
        recipe,
        settings.image_base,
        settings.image_release,
        settings.image_components,
        settings.image_packages,
        settings.image_kernel_package,
        _LEFT_OUT,
        TPM_GROUP,
    ]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def image_file(settings: Settings) -> Path:
    """The cached tar file of the image that these settings ask for."""
    return settings.image_folder / f"{settings.image_release}-{image_inputs(settings)}.tar"


def image_state(podman: Podman, settings: Settings) -> str:
    """How far the image is: 'ready' (tagged for the lab), 'cached' (built before), 'absent' (to be built), or
    'outdated' (the lab's hosts were made from an older one)."""
    inputs = image_inputs(settings)
    tagged = podman.image(settings.image)
    if tagged:
        current = (tagged.get("Labels") or {}).get(INPUTS_LABEL) == inputs
        if current and not settings.image_rebuild:
            return "ready"
        # Equal hosts must measure equal: a lab keeps its image as long as it has hosts.
        if podman.containers(f"trusted-infrastructure.lab={settings.name}"):
            return "outdated"
    if settings.image_rebuild:
        return "absent"
    cached = image_file(settings).exists() or podman.images_with(f"{INPUTS_LABEL}={inputs}")
    return "cached" if cached else "absent"


def ensure_image(podman: Podman, settings: Settings, report: Report) -> None:
    """Build the image if need be, and tag it for the lab."""
    with nullcontext() if report.check else _locked(settings.image_folder):
        state = image_state(podman, settings)
        if state in ("ready", "outdated"):
            return
        if state == "absent" and report.act(f"build the image for {settings.image_release}"):
            with report.timed("image build"):
                _build(podman, settings)
        if report.act(f"tag the image {settings.image}"):
            with report.timed("image import"):
                podman.run("tag", _imported(podman, settings), settings.image)


def _imported(podman: Podman, settings: Settings) -> str:
    """The id of the image in podman's store; it is imported from the tar file if it is not there."""
    label = f"{INPUTS_LABEL}={image_inputs(settings)}"
    present = podman.images_with(label)
    if present and not settings.image_rebuild:
        return present[0]
    imported = podman.run("import", "--quiet", "--change", f"LABEL {label}", str(image_file(settings)))
    return imported.strip().splitlines()[-1]


def _build(podman: Podman, settings: Settings) -> None:
    target = image_file(settings)
    unfinished = target.with_suffix(".part.tar")
    try:
        if settings.image_base:
            _build_on_base(podman, settings, unfinished)
        else:
            _build_from_packages(settings, unfinished)
        unfinished.chmod(0o600)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    by_age = sorted(settings.image_folder.glob("*.tar"), key=lambda path: path.stat().st_mtime)
    for old in by_age[:-_KEPT]:
        old.unlink()


def _build_from_packages(settings: Settings, target: Path) -> None:
    """With mmdebstrap, from the distribution's archive: no container registry is needed."""
    customize = [
        f'echo "tss:x:{TPM_GROUP}:" >>"$1/etc/group"',
        f'echo "tss:x:{TPM_GROUP}:{TPM_GROUP}::/nonexistent:/usr/sbin/nologin" >>"$1/etc/passwd"',
    ]
    work = settings.image_folder / "kernel"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    download = (
        f"cd {_quoted(work)} && export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG && "
        f"apt-get -q download {_kernel_package_of(settings.image_kernel_package)}"
    )
    place = f'python3 {_quoted(_RECIPE / "boot_files.py")} "$1" {_quoted(work)}/linux-image-*.deb'
    arguments = [
        "mmdebstrap",
        "--variant=minbase",
        f"--components={settings.image_components}",
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT),
        *(f"--essential-hook={hook}" for hook in customize),
        f"--include={','.join(settings.image_packages)}",
        f'--customize-hook=bash {_quoted(_RECIPE / "customize.sh")} "$1"',
        f"--customize-hook={download}",
        f"--customize-hook={place}",
        settings.image_release,
        str(target),
        *settings.image_mirrors,
    ]
    try:
        run(arguments, timeout=1800)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _kernel_package_of(name: str) -> str:
    """Shell words for the package that a kernel meta package depends on today."""
    pick = "sed -n 's/.*Depends: \\(linux-image-[0-9].*\\)/\\1/p' | head -n 1"
    return f"$(apt-cache depends --important {name} | {pick})"


def _build_on_base(podman: Podman, settings: Settings, target: Path) -> None:
    """On an image of the same distribution from a registry, or from podman's own store."""
    context = settings.image_folder / "context"
    shutil.rmtree(context, ignore_errors=True)
    shutil.copytree(_RECIPE, context)
    (context / "Containerfile").write_text(_containerfile(settings), encoding="utf-8")
    name = f"localhost/trusted-infrastructure-lab-build:{image_inputs(settings)}"
    try:
        podman.run("build", "--network", "host", "--tag", name, str(context), timeout=1800)
        container = podman.run("create", name, "true").strip()
        try:
            podman.run("export", "--output", str(target), container)
        finally:
            podman.run("rm", container)
            podman.run("rmi", name)
    finally:
        shutil.rmtree(context, ignore_errors=True)


def _containerfile(settings: Settings) -> str:
    packages = " ".join(settings.image_packages)
    kernel_package = _kernel_package_of(settings.image_kernel_package)
    steps = [
        f"groupadd --force --system --gid {TPM_GROUP} tss",
        f"{{ id tss || useradd --system --uid {TPM_GROUP} --gid tss --no-create-home tss; }}",
        "apt-get -q update",
        f"DEBIAN_FRONTEND=noninteractive apt-get -q install --yes --no-install-recommends {packages}",
        f"cd /root && apt-get -q download {kernel_package}",
        "python3 /recipe/boot_files.py / /root/linux-image-*.deb",
        "bash /recipe/customize.sh /",
        "rm -rf /root/linux-image-*.deb /recipe /var/lib/apt/lists/* /var/cache/apt/*.bin",
        "apt-get clean",
    ]
    return f"FROM {settings.image_base}\nCOPY . /recipe\nRUN " + " && ".join(steps) + "\n"


def _quoted(path: Path) -> str:
    if any(character in str(path) for character in "'\"$`\\"):
        raise LabError(f"the path {path} has quotes, $ or a backslash: the lab cannot be built there")
    return f"'{path}'"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One build at a time: several labs may start together."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
