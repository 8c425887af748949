"""Using a trained model: prediction and evaluation."""
