"""What alarms are worth: recall, delay, false alarms, thresholds."""
