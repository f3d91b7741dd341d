"""The arithmetic: a row of weights is cut into blocks, and a block is small integers and one scale.

    weight = (code - zero_point) * scale          in float32, exactly as MatMulNBits and GatherBlockQuantized define it

Codes are unsigned. Without stored zero points the zero point is the middle, 2 ** (bits - 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

PIECE = 1 << 22  # elements worked on at a time: the head of a real model would need gigabytes of temporaries


@dataclass(frozen=True, slots=True)
class Quantized:
    """A matrix [N, K] in blocks. Four-bit codes are packed two to a byte, the first in the lower half."""

    codes: torch.Tensor  # uint8 [N, K / block_size, block_size * bits / 8]
    scales: torch.Tensor  # float32 [N, K / block_size]; negative where the largest weight of a block is positive
    zero_points: torch.Tensor | None  # uint8 [N, ceil(K / block_size * bits / 8)], packed like the codes


def quantize(weight: torch.Tensor, bits: int, block_size: int, symmetric: bool) -> Quantized:
    """Round a float32 matrix [N, K] to `bits` (4 or 8) per weight; block_size divides K."""
    rows = max(1, PIECE // weight.shape[1])
    pieces = [_quantize_rows(piece, bits, block_size, symmetric) for piece in torch.split(weight, rows)]
    points = [piece.zero_points for piece in pieces if piece.zero_points is not None]
    return Quantized(
        torch.cat([piece.codes for piece in pieces]),
        torch.cat([piece.scales for piece in pieces]),
        torch.cat(points) if points else None,
    )


def dequantize(quantized: Quantized, bits: int) -> torch.Tensor:
    """The float32 matrix [N, K] that the codes stand for."""
    codes = _unpack(quantized.codes, bits)
    if quantized.zero_points is None:
        points = torch.full_like(quantized.scales, 1 << (bits - 1))
    else:
        points = _unpack(quantized.zero_points, bits)[:, : quantized.scales.shape[1]].float()
    return ((codes.float() - points[..., None]) * quantized.scales[..., None]).flatten(1)


def _quantize_rows(weight: torch.Tensor, bits: int, block_size: int, symmetric: bool) -> Quantized:
    blocks = weight.float().reshape(len(weight), -1, block_size)  # [N, K / block_size, block_size]
    scales, points = _symmetric(blocks, bits) if symmetric else _asymmetric(blocks, bits)
    divisor = torch.where(scales == 0, 1.0, scales)[..., None]  # a block of zeros: every code is the zero point
    codes = (torch.round(blocks / divisor) + points[..., None]).clamp_(0, (1 << bits) - 1).to(torch.uint8)
    return Quantized(_pack(codes, bits), scales, None if symmetric else _pack(points.to(torch.uint8), bits))


def _symmetric(blocks: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight of largest magnitude takes the code 0, which lies one step further from the middle than the top."""
    largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True)).squeeze(-1)
    middle = 1 << (bits - 1)
    return largest / -middle, torch.full_like(largest, middle)


def _asymmetric(blocks: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """From the smallest to the largest weight, zero among them so that it keeps a code of its own."""
    low, high, top = blocks.amin(-1).clamp(max=0), blocks.amax(-1).clamp(min=0), (1 << bits) - 1
    scales = (high - low) / top
    return scales, torch.round(-low / torch.where(scales == 0, 1.0, scales)).clamp(0, top)


def _pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Along the last axis; an odd count of four-bit codes gets a zero behind it."""
    if bits == 8:
        return codes
    if codes.shape[-1] % 2:
        codes = torch.nn.functional.pad(codes, (0, 1))
    return codes[..., 0::2] | (codes[..., 1::2] << 4)


def _unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    return packed if bits == 8 else torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)
