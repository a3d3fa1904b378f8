"""The same for the official program with several processes."""

from ingestion import DEFAULT_INGESTION_SEED, Ingestion  # type: ignore[import-not-found]

__all__ = ["DEFAULT_INGESTION_SEED", "Ingestion"]
