"""What this machine, or the container around the process, really grants."""

import os
from collections.abc import Iterator
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def cpu_count() -> int:
    """CPUs this process may use: affinity mask and cgroup quota, not the host's number."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(allowed or 1, _cpu_quota()))


def memory_gb() -> float:
    """Memory in GB: the machine's, or the lowest limit of a cgroup around it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [
        _number(folder / name)
        for folder in _cgroups("memory")
        for name in ("memory.max", "memory.limit_in_bytes")
    ]
    return min([total, *[limit for limit in limits if limit]]) / 1024**3


def _cpu_quota() -> int:
    return min([10**6, *map(_quota_of, _cgroups("cpu"))])


def _quota_of(folder: Path) -> int:
    """CPUs that one cgroup grants, in version 2 or 1 of cgroups."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        quota = str(_number(folder / "cpu.cfs_quota_us") or "max")
        period = str(_number(folder / "cpu.cfs_period_us") or 100000)
    return 10**6 if quota == "max" else max(1, int(quota) // int(period))


def _cgroups(controller: str) -> Iterator[Path]:
    """Folders of this process's cgroup and of all around it: each of them may set a limit.

    A container sees its own cgroup as the root; a job of a cluster lies some levels below it.
    """
    try:
        lines = [line.split(":", 2) for line in OWN_CGROUP.read_text().splitlines()]
    except OSError:
        lines = []
    paths = {name: path for _, names, path in lines for name in names.split(",")}
    for root, path in ((CGROUP, paths.get("")), (CGROUP / controller, paths.get(controller))):
        own = Path((path or "").lstrip("/"))
        yield from (root / one for one in (own, *own.parents))


def _number(path: Path) -> int:
    """A positive number in a cgroup file, else 0."""
    try:
        value = int(path.read_text())
    except (OSError, ValueError):
        return 0
    return max(value, 0)


def allow_files(number: int) -> None:
    """Let this process hold so many files open, as far as it may: 1024 are usual, more allowed."""
    try:
        import resource
    except ImportError:  # no POSIX system
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = number if hard == unlimited else min(number, hard)
    if soft != unlimited and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def pick_device(wanted: str) -> str:
    """Resolve ``auto``, and check that what was asked for is there.

    Raises
    ------
    models.errors.InputError
        A CUDA or MPS device was named that torch does not see.
    """
    import torch

    from models.errors import InputError

    kind = wanted.split(":")[0]
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if kind == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    if kind not in there or not there[kind]:
        raise InputError(f"--device {wanted}: torch sees no such device; use auto or cpu")
    number = wanted.partition(":")[2]
    if kind == "cuda" and number and int(number) >= torch.cuda.device_count():
        raise InputError(f"--device {wanted}: this machine has {torch.cuda.device_count()} GPUs")
    return wanted


def gpu_count(device: str, wanted: int | None, together: int = 1) -> int:
    """GPUs that a run uses side by side: those that torch sees, or as many of them as asked for.

    ``together`` of them train one fold.

    Raises
    ------
    models.errors.InputError
        There are not so many, or ``device`` is a single one.
    """
    import torch

    from models.errors import InputError

    there = {"cpu": 0, "cuda": torch.cuda.device_count()}.get(device, 1)
    if wanted is not None and wanted > there:
        raise InputError(
            f"--n-gpus {wanted}: with --device {device}, this run has {there}; give --device cuda, "
            "or a smaller number"
        )
    found = there if wanted is None else wanted
    if together > max(found, 1):
        raise InputError(
            f"--gpus-per-fold {together}: this run has {found} GPUs; give --device cuda, or a "
            "smaller number"
        )
    return found
