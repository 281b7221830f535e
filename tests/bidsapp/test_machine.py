"""A run takes what it was granted, and not what the machine has."""

import pytest

from bidsapp import machine

GB = 1024**3


@pytest.fixture
def cgroups(tmp_path, monkeypatch):
    """Files of a made-up cgroup tree, and the line that says where this process is in it."""
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine, "OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(
        machine.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": GB // 8}[name]
    )

    def write(files, own=""):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"{text}\n")

    return write


@pytest.mark.parametrize(
    ("files", "own", "cpus", "gb"),
    [
        ({}, "", 64, 512),
        # A container: its own cgroup is the root.
        ({"cpu.max": "200000 100000", "memory.max": 8 * GB}, "0::/", 2, 8),
        ({"cpu.max": "max 100000", "memory.max": "max"}, "0::/", 64, 512),
        ({"cpu.max": "50000 100000"}, "0::/", 1, 512),  # half a CPU is one process
        # A job of a cluster: the limit is on the job, the process two levels below.
        (
            {
                "slurm/job_7/cpu.max": "400000 100000",
                "slurm/job_7/memory.max": 16 * GB,
                "slurm/job_7/step_0/task_0/memory.max": "max",
                "slurm/memory.max": 200 * GB,
            },
            "0::/slurm/job_7/step_0/task_0",
            *(4, 16),
        ),
        # Version 1: a tree for each controller, and -1 or a huge number for none.
        (
            {
                "cpu/cpu.cfs_quota_us": -1,
                "cpu/docker/1/cpu.cfs_quota_us": 300000,
                "cpu/docker/1/cpu.cfs_period_us": 100000,
                "memory/memory.limit_in_bytes": 2**63 - 4096,
                "memory/docker/1/memory.limit_in_bytes": 4 * GB,
            },
            "4:cpu,cpuacct:/docker/1\n2:memory:/docker/1\n",
            *(3, 4),
        ),
        # Version 1 in a container: the path is the host's and not to be seen from inside.
        (
            {"cpu/cpu.cfs_quota_us": 200000, "memory/memory.limit_in_bytes": 4 * GB},
            "4:cpu,cpuacct:/docker/1\n2:memory:/docker/1\n",
            *(2, 4),
        ),
    ],
)
def test_the_lowest_limit_around_the_process_counts(cgroups, files, own, cpus, gb):
    cgroups(files, own)
    assert machine.cpu_count() == cpus
    assert machine.memory_gb() == gb


def test_the_affinity_mask_counts_too(cgroups, monkeypatch):
    cgroups({"cpu.max": "800000 100000"}, "0::/")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0, 5, 7}, raising=False)
    assert machine.cpu_count() == 3


def test_without_cgroups_there_are_no_limits(cgroups, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "OWN_CGROUP", tmp_path / "nowhere")
    assert machine.cpu_count() == 64
    assert machine.memory_gb() == 512


def test_as_many_files_as_needed_may_be_open():
    """In a process of its own: a limit once raised stays so."""
    import subprocess
    import sys

    script = (
        "import resource\n"
        "from bidsapp.machine import allow_files\n"
        "name = resource.RLIMIT_NOFILE\n"
        "resource.setrlimit(name, (64, 200))\n"
        "for number in (10, 100, 10**6):\n"
        "    allow_files(number)\n"
        "    print(*resource.getrlimit(name))\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == ["64 200", "100 200", "200 200"]
