"""Where databases are opened: the kernel's, and one for each agent."""
