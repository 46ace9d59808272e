"""What people see of results: tables for a terminal, and rows for a data frame."""
