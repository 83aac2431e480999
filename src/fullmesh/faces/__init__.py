"""What people see: the command line. No arithmetic."""
