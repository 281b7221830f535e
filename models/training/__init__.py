"""From images and labels to trained weights: splits, augmentation, one loop, metrics."""
