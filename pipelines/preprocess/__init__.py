"""One workflow per modality, from the raw image to template space."""
