"""What is neither a method, nor a metric, nor a dataset: configuration, training, storage, tables."""
