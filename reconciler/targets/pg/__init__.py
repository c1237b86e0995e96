"""What the two database drivers share: the protocol between target and driver, SQL texts, SQLSTATE meanings, files."""
