"""Networks written for texts without padding."""
