"""What several targets use and none of them owns."""
