"""Operator profiles fitted to measured tables of kernels, from a folder or an installed package."""
