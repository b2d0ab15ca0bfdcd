"""A shop's products as others wrote them: readers, labelled pairs, region features."""

from k3m_jax.data.catalog.tables import reader  # registers the format `table`
