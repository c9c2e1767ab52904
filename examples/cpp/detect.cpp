// Detect objects in a picture: ./detect best.onnx a.jpg found.png [--size 640] [--names names.txt]
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <opencv2/dnn.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <stdexcept>

#include "network.h"

constexpr float kConfidence = 0.25F;  // that an object must exceed
constexpr float kOverlap = 0.45F;     // above which the weaker box of a class goes

struct Letterbox {
  cv::Mat frame;       // BGR
  double scale = 1.0;  // network pixels per pixel of the picture
  int left = 0, top = 0;
};

struct Detection {
  cv::Rect2d box;  // pixels of the picture
  float confidence = 0;
  int cls = 0;
};

// Fit a picture into a frame, grey around it.
Letterbox letterbox(const cv::Mat& image, const cv::Size& size) {
  Letterbox result;
  result.scale = std::min(double(size.height) / image.rows, double(size.width) / image.cols);
  const int width = std::max(1, int(std::nearbyint(image.cols * result.scale)));
  const int height = std::max(1, int(std::nearbyint(image.rows * result.scale)));
  result.left = (size.width - width) / 2;
  result.top = (size.height - height) / 2;
  result.frame = cv::Mat(size, CV_8UC3, cv::Scalar::all(114));
  cv::resize(image, result.frame(cv::Rect(result.left, result.top, width, height)), cv::Size(width, height));
  return result;
}

// Rows (R, 5 + classes) [cx, cy, w, h, objectness, scores] to detections in pixels of the picture, best first per class.
std::vector<Detection> decode(const cv::Mat& rows, const Letterbox& fit, const cv::Size& picture) {
  std::vector<cv::Rect2d> boxes;
  std::vector<float> confidences;
  std::vector<int> classes;
  for (int i = 0; i < rows.rows; ++i) {
    const float* row = rows.ptr<float>(i);
    const int cls = int(std::max_element(row + 5, row + rows.cols) - (row + 5));
    const float confidence = row[4] * row[5 + cls];
    if (confidence <= kConfidence) continue;
    boxes.emplace_back(row[0] - row[2] / 2, row[1] - row[3] / 2, row[2], row[3]);
    confidences.push_back(confidence);
    classes.push_back(cls);
  }
  // NMSBoxes knows no classes: move each class to a place of its own, farther away than any box is wide.
  double reach = 0;
  for (const auto& box : boxes) reach = std::max({reach, std::abs(box.x), std::abs(box.y), box.br().x, box.br().y});
  std::vector<cv::Rect2d> apart = boxes;
  for (size_t i = 0; i < apart.size(); ++i) apart[i].x += classes[i] * 3 * reach;
  std::vector<int> keep;
  cv::dnn::NMSBoxes(apart, confidences, kConfidence, kOverlap, keep);

  std::vector<Detection> found;
  for (int i : keep) {
    const auto& box = boxes[i];
    const cv::Point2d a((box.x - fit.left) / fit.scale, (box.y - fit.top) / fit.scale);
    const cv::Point2d b((box.br().x - fit.left) / fit.scale, (box.br().y - fit.top) / fit.scale);
    const cv::Rect2d whole(0, 0, picture.width, picture.height);
    found.push_back({cv::Rect2d(a, b) & whole, confidences[i], classes[i]});
  }
  return found;
}

int main(int argc, char** argv) try {
  if (argc < 4 || argc % 2) {
    std::fprintf(stderr, "usage: %s best.onnx a.jpg found.png [--size 640] [--names names.txt]\n", argv[0]);
    return 2;
  }
  const std::unique_ptr<Network> network = load(argv[1]);
  cv::Size size = network->size.empty() ? cv::Size(640, 640) : network->size;
  std::vector<std::string> names = network->names;
  for (int i = 4; i < argc; i += 2) {
    const std::string option = argv[i], value = argv[i + 1];
    if (option == "--size") {
      size = cv::Size(std::stoi(value), std::stoi(value));
    } else if (option == "--names") {  // one name a line
      std::ifstream file(value);
      if (!file) throw std::runtime_error(value + ": cannot be read");
      names.clear();
      for (std::string line; std::getline(file, line);) names.push_back(line);
    } else {
      throw std::runtime_error(option + ": no such option");
    }
  }
  cv::Mat image = cv::imread(argv[2]);
  if (image.empty()) throw std::runtime_error(std::string(argv[2]) + ": no picture that OpenCV can read");

  const Letterbox fit = letterbox(image, size);
  const cv::Mat blob = cv::dnn::blobFromImage(fit.frame, 1 / 255.0, cv::Size(), cv::Scalar(), true);  // RGB, 0..1
  const auto start = std::chrono::steady_clock::now();
  const cv::Mat rows = network->run(blob);
  const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;

  const cv::Scalar color(60, 60, 220);
  for (const auto& [box, confidence, cls] : decode(rows, fit, image.size())) {
    const std::string name = cls < int(names.size()) ? names[cls] : std::to_string(cls);
    std::printf("%s %.4f %.1f %.1f %.1f %.1f\n", name.c_str(), confidence, box.x, box.y, box.br().x, box.br().y);
    cv::rectangle(image, box, color, 2);
    const cv::Point place(int(box.x), std::max(int(box.y) - 4, 12));
    const std::string label = cv::format("%s %.2f", name.c_str(), confidence);
    cv::putText(image, label, place, cv::FONT_HERSHEY_SIMPLEX, 0.5, color, 1, cv::LINE_AA);
  }
  std::fprintf(stderr, "%.1f ms\n", time.count());
  if (!cv::imwrite(argv[3], image)) throw std::runtime_error(std::string(argv[3]) + ": cannot be written");
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
