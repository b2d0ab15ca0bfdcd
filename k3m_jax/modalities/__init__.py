"""What is known of each modality, one file each."""
