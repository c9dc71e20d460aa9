"""`headrace plan`: what a run will take of memory, time and money on a named cluster, before any of it is paid for."""
