"""From a path to batches of pixels: sources, classes, decoding, preprocessing, augmentation."""
