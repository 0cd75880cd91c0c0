"""Tools of the user's: functions and HTTP endpoints with a schema, and how a model's turn calls them."""
