// Detect objects in an image: ./detect best.onnx a.jpg found.png [size of the input if that of the file is dynamic]
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <onnxruntime_cxx_api.h>

#include <opencv2/dnn.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

constexpr float kConfidence = 0.25F;  // that an object must exceed
constexpr float kOverlap = 0.45F;     // above which the weaker box of a class goes

struct Letterbox {
  cv::Mat frame;       // BGR
  double scale = 1.0;  // network pixels per pixel of the image
  int left = 0, top = 0;
};

struct Detection {
  cv::Rect2d box;  // pixels of the image
  float confidence = 0;
  int cls = 0;
};

// The class names in the text of a Python dict: {0: 'cat', 1: "dog's"}.
static std::vector<std::string> read_names(const std::string& text) {
  static const std::regex entry(R"re((\d+): (?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"))re");
  std::vector<std::string> names;
  for (std::sregex_iterator i(text.begin(), text.end(), entry), end; i != end; ++i) {
    names.push_back((*i)[2].matched ? (*i)[2].str() : (*i)[3].str());
  }
  return names;
}

class Network {
 public:
  explicit Network(const std::string& file) {
    const std::basic_string<ORTCHAR_T> path(file.begin(), file.end());
    session_ = Ort::Session(env_, path.c_str(), Ort::SessionOptions());
    if (session_.GetOutputCount() != 1) throw std::runtime_error(file + " was exported with --nms: export it without");
    const auto shape = session_.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
    if (shape[0] > 1) throw std::runtime_error(file + ": export it with --batch-size 1 or --dynamic");
    if (shape[2] > 0 && shape[3] > 0) size = cv::Size(int(shape[3]), int(shape[2]));  // -1: left open
    const auto text = session_.GetModelMetadata().LookupCustomMetadataMapAllocated("names", allocator_);
    if (text) names = read_names(text.get());
  }

  // blob: (1, 3, H, W) float, RGB, 0..1. Returns (R, 5 + classes) [cx, cy, w, h in network pixels, objectness, scores].
  cv::Mat run(const cv::Mat& blob) {
    const int64_t shape[] = {1, 3, blob.size[2], blob.size[3]};
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    float* pixels = const_cast<float*>(blob.ptr<float>());
    Ort::Value input = Ort::Value::CreateTensor<float>(memory, pixels, blob.total(), shape, 4);
    const auto input_name = session_.GetInputNameAllocated(0, allocator_);
    const auto output_name = session_.GetOutputNameAllocated(0, allocator_);
    const char *in = input_name.get(), *out = output_name.get();
    const auto outputs = session_.Run(Ort::RunOptions(), &in, &input, 1, &out, 1);
    const auto rows = outputs[0].GetTensorTypeAndShapeInfo().GetShape();  // (1, R, 5 + classes)
    const float* data = outputs[0].GetTensorData<float>();
    return cv::Mat(int(rows[1]), int(rows[2]), CV_32F, const_cast<float*>(data)).clone();
  }

  cv::Size size;  // of the input; empty where the file leaves it open
  std::vector<std::string> names;

 private:
  Ort::Env env_;
  Ort::Session session_{nullptr};
  Ort::AllocatorWithDefaultOptions allocator_;
};

// Fit an image into a frame, grey around it.
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

// Rows (R, 5 + classes) [cx, cy, w, h, objectness, scores] to detections in pixels of the image, best first per class.
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
    const auto x = [&](double v) { return std::clamp((v - fit.left) / fit.scale, 0.0, double(picture.width)); };
    const auto y = [&](double v) { return std::clamp((v - fit.top) / fit.scale, 0.0, double(picture.height)); };
    const cv::Rect2d inside(cv::Point2d(x(box.x), y(box.y)), cv::Point2d(x(box.br().x), y(box.br().y)));
    found.push_back({inside, confidences[i], classes[i]});
  }
  return found;
}

int main(int argc, char** argv) try {
  if (argc < 4 || argc > 5) {
    std::fprintf(stderr, "usage: %s best.onnx a.jpg found.png [size]\n", argv[0]);
    return 2;
  }
  Network network(argv[1]);
  const int side = argc > 4 ? std::stoi(argv[4]) : 640;
  const cv::Size size = network.size.empty() ? cv::Size(side, side) : network.size;
  cv::Mat image = cv::imread(argv[2]);
  if (image.empty()) throw std::runtime_error(std::string(argv[2]) + ": no image that OpenCV can read");

  const Letterbox fit = letterbox(image, size);
  const cv::Mat blob = cv::dnn::blobFromImage(fit.frame, 1 / 255.0, cv::Size(), cv::Scalar(), true);  // RGB, 0..1
  const auto start = std::chrono::steady_clock::now();
  const cv::Mat rows = network.run(blob);
  const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;

  const cv::Scalar color(60, 60, 220);
  for (const auto& [box, confidence, cls] : decode(rows, fit, image.size())) {
    const std::string name = cls < int(network.names.size()) ? network.names[cls] : std::to_string(cls);
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
