"""What a measurement ran on: the CPU, what it can do, and how much memory it has."""

import os
import re
from pathlib import Path

# Flags that decide which kernels run, best first, with the names people use.
INSTRUCTION_SETS = [
    ("amx_int8", "AMX int8"),
    ("avx512_vnni", "AVX-512 VNNI"),
    ("avx512bw", "AVX-512"),
    ("avx_vnni", "AVX-VNNI"),
    ("avx2", "AVX2"),
    ("i8mm", "i8mm"),
    ("asimddp", "dotprod"),
    ("asimd", "NEON"),
]


def describe() -> dict:
    """CPU name and family, cores this process may use, instruction sets, memory."""
    text = Path("/proc/cpuinfo").read_text()
    flags = set(field(text, "flags").split()) | set(field(text, "Features").split())
    memory = field(Path("/proc/meminfo").read_text(), "MemTotal")
    return {
        "cpu": field(text, "model name") or "unknown",
        "family": field(text, "cpu family") or field(text, "CPU part"),
        "cores": len(os.sched_getaffinity(0)),
        "instruction_sets": [flag for flag, _ in INSTRUCTION_SETS if flag in flags],
        "memory_gib": round(int(memory.split()[0]) / (1 << 20), 1),
    }


def field(text: str, name: str) -> str:
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.*)$", text, re.M)
    return found.group(1) if found else ""


def sentence(machine: dict) -> str:
    """As in `2 cores of an AMD EPYC (family 26, AVX-512 VNNI)`."""
    names = dict(INSTRUCTION_SETS)
    best = next((names[flag] for flag in machine["instruction_sets"] if flag in names), "scalar")
    article = "an" if machine["cpu"][:1] in "AEIO" else "a"
    return f"{machine['cores']} cores of {article} {machine['cpu']} (family {machine['family']}, {best})"
