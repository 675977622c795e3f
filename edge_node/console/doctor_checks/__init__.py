"""What `dedgeai doctor` looks at, one module for each part of a device."""
