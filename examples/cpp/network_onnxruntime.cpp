// ONNX Runtime as run time.
#include <onnxruntime_cxx_api.h>

#include <regex>
#include <stdexcept>

#include "network.h"

// The class names in the text of a Python dict: {0: 'cat', 1: "dog's"}.
static std::vector<std::string> read_names(const std::string& text) {
  static const std::regex entry(R"((\d+): (?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"))");
  std::vector<std::string> names;
  for (std::sregex_iterator i(text.begin(), text.end(), entry), end; i != end; ++i) {
    names.push_back((*i)[2].matched ? (*i)[2].str() : (*i)[3].str());
  }
  return names;
}

class OrtNetwork : public Network {
 public:
  explicit OrtNetwork(const std::string& file) {
    const std::basic_string<ORTCHAR_T> path(file.begin(), file.end());
    session_ = Ort::Session(env_, path.c_str(), Ort::SessionOptions());
    if (session_.GetOutputCount() != 1) throw std::runtime_error(file + " was exported with --nms: export it without");
    const auto shape = session_.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
    if (shape[0] > 1) throw std::runtime_error(file + ": export it with --batch-size 1 or --dynamic");
    if (shape[2] > 0 && shape[3] > 0) size = cv::Size(int(shape[3]), int(shape[2]));  // -1: left open
    const auto text = session_.GetModelMetadata().LookupCustomMetadataMapAllocated("names", allocator_);
    if (text) names = read_names(text.get());
  }

  cv::Mat run(const cv::Mat& blob) override {
    const int64_t shape[] = {1, 3, blob.size[2], blob.size[3]};
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    float* pixels = const_cast<float*>(blob.ptr<float>());
    Ort::Value input = Ort::Value::CreateTensor<float>(memory, pixels, blob.total(), shape, 4);
    const auto input_name = session_.GetInputNameAllocated(0, allocator_);
    const auto output_name = session_.GetOutputNameAllocated(0, allocator_);
    const char *in = input_name.get(), *out = output_name.get();
    const auto outputs = session_.Run(Ort::RunOptions(), &in, &input, 1, &out, 1);
    const auto size = outputs[0].GetTensorTypeAndShapeInfo().GetShape();  // (1, R, 5 + classes)
    const float* data = outputs[0].GetTensorData<float>();
    return cv::Mat(int(size[1]), int(size[2]), CV_32F, const_cast<float*>(data)).clone();
  }

 private:
  Ort::Env env_;
  Ort::Session session_{nullptr};
  Ort::AllocatorWithDefaultOptions allocator_;
};

std::unique_ptr<Network> load(const std::string& file) { return std::make_unique<OrtNetwork>(file); }
