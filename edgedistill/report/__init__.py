"""Records of a compile -> report.json, report.html and a table for the terminal. Measures nothing."""
