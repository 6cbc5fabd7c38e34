/* The KV cache in device memory, laid out as FORMAT.md's CACHES are, and KV_STORE: a warp a token and KV head. */
#ifndef N730_CUDA_CACHE_H
#define N730_CUDA_CACHE_H
#include "elementwise.h"

/* A cache's format: bytes of an element, and eight of them as floats. */
struct CacheF32 {
    enum { BYTES = 4, SCALED = 0 };
    static __device__ __forceinline__ void load8(const unsigned char *p, float (&v)[8]) {
        const float4 a = ((const float4 *)p)[0], b = ((const float4 *)p)[1];
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    }
    static __device__ __forceinline__ float load(const unsigned char *p) { return *(const float *)p; }
    static __device__ __forceinline__ void store(unsigned char *p, float x, float) { *(float *)p = x; }
};
struct CacheF16 {
    enum { BYTES = 2, SCALED = 0 };
    static __device__ __forceinline__ void load8(const unsigned char *p, float (&v)[8]) {
        const uint4 a = *(const uint4 *)p;
        const unsigned w[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = half_to_float((unsigned short)(w[i / 2] >> (16 * (i % 2))));
    }
    static __device__ __forceinline__ float load(const unsigned char *p) { return half_to_float(*(const unsigned short *)p); }
    static __device__ __forceinline__ void store(unsigned char *p, float x, float) { *(unsigned short *)p = float_to_half(x); }
};
struct CacheInt8 {
    enum { BYTES = 1, SCALED = 1 };
    static __device__ __forceinline__ void load8(const unsigned char *p, float (&v)[8]) {
        const uint2 a = *(const uint2 *)p;
        const unsigned w[2] = {a.x, a.y};
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = (float)(int)(signed char)(w[i / 4] >> (8 * (i % 4)));
    }
    static __device__ __forceinline__ float load(const unsigned char *p) { return (float)*(const signed char *)p; }
    static __device__ __forceinline__ void store(unsigned char *p, float x, float inverse) {
        *p = (unsigned char)quantized(x, inverse);
    }
};

/* The rows of one KV head in a cache of `context` positions, and their scales. */
template <class F>
N730_DEVICE unsigned char *cache_rows(unsigned char *cache, int context, int dim, int kv_head) {
    return cache + (long long)kv_head * context * dim * F::BYTES;
}
N730_DEVICE float *cache_scales(unsigned char *cache, int context, int dim, int kv_heads, int kv_head) {
    return (float *)(cache + (long long)kv_heads * context * dim) + (long long)kv_head * context; /* INT8: 1 byte an element */
}

template <class F>
N730_DEVICE void store_row(const n730_cuda_call &call, unsigned char *cache, const float *x, int kv_heads, int dim) {
    const int kv_head = blockIdx.y, place = (int)((call.position + blockIdx.x) % call.context);
    unsigned char *at = cache_rows<F>(cache, call.context, dim, kv_head) + (long long)place * dim * F::BYTES;
    float inverse = 0.0f;
    if (F::SCALED) {
        float most = 0.0f;
        for (int i = threadIdx.x; i < dim; i += 32) most = larger(fabsf(x[i]), most);
        most = warp_largest(most);
        inverse = most > 0.0f ? 127.0f / most : 0.0f;
        if (threadIdx.x == 0) cache_scales(cache, call.context, dim, kv_heads, kv_head)[place] = most / 127.0f;
    }
    for (int i = threadIdx.x; i < dim; i += 32) F::store(at + i * F::BYTES, x[i], inverse);
}

template <class F>
N730_DEVICE void kv_store(const n730_cuda_call &call, int kv_heads, int dim) {
    const int token = blockIdx.x, first = blockIdx.y * dim;
    store_row<F>(call, call.k_cache, input(call, 0, token) + first, kv_heads, dim);
    store_row<F>(call, call.v_cache, input(call, 1, token) + first, kv_heads, dim);
}
#endif
