"""What a trained model is worth: metrics, reports and figures."""
