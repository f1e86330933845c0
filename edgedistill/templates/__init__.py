"""Chat templates, rendered by a process of its own under limits: they come from files that nobody vouches for."""

# A conversation can be at fault as well as a template.
REMEDY = "shorten the conversation, or repair the template if a short one ends so too"
