"""Linear regression by RMSprop."""
