"""Code that every command needs: options and exit codes, progress, signals, Ray."""
