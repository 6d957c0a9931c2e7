"""A file here is a command; a folder is what commands share (`jobs.cli` lists the commands)."""
