"""The machine: memory, threads, processes, devices."""
