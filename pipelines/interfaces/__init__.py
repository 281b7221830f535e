"""nipype interfaces of a few lines: load, call the science or a package, save."""
