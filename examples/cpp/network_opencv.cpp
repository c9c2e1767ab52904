// The DNN module of OpenCV as run time. It tells neither the input size nor the metadata of a file.
#include <opencv2/dnn.hpp>

#include "network.h"

class OpenCvNetwork : public Network {
 public:
  explicit OpenCvNetwork(const std::string& file) : net_(cv::dnn::readNetFromONNX(file)) {}

  cv::Mat run(const cv::Mat& blob) override {
    net_.setInput(blob);
    const cv::Mat output = net_.forward();  // (1, R, 5 + classes)
    if (output.dims != 3) throw std::runtime_error("this file was exported with --nms: export it without");
    return output.reshape(1, output.size[1]).clone();
  }

 private:
  cv::dnn::Net net_;
};

std::unique_ptr<Network> load(const std::string& file) { return std::make_unique<OpenCvNetwork>(file); }
