"""Rows to one vector a span: scheduling, batching, the forward pass, pooling."""
