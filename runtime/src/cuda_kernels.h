// The package's kernels for graphics cards: which image a card takes, and how n730c/codegen/cuda.py names them and has
// them launched.
#pragma once
#include "cuda_driver.h"
#include "package.h"

namespace n730 {

constexpr int LINEAR_VARIANTS = 4;
constexpr uint32_t LINEAR_COLUMNS[LINEAR_VARIANTS] = {1, 2, 4, 8}; // tokens a block
constexpr uint32_t LINEAR_THREADS = 256, LINEAR_TILES = 8;         // of a block

// The narrowest that takes all tokens at once, or the widest.
int linear_variant(int64_t tokens);
CudaFunction linear_kernel(const Cuda &card, CudaModule module, const Tensor &weight, int variant);
std::string matrix_shape(const Tensor &t); // as kernels' names have it

// The best for the card: of its generation, not above it, or else PTX. nullptr: there is none, or it is not trusted; `why` says so.
const Image *choose_image(const Package &package, const Cuda &card, bool trust, std::string &why);
CudaModule load_image(const Package &package, const Image &image, const Cuda &card);

std::string too_little_vram(uint64_t expected, uint64_t found); // bytes
} // namespace n730
