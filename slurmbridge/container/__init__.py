"""What runs and how it is closed: the Apptainer argv, the trace levels, the images."""
