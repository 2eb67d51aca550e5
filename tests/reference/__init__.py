"""What commit 3c99cd3 answered and stored, so that later versions are held against it. See README.md here."""
