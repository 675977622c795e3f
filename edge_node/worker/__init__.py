"""The worker process: everything that runs only beside the accelerator."""
