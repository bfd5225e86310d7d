"""Checkpoints of mixture-of-experts models that others wrote, read and written without their libraries."""

from qrt_tn.models.moe.checkpoints.vmoe import inspect_vmoe_checkpoint, load_vmoe_checkpoint
from qrt_tn.models.moe.checkpoints.vmoe_save import save_vmoe_checkpoint

__all__ = ["inspect_vmoe_checkpoint", "load_vmoe_checkpoint", "save_vmoe_checkpoint"]
