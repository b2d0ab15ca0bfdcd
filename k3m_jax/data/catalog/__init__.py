"""A shop's products as others wrote them: readers, labelled pairs, region features."""
