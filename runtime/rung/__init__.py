"""A rung of the parity ladder: what one implementation makes of a scene, recorded where it runs."""

from runtime.rung.record import Plan, forced_ids, record_rung
from runtime.rung.recording import Recording

__all__ = ["Plan", "Recording", "forced_ids", "record_rung"]
