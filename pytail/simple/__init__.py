"""The Simple API on the wire: pure functions between bytes and values, without I/O."""
