"""The pictures of the example workflows in the template browser: what they save, or of those that need a download, how they
are wired."""
