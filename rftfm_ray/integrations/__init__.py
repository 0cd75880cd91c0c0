"""What comes from other trainers: their step logs."""
