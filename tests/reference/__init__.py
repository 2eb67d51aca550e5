"""What commit 3c99cd3 answered and stored: the reference for later versions. See README.md here."""
