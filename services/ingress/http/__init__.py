"""What partners speak: HTTP, version 1 (docs/public-face.md, section 2)."""
