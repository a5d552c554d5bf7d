"""The words that the synthetic shops are made of: what they sell, how they speak, what their customers say."""
