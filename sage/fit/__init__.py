"""Any negative log-likelihood -> interval: minimiser, limits, and what to do where the normal way fails."""
