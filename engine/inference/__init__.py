"""From sources to detections: images, videos and streams, letterbox, model, NMS, tiles."""
