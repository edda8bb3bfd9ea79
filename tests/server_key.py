"""The key of the server that the tests start."""

KEY = "s3cret"
