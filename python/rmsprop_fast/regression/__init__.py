"""Linear regression by RMSprop: tables are read, a model is fitted, saved, drawn and used."""
