/* EMBED: out[t] = row ids[t] of the weight matrix, dequantized; an id outside the matrix gives zeros. A thread an element. */
#ifndef N730_CUDA_EMBED_H
#define N730_CUDA_EMBED_H
#include "formats.h"

template <class F, int J>
struct FieldOf { /* the field of a column that only the run knows */
    static __device__ __forceinline__ int at(const unsigned (&words)[F::LOADS], int j) {
        return j == J ? (int)(F::template field<J>(words) >> F::shift(J)) : FieldOf<F, J + 1>::at(words, j);
    }
};
template <class F>
struct FieldOf<F, GROUP> {
    static __device__ __forceinline__ int at(const unsigned (&)[F::LOADS], int) { return 0; }
};

template <class F>
N730_DEVICE void embed(const n730_cuda_call &call, int rows, int cols) {
    const int token = blockIdx.x, k = blockIdx.y * blockDim.x + threadIdx.x, id = call.ids[token], row = id & (TILE - 1);
    if (k >= cols) return;
    float value = 0.0f;
    if (id >= 0 && id < rows) {
        const unsigned char *block = call.weight + id / TILE * block_tile_bytes<F>(cols) + (long long)(k / GROUP) * F::BLOCK;
        unsigned words[F::LOADS];
#pragma unroll
        for (int u = 0; u < F::LOADS; u++) words[u] = __ldg((const unsigned *)(block + SCALE_BYTES) + TILE * u + row);
        value = half_to_float(load_u16_be(block + 2 * row)) *
                (float)(F::MULTIPLE * FieldOf<F, 0>::at(words, k % GROUP) - F::OFFSET);
    }
    output(call, token)[k] = value;
}

template <class F>
N730_DEVICE void embed_half(const n730_cuda_call &call, int rows, int cols) {
    const int token = blockIdx.x, k = blockIdx.y * blockDim.x + threadIdx.x, id = call.ids[token];
    if (k >= cols) return;
    float value = 0.0f;
    if (id >= 0 && id < rows)
        value = F::value(load_u16_be(call.weight + id / TILE * (2ll * TILE * cols) + 2ll * TILE * k + 2 * (id & (TILE - 1))));
    output(call, token)[k] = value;
}
#endif
