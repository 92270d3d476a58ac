"""One file for each promise; every objective and every quantity goes through each."""
