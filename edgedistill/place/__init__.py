"""Where a run computes: one device, chosen once at the top of a run and handed to every stage that computes.

A recipe, EDGEDISTILL_DEVICE or `--device` asks for a device; `choose_place` finds it on this machine without loading
torch, and `Place.begin` sets torch up for it. What lies on the disk is always the CPU's, so that another machine can go
on with a run: the device is in no stage's key, but in its completion mark and in the report.
"""

from edgedistill.place.choose import CPU, Place, choose_place

__all__ = ["CPU", "Place", "choose_place"]
