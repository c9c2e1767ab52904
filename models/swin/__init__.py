"""Parts of Swin Transformer V2 that are not blocks: windows, attention, small layers, the form for dynamic export."""
