# The installed commands in a container; docs/install.md says how to run it.
#   docker build -t yolov5-swinv2 .
#   docker build -t yolov5-swinv2:cuda \
#     --build-arg BASE=nvidia/cuda:12.8.1-base-ubuntu24.04 --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .
# PyTorch's wheels hold their CUDA libraries; the driver is that of the machine.
ARG BASE=debian:12-slim
FROM ${BASE}

RUN apt-get update \
  && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 python3-venv \
  && rm -rf /var/lib/apt/lists/*

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PATH=/opt/venv/bin:${PATH} PIP_NO_CACHE_DIR=1
RUN python3 -m venv /opt/venv && pip install --index-url "${TORCH_INDEX}" "torch>=2.6" "torchvision>=0.21"

# What export.py needs for ONNX; the headless OpenCV needs no libGL.
ARG EXTRAS="onnx>=1.17 onnxscript>=0.5 onnxruntime>=1.20"
COPY . /opt/source
RUN pip install /opt/source ${EXTRAS} \
  && pip uninstall -y opencv-python \
  && pip install --force-reinstall --no-deps "opencv-python-headless>=4.6"

# No user of its own: any number works, as with `docker run --user "$(id -u):$(id -g)"`.
ENV HOME=/home/yolov5 USER=yolov5
RUN mkdir -p /home/yolov5 /work && chmod 1777 /home/yolov5 /work
USER 1000:1000
WORKDIR /work
CMD ["yolov5-train", "--help"]
