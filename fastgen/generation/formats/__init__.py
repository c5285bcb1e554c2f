"""What shards are written as. Each is whole or not there, and equal samples give equal bytes."""
