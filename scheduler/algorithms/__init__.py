"""Learning algorithms, one file each; each exports what it learned to a policy."""
