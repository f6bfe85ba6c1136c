"""How models are asked, measured and compared."""
