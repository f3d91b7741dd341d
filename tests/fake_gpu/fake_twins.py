"""Twins of the kernels in runtime/engines/cuda/step.cu: their arguments as numpy sees them, then the definitions."""

from __future__ import annotations

from typing import Any

import fake_kernels
from fake_device import device

from runtime.engines import host_steps

UNIT, BEST = 16, 8  # bytes of a uint4 and of struct Best


def append_rows(arguments: list[Any]) -> None:
    source, target, starts, count, capacity, batch, width = arguments
    blocks = fake_kernels.grid()[0]
    assert blocks % (count * batch) == 0, f"{blocks} blocks for rows of {count} x {batch}"
    stacks = blocks // (count * batch)
    host_steps.append_rows(
        device.view(source, (stacks, count, batch, width * UNIT), "uint8"),
        device.view(target, (stacks, capacity, batch, width * UNIT), "uint8"),
        device.view(starts, (batch,), "int32"),
    )


def next_tokens(arguments: list[Any]) -> None:
    (logits, vocabulary, input_ids, past_length, starts, taken, cos, sin, cos_table, sin_table, capacity, width,
     stop_ids, stops, ring, slots, batch, partial, tickets) = arguments  # fmt: skip
    parts, sequences, _ = fake_kernels.grid()
    assert sequences == batch, f"{sequences} blocks for {batch} sequences"
    device.view(partial, (batch, parts, BEST), "uint8").fill(0)  # the kernel's own notes: there must be room
    assert not device.view(tickets, (batch,), "uint32").any(), "the counters of finished blocks must begin at 0"
    numbers = [device.view(address, (batch,), "int32") for address in (input_ids, past_length, starts, taken)]
    rows = device.view(cos, (batch, width), "float32"), device.view(sin, (batch, width), "float32")
    tables = tuple(device.view(address, (capacity, width), "float32") for address in (cos_table, sin_table))
    host_steps.next_tokens(
        device.view(logits, (batch, vocabulary), "float32"),
        *numbers,
        rows,
        (tables[0], tables[1]),
        device.view(stop_ids, (stops,), "int32"),
        device.view(ring, (slots, batch), "int32"),
    )


TWINS = {"append_rows": append_rows, "next_tokens": next_tokens}
