// What a run time must do: network_onnxruntime.cpp and network_opencv.cpp, of which CMake takes one.
#pragma once
#include <memory>
#include <opencv2/core.hpp>
#include <string>
#include <vector>

class Network {
 public:
  virtual ~Network() = default;
  // blob: (1, 3, H, W) float, RGB, 0..1. Returns (R, 5 + classes) [cx, cy, w, h in network pixels, objectness, scores].
  virtual cv::Mat run(const cv::Mat& blob) = 0;

  cv::Size size;                   // of the input; empty where the file leaves it open or the run time does not tell
  std::vector<std::string> names;  // of the classes; empty where the run time cannot read them
};

std::unique_ptr<Network> load(const std::string& file);
