"""What every other package builds on: errors, files, inputs, batches and processes."""
