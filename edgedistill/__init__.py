"""edgedistill: compile a language model for a device, so that what was trained is what ships."""

__version__ = "0.1.0"
