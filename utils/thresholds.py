"""The settings of detection that hold where the user gives none: of detect.py, of the hub and of exported NMS."""

CONF_THRES = 0.25  # a detection has a higher confidence
IOU_THRES = 0.45  # of two boxes that overlap more, NMS keeps the better one
MAX_DET = 1000  # detections of an image
