"""What several drop-ins share: where noise comes from, and runs on the caller's noise levels."""
