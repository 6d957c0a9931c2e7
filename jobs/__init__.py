"""A file here is a command; a folder holds code that commands share. `jobs.cli` lists the commands."""
