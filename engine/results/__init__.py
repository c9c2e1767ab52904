"""What a run writes: images, text, JSON, CSV, the report page, feature maps."""
