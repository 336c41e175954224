"""Files as a run meets them: written whole or not at all, unpacked only to a size that was declared and fits."""
