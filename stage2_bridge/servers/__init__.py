"""Stage-2 servers, one file each."""
