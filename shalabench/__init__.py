"""What is neither a method, nor a metric, nor a dataset."""
