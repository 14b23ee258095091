"""Shared foundations: errors, files, inputs, batches and processes."""
