"""What the device can do at most, which MFU is measured against, and what a process has used of its memory."""

from __future__ import annotations

import resource
import time

import torch

from train.precision import DTYPES

PEAK_FLOPS = {
    # Dense bf16/fp16 matrix products per second, from the vendors' data sheets.
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "L40S": 362e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "V100": 125e12,
    "MI300X": 1307e12,
}
CPU_PROBE = 512
PROBE_SECONDS = 0.3


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Return one device's floating-point operations per second in matrix products, or None if unknown.

    A GPU's comes from its data sheet, for 16-bit formats; fp8 is held against those too, for not all of a step is in 8
    bits. A CPU's is measured by a matrix product within a third of a second, because data sheets of CPUs don't say.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        peak = next((peak for key, peak in PEAK_FLOPS.items() if key in name), None)
        # Data sheets give float32 on the tensor cores' side as TF32, which is off by default.
        return peak if precision != "fp32" else None
    return measured_peak(DTYPES[precision])


def measured_peak(dtype: torch.dtype, size: int = CPU_PROBE, seconds: float = PROBE_SECONDS) -> float:
    """Return the rate of a square matrix product on this process's CPU threads, in operations per second.

    One thread's best of many short products, times the threads. Threads measured together would wait for each other on
    a machine with other work, and the peak would come out below what training then reaches.
    """
    threads = torch.get_num_threads()
    a = torch.ones(size, size, dtype=dtype)
    best = float("inf")
    torch.set_num_threads(1)
    try:
        deadline = time.perf_counter() + seconds
        while (start := time.perf_counter()) < deadline or best == float("inf"):
            a @ a
            best = min(best, time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return threads * 2.0 * size**3 / best


def slow_format_warning(device: torch.device, precision: str) -> str | None:
    """Return a warning if this CPU only emulates the 16-bit format that was asked for."""
    if device.type != "cpu" or precision == "fp32":
        return None
    ratio = measured_peak(torch.float32, 256, 0.05) / measured_peak(DTYPES[precision], 256, 0.05)
    if ratio < 1.0:
        return None
    return f"precision={precision} is {ratio:.0f} times slower than fp32 on this CPU, which has no units for it"


def peak_memory(device: torch.device) -> int:
    """Return the most bytes this process has held: on the GPU, or in host memory where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
