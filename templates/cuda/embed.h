/* EMBED: out[t] = row ids[t] (or that of the position) of the weight matrix, dequantized; one outside the matrix gives zeros. A thread an element. */
#ifndef N730_CUDA_EMBED_H
#define N730_CUDA_EMBED_H
#include "coded.h"

N730_DEVICE int row_of(const n730_cuda_call &call, int token) { return call.ids ? call.ids[token] : call.position + token; }

/* Column j (0 … 31) of one plane of a block, for one row (FORMAT.md, section 3). */
N730_DEVICE int plane_field(const unsigned char *plane, int bits, int row, int j) {
    const int count = 8 / bits, quad = j / 4; /* fields in a byte */
    return __ldg(plane + 64 * (quad / count) + 4 * row + j % 4) >> (8 - bits - bits * (quad % count)) & ((1 << bits) - 1);
}

/* The scale of group g for one row of a tile. */
template <class F>
N730_DEVICE float scale_of(const unsigned char *tile, int row, int g) {
    if (!F::CODED) return half_to_float(load_u16_be(tile + fields_at<F>(g) - SCALE_BYTES + 2 * row));
    const unsigned char *header = tile + fields_at<F>(g / SUPER * SUPER) - SUPER_HEADER;
    const int codes = __ldg(header + SCALE_BYTES + g % SUPER / 2 * TILE + row);
    return half_to_float(load_u16_be(header + 2 * row)) * power_of_two(-10) * (float)(codes >> (g % 2 ? 0 : 4) & 15);
}

template <class F>
N730_DEVICE void embed(const n730_cuda_call &call, int rows, int cols) {
    const int token = blockIdx.x, k = blockIdx.y * blockDim.x + threadIdx.x, id = row_of(call, token), row = id & (TILE - 1);
    if (k >= cols) return;
    float value = 0.0f;
    if (id >= 0 && id < rows) {
        const unsigned char *tile = call.weight + id / TILE * block_tile_bytes<F>(cols), *fields = tile + fields_at<F>(k / GROUP);
        int n = plane_field(fields, F::FIRST, row, k % GROUP);
        if (F::SECOND > 0) n = n << F::SECOND | plane_field(fields + TILE * GROUP / 8 * F::FIRST, F::SECOND > 0 ? F::SECOND : 1, row, k % GROUP);
        value = scale_of<F>(tile, row, k / GROUP) * (float)(F::MULTIPLE * F::level(n) - F::OFFSET);
    }
    output(call, token)[k] = value;
}

template <class F>
N730_DEVICE void embed_half(const n730_cuda_call &call, int rows, int cols) {
    const int token = blockIdx.x, k = blockIdx.y * blockDim.x + threadIdx.x, id = row_of(call, token);
    if (k >= cols) return;
    float value = 0.0f;
    if (id >= 0 && id < rows)
        value = F::value(load_u16_be(call.weight + id / TILE * (2ll * TILE * cols) + 2ll * TILE * k + 2 * (id & (TILE - 1))));
    output(call, token)[k] = value;
}
#endif
