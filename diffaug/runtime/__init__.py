"""The process: seeds, threads, devices, several processes, the console."""
