"""How good the images are, and how well they follow their prompts."""
