"""Membranes in cryo-electron tomograms: segmented, meshed, picked and measured, from a laptop to Kubernetes."""

__version__ = "0.1.0"
