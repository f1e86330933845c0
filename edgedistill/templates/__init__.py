"""Chat templates, rendered by a process of its own under limits: they come from files that nobody vouches for."""
